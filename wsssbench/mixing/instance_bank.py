"""Objects cut out of images, by class: what CDA pastes (Su et al., ICCV 2021, stage I).

An image gives one instance if its mask shows a single class on 10 to 70 % of the pixels: the tight
bounding box of that class, all components together. A bank on disk is a folder of PNG files, whose
opacity is the object's mask, and `bank.json`, which is written last: without it the bank is not
complete.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsssbench.errors import UserError
from wsssbench.files import atomic, read_json, write_json
from wsssbench.mixing.batch import IGNORE

RATIO = (0.1, 0.7)
INDEX = "bank.json"
REMEDY = "Write the bank again (write_bank), or use the online bank."
PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Instance:
    """One object, cut out.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        segment: (h, w) bool, True on the object.
    """

    image: NDArray[np.uint8]
    segment: NDArray[np.bool_]


class InstanceBank:
    """Up to `capacity` instances per class, classes counted from 1; the oldest go first."""

    def __init__(self, capacity: int | None = 64, *, name: str = "the online bank") -> None:
        """`capacity` None: no limit. `name` says in messages which bank it is."""
        self.capacity, self.name = capacity, name
        self.pool: dict[int, deque[Instance]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self.pool.values())

    def add(self, klass: int, instance: Instance) -> None:
        """Append an instance of class `klass` (1..K)."""
        self.pool.setdefault(klass, deque(maxlen=self.capacity)).append(instance)

    def items(self) -> list[tuple[int, Instance]]:
        """(class, instance) of all, oldest first within a class."""
        return [(klass, instance) for klass, queue in self.pool.items() for instance in queue]

    def counts(self, classes: int) -> list[int]:
        """Number of instances of the classes 1..`classes` (K).

        Raises:
            UserError: the bank holds a class above K.
        """
        highest = max(self.pool, default=0)
        if highest > classes:
            raise UserError(
                f"{self.name} holds instances of class {highest}, but the images have "
                f"{classes} classes: it was written for another data set. {REMEDY}"
            )
        return [len(self.pool.get(klass, ())) for klass in range(1, classes + 1)]

    @classmethod
    def load(cls, folder: str | Path, *, capacity: int | None = 64) -> "InstanceBank":
        """The bank that `write_bank` wrote; above `capacity`, evenly spaced ones of each class.

        Raises:
            UserError: the bank is empty, not complete or damaged; names the file.
        """
        folder = Path(folder)
        content = read_json(folder / INDEX, f"The instance bank is not complete. {REMEDY}")
        files: dict[int, list[str]] = {}
        for klass, file in _entries(content, folder / INDEX):
            files.setdefault(klass, []).append(file)
        if not files:
            raise UserError(
                f"{folder / INDEX} lists no instance: no mask showed a single class on "
                f"{RATIO[0]:.0%} to {RATIO[1]:.0%} of the image. Choose better masks and write "
                "the bank again."
            )
        bank = cls(capacity, name=str(folder))
        for klass, names in sorted(files.items()):
            kept = len(names) if capacity is None else min(capacity, len(names))
            for number in range(kept):
                bank.add(klass, _read(folder / names[number * len(names) // kept]))
        return bank


def find_instance(
    mask: NDArray[np.integer], *, ratio: tuple[float, float] = RATIO
) -> tuple[int, tuple[int, int, int, int]] | None:
    """The class and bounding box of an image's only object, or None.

    Args:
        mask: (H, W) integer, 0 background, 1..K, 255 ignore (as good as background).
        ratio: smallest and largest share of the image, both allowed.

    Returns:
        (class, (top, left, bottom, right)), bottom and right exclusive; None for no class, for
        several, and for a share out of range.
    """
    inside = (mask > 0) & (mask != IGNORE)
    found = np.unique(mask[inside])
    if len(found) != 1 or not ratio[0] <= inside.sum() / inside.size <= ratio[1]:
        return None
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return int(found[0]), (int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)


def cut_instance(
    image: NDArray[np.uint8], mask: NDArray[np.integer], *, ratio: tuple[float, float] = RATIO
) -> tuple[int, Instance] | None:
    """The class and a copy of an image's only object; see `find_instance`.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) integer.
        ratio: smallest and largest share of the image.
    """
    found = find_instance(mask, ratio=ratio)
    if found is None:
        return None
    klass, (top, left, bottom, right) = found
    box = (slice(top, bottom), slice(left, right))
    return klass, Instance(image[box].copy(), mask[box] == klass)


def write_bank(
    folder: str | Path,
    images: Iterable[NDArray[np.uint8]],
    masks: Iterable[NDArray[np.integer]],
    ids: Iterable[str],
    *,
    ratio: tuple[float, float] = RATIO,
) -> dict[int, int]:
    """Write the instances of all images as `<folder>/<class>/<number>.png`, then `bank.json`.

    Args:
        folder: made if missing; instances of an earlier bank there are no longer listed.
        images: (H, W, 3) uint8 RGB each; generators are welcome.
        masks: (H, W) integer each, as `find_instance` takes them.
        ids: of the images, kept in `bank.json`.
        ratio: smallest and largest share of the image.

    Returns:
        Number of instances of each class found.

    Raises:
        UserError: a mask has another size than its image; the folder cannot be written to.
    """
    folder, listed = Path(folder), []
    counts: dict[int, int] = {}
    try:
        (folder / INDEX).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder / INDEX} cannot be replaced ({error.strerror}). Choose another folder."
        ) from error
    for id_, image, mask in zip(ids, images, masks, strict=True):
        if image.shape[:2] != mask.shape:
            raise UserError(
                f"{id_}: the image is {image.shape[0]}x{image.shape[1]} px, its mask "
                f"{mask.shape[0]}x{mask.shape[1]} px. Give each image the mask of its own size."
            )
        found = cut_instance(image, mask, ratio=ratio)
        if found is not None:
            klass, instance = found
            counts[klass] = counts.get(klass, 0) + 1
            file = f"{klass:03d}/{counts[klass]:06d}.png"
            _write(folder / file, instance)
            listed.append({"class": klass, "file": file, "id": id_})
    write_json(folder / INDEX, {"ratio": list(ratio), "instances": listed})
    return dict(sorted(counts.items()))


def _entries(content: Any, path: Path) -> list[tuple[int, str]]:
    try:
        return [(int(entry["class"]), str(entry["file"])) for entry in content["instances"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the index of an instance bank. {REMEDY}") from error


def _write(path: Path, instance: Instance) -> None:
    opacity = instance.segment.astype(np.uint8) * 255
    pixels = np.dstack([instance.image[..., ::-1], opacity])
    with atomic(path) as stream:
        stream.write(cv2.imencode(".png", pixels)[1].tobytes())


def _read(path: Path) -> Instance:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} of the instance bank cannot be read. {REMEDY}") from error
    pixels = None
    if content.endswith(PNG_END):
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise UserError(f"{path} of the instance bank is damaged. {REMEDY}")
    return Instance(np.ascontiguousarray(pixels[..., 2::-1]), pixels[..., 3] > 0)
