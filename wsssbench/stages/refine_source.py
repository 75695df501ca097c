"""What `refine` starts from: score maps or masks of anybody, their images, boundary maps; all of it
checked before any work, each fault said in one line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from wsssbench.data import layout
from wsssbench.data.palette import BACKGROUND, IGNORE, open_image, read_mask
from wsssbench.errors import UserError
from wsssbench.evaluation.maps import full_size
from wsssbench.evaluation.reading import StoredMaps, read_maps
from wsssbench.stages.refine_dictionaries import ENDING as DICTIONARY
from wsssbench.stages.refine_dictionaries import read_dictionary

MAPS, MASKS = "maps", "masks"
ENDINGS = {MAPS: ".npz", MASKS: ".png"}
IMAGE_ENDINGS = (*layout.ENDINGS, ".webp", ".tif", ".tiff")
BOUNDARY_ENDINGS = (".png", ".npy")
STRIDE = 4  # at which boundary maps are used
ROUNDING = 1e-3  # by so much half precision may carry a score out of [0, 1]


@dataclass(frozen=True)
class Source:
    """What is to be refined.

    Attributes:
        folder: of the maps or masks.
        kind: which of both.
        files: map or mask of each id, sorted.
        images: image of each id.
    """

    folder: Path
    kind: Literal["maps", "masks"]
    files: dict[str, Path]
    images: dict[str, Path]

    def image(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        with open_image(self.images[name]) as image:
            return np.array(image.convert("RGB"))

    def maps(self, name: str) -> StoredMaps:
        """Score maps, see `find`."""
        if self.files[name].suffix.lower() != DICTIONARY:
            return read_maps(self.files[name])
        with open_image(self.images[name]) as image:
            return read_dictionary(self.files[name], (image.height, image.width))

    def mask(self, name: str) -> np.ndarray:
        """(H, W) uint8 of ids, 255 where nothing is known."""
        return read_mask(self.files[name])

    def check(self, name: str) -> None:
        """Read the files of an id.

        Raises:
            UserError: damaged, not of the image's size, scores that make no sense.
        """
        with open_image(self.images[name]) as image:
            size = image.height, image.width
        if self.kind == MAPS:
            fault = _fault_of_maps(self.maps(name), size)
        else:
            fault = _fault_of_size(self.mask(name).shape, size)
        if fault:
            raise UserError(f"{self.files[name]} {fault}")


def find(folder: Path, images: Path) -> Source:
    """Look what a folder holds, and find the image of each id.

    Args:
        folder: of <id>.png, masks; or of <id>.npz, the score maps that `engine.inference` stores:
            keys (n,) class ids, maps (n, h, w) float in [0, 1], size (H, W) of the image, perhaps
            gated (n,) bool, the maps in use; or of <id>.npy, see `refine_dictionaries`.
        images: of <id>.jpg or another usual ending.

    Raises:
        UserError: no such folder, nothing or both in it, an id without image or with several.
    """
    kind_of = {ending: kind for kind, ending in ENDINGS.items()} | {DICTIONARY: MAPS}
    found = _files(folder, tuple(kind_of), "score maps or masks")
    there = [ending for ending in kind_of if any(p.suffix.lower() == ending for p in found)]
    if len(there) > 1:
        said = " as well as ".join(f"{kind_of[ending]} ({ending})" for ending in there)
        raise UserError(
            f"{folder} holds {said}. Keep each kind in a folder of its own and name one of them."
        )
    ids = [path.stem for path in found]
    pictures = _by_id(_files(images, IMAGE_ENDINGS, "images"), ids, f"image in {images}")
    return Source(Path(folder), kind_of[there[0]], dict(zip(ids, found)), pictures)


def boundary_files(source: Source, folder: Path) -> dict[str, Path]:
    """The boundary map of each id.

    Raises:
        UserError: no such folder, nothing in it, an id without a map or with several.
    """
    found = _files(folder, BOUNDARY_ENDINGS, "boundary maps")
    return _by_id(found, list(source.files), f"boundary map in {folder}")


def read_boundary(path: Path, size: Sequence[int]) -> Tensor:
    """A boundary map at stride 4.

    Args:
        path: .png, 8-bit grey, 255 for 1; or .npy, float in [0, 1]. Of the image's size, or of
            ceil(H/4)×ceil(W/4).
        size: (H, W) of the image.

    Returns:
        (1, ceil(H/4), ceil(W/4)) float32 in [0, 1]; a full one is averaged over 4×4 pixels.

    Raises:
        UserError: damaged, another size, values that make no sense.
    """
    values, small = _boundary_values(path), tuple(-(-side // STRIDE) for side in size)
    if values.shape not in (tuple(size), small):
        raise UserError(
            f"{path} is {_by(values.shape)}, its image {_by(size)} pixels. Boundary maps must have "
            f"the image's size or a fourth of it, here {_by(small)}."
        )
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise UserError(f"{path} must hold numbers from 0 (no boundary) to 1, and no NaN.")
    boundary = torch.from_numpy(values)[None]
    if values.shape == small:
        return boundary
    return interpolate(filled_up(boundary)[None], small, mode="area")[0]


def filled_up(maps: Tensor) -> Tensor:
    """(n, H, W) with its last row and column repeated, so that sides are multiples of the stride.

    Cells then lie where those of the networks do.
    """
    height, width = maps.shape[1:]
    return pad(maps, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


def gated_only(stored: StoredMaps) -> StoredMaps:
    """Without the maps that the protocol does not use."""
    kept = stored.gated
    return StoredMaps(stored.keys[kept], stored.maps[kept], kept[kept], stored.size)


def full_maps(stored: StoredMaps) -> Tensor:
    """Maps at the size of their image, (n, H, W) float32 in [0, 1]."""
    return torch.from_numpy(full_size(stored.maps, stored.size).astype(np.float32)).clamp(0, 1)


def _boundary_values(path: Path) -> np.ndarray:
    """(h, w) float32."""
    if path.suffix.lower() == ".png":
        with open_image(path, "boundary map") as image:
            if image.mode != "L":
                raise UserError(
                    f"{path} is a {image.mode} image. Save boundary maps as 8-bit grey PNG, 255 "
                    "for 1, or as .npy."
                )
            return np.asarray(image, np.float32) / 255
    try:
        values = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}). Write or copy it again.") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        raise UserError(f"{path} must be an array of floating point numbers in [0, 1].")
    return values.squeeze().astype(np.float32)


def _files(folder: Path, endings: Sequence[str], what: str) -> list[Path]:
    """Files of a folder with one of the endings, sorted.

    Raises:
        UserError: no such folder, or none in it; says which folders there are instead.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"Folder {folder} does not exist. Check the path.")
    entries = [path for path in layout.listing(folder) if not path.name.startswith(".")]
    found = [path for path in entries if path.suffix.lower() in endings]
    if not found:
        inside = ", ".join(path.name for path in entries if path.is_dir())
        hint = f" Did you mean a folder in it? There are: {inside}." if inside else ""
        raise UserError(f"Folder {folder} holds no {what} ({', '.join(endings)}).{hint}")
    return found


def _by_id(found: Sequence[Path], ids: Sequence[str], what: str) -> dict[str, Path]:
    """The files of these ids; each must have exactly one."""
    index = {path.stem: path for path in found}
    if missing := [name for name in ids if name not in index]:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise UserError(
            f"{len(missing)} of {len(ids)} ids have no {what}: {some}. Files belong together by "
            "their name without ending."
        )
    wanted = set(ids)
    if twice := layout.repeated(path.stem for path in found if path.stem in wanted):
        raise UserError(f"There is more than one {what} of id {twice[0]}. Keep one.")
    return {name: index[name] for name in ids}


def _fault_of_size(found: Sequence[int], size: Sequence[int]) -> str:
    """What is wrong with a size, as the end of a sentence; empty if nothing is."""
    if tuple(found) == tuple(size):
        return ""
    turned = " Height comes before width." if tuple(found)[::-1] == tuple(size) else ""
    return (
        f"is of an image of {_by(found)}, its image has {_by(size)} pixels (height×width).{turned} "
        "Give the images themselves, or maps and masks of their full size."
    )


def _fault_of_maps(stored: StoredMaps, size: Sequence[int]) -> str:
    """What is wrong with score maps, as the end of a sentence; empty if nothing is."""
    keys, maps, gated, _ = stored
    if maps.ndim != 3 or not keys.shape == gated.shape == maps.shape[:1] or gated.dtype != bool:
        return (
            f"holds maps {maps.shape}, keys {keys.shape} and gated {gated.shape} {gated.dtype}. "
            "Give maps (n, h, w), keys (n,) and, if at all, gated (n,) bool."
        )
    if len(maps) and not maps.size:
        return f"holds maps {maps.shape} without a pixel. Look for them where the maps are made."
    if keys.dtype.kind not in "iu" or maps.dtype.kind != "f":
        return f"has keys of {keys.dtype}, maps of {maps.dtype}. Give whole numbers and floats."
    once = all(len(set(part.tolist())) == len(part) for part in (keys[gated], keys[~gated]))
    if not once or not ((keys > BACKGROUND) & (keys < IGNORE)).all():
        return f"has keys {keys.tolist()}. Class ids are 1..254, each once; no background."
    if not np.isfinite(maps).all():
        return "holds NaN or infinite scores. Look for them where the maps are made."
    low, high = maps.min(initial=0), maps.max(initial=1)
    if low < -ROUNDING or high > 1 + ROUNDING:
        return f"holds scores of {low:.3g}..{high:.3g}. Bring them to [0, 1], as by the maximum."
    return _fault_of_size(stored.size, size)


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
