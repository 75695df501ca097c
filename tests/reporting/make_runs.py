"""Writes run directories as the pipeline does, from invented score maps (seeded; no model runs)."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from make_data import CLASSES, HEIGHT, WIDTH, write_palette_png
from make_training import rs_history, watch

SIZES = {"tiny": (0.0, 0.02), "small": (0.02, 0.06), "medium": (0.06, 0.2), "large": (0.2, 1.0)}
SHARPER = {"cam": 1.0, "scg": 0.8, "pamr": 0.7, "scg+pamr": 0.6, "decoder": 0.5}
THRESHOLDS = np.arange(1, 20) / 20
PER_IMAGE = ["id", "miou", "fp", "fn", "truth_classes", "predicted_classes", "wrong_fraction"]
OBJECTS = ["size", "low_px", "high_px", "objects", "recall", "iou"]
PROVENANCE = {
    "dataset": "scenes", "content_hash": "0f" * 32, "train_split": "train", "train_images": 8,
    "method": "cam", "backbone": "tiny", "weights": "none", "weights_hash": None, "epochs": 8,
    "batch_size": 4, "crop": 64, "device": "cpu", "devices": 1, "precision": "float32",
    "git_revision": "abc1234def", "git_dirty": False, "torch": "2.15.0", "wsssbench": "0.1.0",
    "python": "3.11.9", "finished": "2025-01-01T10:00:00", "settings": {}}  # fmt: skip
PROTOCOL = {
    "threshold_rule": "fixed", "threshold": 0.4, "holdout": None, "background": "threshold",
    "scales": [0.5, 1.0, 1.5, 2.0], "flip": True, "map_stride": 4, "conf_threshold": 0.34,
    "labels_used": {"train": True, "val": False}, "crf": False, "refinement": [], "ema": False,
    "checkpoint": "last", "initial_weights": "none", "ignored_pixels": "255 left out"}  # fmt: skip


def count(prediction, truth):
    keep = truth != 255
    pair = truth[keep].astype(int) * 5 + prediction[keep]
    return np.bincount(pair, minlength=25).reshape(5, 5)


def ratios(matrix):
    """(iou, fp, fn) per class [3, 5] and the three means, as the protocol has them."""
    t, p, tp = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    with np.errstate(invalid="ignore"):
        parts = np.stack([tp, p - tp, t - tp]) / (t + p - tp)
    return parts, (np.nanmean(parts[0]), np.nanmean(parts[1, 1:]), np.nanmean(parts[2, 1:]))


def fake_maps(truth, rng, blur):
    """Score maps [5, H, W]: the truth shifted, blurred, spilt into another class; 0 is unused."""
    maps = np.stack([(truth == k).astype(np.float32) for k in range(5)])
    if rng.random() < 0.3:
        maps[1:] += 0.8 * np.roll(maps[1:], 1, axis=0)
    maps = np.roll(maps, tuple(rng.integers(-5, 6, 2)), axis=(1, 2))
    maps = np.stack([cv2.GaussianBlur(m, (0, 0), blur * rng.uniform(0.6, 1.6)) for m in maps])
    return maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-5)


def write_split(masks, pseudo, evaluated, rng, blur):
    """Maps, masks and score tables of one split; returns its part of record.json."""
    total, images, sweep = np.zeros((5, 5), int), [], np.zeros((len(THRESHOLDS), 5, 5), int)
    (pseudo / "maps").mkdir(parents=True)
    evaluated.mkdir(parents=True)
    for name, truth in masks.items():
        maps = fake_maps(truth, rng, blur)
        keys = np.flatnonzero(maps[1:].max((1, 2)) > 0).astype(np.int16) + 1
        stored = {"keys": keys, "maps": maps[keys][:, ::2, ::2].astype(np.float16)}
        np.savez_compressed(pseudo / "maps" / f"{name}.npz", size=np.int32(truth.shape), **stored)
        foreground, winner = maps[1:].max(0), maps[1:].argmax(0) + 1
        for step, threshold in enumerate(THRESHOLDS):
            sweep[step] += count(np.where(foreground > threshold, winner, 0), truth)
        prediction = np.where(foreground > 0.4, winner, 0).astype(np.uint8)
        write_palette_png(pseudo / "masks" / f"{name}.png", prediction)
        matrix = count(prediction, truth)
        seen = [" ".join(CLASSES[c] for c in np.flatnonzero(matrix.sum(a))) for a in (1, 0)]
        images.append((name, *ratios(matrix)[1], *seen, 1 - np.trace(matrix) / matrix.sum()))
        total = total + matrix
    parts, (miou, fp, fn) = ratios(total)
    per_class = pd.DataFrame({"class": CLASSES, "iou": parts[0], "fp": parts[1], "fn": parts[2],
                              "precision": 1 - parts[1], "recall": 1 - parts[2],
                              "truth_px": total.sum(1), "predicted_px": total.sum(0)})  # fmt: skip
    curve = pd.DataFrame([ratios(m)[1] for m in sweep], columns=["miou", "fp", "fn"])
    curve.insert(0, "threshold", THRESHOLDS)
    best, area = curve.loc[curve.miou.idxmax()], HEIGHT * WIDTH
    objects = pd.DataFrame([(size, low * area, high * area, 5 + i, 0.5 + 0.1 * i, 0.4 + 0.1 * i)
                            for i, (size, (low, high)) in enumerate(SIZES.items())],
                           columns=OBJECTS)  # fmt: skip
    confusion = pd.DataFrame(total, columns=CLASSES)
    confusion.insert(0, "truth", CLASSES)
    for table, name in ((per_class, "per_class"), (curve, "sweep"), (objects, "objects"),
                        (confusion, "confusion"),
                        (pd.DataFrame(images, columns=PER_IMAGE), "per_image")):  # fmt: skip
        table.to_csv(evaluated / f"{name}.csv", index=False)
    return {"images": len(masks), "threshold": 0.4, "miou": miou, "fp": fp, "fn": fn,
            "miou_interval": [miou - 0.03, miou + 0.03], "fp_interval": [fp - 0.02, fp + 0.02],
            "fn_interval": [fn - 0.02, fn + 0.02], "oracle_threshold": best.threshold,
            "oracle_miou": best.miou, "oracle_fp": best.fp, "oracle_fn": best.fn,
            "oracle_gap": best.miou - miou, "precision": 0.7, "recall": 0.8, "map": 0.91,
            "cf1": 0.88, "cf1_threshold": 0.5, "seconds": 1.5,
            "boundary_band": {"width_px": 5, "error": 0.31, "miou": 0.45}}  # fmt: skip


def of(*names):
    """{experiment: kinds of maps} for experiments with the kind `cam` alone."""
    return {name: ("cam",) for name in names}


def write_run(root, data, experiment, seed, blur=3.0, protocol=None, kinds=("cam",), recurseed=None,
              **provenance):  # fmt: skip
    """One run directory `root/<experiment>-<seed>`; returns its path.

    `kinds` are the kinds of its maps; `recurseed` holds arguments of `rs_history` for a run with
    the history of RecurSeed and with watch.csv.
    """
    rng = np.random.default_rng([seed, int(10 * blur)])
    run = Path(root) / f"{experiment}-{seed}"
    (run / "train").mkdir(parents=True)
    if recurseed is not None:
        rs_history(rng, **recurseed).to_csv(run / "train" / "history.csv", index=False)
        watch(rng, kinds, 0.1 / blur).to_csv(run / "train" / "watch.csv", index=False)
    else:
        write_history(run / "train" / "history.csv", rng)
    own = {"experiment": experiment, "seed": seed, "wall_s": 61.0 + seed, "peak_memory_mib": 512.0}
    provenance = PROVENANCE | own | provenance
    (run / "train" / "provenance.json").write_text(json.dumps(provenance, indent=1))
    for kind in kinds:
        write_kind(run, data, kind, blur * SHARPER[kind], rng, protocol or {}, provenance)
    return run


def write_history(path, rng):
    epochs = np.arange(1, 9)
    loss = np.exp(-epochs / 3) + 0.02 * rng.random(8)
    history = {"epoch": epochs, "lr": 0.1 * (1 - epochs / 9) ** 0.9, "loss": loss,
               "loss_class": loss, "seconds": 2.0}  # fmt: skip
    pd.DataFrame(history).to_csv(path, index=False)


def write_kind(run, data, kind, blur, rng, protocol, provenance):
    """Maps, masks and scores of one kind of maps of a run."""
    steps = [] if kind in ("cam", "decoder") else kind.split("+")
    protocol, splits = PROTOCOL | {"refinement": steps} | protocol, {}
    for split, masks in data.items():
        folders = run / "pseudo_masks" / kind / split, run / "evaluate" / kind / split
        splits[split] = write_split(masks, *folders, rng, blur)
        splits[split] |= {"role": split, "labels_used": split == "train", "with_labels": None}
    splits["val"]["with_labels"] = {k: splits["val"][k] for k in ("miou", "fp", "fn")}
    name = provenance["experiment"]
    record = {"profile": "fake", "experiment": name, "title": name.upper(), "maps": kind}
    record |= {"seed": provenance["seed"], "provenance": provenance, "protocol": protocol}
    for path, value in ((f"pseudo_masks/{kind}/protocol", protocol),
                        (f"evaluate/{kind}/record", record | {"splits": splits})):  # fmt: skip
        (run / f"{path}.json").write_text(json.dumps(value, indent=1))
