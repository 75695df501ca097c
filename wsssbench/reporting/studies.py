"""The page of a controlled experiment, and the one that gathers the claims of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from wsssbench.evaluation.mechanisms import MEASURES
from wsssbench.evaluation.paired import LEAST_SEEDS
from wsssbench.files import write_json, write_text
from wsssbench.reporting.claims import RUN, Found, curves
from wsssbench.reporting.drawing import Drawing, file_name
from wsssbench.reporting.rendering import render
from wsssbench.reporting.sections import Section
from wsssbench.reporting.study_figures import Shown, cell_pictures, forest, over_cells
from wsssbench.reporting.style import svg, write_figure
from wsssbench.reporting.table import Column, Table
from wsssbench.study_params import StudySettings

EFFECTS = (
    "An effect is a difference between runs of the same seed, which share training pictures and "
    "test pictures. Its 95 % interval is that of Student's t with a bootstrapped standard error: "
    "seeds are resampled and, where a claim names roles, the classes of each seed too. Small dots "
    "are the seeds."
)
VERDICTS = (
    "Seen: the interval lies on the expected side of 0. Not seen: it holds 0, which does not prove "
    "that there is no effect. Opposite: it lies on the other side. Where no effect is expected the "
    f"verdict is none seen or unexpected. There is no verdict below {LEAST_SEEDS} seeds. Of twenty "
    "claims without any effect about one would pass for seen."
)
OVER_CELLS = (
    "Means over seeds with 95 % intervals, which here also hold what all methods have in common "
    "in a seed: two that overlap may still differ in every pair. Measures @best are taken at the "
    "threshold of the background that gives each run its best mIoU on these pictures, @fixed at "
    "one for all."
)
DIALLED = (
    "The same test picture in all cells, what its pixels are, and each method's map of one of its "
    "classes after training with the first seed, dark for 0, yellow for the map's maximum. A "
    "training gets pictures and image labels and nothing else."
)


@dataclass(frozen=True)
class Study:
    """What a study asked and what its runs gave.

    Attributes:
        name, title, note: of the profile.
        settings: section `study` of its params.yaml.
        cells: those that were to run.
        experiments: {name: title} of those.
        seeds: with which they were to run.
        table: measures of the finished runs, see `claims.assess`.
        records: of the finished runs.
        left_out: runs that did not pass the gate, see `claims.passing`.
        found: its claims.
        pictures: {test: {cell: a picture}}.
    """

    name: str
    title: str
    note: str
    settings: StudySettings
    cells: Sequence[str]
    experiments: Mapping[str, str]
    seeds: Sequence[int]
    table: pd.DataFrame
    records: Sequence[Mapping[str, Any]]
    left_out: pd.DataFrame
    found: Sequence[Found]
    pictures: Mapping[str, Mapping[str, Shown]] = field(default_factory=dict)

    def title_of(self, row: str) -> str:
        """Title of the experiment of a row, with the kind of maps if it names one."""
        experiment, _, kind = row.partition("/")
        title = self.experiments.get(experiment, experiment)
        return f"{title}, {kind}" if kind else title

    @property
    def under(self) -> str:
        """Where the numbers of a table come from, in a line."""
        planned = len(self.cells) * len(self.experiments) * len(self.seeds)
        text = f"{len(self.records)} of {planned} runs: cells {', '.join(self.cells)}; "
        text += f"seeds {', '.join(map(str, self.seeds))}"
        if self.settings.gate:
            text += f"; {len(self.left_out)} left out by the gate"
        for key, word in (("device", ""), ("git_revision", "revision ")):
            values = dict.fromkeys(str(r["provenance"].get(key)) for r in self.records)
            if values:
                text += f"; {word}{', '.join(values)}"
        return text + "."


def write_study(study: Study, out: Path) -> Path:
    """Write index.html, claims.csv, summary.json, tables/ and figures/ of one study.

    Args:
        study: the results.
        out: reports/<study>.

    Returns:
        The path of index.html.
    """
    drawn = {drawing: _svg(drawing) for drawing in _drawings(study)}

    def pictures(section: str) -> list[tuple[str, bool]]:
        return [(text, one.wide) for one, text in drawn.items() if one.section == section]

    measured = [_means(study, figure) for figure in study.settings.figures]
    parts = [
        Section("cells", "What is dialled in", [DIALLED], [("Cells", _knobs(study))], [],
                pictures("cells")),
        Section("claims", "Claims", [EFFECTS, VERDICTS], [], [claims_table([study])],
                pictures("claims")),
        Section("measures", "Over the cells", [OVER_CELLS], [], [t for t in measured if t],
                pictures("measures")),
        Section("runs", "Runs", _gate_words(study), [], [_runs(study)]),
    ]  # fmt: skip
    facts = [study.under, _tally(study.found)]
    return _write(out, study.title or study.name, study.name, study.note, study.settings.question,
                  facts, parts, drawn)  # fmt: skip


def write_summary(studies: Sequence[Study], out: Path) -> Path:
    """Write the page of all studies: index.html, claims.csv, tables/ and figures/.

    Args:
        studies: those that have runs.
        out: reports/studies.

    Returns:
        The path of index.html.
    """
    drawn, parts = {}, [Section("claims", "Mechanism by method", [EFFECTS, VERDICTS], [],
                                [claims_table(studies, several=True)])]  # fmt: skip
    for study in studies:
        drawing = _forest(study, study.name)
        if drawing:
            drawn[drawing] = _svg(drawing)
            text = [study.settings.question, study.under]
            title = study.title or study.name
            parts.append(Section(study.name, title, text, [], [], [(drawn[drawing], True)]))
    count = "1 study" if len(studies) == 1 else f"{len(studies)} studies"
    facts = [f"{count}. {_tally([one for s in studies for one in s.found])}"]
    note = (
        "Each study dials one failure into drawn pictures and asks whether a method's own "
        "explanation of its gain can be seen there. Its figures are no scores of any benchmark."
    )
    return _write(out, "Do the claimed mechanisms work?", "studies", note, "", facts, parts, drawn)


def claims_table(studies: Sequence[Study], several: bool = False) -> Table:
    """One row per claim: effect, interval, expected sign, verdict; or of `several` studies."""
    lines = []
    for study in studies:
        for one in study.found:
            claim, effect = one.claim, one.effect
            lines.append({
                "study": study.title or study.name,
                "method": study.title_of(claim.experiment),
                "claim": claim.name,
                "mechanism": claim.mechanism,
                "contrast": one.contrast,
                "measure": claim.measure,
                "roles": ", ".join(claim.roles),
                "test": claim.test or next(iter(study.settings.tests)),
                "expected": claim.expected.replace("-", "−"),
                "effect": signed(effect.mean),
                "interval": f"{signed(effect.low)} to {signed(effect.high)}"
                            if effect.low == effect.low else "",
                "agreeing": f"{effect.agreeing} of {effect.seeds}" if effect.seeds else "",
                "classes": one.classes,
                "verdict": one.verdict,
                "mean": effect.mean, "low": effect.low, "high": effect.high,
                "seeds": effect.seeds, "runs": study.under,
            })  # fmt: skip
    columns = [Column("mechanism", "what should happen"), Column("verdict", "verdict"),
               Column("expected", "expected", "range"), Column("effect", "effect", "range"),
               Column("interval", "95 % interval", "range"),
               Column("agreeing", "seeds of its sign", "range"),
               Column("classes", "classes of its sign", "range"),
               Column("contrast", "compared"), Column("measure", "measure"),
               Column("roles", "classes")]  # fmt: skip
    if several:
        columns = [c for c in columns if c.key not in ("classes", "contrast", "roles")]
        columns[:0] = [Column("study", "study"), Column("method", "method")]
    frame = pd.DataFrame(lines, columns=[*lines[0]] if lines else [c.key for c in columns])
    shown = tuple(
        c for c in columns if c.key in ("expected", "verdict") or frame[c.key].ne("").any()
    )
    under = " ".join(f"{study.title or study.name}: {study.under}" for study in studies)
    under = under if several else studies[0].under
    texts = [f"{name}: {MEASURES[name]}" for name in dict.fromkeys(frame["measure"])]
    notes = (f"{'; '.join(texts)}.",) if texts else ()
    return Table("claims", "Claims and what was seen of them.", frame, shown, notes, under=under)


def signed(value: float) -> str:
    """A number with its sign, three decimals."""
    return f"{value:+.3f}".replace("-", "−") if value == value else "–"


def _knobs(study: Study) -> list[tuple[str, str]]:
    """Cells and test sets with what is special about them."""

    def words(knobs: Mapping[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in knobs.items()) or "as the cell"

    tests = [(f"test set {name}", words(knobs)) for name, knobs in study.settings.tests.items()]
    return [(name, words(study.settings.cells[name])) for name in study.cells] + tests


def _drawings(study: Study) -> list[Drawing]:
    found = []
    for test, pictures in study.pictures.items():
        figure = cell_pictures(pictures, f"Test set {test}")
        text = "A test picture in each cell, what its pixels are, and the methods' maps of it."
        found.append(Drawing(f"cells_{test}", "cells", f"Test set {test}", text, figure))
    found += [one for one in (_forest(study),) if one]
    for name in study.settings.figures:
        measure, test, roles = study.settings.figure(name)
        lines = curves(study.table, measure, test, roles)
        if lines.empty:
            continue
        title = f"{measure}, {', '.join(roles)} on {test}" if roles else f"{measure} on {test}"
        figure = over_cells(lines, study.cells, title, MEASURES[measure])
        found.append(Drawing(_key(name), "measures", title, _told(lines, measure), figure))
    return found


def _key(figure: str) -> str:
    return file_name("".join(c if c.isalnum() or c in "_-" else "_" for c in figure))


def _told(lines: pd.DataFrame, measure: str) -> str:
    text = "; ".join(f"{line.row} in {line.cell} {line.mean:.2f}" for line in lines.itertuples())
    return f"{MEASURES[measure]}: {text}."


def _forest(study: Study, name: str = "claims") -> Drawing | None:
    run = [one for one in study.found if one.effect.seeds]
    if not run:
        return None
    text = "; ".join(f"{one.claim.name}: {signed(one.effect.mean)}, {one.verdict}" for one in run)
    title = "Effects and their 95 % intervals"
    return Drawing(name, "claims", title, f"{text}.", forest(run, title))


def _means(study: Study, figure: str) -> Table | None:
    """The numbers behind a figure."""
    measure, test, roles = study.settings.figure(figure)
    lines = curves(study.table, measure, test, roles)
    if lines.empty:
        return None
    lines["spread"] = (lines["high"] - lines["low"]) / 2
    wide = lines.pivot(index="row", columns="cell", values=["mean", "spread", "seeds"])
    wide = wide.reindex(dict.fromkeys(lines["row"]))
    cells = [cell for cell in study.cells if cell in wide["mean"]]
    frame = pd.DataFrame({"row": wide.index})
    for cell in cells:
        frame[cell], frame[f"{cell}_sd"] = (
            wide[key][cell].to_numpy() for key in ("mean", "spread")
        )
        frame[f"{cell}_seeds"] = wide["seeds"][cell].to_numpy()
    columns = (Column("row", "row"), *(Column(cell, cell, "fraction") for cell in cells))
    of = f" of classes of role {', '.join(roles)}" if roles else ""
    caption = f"{measure}: {MEASURES[measure]}{of}, test set {test}."
    notes = ("± is half of the 95 % interval over seeds.",)
    return Table(_key(figure), caption, frame, columns, notes, under=study.under)


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


def _tally(found: Sequence[Found]) -> str:
    counts = pd.Series([one.verdict for one in found], dtype=str).value_counts(sort=False)
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
    return svg(figure, f"{drawing.section}-{name}", drawing.title, drawing.description)
