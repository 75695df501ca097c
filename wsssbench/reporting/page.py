"""The report of one profile: index.html and beside it every table and figure as a file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from wsssbench.files import write_json, write_text
from wsssbench.params import UPPER_BOUND
from wsssbench.published import find as published_figures
from wsssbench.published import status as published_status
from wsssbench.reporting.ablation_table import ablation_table
from wsssbench.reporting.ablations import ablations
from wsssbench.reporting.averages import aggregate, rows, summary, sweeps
from wsssbench.reporting.drawings import Drawing, drawings
from wsssbench.reporting.origins import splits_sentence
from wsssbench.reporting.records import Run, load_runs, split_roles, titles_of, trainings
from wsssbench.reporting.rendering import render
from wsssbench.reporting.sections import Section, gallery_section, sections
from wsssbench.reporting.stages import stage_drawings
from wsssbench.reporting.style import svg, write_figure

PAGE_BYTES = 1_400_000


def build(
    runs_dir: str | Path,
    reports_dir: str | Path,
    *,
    profile: str,
    kinds: Mapping[str, Sequence[str]],
    seeds: Iterable[int],
    data_root: str | Path | None = None,
    titles: Mapping[str, str] | None = None,
    title: str = "",
    note: str = "",
    gallery: int = 4,
    shown: Sequence[str] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    published: Mapping[str, str] | None = None,
    figures: pd.DataFrame | None = None,
    status: pd.DataFrame | None = None,
    upper_bound: Iterable[int] = (),
    upper_bound_kinds: Sequence[str] = (),
) -> Path:
    """Write the report of a profile from the files of its runs; nothing is computed anew.

    Args:
        runs_dir: holds `<experiment>-<seed>/`; runs that are missing are reported as such.
        reports_dir: where to write index.html, summary.json, sweep.csv, tables/ and figures/.
        profile: name of the profile.
        kinds: {experiment: its kinds of maps, the main one first}: which rows there should be.
        seeds: with which seeds.
        data_root: the data set folder, for the gallery; without it the page has none.
        titles: {experiment: title}, by default what its record says.
        title: headline, by default the profile's name.
        note: a paragraph below it.
        gallery: number of worst and of best images per experiment and split.
        shown: experiments of the figures, by default all; the tables hold every one.
        tables: tables of chosen rows, see `ablations`.
        published: {experiment: published method} where it is not that of the method's name.
        figures: published figures, by default those of the package; asides are left out.
        status: what is verified, by default that of the package.
        upper_bound: seeds of the segmentation network on true masks.
        upper_bound_kinds: its kinds of masks.

    Returns:
        The path of index.html.

    Raises:
        UserError: one of `tables` names a row, column or split that there is not.
    """
    out, names = Path(reports_dir), published or {}
    every = load_runs(runs_dir, kinds, seeds, titles)
    every += load_runs(runs_dir, {UPPER_BOUND: upper_bound_kinds}, upper_bound)
    runs, means = [run for run in every if not run.later], aggregate(rows(every))
    figures = published_figures(figures)
    status = published_status() if status is None else status
    chosen = ablations(every, tables)
    seen = [run for run in every if not shown or run.experiment in (*shown, UPPER_BOUND)]
    own = [run for run in seen if not run.later]
    drawn = {drawing: _svg(drawing)
             for drawing in [*drawings(own, chosen, every), *stage_drawings(seen)]}  # fmt: skip
    asked = [(table.title, ablation_table(table, every, figures, names)) for table in chosen]
    parts = sections(runs, drawn, figures, status, names, asked, every, shown)
    place = [part.key for part in parts].index("published")
    left = PAGE_BYTES - _size(parts)
    parts.insert(place, gallery_section(runs, data_root, gallery, left))
    _write_parts(out, parts, drawn)
    write_json(out / "summary.json", summary(means))
    write_text(out / "sweep.csv", sweeps(runs).round(6).to_csv(index=False))
    page = render(
        "report.html.j2",
        title=title or profile,
        profile=profile,
        note=note,
        facts=_facts(runs, aggregate(rows(runs))),
        sections=[part for part in parts if not part.empty],
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _size(parts: list[Section]) -> int:
    """Bytes of the tables and figures on the page."""
    tables = sum(len(table.to_html().encode()) for part in parts for table in part.tables)
    return tables + sum(len(text.encode()) for part in parts for text, _ in part.figures)


def _write_parts(out: Path, parts: list[Section], drawn: Mapping[Drawing, str]) -> None:
    """Write tables and figures; delete those of an earlier report, whose experiment may be gone."""
    written = [path for p in parts for table in p.tables for path in table.write(out / "tables")]
    for drawing, text in drawn.items():
        written += write_figure(drawing.figure, out / "figures", drawing.name, text)
    for folder, endings in (("tables", (".csv", ".md", ".html")), ("figures", (".svg", ".png"))):
        for path in (out / folder).glob("*"):
            if path.suffix in endings and path not in written:
                path.unlink()


def _facts(runs: list[Run], means: pd.DataFrame) -> list[str]:
    """The page in two or three sentences."""
    done = [run for run in runs if run.status == "done"]
    every = trainings(runs).values()
    whole = sum(all(run.status == "done" for run in kinds) for kinds in every)
    count = f"{whole} of {len(every)} runs are done"
    if not done:
        return [f"{count}."]
    known = done[0].provenance
    facts = [f"{count}, on {known.get('dataset')}: {splits_sentence(runs)}."]
    titles = titles_of(runs)
    for split in split_roles(done):
        part = means[(means["split"] == split) & means["miou"].notna()]
        if part.empty or part["protocol"].nunique() > 1:
            continue
        several = part[part["seeds"] > 1]  # one seed is no mean
        rivals = part if several.empty else several
        best = rivals.loc[rivals["miou"].idxmax()]
        row = best["experiment"]
        name = row if titles[row] == row else f"{titles[row]} ({row})"
        spread = f" ± {100 * best['miou_sd']:.1f}" if best["miou_sd"] == best["miou_sd"] else ""
        among = "" if len(rivals) == len(part) else " of the rows with several seeds"
        facts.append(
            f"{f'Best on {split}{among}' if len(part) > 1 else f'On {split}'}, {name}: "
            f"mIoU {100 * best['miou']:.1f}{spread} %, FP {best['fp']:.3f}, FN {best['fn']:.3f}."
        )
    return facts


def _svg(drawing: Drawing) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in drawing.name)
    return svg(drawing.figure, name, drawing.title, drawing.description)
