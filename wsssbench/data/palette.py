"""Mask files: the ids with a fixed meaning, the VOC colour map, palette PNGs in and out.

Nothing here knows a data set; which class an id stands for is said by the folder's `classes.txt`.
"""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from wsssbench.errors import UserError
from wsssbench.files import atomic
from wsssbench.progress import progress

BACKGROUND = 0
IGNORE = 255
MAX_CLASSES = IGNORE - 1  # ids 1..254 fit beside background and ignore in one byte


def palette(n: int = 256) -> np.ndarray:
    """Colours of the ids 0..n-1 as PASCAL VOC draws them.

    The bits of an id are dealt out in turn to red, green and blue, highest bit of a colour first;
    so id 1 is (128, 0, 0), id 2 (0, 128, 0) and id 255 (224, 224, 192).

    Returns:
        (n, 3) uint8.
    """
    ids = np.arange(n)
    colours = np.zeros((n, 3), dtype=np.uint8)
    for bit in range(8):
        channel, level = bit % 3, 7 - bit // 3
        colours[:, channel] |= (((ids >> bit) & 1) << level).astype(np.uint8)
    return colours


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write `mask` (H, W) of ids 0..255 as a palette PNG, whole or not at all.

    Raises:
        ValueError: not two-dimensional, not whole numbers, or outside 0..255.
        UserError: no permission, disk full.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "uib":
        raise ValueError(f"a mask is (H, W) of whole numbers, got {mask.shape} {mask.dtype}")
    if mask.dtype != np.uint8 and mask.size and not 0 <= mask.min() <= mask.max() <= IGNORE:
        raise ValueError(f"mask ids must lie in 0..255, got {mask.min()}..{mask.max()}")
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(palette().tobytes())  # an L image becomes P, its values become indices
    with atomic(path) as stream:
        image.save(stream, format="PNG")


def read_mask(path: str | Path) -> np.ndarray:
    """Read the ids of a mask: the indices of a palette image or the values of a grey one.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: missing, unreadable or damaged file; an RGB mask (colours are not ids).
    """
    with open_image(path, "mask") as image:
        mode = image.mode
        if mode not in ("P", "L", "1"):
            raise UserError(_wrong_mode(path, mode))
        mask = np.asarray(image).astype(np.uint8)
    return mask // _grey_step(path) if mode == "L" else mask


def ids_from_colours(
    rgb: np.ndarray, colours: np.ndarray, ids: Iterable[int], *, tolerated: float = 0.0
) -> np.ndarray:
    """Replace each colour by its id.

    Args:
        rgb: (H, W, 3) uint8.
        colours: (n, 3) uint8, the known colours, all different.
        ids: n ids, one per colour.
        tolerated: share of the pixels that may have another colour; they become IGNORE.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: more pixels have another colour; the text names the most frequent one.
    """
    known = _codes(np.asarray(colours))
    order = np.argsort(known)
    pixels = _codes(rgb)
    place = order[np.searchsorted(known, pixels, sorter=order).clip(max=len(known) - 1)]
    strange = known[place] != pixels
    if strange.mean() > tolerated:
        codes, counts = np.unique(pixels[strange], return_counts=True)
        code = int(codes[counts.argmax()])
        colour = (code >> 16, code >> 8 & 255, code & 255)
        raise UserError(
            f"{int(strange.sum())} pixels have a colour that stands for no class, most often "
            f"RGB {colour}. Use the data set's own colours, without smoothing and not as JPEG."
        )
    mask = np.asarray(list(ids), dtype=np.uint8)[place]
    mask[strange] = IGNORE
    return mask


def convert_masks(source: str | Path, target: str | Path, num_classes: int) -> int:
    """Turn a folder of RGB(A) masks in VOC colours into palette PNGs of the same names.

    Args:
        source: folder with the coloured masks (PNG or BMP).
        target: folder to write to; may not be `source`, so that nothing is lost.
        num_classes: K + 1; ids 0..K and IGNORE are accepted.

    Returns:
        The number of masks written.
    """
    source, target = Path(source), Path(target)
    if target.resolve() == source.resolve():
        raise UserError(f"{target} holds the masks to convert. Name another folder to write to.")
    if not source.is_dir():
        raise UserError(f"Folder of masks {source} does not exist. Check the path.")
    if not 2 <= num_classes <= IGNORE:
        raise UserError(f"{num_classes} classes, the background included: give 2 to {IGNORE}.")
    paths = sorted(path for path in source.iterdir() if path.suffix.lower() in (".png", ".bmp"))
    ids = [*range(num_classes), IGNORE]
    # The outline of objects is (224, 224, 192) in VOC's files; many tools draw it white instead.
    colours = np.concatenate([palette()[ids], [[255, 255, 255]]])
    for path in progress(paths, "converting masks"):
        with open_image(path, "mask") as image:
            rgb = np.asarray(image.convert("RGB"))
        try:
            mask = ids_from_colours(rgb, colours, [*ids, IGNORE])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        write_mask(target / f"{path.stem}.png", mask)
    return len(paths)


def open_image(path: str | Path, kind: str = "image") -> Image.Image:
    """Open and fully decode an image file (to be used in a `with` block).

    Raises:
        UserError: missing, not permitted, not an image, truncated; names the file and a remedy.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
            image.load()
    except FileNotFoundError as error:
        raise UserError(f"{kind.capitalize()} {path} does not exist. Put it there.") from error
    except PermissionError as error:
        raise UserError(f"No permission to read {kind} {path}. Run: chmod +r {path}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "is truncated or damaged" if os.path.getsize(path) else "is empty"
        raise UserError(
            f"{kind.capitalize()} {path} {reason} ({error}). Copy or download the file again."
        ) from error
    return image


def _codes(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _wrong_mode(path: str | Path, mode: str) -> str:
    if not mode.startswith("RGB"):
        return (
            f"{path} is a {mode} image where a palette or single-channel 8-bit mask is wanted. "
            "Save it as an 8-bit palette or grey PNG whose pixel values are the class ids."
        )
    return (
        f"{path} is an RGB mask where a palette or single-channel mask is wanted. If its colours "
        "are VOC's, convert the folder with `wsssbench data convert-masks "
        f"{Path(path).parent} NEW_FOLDER`; else save the class ids as a grey PNG."
    )


def _grey_step(path: str | Path) -> int:
    """Factor by which decoders stretch grey PNGs of 2 or 4 bits to 0..255 (1 for 8 bits).

    Image optimisers store small ids in few bits; without this, id 1 of a 4-bit file reads as 17.
    """
    with open(path, "rb") as stream:
        header = stream.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n":
        return 1
    bits = header[24]
    return {2: 85, 4: 17}.get(bits, 1)
