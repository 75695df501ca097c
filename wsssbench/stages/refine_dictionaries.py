"""Score maps as other public code saves them: one pickled dictionary per image, .npy.

`keys` with `high_res` (IRNet), `hr_cam` (Puzzle-CAM) or `cam`, a map per key; or {class: map}
(AffinityNet, SEAM). Classes are counted from 0 there, unless the first key is a 0 without a map:
that is the background, and classes are counted from 1.

A pickle can run any program. Here only arrays and tensors are made from it; all else is refused.
"""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format

from wsssbench.errors import UserError
from wsssbench.evaluation.reading import StoredMaps

ENDING = ".npy"
FULL = ("high_res", "hr_cam")  # of the image's size
STRIDED = "cam"
EMPTY = np.zeros((0, 1, 1), np.float32)
ALLOWED = {
    *((place, name) for place in ("numpy.core.multiarray", "numpy._core.multiarray")
      for name in ("_reconstruct", "scalar")),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"),
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Makes arrays and tensors alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda content: torch.load(io.BytesIO(content), weights_only=True)
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it wants to make a {module}.{name}")
        return super().find_class(module, name)


def read_dictionary(path: Path, size: Sequence[int]) -> StoredMaps:
    """Read the maps of one image.

    Args:
        path: of the file.
        size: (H, W) of the image, which strided maps do not say.

    Raises:
        UserError: damaged, no such dictionary, or a pickle that holds more than arrays.
    """
    try:
        with open(path, "rb") as stream:
            version = format.read_magic(stream)
            first = version == (1, 0)
            read = format.read_array_header_1_0 if first else format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if dtype.kind != "O" or shape:
                raise ValueError(f"an array {shape} of {dtype}")
            content = _Unpickler(stream).load().item()
        keys, maps, full = _parts(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise UserError(
            f"{path} holds no dictionary of score maps ({error}). Save {{'keys': …, 'high_res': …}}"
            " or {class: map} with numpy.save, or maps as .npz."
        ) from error
    every = np.ones(len(keys), dtype=bool)
    height, width = maps.shape[1:] if full and maps.ndim == 3 else size
    return StoredMaps(keys, maps, every, (height, width))


def _parts(content: dict) -> tuple[np.ndarray, np.ndarray, bool]:
    """Class ids from 1, maps, and whether these have the image's size."""
    if "keys" not in content:
        maps = np.stack([np.asarray(one) for one in content.values()]) if content else EMPTY
        return np.array([int(key) + 1 for key in content], int), maps, bool(content)
    names = [name for name in (*FULL, STRIDED) if name in content]
    if not names:
        raise ValueError(f"keys without {', '.join(FULL)} or {STRIDED}")
    name = names[0]
    keys, maps = np.asarray(content["keys"]), np.asarray(content[name])
    background = len(keys) == len(maps) + 1 and keys[0] == 0
    return keys[1:] if background else keys + 1, maps, name in FULL
