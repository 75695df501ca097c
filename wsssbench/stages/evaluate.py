"""Stage evaluate: masks and maps against ground truth -> record.json, metrics.json and tables, for
each kind of maps that the experiment is read out in.

The protocol's row comes from the mask files; the oracle and the curves from the stored maps. The
oracle's threshold is the best one on the training masks, also where it is applied to val.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsssbench.data import layout
from wsssbench.data.folder import Folder
from wsssbench.data.layout import CLASSES, MASKS, read_classes, read_text
from wsssbench.data.palette import BACKGROUND, IGNORE
from wsssbench.errors import UserError
from wsssbench.evaluation import (
    Protocol,
    Scores,
    ThresholdSweep,
    cf1_sweep,
    evaluate_folder,
    evaluate_maps,
    mean_average_precision,
)
from wsssbench.evaluation.reading import read_mask
from wsssbench.files import check_writable, read_json, write_json, write_text
from wsssbench.multistage import STAGES, masks_dir, scores_dir
from wsssbench.params import UPPER_BOUND, Profile
from wsssbench.progress import progress
from wsssbench.stages import origin
from wsssbench.stages.common import kinds_of, later_kinds_of, open_folder

SUMMARY = ("miou", "fp", "fn", "oracle_threshold", "oracle_miou", "oracle_fp", "oracle_fn", "map")


def evaluate(profile: Profile, experiment: str, seed: int, *, later: bool = False) -> Path:
    """Score one run on all scored splits of the profile.

    Args:
        profile: of the run.
        experiment: one of the profile, or `supervised` with `later`.
        seed: of the run.
        later: score what the stages after the pseudo-masks left, not the pseudo-masks.

    Returns:
        The stage's directory, runs/<profile>/<experiment>-<seed>/evaluate or evaluate_stages.

    Raises:
        UserError: masks or maps are missing, or no image of any split has a ground-truth mask.
    """
    run = profile.run_dir(experiment, seed)
    folder, _ = open_folder(profile, masks=True)
    _something_to_score(profile, folder)
    for kind in (later_kinds_of if later else kinds_of)(profile, experiment):
        out, trained = scores_dir(run, kind), run / "train"
        if kind in STAGES["segment"]:
            trained = run / "segment" / "network"
        protocol, splits = _score(profile, folder, experiment, run, kind)
        record = {
            "profile": profile.profile,
            "experiment": experiment,
            "title": _title(profile, experiment),
            "maps": kind,
            "seed": seed,
            "provenance": read_json(trained / "provenance.json", "Train the run again."),
            "protocol": protocol.to_dict(),
            "splits": splits,
        }
        write_json(out / "record.json", record)
        metrics = {s: {key: found.get(key) for key in SUMMARY} for s, found in splits.items()}
        write_json(out / "metrics.json", metrics)
    return run / ("evaluate_stages" if later else "evaluate")


def _title(profile: Profile, experiment: str) -> str:
    if experiment == UPPER_BOUND:
        return "Full supervision"
    return profile.experiments[experiment].title or experiment


def _score(
    profile: Profile, folder: Folder, experiment: str, run: Path, kind: str
) -> tuple[Protocol, dict[str, dict[str, Any]]]:
    """Scores of one kind of maps on all splits; the tables are written beside."""
    masks, out = masks_dir(run, kind), scores_dir(run, kind)
    stage = {"pseudo_masks": "pseudo-masks", "random_walk": "random-walk"}
    name = stage.get(masks.parent.name, masks.parent.name)
    again = f"Run: python -m wsssbench {name} -p {profile.params_file} -e {experiment}"
    protocol = Protocol.from_dict(read_json(masks / "protocol.json", again))
    origin.check(masks.parent, run, again)
    threshold = None if protocol.threshold_rule == "argmax" else protocol.threshold
    splits: dict[str, dict[str, Any]] = {}
    oracle = None
    for split, role in profile.data.scored.items():
        if split not in protocol.labels_used:
            continue  # a stage that needs image labels does not run on val
        found = {"role": role, "labels_used": protocol.labels_used[split], "threshold": threshold}
        found["images"] = len(folder.ids(split))
        found |= _classification(folder, masks.parent / f"{split}.csv", out / split)
        if ids := [name for name in folder.ids(split) if folder.has_mask(name)]:
            scores = _masks(profile, folder, masks / split, ids)
            _write_scores(scores, out / split)
            sweep = None
            if (masks / split / "maps").is_dir():
                sweep = _sweep(profile, folder, masks / split, ids, threshold)
                _write_csv(sweep.table(), out / split / "sweep.csv")
                oracle = sweep.best()[0] if role == "train" else oracle
            found |= _row(profile, scores, sweep, oracle)
            if sweep is not None and not found["labels_used"]:
                found["with_labels"] = _with_labels(profile, folder, masks / split, ids, threshold)
        splits[split] = found
    return protocol, splits


def scorable(profile: Profile) -> bool:
    """Whether any image of a scored list has a mask."""
    folder = Folder(profile.data.root)
    return any(folder.has_mask(name) for split in profile.data.scored for name in folder.ids(split))


def _something_to_score(profile: Profile, folder: Folder) -> None:
    splits = profile.data.scored
    if not scorable(profile):
        raise UserError(
            f"No image of {', '.join(splits)} has a mask in {folder.root / MASKS}: nothing to "
            "score. Add masks of at least some images, or leave the stage evaluate out."
        )


def score_folder(
    pred_dir: Path,
    gt_dir: Path,
    *,
    ids: Path | None = None,
    classes: Path | None = None,
    out: Path | None = None,
) -> str:
    """Score a folder of anybody's PNG masks; the text is for a terminal.

    Args:
        pred_dir: palette or single-channel masks of the full image size.
        gt_dir: ground truth of the same names.
        ids: text file with one id per line; by default every mask of `gt_dir`.
        classes: classes.txt, `background` first; by default the number of classes is the largest
            id in `gt_dir` and classes are numbered.
        out: folder for per_class.csv, per_image.csv, confusion.csv, objects.csv.

    Raises:
        UserError: whatever is wrong with the masks, the list, the classes or `out`.
    """
    for folder in (pred_dir, gt_dir):
        if not folder.is_dir():
            raise UserError(f"Folder {folder} does not exist. Check the path.")
    if ids:
        names = read_text(ids, "Give a text file with one id per line.").split()
    else:
        names = sorted(path.stem for path in gt_dir.glob("*.png"))
    if twice := layout.repeated(names):
        raise UserError(f"{ids} names {twice[0]!r} more than once. Keep each id once.")
    if not names:
        raise UserError(f"{ids or gt_dir} names no image. Give a list with --ids, or PNG masks.")
    if classes and classes.name != CLASSES:
        raise UserError(f"{classes} must be called {CLASSES}: one name per line, background first.")
    titles = read_classes(classes.parent) if classes else None
    if out:
        check_writable(out)
    count = len(titles) if titles else _largest_id(gt_dir, names)
    read = read_mask if titles else partial(_read_counted, gt_dir, count)
    options = {"classes": titles, "read": read, "progress": progress}
    scores = evaluate_folder(pred_dir, gt_dir, names, count + 1, **options)
    if out:
        _write_scores(scores, out)
    means = scores.summary()
    low, high = scores.intervals()["miou"]
    table = scores.per_class().drop(columns=["truth_px", "predicted_px"])
    return (
        f"{table.to_markdown(index=False, floatfmt='.3f')}\n\n"
        f"{len(names)} images, {count} classes and background; pixels of value 255 left out\n"
        f"mIoU {100 * means['miou']:.1f} (95 % of resampled image sets {100 * low:.1f} to "
        f"{100 * high:.1f}), FP {means['fp']:.3f}, FN {means['fn']:.3f}, "
        f"boundary error {scores.boundary['error']:.3f} within {scores.boundary['width_px']} px"
        + ("" if titles else _gap(scores, pred_dir, gt_dir))
    )


def _masks(profile: Profile, folder: Folder, masks: Path, ids: list[str]) -> Scores:
    return evaluate_folder(
        masks / "masks",
        folder.root / MASKS,
        ids,
        folder.num_classes + 1,
        classes=folder.classes,
        boundary_px=profile.evaluate.boundary_px,
        progress=progress,
    )


def _sweep(
    profile: Profile, folder: Folder, masks: Path, ids: list[str], threshold: float
) -> ThresholdSweep:
    thresholds = sorted({*profile.evaluate.grid, threshold})
    truth, count = folder.root / MASKS, folder.num_classes + 1
    return evaluate_maps(masks / "maps", truth, ids, count, thresholds, progress=progress)


def _row(
    profile: Profile, scores: Scores, sweep: ThresholdSweep | None, oracle: float | None
) -> dict[str, Any]:
    intervals = scores.intervals(profile.evaluate.bootstrap)
    row = {"images": len(scores.ids), **scores.summary(), "boundary_band": scores.boundary}
    row |= {f"{name}_interval": list(ends) for name, ends in intervals.items()}
    if sweep is not None and oracle is not None:
        best = _at(sweep, oracle)
        row |= {"oracle_threshold": oracle, **{f"oracle_{k}": v for k, v in best.items()}}
        row["oracle_gap"] = best["miou"] - row["miou"]
    return row


def _at(sweep: ThresholdSweep, threshold: float) -> dict[str, float]:
    """Miou, fp and fn at one of the sweep's thresholds."""
    return dict(zip(("miou", "fp", "fn"), sweep.at(threshold)[1:], strict=True))


def _with_labels(
    profile: Profile, folder: Folder, masks: Path, ids: list[str], threshold: float
) -> dict[str, float]:
    """What the same maps would score if the image labels gated the classes."""
    known = {name: np.flatnonzero(folder.label(name)) + 1 for name in ids}
    truth, count = folder.root / MASKS, folder.num_classes + 1
    sweep = evaluate_maps(masks / "maps", truth, ids, count, [threshold], labels=known)
    return _at(sweep, threshold)


def _classification(folder: Folder, path: Path, out: Path) -> dict[str, Any]:
    """Scores of the classifier; nothing for a stage without one."""
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype={"id": str}).set_index("id")
    labels = np.stack([folder.label(name) for name in table.index])
    probabilities = table.to_numpy(np.float32)
    threshold, precision, recall, f1 = cf1_sweep(probabilities, labels).best()
    found = {
        "images": len(table),
        "map": mean_average_precision(probabilities, labels),
        "cf1": f1,
        "cf1_threshold": threshold,
    }
    write_json(out / "classification.json", {**found, "cp": precision, "cr": recall})
    return found


def _write_scores(scores: Scores, out: Path) -> None:
    _write_csv(scores.per_class(), out / "per_class.csv")
    _write_csv(scores.per_image, out / "per_image.csv")
    _write_csv(scores.confusion_table(), out / "confusion.csv")
    _write_csv(scores.objects, out / "objects.csv")


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.6f"))


def _largest_id(folder: Path, names: list[str]) -> int:
    """The largest class id in the masks of `folder`."""
    largest = 0
    for name in progress(names, "counting classes"):
        mask = read_mask(folder / f"{name}.png")
        largest = max(largest, int(mask[mask != IGNORE].max(initial=BACKGROUND)))
    return max(largest, 1)


def _read_counted(truth: Path, count: int, path: Path) -> np.ndarray:
    """A mask, (H, W) uint8; refuses ids above `count`, the largest one that the truth holds."""
    mask = read_mask(path)
    if (above := mask[(mask > count) & (mask != IGNORE)]).size:
        raise UserError(
            f"{path} holds value {above[0]}, but the truth of these images in {truth} none above "
            f"{count}. If it is a class, name all with --classes {CLASSES}; else save ids."
        )
    return mask


def _gap(scores: Scores, pred_dir: Path, gt_dir: Path) -> str:
    """A warning, on a line of its own, where ids below the largest one occur nowhere."""
    predicted, true = np.moveaxis(scores.counts[:, :, :2] > 0, -1, 0)  # (N, K + 1) bool each
    there = np.flatnonzero((predicted | true).any(axis=0))
    gaps = np.diff(there, prepend=BACKGROUND) - 1
    if gaps.max(initial=0) < 1:
        return ""
    value, missing = there[gaps.argmax()], len(scores.classes) - len({BACKGROUND, *there})
    folder, where = (gt_dir, true) if true[:, value].any() else (pred_dir, predicted)
    first = folder / f"{scores.ids[where[:, value].argmax()]}.png"
    return (
        f"\nWarning: {missing} of the ids 1..{len(scores.classes) - 1} have no scored pixel; the "
        f"longest gap ends at {value}, first in {first}. If that is no class, mend the masks; else "
        f"name the classes with --classes {CLASSES}."
    )
