"""Reading what is evaluated: masks as 8-bit images, score maps as npz."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from wsssbench.errors import UserError

Read = Callable[[Path], np.ndarray]


class StoredMaps(NamedTuple):
    """keys (n,) class ids, maps (n, h, w) float16, gated (n,) bool, size (H, W) of the image."""

    keys: np.ndarray
    maps: np.ndarray
    gated: np.ndarray
    size: tuple[int, int]


def read_mask(path: Path) -> np.ndarray:
    """Class ids of a palette or single-channel 8-bit image.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: missing, damaged or of several channels; names the file and a remedy.
    """
    try:
        with Image.open(path) as image:
            coding = image.tile[0][3] if image.tile else None
            mode, mask = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        remedy = "Write it, or take its id off the list."
        raise UserError(f"Mask {path} does not exist. {remedy}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"Mask {path} is damaged ({error}). Write or copy it again.") from error
    if mode not in ("P", "L", "1"):
        raise UserError(
            f"{path} is a mask of mode {mode} where a palette or single-channel 8-bit mask is "
            "wanted. Save the class ids themselves (0 background, 1.. classes, 255 not evaluated), "
            "not colours."
        )
    # Grey images of 2 or 4 bits are stretched to 0..255 when decoded; undo that.
    step = {"L;2": 85, "L;4": 17}.get(coding, 1) if isinstance(coding, str) else 1
    return mask.astype(np.uint8, copy=False) if step == 1 else mask // step


def read_maps(path: Path) -> StoredMaps:
    """Stored score maps of one image; a file without `gated` has all its maps in use.

    Raises:
        UserError: missing or damaged file.
    """
    try:
        with np.load(path) as stored:
            keys, maps, size = stored["keys"], stored["maps"], stored["size"]
            gated = stored["gated"] if "gated" in stored else np.ones(len(keys), dtype=bool)
            height, width = map(int, size)
    except FileNotFoundError as error:
        raise UserError(f"Score maps {path} do not exist. Run the pseudo_masks stage.") from error
    except Exception as error:  # zipfile, key, value, type and EOF errors of a damaged file
        raise UserError(
            f"Score maps {path} are damaged ({error}). Run the pseudo_masks stage again."
        ) from error
    return StoredMaps(keys, maps, gated, (height, width))


def listed(ids: Sequence[str] | None, folder: Path, suffix: str) -> list[str]:
    """`ids`, or every file of `folder` where there is no list.

    Raises:
        UserError: the folder does not exist, or nothing is to be evaluated.
    """
    if not folder.is_dir():
        raise UserError(f"Folder {folder} does not exist. Check the path.")
    names = sorted(p.stem for p in folder.glob(f"*{suffix}")) if ids is None else list(ids)
    if not names:
        raise UserError(f"Nothing to evaluate: no id given and no *{suffix} in {folder}.")
    return names
