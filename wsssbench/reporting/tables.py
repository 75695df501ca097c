"""The report's tables of our own runs. Rows of different protocols never meet in one of them.

Scores have a row per experiment and kind of maps. Classes and sizes are in `side_by_side.py`,
published figures and the verified / not verified list in `compare.py`.
"""

import pandas as pd

from wsssbench.reporting.averages import aggregate, rows, wide
from wsssbench.reporting.protocols import in_short, protocol, protocols
from wsssbench.reporting.records import Run, split_roles
from wsssbench.reporting.table import Column, Table

SCORES = (("miou", "mIoU %", "percent", "max"), ("fp", "FP", "fraction", "min"),
          ("fn", "FN", "fraction", "min"))  # fmt: skip
LABELLED = "†"
INTERVAL = (
    "95 %: bootstrap over images, mean of the seeds' bounds; it says how much the number hangs on "
    "which images are in the split, not how much trainings differ."
)
GIVEN = (
    f"{LABELLED} With the image labels of the split, which the protocol does not use; several "
    "published figures do. Not to be compared with the columns beside it."
)
COST = (
    Column("wall_s", "training, min", "minutes", "cost"),
    Column("inference_s", "masks, min", "minutes", "cost"),
    Column("peak_memory_mib", "peak, GiB", "gib", "cost"),
)


def main_tables(runs: list[Run]) -> list[Table]:
    """The comparison, one table per protocol, one row per experiment and kind of maps.

    Columns per split: the scores at the protocol's threshold, at the best one (training splits),
    with image labels where the protocol uses none (marked †), mAP and CF1, boundary error; then
    time and memory. Experiments of which no run is done read `not run` in the first table.
    """
    return [_main_table(*group, runs) for group in groups_of(runs)]


def _main_table(letter: str, members: list[Run], alone: bool, runs: list[Run]) -> Table:
    means = wide(_means(letter, runs))
    roles = split_roles(members)
    columns = [Column("experiment", "experiment"), Column("seeds", "seeds")]
    for split, role in roles.items():
        columns += _score_columns(split, role, means)
    columns += _other_columns(roles, means)
    if not roles:
        columns.append(Column("miou", "mIoU %", "percent"))
    any_split = next(iter(roles), "")
    for column in COST:
        means[column.key] = means.get(f"{any_split}.{column.key}")
        columns += [column] if _has(means, column.key) else []
    notes = ["Mean ± sample standard deviation over seeds. Best of a column: ★."]
    if any(column.group.endswith(LABELLED) for column in columns):
        notes.append(GIVEN)
    name, said = named("main", letter, alone), under(letter, members, alone)
    return Table(name, "Main results.", _gaps(means), tuple(columns), tuple(notes), under=said)


def _score_columns(split: str, role: str, means: pd.DataFrame) -> list[Column]:
    """mIoU, FP and FN: at the protocol's threshold, at the best one, with labels given."""

    def group(prefix: str, head: str) -> list[Column]:
        keys = [(f"{split}.{prefix}{key}", *rest) for key, *rest in SCORES]
        shown = [Column(key, name, kind, head, best) for key, name, kind, best in keys]
        return shown if any(_has(means, c.key) for c in shown) else []

    columns = group("", f"{split}, protocol threshold")
    if role == "train" and (best := group("oracle_", f"{split}, best threshold (oracle)")):
        head = best[0].group
        at = Column(f"{split}.oracle_threshold", "at", "threshold", head)
        gap = Column(f"{split}.oracle_gap", "gap, points", "points", head)
        columns += [at, *best, gap]
    given = Column(f"{split}.labelled_miou", "mIoU %", "percent", f"{split} {LABELLED}", "max")
    return [*columns, given] if _has(means, given.key) else columns


def _other_columns(roles: dict[str, str], means: pd.DataFrame) -> list[Column]:
    """Classification where images are unseen, boundaries where pseudo-masks are scored."""
    if not roles:
        return []
    first, last = next(iter(roles)), next(reversed(roles))
    columns = (
        Column(f"{last}.map", "mAP %", "percent", f"{last}, classes", "max"),
        Column(f"{last}.cf1", "CF1 %", "percent", f"{last}, classes", "max"),
        Column(f"{first}.boundary_error", "error", "fraction", f"{first}, boundary", "min"),
    )
    return [c for c in columns if _has(means, c.key)]


def split_tables(runs: list[Run]) -> list[Table]:
    """Every score of one split in one table: with intervals, precision and recall, oracle."""
    tables = []
    for letter, members, alone in groups_of(runs):
        means = _means(letter, runs)
        for split, role in split_roles(members).items():
            part = means[means["split"] == split].reset_index(drop=True)
            tables.append(_split_table(letter, members, alone, split, role, part))
    return tables


def _split_table(
    letter: str, members: list[Run], alone: bool, split: str, role: str, part: pd.DataFrame
) -> Table:
    bounds = [f"{low:.1%} … {high:.1%}".replace("%", "") if low == low else ""
              for low, high in zip(part["miou_low"], part["miou_high"])]  # fmt: skip
    part = part.assign(interval=bounds)
    chosen = "best threshold (oracle)" if role == "train" else "oracle threshold of train"
    columns = [
        Column("experiment", "experiment"),
        Column("seeds", "seeds"),
        Column("threshold", "at", "threshold", "protocol threshold"),
        *(Column(k, h, kind, "protocol threshold", best) for k, h, kind, best in SCORES),
        Column("interval", "mIoU, 95 %", "range", "protocol threshold"),
        Column("precision", "precision %", "percent", "protocol threshold", "max"),
        Column("recall", "recall %", "percent", "protocol threshold", "max"),
        Column("oracle_threshold", "at", "threshold", chosen),
        *(Column(f"oracle_{k}", h, kind, chosen, b) for k, h, kind, b in SCORES),
        Column("oracle_gap", "gap, points", "points", chosen),
        *(Column(f"labelled_{k}", h, kind, f"labels given {LABELLED}", b)
          for k, h, kind, b in SCORES),
    ]  # fmt: skip
    columns = [c for c in columns if c.kind == "text" or c.kind == "range" or _has(part, c.key)]
    notes = [INTERVAL, GIVEN] if any(c.key == "labelled_miou" for c in columns) else [INTERVAL]
    name, said = named(f"scores_{split}", letter, alone), under(letter, members, alone)
    caption = f"All scores on {split}."
    return Table(name, caption, _gaps(part), tuple(columns), tuple(notes), under=said)


def boundary_tables(runs: list[Run]) -> list[Table]:
    """Scores in the band around object boundaries beside those of the whole image."""
    tables = []
    for letter, members, alone in groups_of(runs):
        means = wide(_means(letter, runs))
        columns = [Column("experiment", "experiment"), Column("seeds", "seeds")]
        for split in split_roles(members):
            group = [
                Column(f"{split}.boundary_error", "wrong in band", "fraction", split, "min"),
                Column(f"{split}.boundary_miou", "mIoU in band %", "percent", split, "max"),
                Column(f"{split}.miou", "mIoU everywhere %", "percent", split, "max"),
            ]
            columns += group if _has(means, group[0].key) else []
        if len(columns) > 2:
            width = aggregate(rows(members))["boundary_width_px"].max()
            caption = f"Within {width:.0f} px of an object's boundary."
            name, said = named("boundary", letter, alone), under(letter, members, alone)
            tables.append(Table(name, caption, _gaps(means), tuple(columns), under=said))
    return tables


def groups_of(runs: list[Run]) -> list[tuple[str, list[Run], bool]]:
    """(letter, runs, whether it is the only protocol); one empty group when nothing is done."""
    groups = protocols(runs) or {"": []}
    return [(letter, members, len(groups) == 1) for letter, members in groups.items()]


def _means(letter: str, runs: list[Run]) -> pd.DataFrame:
    """Means of one protocol; the first protocol's table also carries what was never run."""
    means = aggregate(rows(runs))
    if means.empty:
        return means
    first = letter in ("", "A")
    kept = (means["protocol"] == letter) | ((means["protocol"] == "") & first)
    return means[kept].reset_index(drop=True)


def _gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what replaces the numbers of experiments without a run, and `2 of 3` for seeds."""
    missing = frame["seeds"] == 0
    said = frame["status"] + ": " + frame["reason"]
    counts = [f"{n}" if n == planned else f"{n} of {planned}"
              for n, planned in zip(frame["seeds"], frame["planned"])]  # fmt: skip
    return frame.assign(gap=said.where(missing, ""), seeds=counts)


def under(letter: str, members: list[Run], alone: bool) -> str:
    """The protocol that a table's rows share, in short."""
    if not members:
        return "No run is done yet."
    name = "Protocol" if alone else f"Protocol {letter}"
    return f"{name}: {in_short(protocol(members[0]))}."


def named(stem: str, letter: str, alone: bool) -> str:
    """File name of a table: with the protocol's letter where there are several."""
    return stem if alone else f"{stem}_{letter.lower()}"


def _has(frame: pd.DataFrame, key: str) -> bool:
    return key in frame.columns and bool(frame[key].notna().any())
