"""The page of a controlled experiment, and the one that gathers the claims of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from wsssbench.evaluation.mechanisms import MEASURES
from wsssbench.evaluation.paired import LEAST_SEEDS
from wsssbench.files import write_json, write_text
from wsssbench.reporting.claims import RUN, Study
from wsssbench.reporting.drawing import Drawing, file_name
from wsssbench.reporting.rendering import render
from wsssbench.reporting.sections import Section
from wsssbench.reporting.study_claims import claims_of, claims_table
from wsssbench.reporting.study_figures import cell_pictures, forest, over_cells
from wsssbench.reporting.style import svg, write_figure
from wsssbench.reporting.table import Column, Table

EFFECTS = (
    "An effect is a difference between runs of the same seed, mean over seeds. Within a cell they "
    "share training and test pictures; cells differ in what is dialled in. Its 95 % interval is "
    "that of Student's t over seeds. Classes are averaged in each seed, so it is about these very "
    "classes; how many of them have the sign of the effect stands beside it. Small dots are the "
    "seeds, where the page of the study has them."
)
VERDICTS = (
    "Seen: the interval lies on the expected side of 0. Not seen: it holds 0, which does not prove "
    "that there is no effect. Opposite: it lies on the other side. Where no effect is expected the "
    "verdict is none seen, which a wide interval does not prove either, or unexpected. There is no "
    f"verdict below {LEAST_SEEDS} seeds. Of forty claims without any effect about one would pass "
    "for seen and one for opposite."
)
OVER_CELLS = (
    "Means over seeds with 95 % intervals, which here also hold what all methods have in common "
    "in a seed: two that overlap may still differ in every pair. Measures @best are taken at the "
    "threshold of the background that gives each run its best mIoU on these pictures, @fixed at "
    "one for all; rows after a dense CRF at those of the map before it."
)
DIALLED = (
    "The same test picture in all cells, what its pixels are, and each method's map of one of its "
    "classes after training with the first seed, dark for 0, yellow for the map's maximum. A "
    "training gets pictures and image labels and nothing else."
)


@dataclass(frozen=True)
class Told:
    """What the page of a study says.

    Attributes:
        name, title: of the profile.
        question: of its section `study`.
        claims: see `study_claims.claims_of`.
    """

    name: str
    title: str
    question: str
    claims: pd.DataFrame


def write_study(study: Study, out: Path) -> Path:
    """Write index.html, claims.csv, summary.json, tables/ and figures/ of one study.

    Args:
        study: the results.
        out: reports/<study>.

    Returns:
        The path of index.html.
    """
    claims = claims_of(study)
    drawn = {drawing: _svg(drawing) for drawing in _drawings(study, claims)}

    def pictures(section: str) -> list[tuple[str, bool]]:
        return [(text, one.wide) for one, text in drawn.items() if one.section == section]

    measured = [_means(study, figure) for figure in study.settings.figures]
    parts = [
        Section("cells", "What is dialled in", [DIALLED], [("Cells", _knobs(study))], [],
                pictures("cells")),
        Section("claims", "Claims", [EFFECTS, VERDICTS], [], [claims_table(claims)],
                pictures("claims")),
        Section("measures", "Over the cells", [OVER_CELLS], [], [t for t in measured if t],
                pictures("measures")),
        Section("runs", "Runs", _gate_words(study), [], [_runs(study)]),
    ]  # fmt: skip
    facts = [study.under, _tally(claims)]
    return _write(out, study.title or study.name, study.name, study.note, study.settings.question,
                  facts, parts, drawn)  # fmt: skip


def write_summary(studies: Sequence[Told], out: Path) -> Path:
    """Write the page of all studies: index.html, claims.csv, tables/ and figures/.

    Args:
        studies: those that have a page.
        out: reports/studies.

    Returns:
        The path of index.html.
    """
    every = pd.concat([study.claims for study in studies], ignore_index=True)
    drawn, parts = {}, [Section("claims", "Mechanism by method", [EFFECTS, VERDICTS], [],
                                [claims_table(every, several=True)])]  # fmt: skip
    for study in studies:
        drawing = _forest(study.claims, study.name)
        if drawing:
            drawn[drawing] = _svg(drawing)
            text = [study.question, study.claims["runs"].iloc[0]]
            parts.append(Section(study.name, study.title, text, [], [], [(drawn[drawing], True)]))
    count = "1 study" if len(studies) == 1 else f"{len(studies)} studies"
    facts = [f"{count}. {_tally(every)}"]
    note = (
        "Each study dials one failure into drawn pictures and asks whether a method's own "
        "explanation of its gain can be seen there. Its figures are no scores of any benchmark."
    )
    return _write(out, "Do the claimed mechanisms work?", "studies", note, "", facts, parts, drawn)


def _knobs(study: Study) -> list[tuple[str, str]]:
    """Cells and test sets with what is special about them."""

    def words(knobs: Mapping[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in knobs.items()) or "as the cell"

    tests = [(f"test set {name}", words(knobs)) for name, knobs in study.settings.tests.items()]
    points = [(name, f"mean of {', '.join(cells)}, in figures and tables")
              for name, cells in study.settings.points.items()]  # fmt: skip
    return [(name, words(study.settings.cells[name])) for name in study.cells] + points + tests


def _drawings(study: Study, claims: pd.DataFrame) -> list[Drawing]:
    found = []
    for test, pictures in study.pictures.items():
        figure = cell_pictures(pictures, f"Test set {test}")
        text = "A test picture in each cell, what its pixels are, and the methods' maps of it."
        found.append(Drawing(f"cells_{test}", "cells", f"Test set {test}", text, figure))
    found += [one for one in (_forest(claims),) if one]
    for name in study.settings.figures:
        measure, test, roles = study.settings.figure(name)
        lines = study.over_cells(name)
        if lines.empty:
            continue
        title = f"{measure}, {', '.join(roles)} on {test}" if roles else f"{measure} on {test}"
        figure = over_cells(lines, list(study.points), title, MEASURES[measure])
        found.append(Drawing(_key(name), "measures", title, _told(lines, measure), figure))
    return found


def _key(figure: str) -> str:
    return file_name("".join(c if c.isalnum() or c in "_-" else "_" for c in figure))


def _told(lines: pd.DataFrame, measure: str) -> str:
    text = "; ".join(f"{line.row} in {line.cell} {line.mean:.2f}" for line in lines.itertuples())
    return f"{MEASURES[measure]}: {text}."


def _forest(claims: pd.DataFrame, name: str = "claims") -> Drawing | None:
    run = claims[claims["seeds"] > 0]
    if run.empty:
        return None
    text = "; ".join(f"{one.claim}: {one.effect}, {one.verdict}" for one in run.itertuples())
    title = "Effects and their 95 % intervals"
    return Drawing(name, "claims", title, f"{text}.", forest(run, title))


def _means(study: Study, figure: str) -> Table | None:
    """The numbers behind a figure."""
    measure, test, roles = study.settings.figure(figure)
    lines = study.over_cells(figure)
    if lines.empty:
        return None
    lines["spread"] = (lines["high"] - lines["low"]) / 2
    wide = lines.pivot(index="row", columns="cell", values=["mean", "spread", "seeds"])
    wide = wide.reindex(dict.fromkeys(lines["row"]))
    cells = [point for point in study.points if point in wide["mean"]]
    frame = pd.DataFrame({"row": wide.index})
    for cell in cells:
        frame[cell], frame[f"{cell}_sd"] = (
            wide[key][cell].to_numpy() for key in ("mean", "spread")
        )
        frame[f"{cell}_seeds"] = wide["seeds"][cell].to_numpy()
    columns = (Column("row", "row"), *(Column(cell, cell, "fraction") for cell in cells))
    of = f" of classes of role {', '.join(roles)}" if roles else ""
    caption = f"{measure}: {MEASURES[measure]}{of}, test set {test}."
    notes = ["± is half of the 95 % interval over seeds."]
    fewer = lines[lines["seeds"] < len(study.seeds)]
    if len(fewer):
        counts = ", ".join(f"{one.row} in {one.cell} {one.seeds}" for one in fewer.itertuples())
        notes.append(f"Fewer than {len(study.seeds)} seeds: {counts}.")
    return Table(_key(figure), caption, frame, columns, tuple(notes), under=study.under)


def _runs(study: Study) -> Table:
    """One row per experiment: recipe and how many of its runs are there."""
    lines = []
    for name, title in study.experiments.items():
        own = [record for record in study.records if record["experiment"] == name]
        known = own[0]["provenance"] if own else {}
        method = known.get("settings", {}).get("method") or {}
        lost = study.left_out["experiment"].eq(name).sum()
        lines.append({
            "experiment": name, "title": title, "method": known.get("method", ""),
            "settings": ", ".join(f"{k} {v}" for k, v in method.items()),
            "kinds": ", ".join(own[0]["kinds"]) if own else "",
            "done": f"{len(own)} of {len(study.cells) * len(study.seeds)}",
            "left_out": f"{lost}",
            "seconds": sum(r["provenance"].get("wall_s", 0) for r in own) / max(1, len(own)),
            "epochs": known.get("epochs"), "backbone": known.get("backbone"),
            "images": known.get("train_images"), "crop": known.get("crop"),
        })  # fmt: skip
    columns = [Column("experiment", "experiment"), Column("title", "title"),
               Column("method", "method"), Column("settings", "settings that differ"),
               Column("kinds", "kinds"), Column("backbone", "backbone"),
               Column("images", "images", "count"), Column("crop", "px", "count"),
               Column("epochs", "epochs", "count"), Column("seconds", "training, s", "count"),
               Column("done", "runs", "range")]  # fmt: skip
    if study.settings.gate:
        columns.append(Column("left_out", "left out by the gate", "range"))
    frame = pd.DataFrame(lines)
    shown = tuple(c for c in columns if frame[c.key].astype(str).ne("").any())
    return Table("runs", "What was run.", frame, shown, under=study.under)


def _gate_words(study: Study) -> list[str]:
    settings, out = study.settings, study.left_out
    if not settings.gate:
        return []
    text = (
        f"A run counts only if its classifier reaches F1 {settings.gate:g} on every class of role "
        f"{', '.join(settings.gate_roles)}, on {next(iter(settings.tests))}. "
    )
    lost = out.groupby(RUN[:2], sort=False).size()
    counts = [f"{count} {experiment} in {cell}" for (cell, experiment), count in lost.items()]
    return [text + (f"Left out: {', '.join(counts)}." if counts else "No run was left out.")]


def _tally(claims: pd.DataFrame) -> str:
    counts = claims["verdict"].value_counts(sort=False)
    return "Claims: " + (", ".join(f"{n} {name}" for name, n in counts.items()) or "none") + "."


def _write(
    out: Path,
    title: str,
    profile: str,
    note: str,
    question: str,
    facts: list[str],
    parts: list[Section],
    drawn: Mapping[Drawing, str],
) -> Path:
    kept = [path for part in parts for table in part.tables for path in table.write(out / "tables")]
    for drawing, text in drawn.items():
        kept += write_figure(drawing.figure, out / "figures", drawing.name, text)
    for folder in ("tables", "figures"):
        for path in (out / folder).glob("*"):
            if path not in kept:
                path.unlink()
    claims = next(table for part in parts for table in part.tables if table.name == "claims")
    write_text(out / "claims.csv", claims.frame.to_csv(index=False))
    shown = claims.frame.set_index(["study", "claim"])[["mean", "low", "high", "verdict"]]
    write_json(out / "summary.json", {" / ".join(k): row for k, row in shown.T.to_dict().items()})
    words = " ".join(part for part in (question, note) if part)
    page = render("report.html.j2", title=title, profile=profile, note=words, facts=facts,
                  sections=[part for part in parts if not part.empty])  # fmt: skip
    write_text(out / "index.html", page)
    return out / "index.html"


def _svg(drawing: Drawing) -> str:
    figure: Figure = drawing.figure
    name = "".join(letter if letter.isalnum() else "-" for letter in drawing.name)
    identity = f"{drawing.section}-{name}"
    pictures = drawing.section == "cells"
    return svg(figure, identity, drawing.title, drawing.description, photographs=pictures)
