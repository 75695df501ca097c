"""The report of one profile: index.html and beside it every table and figure as a file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from wsssbench import published
from wsssbench.errors import UserError
from wsssbench.files import write_json, write_text
from wsssbench.reporting import compare, origins, tables
from wsssbench.reporting.averages import aggregate, rows, summary, sweeps
from wsssbench.reporting.drawings import Drawing, drawings
from wsssbench.reporting.gallery import Case, Gallery, cases
from wsssbench.reporting.masks import masks_of_run
from wsssbench.reporting.protocols import differing, in_words, protocols
from wsssbench.reporting.records import Run, load_runs, split_roles
from wsssbench.reporting.rendering import render
from wsssbench.reporting.style import svg, write_figure
from wsssbench.reporting.table import Table

PAGE_BYTES = 2_900_000


@dataclass
class Section:
    """One part of the page: paragraphs, then terms, tables, figures (SVG, wide) and other HTML."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    terms: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[str, bool]] = field(default_factory=list)
    html: list[tuple[str, str]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing but introductory text."""
        return not (self.terms or self.tables or self.figures or self.html)


def build(
    runs_dir: str | Path,
    reports_dir: str | Path,
    *,
    profile: str,
    experiments: Iterable[str],
    seeds: Iterable[int],
    data_root: str | Path | None = None,
    title: str = "",
    note: str = "",
    gallery: int = 4,
    figures: pd.DataFrame | None = None,
    status: pd.DataFrame | None = None,
) -> Path:
    """Write the report of a profile from the files of its runs; nothing is computed anew.

    Args:
        runs_dir: holds `<experiment>-<seed>/`; runs that are missing are reported as such.
        reports_dir: where to write index.html, summary.json, sweep.csv, tables/ and figures/.
        profile: name of the profile.
        experiments: which experiments there should be.
        seeds: with which seeds.
        data_root: the data set folder, for the gallery; without it the page has none.
        title: headline, by default the profile's name.
        note: a paragraph below it.
        gallery: number of worst and of best images per experiment and split.
        figures: published figures, by default those of the package.
        status: what is verified, by default that of the package.

    Returns:
        The path of index.html.
    """
    out = Path(reports_dir)
    runs = load_runs(runs_dir, experiments, seeds)
    figures = published.load() if figures is None else figures
    status = published.status() if status is None else status
    means = aggregate(rows(runs))
    drawn = {drawing: _svg(drawing) for drawing in drawings(runs)}
    sections = _sections(runs, drawn, figures, status)
    spent = sum(len(t.to_html()) for s in sections for t in s.tables) + sum(
        map(len, drawn.values())
    )
    place = [section.key for section in sections].index("published")
    sections.insert(place, _gallery(runs, data_root, gallery, PAGE_BYTES - spent))
    written = [p for section in sections for t in section.tables for p in t.write(out / "tables")]
    for drawing, text in drawn.items():
        written += write_figure(drawing.figure, out / "figures", drawing.name, text)
    _remove_others(out, written)
    write_json(out / "summary.json", summary(means))
    write_text(out / "sweep.csv", sweeps(runs).round(6).to_csv(index=False))
    page = render(
        "report.html.j2",
        title=title or profile,
        profile=profile,
        note=note,
        facts=_facts(runs, means),
        sections=[section for section in sections if not section.empty],
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _sections(
    runs: list[Run], drawn: dict[Drawing, str], figures: pd.DataFrame, status: pd.DataFrame
) -> list[Section]:
    def pictures(key: str) -> list[tuple[str, bool]]:
        return [(text, drawing.wide) for drawing, text in drawn.items() if drawing.section == key]

    groups = protocols(runs)
    only = len(groups) == 1
    terms = [("Protocol" if only else f"Protocol {letter}", in_words(members))
             for letter, members in groups.items()]  # fmt: skip
    mixed = [] if len(groups) < 2 else [
        "These runs follow different protocols, which do not compare: their rows stand in separate "
        f"tables, marked by a letter. They differ in: {', '.join(differing(groups))}."
    ]  # fmt: skip
    missing = origins.missing_table(runs)
    return [
        Section("run", "What was run", mixed, terms, [origins.experiments_table(runs)]),
        Section("results", "Results", [SCORES, ORACLE], [],
                [*tables.main_tables(runs), *tables.split_tables(runs)], pictures("results")),
        Section("thresholds", "Over the threshold", [CURVES], [], [], pictures("thresholds")),
        Section("classes", "Per class", [CLASSES], [], tables.per_class_tables(runs),
                pictures("classes")),
        Section("sizes", "By object size", [SIZES], [], tables.size_tables(runs),
                pictures("sizes")),
        Section("boundary", "At boundaries", [BOUNDARY], [], tables.boundary_tables(runs)),
        Section("training", "Training", [], [], [], pictures("training")),
        Section("published", "Published beside ours", [], [],
                compare.published_tables(runs, figures)),
        Section("status", "Verified or not", [], [], [compare.status_table(runs, status)]),
        Section("provenance", "Provenance", [], [], [origins.provenance_table(runs)]),
        Section("missing", "Failed or not run", [], [], [missing] if len(missing.frame) else []),
    ]  # fmt: skip


def _gallery(runs: list[Run], root: str | Path | None, count: int, budget: int) -> Section:
    """Worst and best images of the first finished seed of each experiment, within a size."""
    section = Section("gallery", "Worst and best images", [PICTURES])
    firsts = {run.experiment: run for run in reversed(runs) if run.status == "done"}
    wanted = [(run, split) for run in reversed(firsts.values()) for split in split_roles([run])]
    if not wanted or root is None or count < 1:
        return section
    for run, split in wanted:
        shown: list[Case] = []
        try:
            masks = masks_of_run(run.path, split, root)
            share = budget // len(wanted)
            shown, problems = cases(masks, run.table(split, "per_image"), count, share)
        except UserError as error:
            problems = [str(error)]
        section.html.append((f"{run.name} on {split}", Gallery(shown, problems).html))
    return section


def _facts(runs: list[Run], means: pd.DataFrame) -> list[str]:
    """The page in two or three sentences."""
    done = [run for run in runs if run.status == "done"]
    count = f"{len(done)} of {len(runs)} runs are done"
    if not done:
        return [f"{count}."]
    known = done[0].provenance
    facts = [f"{count}, on {known.get('dataset')}: {origins.splits_sentence(runs)}."]
    for split in split_roles(done):
        part = means[(means["split"] == split) & means["miou"].notna()]
        if part.empty or part["protocol"].nunique() > 1:
            continue
        best = part.loc[part["miou"].idxmax()]
        spread = f" ± {100 * best['miou_sd']:.1f}" if best["miou_sd"] == best["miou_sd"] else ""
        facts.append(
            f"{'Best on' if len(part) > 1 else 'On'} {split}, {best['experiment']}: "
            f"mIoU {100 * best['miou']:.1f}{spread} %, FP {best['fp']:.3f}, FN {best['fn']:.3f}."
        )
    return facts


def _svg(drawing: Drawing) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in drawing.name)
    return svg(drawing.figure, name, drawing.title, drawing.description)


def _remove_others(out: Path, written: list[Path]) -> None:
    """Delete tables and figures of earlier reports: an experiment that is gone must not stay."""
    keep = set(written)
    for folder, endings in (("tables", (".csv", ".md", ".html")), ("figures", (".svg", ".png"))):
        for path in (out / folder).glob("*"):
            if path.suffix in endings and path not in keep:
                path.unlink()


SCORES = (
    "mIoU is the mean over the background and all classes. FP and FN are means over the classes "
    "without the background. For each class IoU + FP + FN = 1: of the union of what was predicted "
    "and what is there, FP is the part that was claimed wrongly and FN the part that was missed."
)
ORACLE = (
    "The protocol threshold was settled without the masks that are scored. The best threshold "
    "(oracle) was found by trying them all on the masks of the training images, which somebody "
    "who trains from image labels does not have; it is the number that most papers print. The gap "
    "is what not knowing the masks costs."
)
CURVES = (
    "Scores at every threshold, mean over seeds. The filled mark is the protocol's threshold, the "
    "open one the mean of the seeds' best. A low threshold claims too much (FP), a high one too "
    "little (FN)."
)
CLASSES = (
    "Bars show how the union of prediction and truth divides into hits, false and missed pixels. "
    "The confusion matrix shows where the pixels of each true class went; its colours follow the "
    "square root, so that confusions of a few per cent can be seen."
)
SIZES = "An object is a connected region of one class in the true mask; n is their number."
BOUNDARY = "Scores of the pixels near the border of a true object, where score maps are coarse."
PICTURES = (
    "Chosen by the mIoU of the single image, over the classes that are in it or were predicted; "
    "these per-image scores serve for choosing pictures only. Shown is the first finished seed."
)
