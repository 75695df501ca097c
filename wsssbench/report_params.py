"""The section `report` of a params.yaml: what the page shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TableSettings:
    """A table of the report made of chosen rows.

    Attributes:
        name: file name without ending.
        title: caption.
        rows: `experiment` or `experiment/kind of maps`, in order.
        columns: of f1, map, miou, fp, fn, boundary_error.
        split: scored split; by default the training one.
        baseline: row against which differences are taken.
        arrows: also draw FP against FN with an arrow per step.
        note: a sentence below the table.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ("miou", "fp", "fn")
    split: str = ""
    baseline: str = ""
    arrows: bool = False
    note: str = ""


@dataclass(frozen=True)
class ReportSettings:
    """What the report shows.

    Attributes:
        title: headline, by default the profile's name.
        note: a paragraph below it.
        gallery: number of worst and of best images per experiment and split.
        figures: experiments of the figures, where all of a large grid would hide one another;
            empty: all. Tables hold every experiment, and figures of `tables` their own rows.
        tables: tables of chosen rows.
    """

    title: str = ""
    note: str = ""
    gallery: int = 4
    figures: tuple[str, ...] = ()
    tables: tuple[TableSettings, ...] = ()
