"""Tables of where numbers come from: what was run, with what, and which runs are missing."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from wsssbench.reporting.records import Run, split_roles, titles_of, trainings
from wsssbench.reporting.table import Column, Table

HASH_LETTERS = 12
RECIPE = ("method", "backbone", "weights", "epochs", "batch_size", "crop")


def experiments_table(runs: list[Run]) -> Table:
    """One row per experiment: method, recipe, kinds of maps, how many seeds have all of them."""
    lines = []
    for name in dict.fromkeys(run.experiment for run in runs):
        members = [run for run in runs if run.experiment == name]
        seeds = [kinds[0].seed for kinds in trainings(members).values()]
        first = next((run for run in members if run.provenance), members[0])
        known, protocol = first.provenance, first.record.get("protocol", {})
        done = sum(_state(kinds) == "done" for kinds in trainings(members).values())
        lines.append({
            "experiment": name,
            "title": titles_of(members).get(name, name),
            "maps": ", ".join(dict.fromkeys(run.maps for run in members)),
            **{key: known.get(key) for key in RECIPE},
            "refinement": _refinement(members),
            "ema": {True: "yes", False: "no"}.get(protocol.get("ema"), ""),
            "seeds": ", ".join(map(str, seeds)),
            "done": f"{done} of {len(seeds)}",
        })  # fmt: skip
    columns = (
        Column("experiment", "experiment"),
        Column("title", "title"),
        Column("method", "method"),
        Column("maps", "maps"),
        Column("backbone", "backbone"),
        Column("weights", "initial weights"),
        Column("epochs", "epochs", "count"),
        Column("batch_size", "batch", "count"),
        Column("crop", "crop, px", "count"),
        Column("refinement", "refinement"),
        Column("ema", "EMA"),
        Column("seeds", "seeds"),
        Column("done", "done"),
    )
    return Table("experiments", "Experiments of this profile.", _frame(lines, columns), columns)


def _refinement(members: list[Run]) -> str | None:
    """Steps between network and masks; of several kinds of maps, where their names do not say."""
    chains = {}
    for run in members:
        if protocol := run.record.get("protocol"):
            steps = " + ".join(map(str, protocol.get("refinement") or []))
            chains.setdefault(run.maps, steps or "none")
    if len(chains) < 2:
        return next(iter(chains.values()), None)
    unsaid = {m: s for m, s in chains.items() if s != "none" and s != m.replace("+", " + ")}
    return "; ".join(f"{maps}: {steps}" for maps, steps in unsaid.items()) or "as named"


def provenance_table(runs: list[Run]) -> Table:
    """One row per training: everything its record says about its origin."""
    lines = []
    for name, kinds in trainings(runs).items():
        run = next((run for run in kinds if run.status == "done"), kinds[0])
        known = dict(run.provenance)
        known["run"], known["state"] = name, _state(kinds)
        known["splits"] = ", ".join(run.splits)
        for name in ("content_hash", "weights_hash"):
            known[name] = str(known[name])[:HASH_LETTERS] if known.get(name) else None
        known["git"] = revision_of(known) if known.get("git_revision") else None
        known["inference_s"] = run.timing.get("inference_s")
        many = int(known.get("devices") or 1)
        known["where"] = f"{many} × {known['device']}" if many > 1 else known.get("device")
        lines.append(known)
    columns = (
        Column("run", "run"),
        Column("state", "state"),
        Column("dataset", "data set"),
        Column("content_hash", "content"),
        Column("train_split", "trained on"),
        Column("splits", "scored on"),
        Column("seed", "seed", "count"),
        Column("method", "method"),
        Column("backbone", "backbone"),
        Column("weights", "weights"),
        Column("weights_hash", "weights' hash"),
        Column("epochs", "epochs", "count"),
        Column("batch_size", "batch", "count"),
        Column("where", "device"),
        Column("precision", "precision"),
        Column("wall_s", "training, min", "minutes"),
        Column("inference_s", "masks, min", "minutes"),
        Column("peak_memory_mib", "peak, GiB", "gib"),
        Column("git", "git revision"),
        Column("torch", "torch"),
        Column("wsssbench", "wsssbench"),
        Column("python", "python"),
        Column("finished", "finished"),
    )
    note = "+changes: the checkout held changes that were not committed."
    caption = "Where each number comes from."
    return Table("provenance", caption, _frame(lines, columns), columns, (note,))


def origin_line(runs: list[Run], split: str) -> str:
    """Where the numbers of a table come from: data, split, seeds, backbone, device, revision.

    What all rows share is said once; else each value is followed by the rows that have it.

    Args:
        runs: the runs that went in.
        split: the split they were scored on.
    """
    if not runs:
        return "No run of these rows has scores yet."

    def known(run: Run, key: str) -> str:
        return str(run.provenance.get(key) or "unknown")

    def images(run: Run) -> str:
        part = run.splits[split]
        used = "image labels used" if part.get("labels_used") else "no image labels"
        return f"{split} ({part.get('images', '?')} images, {used})"

    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.row, []).append(str(run.seed))
    facts = {
        "Data set": lambda r: f"{known(r, 'dataset')} ({known(r, 'content_hash')[:HASH_LETTERS]})",
        "split": images,
        "seeds": lambda run: ", ".join(seeds[run.row]),
        "backbone": lambda run: known(run, "backbone"),
        "device": lambda run: known(run, "device"),
        "git": lambda run: revision_of(run.provenance),
    }
    return " · ".join(f"{name} {_by_row(runs, fact)}" for name, fact in facts.items()) + "."


def revision_of(provenance: Mapping[str, Any]) -> str:
    """The git revision of a record, with a mark where code or settings were not committed."""
    dirty = " +changes" if provenance.get("git_dirty") else ""
    return str(provenance.get("git_revision") or "unknown")[:HASH_LETTERS] + dirty


def _by_row(runs: list[Run], fact: Callable[[Run], str]) -> str:
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        values.setdefault(fact(run), {})[run.row] = None
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({', '.join(rows)})" for value, rows in values.items())


def missing_table(runs: list[Run]) -> Table:
    """The runs without scores and why."""
    lines = [{"run": r.name, "state": r.status, "reason": r.reason or "–"}
             for r in runs if r.status != "done"]  # fmt: skip
    columns = (Column("run", "run"), Column("state", "state"), Column("reason", "reason"))
    return Table("not_run", "Runs without scores.", _frame(lines, columns), columns)


def splits_sentence(runs: list[Run]) -> str:
    """`train (364 images) and val (133 images)`, from the first run that is done."""
    done = next((run for run in runs if run.status == "done"), None)
    if done is None:
        return ""
    names = [f"{split} ({done.splits[split].get('images', '?')} images)"
             for split in split_roles([done])]  # fmt: skip
    return " and ".join(names)


def _state(kinds: list[Run]) -> str:
    """`done` if all kinds of maps of a training are, else how the first other one ended."""
    return next((run.status for run in kinds if run.status != "done"), "done")


def _frame(lines: list[dict], columns: tuple[Column, ...]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=[column.key for column in columns])
