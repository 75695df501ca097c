"""Dense CRF on files: score maps or masks of a list of images -> masks; PPMG with its CRFs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from wsssbench.data.folder import Folder
from wsssbench.data.palette import BACKGROUND, IGNORE, write_mask
from wsssbench.evaluation.maps import full_size
from wsssbench.evaluation.reading import StoredMaps, read_maps
from wsssbench.parallel import cpus, in_threads
from wsssbench.refinement.dense_crf import (
    PARAMETER_SETS,
    crf_labels,
    crf_scores,
    dense_crf,
    unary_from_labels,
)
from wsssbench.refinement.pamr import one_thread
from wsssbench.refinement.ppmg import ppmg

ON_LABELS = ("irn",)  # parameter sets published for masks; the others are for scores


def sharpen_maps(
    image: np.ndarray, stored: StoredMaps, threshold: float, name: str, iterations: int | None
) -> np.ndarray:
    """The mask that stored maps give after a dense CRF.

    Args:
        image: (H, W, 3) uint8.
        stored: maps of the image; the gated ones take part.
        threshold: constant score of the background.
        name: parameter set. `irn` sharpens the mask at the threshold, the others the scores.
        iterations: None: those of the set.

    Returns:
        (H, W) uint8 of class ids.
    """
    kept = stored.gated
    maps = torch.from_numpy(full_size(stored.maps[kept], stored.size).astype(np.float32))
    background = torch.full((1, *stored.size), float(threshold))
    return _best(image, torch.cat([background, maps]), stored.keys[kept], name, iterations)


def ppmg_mask(image: np.ndarray, stored: StoredMaps, **settings: float) -> np.ndarray:
    """The mask that PPMG makes of stored maps, (H, W) uint8 of class ids.

    Args:
        image: (H, W, 3) uint8.
        stored: maps of the image, not smoothed; the gated ones take part.
        **settings: of `refinement.ppmg`.
    """
    kept = stored.gated
    maps = torch.from_numpy(full_size(stored.maps[kept], stored.size).astype(np.float32))
    ids = np.concatenate([[BACKGROUND], stored.keys[kept]]).astype(np.uint8)
    return ids[ppmg(image, maps, **settings).numpy()]


def sharpen_scores(
    image: np.ndarray, scores: torch.Tensor, name: str, iterations: int | None, least: float = 0.05
) -> np.ndarray:
    """The mask that class probabilities give after a dense CRF.

    Args:
        image: (H, W, 3) uint8.
        scores: (K+1, H, W) float32 in [0, 1], background first.
        name: parameter set, as for `sharpen_maps`.
        iterations: None: those of the set.
        least: classes that nowhere reach this are left out, which saves time.

    Returns:
        (H, W) uint8 of class ids.
    """
    kept = scores.amax((1, 2)) >= least
    kept[BACKGROUND] = True
    keys = kept.nonzero()[1:, 0].numpy()
    return _best(image, scores[kept], keys, name, iterations)


def sharpen_mask(
    image: np.ndarray, mask: np.ndarray, name: str, iterations: int | None
) -> np.ndarray:
    """A mask after a dense CRF.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8 of class ids; a pixel of value 255 has no opinion of its own, so that its
            neighbours do not learn one from it, and stays 255.
        name: parameter set, of which the kernels are used.
        iterations: None: those of the set.

    Returns:
        (H, W) uint8 of class ids, 255 where the mask has it.
    """
    ignored = mask == IGNORE
    ids = np.union1d(mask[~ignored], [BACKGROUND]).astype(np.uint8)
    labels = np.searchsorted(ids, np.where(ignored, BACKGROUND, mask))
    unary = unary_from_labels(torch.from_numpy(labels), len(ids))
    unary[:, torch.from_numpy(ignored)] = 0
    settings = {**PARAMETER_SETS[name], **_changes(iterations)}
    found = ids[dense_crf(image, unary, **settings).argmax(0).numpy()]
    return np.where(ignored, np.uint8(IGNORE), found)


def sharpen_all(
    folder: Folder,
    ids: Sequence[str],
    maps: Path,
    out: Path,
    threshold: float,
    name: str,
    iterations: int | None = None,
) -> None:
    """Write out/<id>.png from maps/<id>.npz, several images at a time."""
    make = partial(sharpen_maps, threshold=threshold, name=name, iterations=iterations)
    mask_all(folder, ids, maps, out, make, "dense CRF")


def mask_all(
    folder: Folder,
    ids: Sequence[str],
    maps: Path,
    out: Path,
    make: Callable[[np.ndarray, StoredMaps], np.ndarray],
    what: str,
) -> None:
    """Write out/<id>.png = `make(image, stored maps)` of maps/<id>.npz, several at a time."""

    def one(task: str) -> None:
        mask = make(folder.image(task), read_maps(maps / f"{task}.npz"))
        write_mask(out / f"{task}.png", mask)

    # one image per core: a single image's many short steps gain little from several
    with one_thread(torch.device("cpu")):
        for _ in in_threads(one, list(ids), f"{what} of {out.parent.name}", cpus()):
            pass


def _best(
    image: np.ndarray, scores: torch.Tensor, keys: np.ndarray, name: str, iterations: int | None
) -> np.ndarray:
    ids, changes = np.concatenate([[BACKGROUND], keys]).astype(np.uint8), _changes(iterations)
    if name in ON_LABELS:
        found = crf_labels(image, scores.argmax(0), len(scores), name, **changes)
    else:
        found = crf_scores(image, scores, name, **changes).argmax(0)
    return ids[found.numpy()]


def _changes(iterations: int | None) -> dict[str, int]:
    return {} if iterations is None else {"iterations": iterations}
