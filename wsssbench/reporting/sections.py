"""The parts of the report's page in their order, and the sentences that explain them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from wsssbench.errors import UserError
from wsssbench.reporting import compare, origins, side_by_side, tables
from wsssbench.reporting.drawings import Drawing
from wsssbench.reporting.gallery import Case, Gallery, cases
from wsssbench.reporting.masks import masks_of_run
from wsssbench.reporting.protocols import differing, in_words, protocols
from wsssbench.reporting.records import Run, main_runs, split_roles
from wsssbench.reporting.stages import SECTION, TEXT, stage_tables
from wsssbench.reporting.table import Table

SCORES = (
    "mIoU is the mean over the background and all classes. FP and FN are means over the classes "
    "without the background. For each class IoU + FP + FN = 1: of the union of what was predicted "
    "and what is there, FP is the part that was claimed wrongly and FN the part that was missed."
)
ORACLE = (
    "The protocol's threshold is the profile's, or was chosen on a hold-out. The best threshold "
    "(oracle) was found by trying them all on the masks of these training images, which somebody "
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
KINDS = (
    "A row such as cam/scg is another kind of maps of the same training as the row cam and costs "
    "no training of its own. Where experiments meet in figures, each is shown with its main kind, "
    "the first one in the column maps above."
)
FIGURES = (
    "Tables hold every experiment, figures of chosen rows their own. All other figures are drawn "
    "for"
)
ABLATIONS = (
    "Rows that the profile asks for. Scores at the threshold that is best on the training masks "
    "(oracle), as papers print them, stand first, and those at the protocol's threshold beside."
)
WATCH = (
    "Seed quality per epoch is an oracle curve for diagnosis: a fixed sample of training images, "
    "one view each, scored against masks that training never sees. Nothing was chosen by it."
)
SHARES = (
    "Shares of pixels are those of the pseudo-masks that a method teaches itself. A foreground "
    "that shrinks epoch after epoch is a collapse in the making."
)
BOUNDARY = "Scores of the pixels near the border of a true object, where score maps are coarse."
PICTURES = (
    "Chosen by the mIoU of the single image, over the classes that are in it or were predicted; "
    "these per-image scores serve for choosing pictures only. Shown is the first finished seed."
)


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


def sections(
    runs: list[Run],
    drawn: Mapping[Drawing, str],
    figures: pd.DataFrame,
    status: pd.DataFrame,
    names: Mapping[str, str],
    ablations: Sequence[tuple[str, Table]] = (),
    every: Sequence[Run] = (),
    shown: Sequence[str] = (),
) -> list[Section]:
    """All parts but the gallery.

    Args:
        runs: all runs.
        drawn: SVG text per figure.
        figures: published figures.
        status: what is verified.
        names: {experiment: published method}.
        ablations: titles and tables of chosen rows; each gets a part of its own.
        every: all runs, those of later stages included; `runs` holds the others.
        shown: experiments of the figures, where these are not all.
    """

    def pictures(key: str) -> list[tuple[str, bool]]:
        return [(text, drawing.wide) for drawing, text in drawn.items() if drawing.section == key]

    groups = protocols(runs)
    only = len(groups) == 1
    terms = [("Protocol" if only else f"Protocol {letter}", in_words(members))
             for letter, members in groups.items()]  # fmt: skip
    later = protocols([run for run in every if run.later])
    said_before = set(terms[0][1]) if only else set()  # a later stage: what is different
    terms += [(f"Stage {members[0].maps}", [t for t in in_words(members) if t not in said_before])
              for members in later.values()]  # fmt: skip
    mixed = [] if len(groups) < 2 else [
        "These runs follow different protocols, which do not compare: their rows stand in separate "
        f"tables, marked by a letter. They differ in: {', '.join(differing(groups))}."
    ]  # fmt: skip
    missing = origins.missing_table(list(every or runs))
    scores = [SCORES, ORACLE] + ([KINDS] if any(not run.main for run in runs) else [])
    if shown:
        scores.append(f"{FIGURES} {', '.join(shown)}.")
    training = {"watch": WATCH, "pixel_shares": SHARES}
    said = [text for name, text in training.items()
            if any(drawing.name.startswith(name) for drawing in drawn)]  # fmt: skip
    chosen = [
        Section(table.name, f"Ablation: {caption.rstrip('.')}", [] if place else [ABLATIONS], [],
                [table], pictures(table.name))
        for place, (caption, table) in enumerate(ablations)
    ]  # fmt: skip
    return [
        Section("run", "What was run", mixed, terms, [origins.experiments_table(runs)]),
        Section("results", "Results", scores, [],
                [*tables.main_tables(runs), *tables.split_tables(runs)], pictures("results")),
        *chosen,
        Section(SECTION, "Stage by stage", [TEXT], [], stage_tables(list(every), figures, names),
                pictures(SECTION)),
        Section("thresholds", "Over the threshold", [CURVES], [], [], pictures("thresholds")),
        Section("classes", "Per class", [CLASSES], [], side_by_side.per_class_tables(runs),
                pictures("classes")),
        Section("sizes", "By object size", [SIZES], [], side_by_side.size_tables(runs),
                pictures("sizes")),
        Section("boundary", "At boundaries", [BOUNDARY], [], tables.boundary_tables(runs)),
        Section("training", "Training", said, [], [], pictures("training")),
        Section("published", "Published beside ours", [], [],
                compare.published_tables(runs, figures, names)),
        Section("status", "Verified or not", [], [], [compare.status_table(runs, status, names)]),
        Section("provenance", "Provenance", [], [], [origins.provenance_table(runs)]),
        Section("missing", "Failed or not run", [], [], [missing] if len(missing.frame) else []),
    ]  # fmt: skip


def gallery_section(runs: list[Run], root: str | Path | None, count: int, budget: int) -> Section:
    """Worst and best images of the first finished seed of each experiment.

    Args:
        runs: all runs.
        root: data set folder; without it there are no pictures.
        count: worst and best images per experiment and split.
        budget: bytes that all pictures together may take.
    """
    section = Section("gallery", "Worst and best images", [PICTURES])
    finished = [run for run in main_runs(runs) if run.status == "done"]
    firsts = {run.experiment: run for run in reversed(finished)}
    wanted = [(run, split) for run in reversed(firsts.values()) for split in split_roles([run])]
    if not wanted or root is None or count < 1:
        return section
    for run, split in wanted:
        shown: list[Case] = []
        try:
            masks = masks_of_run(run.path, split, root, run.maps)
            share = budget // len(wanted)
            shown, problems = cases(masks, run.table(split, "per_image"), count, share)
        except UserError as error:
            problems = [str(error)]
        section.html.append((f"{run.name} on {split}", Gallery(shown, problems).html))
    return section
