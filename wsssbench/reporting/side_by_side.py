"""Tables with the rows of the comparison as columns: per class, and objects by their size.

Experiments stand beside each other with their main kind of maps; protocols never share a table.
"""

from collections.abc import Callable

from wsssbench.reporting.records import Run, mean_table, split_roles
from wsssbench.reporting.table import Column, Table
from wsssbench.reporting.tables import SCORES, groups_of, named, under


def per_class_tables(runs: list[Run]) -> list[Table]:
    """IoU, FP and FN per class, one table per protocol and split, experiments side by side."""
    values = (("iou", "IoU %", "percent", "max"), *SCORES[1:])
    keys = (Column("class", "class"),)
    return _tables(runs, _is_main, "per_class", "per_class", "Per class", keys, values)


def size_tables(runs: list[Run]) -> list[Table]:
    """Recall and IoU of objects by their size, one table per protocol and split.

    Each experiment with several kinds of maps has another one with these side by side.
    """
    keys = (
        Column("size", "size"),
        Column("low_px", "from, px", "count"),
        Column("high_px", "to, px", "count"),
        Column("objects", "objects", "count"),
    )
    values = (("recall", "found %", "percent", "max"), ("iou", "IoU %", "percent", "max"))
    tables = _tables(runs, _is_main, "objects", "objects", "Objects by size", keys, values)
    for name in dict.fromkeys(run.experiment for run in runs if not run.main):
        what = f"Objects by size, kinds of maps of {name},"
        own = _is_of(name)
        tables += _tables(runs, own, "objects", f"objects_{name}", what, keys, values)
    return tables


def _tables(
    runs: list[Run],
    chosen: Callable[[Run], bool],
    file: str,
    stem: str,
    what: str,
    keys: tuple[Column, ...],
    values: tuple,
) -> list[Table]:
    """Lines of the splits' <file>.csv with the chosen runs' values beside each other.

    Args:
        runs: all runs.
        chosen: which of them.
        file: name without ending.
        stem: begins the table's name.
        what: begins the caption.
        keys: columns that say what a line is about; the first one alone identifies it.
        values: (column, head, kind, best) of what each row of the comparison has.
    """
    absent = [run.name for run in runs if chosen(run) and run.status != "done"]
    notes = (f"Not in it, for want of scores: {', '.join(absent)}.",) if absent else ()
    tables = []
    for letter, members, alone in groups_of(runs):
        for split in split_roles(members):
            table = mean_table(filter(chosen, members), split, file, (keys[0].key,))
            shown = [value for value in values if value[0] in table.columns]
            if table.empty or not shown:
                continue
            heads = [key for key in keys if key.key in table.columns]
            frame = table.groupby(keys[0].key, sort=False)[[h.key for h in heads[1:]]].first()
            columns = list(heads)
            for name, part in table.groupby("experiment", sort=False):
                part = part.set_index(keys[0].key)
                for key, head, kind, best in shown:
                    frame[f"{name}.{key}"] = part[key]
                    columns.append(Column(f"{name}.{key}", head, kind, str(name), best))
            caption, said = f"{what} on {split}, mean over seeds.", under(letter, members, alone)
            shape = frame.reset_index(), tuple(columns), notes
            name = named(f"{stem}_{split}", letter, alone)
            tables.append(Table(name, caption, *shape, across=True, under=said))
    return tables


def _is_main(run: Run) -> bool:
    return run.main


def _is_of(experiment: str) -> Callable[[Run], bool]:
    return lambda run: run.experiment == experiment
