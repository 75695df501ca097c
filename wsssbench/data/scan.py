"""One look at each image and mask of a folder: sizes, pixel counts, faults. Shared by the checks
and the statistics; what is a problem for whom is said in `verify`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from wsssbench.data.folder import Folder
from wsssbench.data.palette import IGNORE, open_image, read_mask
from wsssbench.errors import UserError
from wsssbench.parallel import in_threads

ORIENTATION = 0x0112  # EXIF tag; values above 4 exchange height and width


@dataclass
class Seen:
    """What was found for one id.

    Attributes:
        name: the id.
        size: (height, width) of the image, None where it cannot be read.
        mask_size: the same of the mask; None without a readable mask.
        pixels: mask value -> number of pixels; empty without a readable mask.
        turned: the image's EXIF entry asks viewers to turn it by 90 degrees.
        faults: (file, error) of what could not be read.
    """

    name: str
    size: tuple[int, int] | None = None
    mask_size: tuple[int, int] | None = None
    pixels: dict[int, int] = field(default_factory=dict)
    turned: bool = False
    faults: list[tuple[Path, UserError]] = field(default_factory=list)


def scan(folder: Folder, ids: Sequence[str], *, decode: bool = True) -> Iterator[Seen]:
    """Look at the image and the mask (if there is one) of each id, in order.

    Args:
        folder: where to look.
        ids: ids that have an image.
        decode: decode images to the last byte; else read their headers only.
    """
    return in_threads(partial(_look, folder, decode), ids, f"reading {folder.root.name}")


def _look(folder: Folder, decode: bool, name: str) -> Seen:
    seen = Seen(name)
    path = folder.image_path(name)
    try:
        with open_image(path) if decode else Image.open(path) as image:
            seen.size = (image.height, image.width)
            seen.turned = image.getexif().get(ORIENTATION, 1) > 4
    except UserError as error:
        seen.faults.append((path, error))
    except OSError as error:
        seen.faults.append((path, UserError(f"Image {path} is damaged ({error}). Copy it again.")))
    if folder.has_mask(name):
        path = folder.mask_path(name)
        try:
            mask = read_mask(path)
        except UserError as error:
            seen.faults.append((path, error))
        else:
            seen.mask_size = mask.shape
            counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
            seen.pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return seen
