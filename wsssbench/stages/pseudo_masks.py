"""Stage pseudo_masks: weights -> score maps -> masks, and the protocol under which they arose."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from wsssbench.data.folder import Folder
from wsssbench.data.layout import MASKS
from wsssbench.engine import devices
from wsssbench.engine.inference import write_maps, write_masks
from wsssbench.evaluation import Protocol, cf1_sweep, evaluate_maps
from wsssbench.files import read_json, write_json
from wsssbench.methods.base import Method
from wsssbench.methods.multicrop import CROPS
from wsssbench.methods.multiscale import OWN_BACKGROUND, equivalent_threshold
from wsssbench.params import Profile
from wsssbench.stages import origin
from wsssbench.stages.common import kinds_of, load_trained, open_folder


def pseudo_masks(profile: Profile, experiment: str, seed: int) -> Path:
    """Write maps and masks of all lists and kinds of the experiment, and a protocol per kind.

    Training lists and the hold-out use image labels to gate the classes; val does not.

    Returns:
        The stage's directory, runs/<profile>/<experiment>-<seed>/pseudo_masks.

    Raises:
        UserError: no trained weights, or a data set that changed.
    """
    run, settings, data = profile.run_dir(experiment, seed), profile.pseudo_masks, profile.data
    out = run / "pseudo_masks"
    folder, _ = open_folder(profile, masks=False)
    method = load_trained(profile, experiment, folder, run / "train" / "model.pt")
    method = method.to(devices.choose(profile.machine), memory_format=torch.channels_last)
    method.maps = kinds_of(profile, experiment)
    labels_used = {
        data.train: True,
        **{split: role == "train" for split, role in data.scored.items()},
    }
    if settings.threshold_rule == "holdout":
        labels_used[data.holdout] = True
    origin.begin(out)
    started = time.monotonic()
    for split in sorted(labels_used, key=labels_used.get, reverse=True):
        if settings.conf_threshold is not None:
            method.conf_threshold = settings.conf_threshold
        elif not labels_used[split]:
            method.conf_threshold = _best_cf1(folder, out / f"{data.train}.csv")
        write_maps(
            method, folder, split, out, settings, profile.machine, labels_used=labels_used[split]
        )
    seconds = time.monotonic() - started
    for kind in method.maps:
        own, steps = kind in method.own_background, _steps(method, kind)
        protocol = _protocol(
            profile, folder, out / kind, labels_used, method.conf_threshold, own, steps
        )
        for split in labels_used:
            write_masks(out / kind / split, folder.ids(split), protocol.threshold)
        write_json(out / kind / "protocol.json", protocol.to_dict())
    images = sum(len(folder.ids(split)) for split in labels_used)
    write_json(out / "timing.json", {"inference_s": round(seconds, 2), "images": images})
    origin.finish(out, run, method.maps)
    return out


def _best_cf1(folder: Folder, path: Path) -> float:
    """The probability at which CF1 is best on the training list: image labels, no masks."""
    table = pd.read_csv(path, dtype={"id": str}).set_index("id")
    labels = np.stack([folder.label(name) for name in table.index])
    steps = [step / 100 for step in range(1, 100)]
    return cf1_sweep(table.to_numpy(np.float32), labels, steps).best()[0]


def _steps(method: Method, kind: str) -> tuple[str, ...]:
    """From the network's map to this kind; windows have scales of their own."""
    if kind in ("cam", "decoder"):
        return ()
    steps = kind.split("+")
    if kind in CROPS:
        scales = ", ".join(f"{scale:g}" for scale in method.crops.scales)
        steps[0] = f"windows of {method.crops.size} px at scales {scales}"
    return tuple(steps)


def _protocol(
    profile: Profile,
    folder: Folder,
    out: Path,
    labels_used: dict,
    conf_threshold: float,
    own_background: bool,
    steps: tuple[str, ...],
) -> Protocol:
    settings = profile.pseudo_masks
    weights = read_json(out.parents[1] / "train" / "provenance.json", "Train the run again.")
    rule = "fixed" if settings.conf_threshold is not None else f"best CF1 on {profile.data.train}"
    shared = {
        "scales": settings.scales,
        "flip": settings.flip,
        "map_stride": settings.map_stride,
        "labels_used": labels_used,
        "conf_threshold": conf_threshold,
        "conf_rule": rule,
        "refinement": steps,
        "ema": weights["ema"] > 0,
        "initial_weights": weights["weights_hash"],
    }
    if settings.threshold_rule == "fixed" and own_background:
        return Protocol("fixed", OWN_BACKGROUND, **shared)
    if settings.threshold_rule == "fixed" and settings.alpha is not None:
        threshold = equivalent_threshold(settings.alpha)
        return Protocol("fixed", threshold, background=f"power {settings.alpha:g}", **shared)
    if settings.threshold_rule == "fixed":
        return Protocol("fixed", settings.threshold, **shared)
    split, classes = profile.data.holdout, folder.num_classes + 1
    truth, ids = folder.root / MASKS, folder.ids(split)
    sweep = evaluate_maps(out / split / "maps", truth, ids, classes, profile.evaluate.grid)
    return Protocol("holdout", sweep.best()[0], holdout=split, **shared)
