"""A table that knows its units: the same numbers as CSV (raw), Markdown and HTML (for people).

How a number is written is decided here; which numbers stand in which table is not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from wsssbench.files import write_text
from wsssbench.reporting.rendering import render

BEST = "★"
MISSING = "–"
ONE_SEED = f"A row of one seed gets no {BEST} beside rows of several."
FORMATS = {  # kind: (factor, decimals)
    "percent": (100.0, 1),
    "points": (100.0, 1),
    "change": (100.0, 1),
    "fraction": (1.0, 3),
    "threshold": (1.0, 2),
    "count": (1.0, 0),
    "minutes": (1 / 60, 1),
    "gib": (1 / 1024, 2),
    "range": (1.0, 0),
    "text": (1.0, 0),
}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: column of the table's frame; its spread, if any, is in `<key>_sd`.
        head: what stands above it, with the unit.
        kind: one of FORMATS.
        group: columns of one group share a second head above theirs.
        best: `max` or `min` where a best value is to be marked, else empty.
    """

    key: str
    head: str
    kind: str = "text"
    group: str = ""
    best: str = ""


class Cell(NamedTuple):
    """A formatted cell: text, `± spread` or nothing, kind, whether best, columns spanned."""

    text: str
    spread: str = ""
    kind: str = "text"
    best: bool = False
    span: int = 1


@dataclass(frozen=True)
class Table:
    """Rows and how they are shown.

    Attributes:
        name: file name without ending.
        caption: what it shows.
        frame: raw values. Where a best one is marked and there is a column `seeds` (how many, the
            number first), a row of one seed does not compete with rows of several. Rows whose
            column `gap` holds a text show it in place of their numbers; what is printed elsewhere
            (kind `range` in the last columns) stays.
        columns: the first one is the row's head.
        notes: sentences below the table.
        under: the protocol that all rows share, printed with the table.
        across: mark the best of each row among columns of the same kind and head, not of a column.
        apart: heads of rows that do not compete, such as an upper bound.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = field(default_factory=tuple)
    across: bool = False
    apart: tuple[str, ...] = ()
    under: str = ""

    def lines(self) -> list[list[Cell]]:
        """The formatted cells, row by row."""
        marked = self._best()
        return [self._line(place, row, marked) for place, row in self._records()]

    def groups(self) -> list[tuple[str, int]]:
        """Heads of the column groups with their widths; empty where no column has a group."""
        if not any(column.group for column in self.columns):
            return []
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group and column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    def remarks(self) -> list[str]:
        """The sentences below the table: its notes, and whether some rows have too few seeds."""
        return [*self.notes, *([ONE_SEED] if self._single() and self._best() else [])]

    def to_markdown(self) -> str:
        """GitHub Markdown: caption, table, notes."""
        heads = [f"{c.group}: {c.head}" if c.group else c.head for c in self.columns]
        body = [[_plain(cell) for cell in _spread_out(line)] for line in self.lines()]
        frame = pd.DataFrame(body, columns=heads)
        sides = ["left" if c.kind == "text" else "right" for c in self.columns]
        text = frame.to_markdown(index=False, disable_numparse=True, colalign=sides) or ""
        parts = [f"**{self.caption}** {self.under}".strip(), text, *self.remarks()]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """A `<table>` with caption, scopes and right-aligned numbers, in its own scroll box."""
        return render("table.html.j2", table=self, star=BEST)

    def _repr_html_(self) -> str:
        return self.to_html()

    def write(self, folder: Path) -> list[Path]:
        """Write <name>.csv (raw values), .md and .html; returns the paths."""
        texts = {"csv": self.frame.to_csv(index=False), "md": self.to_markdown()}
        texts["html"] = self.to_html() + "\n"
        paths = [folder / f"{self.name}.{ending}" for ending in texts]
        for path, text in zip(paths, texts.values()):
            write_text(path, text)
        return paths

    def _records(self) -> Iterable[tuple[int, dict[str, Any]]]:
        return enumerate(self.frame.to_dict("records"))

    def _line(self, place: int, row: dict[str, Any], marked: set) -> list[Cell]:
        gap = row.get("gap")
        cells = [
            Cell(
                write(row.get(c.key), c.kind),
                write_spread(row.get(f"{c.key}_sd"), c.kind),
                c.kind,
                (place, c.key) in marked,
            )
            for c in self.columns
        ]
        if not gap:
            return cells
        first = len([*takewhile(lambda c: c.kind == "text", self.columns)])
        last = len([*takewhile(lambda c: c.kind == "range", reversed(self.columns))])
        missing = len(cells) - first - last
        middle = [Cell(str(gap), kind="gap", span=missing)] if missing > 0 else []
        return [*cells[:first], *middle, *cells[len(cells) - last :]]

    def _best(self) -> set[tuple[int, str]]:
        """Places of the best values; what prints alike is alike, and nothing wins if all are."""
        fields = [c for c in self.columns if c.best]
        rows = self.frame[self.columns[0].key]
        apart = {place for place, row in enumerate(rows) if row in self.apart} | self._single()
        places = [place for place in range(len(rows)) if place not in apart]
        if self.across:
            heads = dict.fromkeys((c.head, c.best) for c in fields)
            rivals = [
                ([(p, c) for c in fields if (c.head, c.best) == head], head[1])
                for head in heads
                for p in places
            ]
        else:
            rivals = [([(p, c) for p in places], c.best) for c in fields]
        marked = set()
        for contest, rule in rivals:
            values = {(p, c.key): _shown(self.frame[c.key].iloc[p], c.kind) for p, c in contest}
            values = {key: value for key, value in values.items() if value is not None}
            if len(set(values.values())) > 1:
                top = max(values.values()) if rule == "max" else min(values.values())
                marked |= {key for key, value in values.items() if value == top}
        return marked

    def _single(self) -> set[int]:
        """Places of the rows of one seed, if others have several."""
        if "seeds" not in self.frame or not any(column.best for column in self.columns):
            return set()
        said = self.frame["seeds"].astype(str)
        counts = [int(text.split()[0]) if text[:1].isdigit() else 0 for text in said]
        return {place for place, count in enumerate(counts) if count == 1 < max(counts)}


def write(value: Any, kind: str) -> str:
    """One value as text: per cent with one decimal, fractions with three; `–` for a missing one."""
    if value is None or (isinstance(value, float) and value != value) or value == "":
        return MISSING
    if kind == "text" or isinstance(value, str):
        return str(value)
    shown = _shown(value, kind)
    plus = "+" if kind == "change" and shown > 0 else ""
    return f"{plus}{shown:,.{FORMATS[kind][1]}f}".replace(",", "\u202f").replace("-", "\u2212")


def write_spread(value: Any, kind: str) -> str:
    """`± sd` in the unit and precision of its mean; nothing for one seed or for a setting."""
    if value is None or value != value or (kind in ("threshold", "count") and value == 0):
        return ""
    return f"± {write(value, 'points' if kind == 'change' else kind)}"


def _shown(value: Any, kind: str) -> float | None:
    """The number as printed: scaled and rounded, without negative zero."""
    if value is None or value != value or isinstance(value, str):
        return None
    factor, decimals = FORMATS[kind]
    return round(float(value) * factor, decimals) + 0.0


def _plain(cell: Cell) -> str:
    text = " ".join(part for part in (cell.text, cell.spread) if part)
    return f"**{text}** {BEST}" if cell.best else text.replace("|", "\\|")


def _spread_out(line: list[Cell]) -> list[Cell]:
    return [part for cell in line for part in [cell, *[Cell("")] * (cell.span - 1)]]
