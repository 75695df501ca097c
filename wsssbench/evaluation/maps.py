"""A threshold sweep over stored score maps: every threshold scored without writing a mask."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsssbench.errors import UserError
from wsssbench.evaluation.reading import (
    Read,
    StoredMaps,
    listed,
    read_maps,
    read_mask,
)
from wsssbench.evaluation.sweep import DEFAULT_THRESHOLDS, ThresholdSweep
from wsssbench.parallel import Show, in_threads, silent

IMAGES_PER_TASK = 16


def evaluate_maps(
    map_dir: str | Path,
    truth_dir: str | Path,
    ids: Sequence[str] | None,
    num_classes: int,
    thresholds: Iterable[float] = DEFAULT_THRESHOLDS,
    *,
    labels: Mapping[str, Collection[int]] | None = None,
    ignore_index: int = 255,
    workers: int | None = None,
    read: Read = read_mask,
    read_maps: Callable[[Path], StoredMaps] = read_maps,
    progress: Show = silent,
) -> ThresholdSweep:
    """Sweep `map_dir/<id>.npz` against `truth_dir/<id>.png`.

    Maps smaller than their image are resized bilinearly (align_corners False, float32), exactly
    as when masks are written from them.

    Args:
        map_dir: files with keys (n,) class ids, maps (n, h, w) float, size (2,) = H, W, and
            gated (n,) bool, the maps in use (all where it is missing).
        truth_dir: palette or single-channel masks.
        ids: images; None: every file of `map_dir`.
        num_classes: K + 1.
        thresholds: increasing background thresholds.
        labels: per id the class ids that are known to be present. If given they say which maps
            are used instead of `gated`: what image labels would give. Of a class that occurs twice
            the last one counts.
        ignore_index: truth value of pixels that are not evaluated.
        workers: threads; None: one per core.
        read: reads a mask.
        read_maps: reads a map file.
        progress: `progress(iterable, desc, total)`; silent by default.

    Raises:
        UserError: missing or damaged file, other size than the mask, wrong value; names the file.
    """
    map_dir, truth_dir = Path(map_dir), Path(truth_dir)
    names = listed(ids, map_dir, ".npz")
    tasks = [names[i : i + IMAGES_PER_TASK] for i in range(0, len(names), IMAGES_PER_TASK)]
    total = ThresholdSweep(num_classes, thresholds, ignore_index)

    def sweep(task: Sequence[str]) -> ThresholdSweep:
        part = total.empty()
        for name in task:
            stored, truth = read_maps(map_dir / f"{name}.npz"), read(truth_dir / f"{name}.png")
            kept = stored.gated if labels is None else _labelled(stored.keys, labels[name])
            keys, maps = stored.keys, stored.maps
            if not kept.all():  # else nothing is copied
                keys, maps = keys[kept], maps[kept]
            try:
                part.update_sparse(keys, full_size(maps, stored.size), truth)
            except UserError as error:
                pair = f"{map_dir / name}.npz against {truth_dir / name}.png"
                raise UserError(f"{pair}: {error}") from error
        return part

    for part in in_threads(sweep, tasks, "threshold sweep", workers, progress):
        total = total + part
    return total


def _labelled(keys: np.ndarray, labels: Collection[int]) -> np.ndarray:
    """(n,) bool: the last map of each labelled class."""
    last = [key not in keys[number + 1 :] for number, key in enumerate(keys)]
    return np.isin(keys, list(labels)) & np.array(last, dtype=bool)


def full_size(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps at the size of their image: unchanged, or bilinear in float32.

    Args:
        maps: (n, h, w) float.
        size: (H, W).

    Returns:
        (n, H, W), of the dtype of `maps` if they have this size already, else float32.
    """
    if maps.shape[1:] == tuple(size):
        return maps
    if not len(maps):
        return np.zeros((0, *size), dtype=np.float32)
    import torch  # only here: maps of full size need no torch
    from torch.nn.functional import interpolate

    small = torch.from_numpy(maps).float()[None]
    return interpolate(small, size=tuple(size), mode="bilinear", align_corners=False)[0].numpy()
