"""The figures about training itself; they belong to trainings, not to single kinds of maps."""

from collections.abc import Iterable
from numbers import Real

import pandas as pd

from wsssbench.reporting.drawing import Drawing
from wsssbench.reporting.records import Run
from wsssbench.reporting.training_figures import (
    SHARES,
    pixel_shares,
    shares_in,
    watch_curves,
    watched,
)

SELF_TRAINING = "self-training begins"
STARTS = {  # setting of RecurSeed: (words, columns of any method's history, empty before it)
    "rs_start": (SELF_TRAINING, ("certain_foreground", "loss_rec", "loss_seg", "loss_c2s")),
    "mix_start": ("mixing begins", ("loss_cls_mix", "loss_rec_mix", "loss_seg_mix")),
}
SECTION = "training"


def starts(run: Run) -> dict[str, float]:
    """{what begins: its first epoch, counted from 1}, later than the first one of the training.

    The history shows it; where it lacks the columns, the settings of the method tell.
    """
    settings, history = (run.provenance.get("settings") or {}).get("method") or {}, run.history()
    found = {}
    for key, (words, columns) in STARTS.items():
        there = [column for column in columns if column in history]
        begun = history.loc[history[there].notna().any(axis=1), "epoch"] if there else ()
        epoch = begun.min() if len(begun) else settings.get(key)
        if isinstance(epoch, Real) and epoch > 1:
            found[words] = float(epoch)
    return found


def training_drawings(runs: Iterable[Run]) -> list[Drawing]:
    """Seed quality and pixel shares per epoch, where runs have watched them."""
    first = {run.training: run for run in reversed(list(runs)) if run.provenance}
    chosen = list(reversed(first.values()))
    return [*_watches(chosen), *_shares(chosen)]


def _watches(runs: list[Run]) -> list[Drawing]:
    """One figure of all experiments' first kinds, and one per experiment with several kinds."""
    tables = [_trained(run).assign(experiment=run.experiment, seed=run.seed) for run in runs]
    tables = [table for table in tables if watched(table)]
    if not tables:
        return []
    watch = pd.concat(tables)
    known = {run.experiment: run for run in reversed(runs)}
    names = list(dict.fromkeys(watch["experiment"]))
    drawn = []
    if len(names) > 1:
        main = {name: known[name].maps for name in names}
        kept = watch[watch["maps"] == watch["experiment"].map(main)]
        if kept["experiment"].nunique() > 1:
            begins = _agreed([starts(known[name]) for name in names])
            drawn.append(_watch("watch", kept, begins, "all experiments"))
    for name in names:
        part = watch[watch["experiment"] == name]
        if part["maps"].nunique() > 1 or len(names) == 1:
            part = part.assign(experiment=part["maps"])
            drawn.append(_watch(f"watch_{name}", part, starts(known[name]), name))
    return drawn


def _trained(run: Run) -> pd.DataFrame:
    """The run's watch without the epochs in which its decoder had not been trained at all."""
    watch, begins = run.watch(), starts(run).get(SELF_TRAINING, 1.0)
    if not watched(watch) or "maps" not in watch:
        return watch
    return watch[(watch["maps"] != "decoder") | (watch["epoch"] >= begins)]


def _agreed(every: list[dict[str, float]]) -> dict[str, float]:
    """What begins at the same epoch wherever it begins."""
    epochs: dict[str, set[float]] = {}
    for begins in every:
        for words, epoch in begins.items():
            epochs.setdefault(words, set()).add(epoch)
    return {words: min(found) for words, found in epochs.items() if len(found) == 1}


def _watch(name: str, watch: pd.DataFrame, begins: dict[str, float], what: str) -> Drawing:
    last = watch[watch["epoch"] == watch.groupby("experiment")["epoch"].transform("max")]
    means = last.groupby("experiment", sort=False)[["miou", "fp", "fn"]].mean()
    parts = [f"{row} mIoU {100 * line.miou:.1f} %, FP {line.fp:.3f}, FN {line.fn:.3f}"
             for row, line in means.iterrows()]  # fmt: skip
    text = f"Scored against true masks (oracle). After the last epoch: {'; '.join(parts)}."
    title = f"Oracle curve: seed quality per epoch, {what}{_measured(watch)}"
    return Drawing(name, SECTION, title, text, watch_curves(watch, begins, title))


def _measured(watch: pd.DataFrame) -> str:
    """How many images, at which threshold."""
    parts = []
    if "images" in watch:
        parts.append(f"{watch['images'].max():.0f} training images")
    if "threshold" in watch and watch["threshold"].notna().any():
        values = sorted(watch["threshold"].dropna().unique())
        parts.append(f"threshold {', '.join(f'{value:.2f}' for value in values)}")
    return f" ({', '.join(parts)})" if parts else ""


def _shares(runs: list[Run]) -> list[Drawing]:
    tables = [run.history().assign(experiment=run.experiment) for run in runs]
    tables = [table for table in tables if shares_in(table)]
    if not tables:
        return []
    history = pd.concat(tables)
    column, words, _ = SHARES[0]
    last = history.dropna(subset=column)
    last = last[last["epoch"] == last.groupby("experiment")["epoch"].transform("max")]
    means = last.groupby("experiment", sort=False)[column].mean()
    parts = [f"{name} {100 * value:.0f} %" for name, value in means.items()]
    text = f"Share of {words} pixels after the last epoch, mean over seeds: {', '.join(parts)}."
    begins = {run.experiment: starts(run) for run in runs}
    title = "Shares of pixels in the pseudo-masks over time"
    figure = pixel_shares(history, begins, title)
    return [Drawing("pixel_shares", SECTION, title, text, figure)]
