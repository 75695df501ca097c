"""The knobs of the drawn set, their limits, and the class frequencies that follow from them.

What a class looks like depends on `classes`, `medium`, `control_pairs` and `share` alone, never on
the seed: a model trained on one folder can be scored on another that was drawn with, say,
`imbalance=1` or `rho=q=0.5`.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from wsssbench.errors import UserError, unknown

MAX_CLASSES = 20
FREQUENCIES = ("power", "step")
SMALLEST_PX = 6.0  # below this diameter a body has no shape and its part no pixel

# field: (lowest, highest) value, both allowed
LIMITS = {
    "classes": (2, MAX_CLASSES),
    "train": (1, 10**6),
    "val": (0, 10**6),
    "holdout": (0, 10**6),
    "seed": (0, 2**63 - 1),
    "bodies": (1, MAX_CLASSES // 2),
    "max_objects": (1, 16),
    "another": (0.0, 1.0),
    "part_ratio": (0.01, 0.9),
    "thin": (0, 12),
    "contrast": (0.05, 1.0),
    "clutter": (0.0, 1.0),
    "context": (0.0, 1.0),
    "rho": (0.0, 1.0),
    "q": (0.0, 1.0),
    "gap": (-32, 128),
    "companion_area": (0.05, 4.0),
    "companion_difference": (0.0, 1.0),
    "imbalance": (1.0, 1000.0),
    "medium": (0, MAX_CLASSES),
    "control_pairs": (0, MAX_CLASSES // 2),
    "share": (0.0, 1.0),
    "ignore_rim": (0, 8),
    "min_visible_px": (1, 10**6),
}


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """What is drawn. Lengths in px, areas and probabilities as fractions.

    The set
        classes: K, 2..20. size: side of the square image, or (height, width); px.
        train, val, holdout: numbers of images. seed: of the pictures, not of the looks.

    Objects
        max_objects, another: at most so many objects; each further one comes with `another`.
        scale: range of the diameter of the disc that has the body's area / shorter image side.
        part_ratio: area of the unique part / area of the object. Small: a CAM finds the part only.
        thin: thin limbs per object, 2 px and more wide.
        contrast: 1 crisp edges and full colours; less: colours drawn towards the ground's mean,
            edges blurred by up to 2 px (the masks stay as they are).

    Surroundings
        clutter: density of small unlabelled things on the ground.
        context: P(the ground is the own ground of the image's first class), else any ground.
        rho, q: P(companion of a class | class in the image), P(... | class not in it). A companion
            is a flat patch with a texture of its own, unlabelled, beside an object of its class.
        gap: distance between object and companion; negative: they overlap, the object on top; px.
        companion_area: area of the companion / area of the object's body.
        companion_difference: 0 the body's colours in another texture, 1 colours of its own.

    Frequencies and shared features
        imbalance: images of the most / of the least frequent class, 1 is balanced.
        frequencies: "power" (a power law over the classes in order) or "step" (heads, tails).
        medium: number of classes in the middle that belong to no pair.
        control_pairs: head/tail pairs that do not share their body; the others do.
        bodies: kinds of body that the pairs take turns with; fewer than pairs: several pairs share.
        share: how much of the body's look a sharing pair has in common (blend weight).
        swap_roles: exchange the frequencies of the two classes of each pair.

    Masks
        ignore_rim: px on either side of an outline that are 255 in the mask.
        min_visible_px: an object that shows fewer pixels is 255 in the mask and gives no label.
    """

    classes: int = 8
    size: int | tuple[int, int] = 128
    train: int = 400
    val: int = 150
    holdout: int = 40
    seed: int = 0

    max_objects: int = 3
    another: float = 0.35
    scale: tuple[float, float] = (0.35, 0.7)
    part_ratio: float = 0.12
    thin: int = 3
    contrast: float = 0.85

    clutter: float = 0.4
    context: float = 0.0
    rho: float = 0.5
    q: float = 0.05
    gap: int = 1
    companion_area: float = 0.4
    companion_difference: float = 1.0

    imbalance: float = 1.0
    frequencies: str = "power"
    medium: int = 0
    control_pairs: int = 0
    bodies: int = 2
    share: float = 1.0
    swap_roles: bool = False

    ignore_rim: int = 0
    min_visible_px: int = 16

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UserError: a field of the wrong type, outside its limits, or at odds with another.
        """
        for name in ("size", "scale"):  # lists come from YAML and JSON
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, (low, high) in LIMITS.items():
            _check_number(name, getattr(self, name), low, high, whole=isinstance(low, int))
        _check_sizes(self.size, self.scale)
        if self.frequencies not in FREQUENCIES:
            raise unknown("scenes frequencies", self.frequencies, FREQUENCIES)
        if not isinstance(self.swap_roles, bool):
            raise UserError(f"scenes: swap_roles must be true or false, got {self.swap_roles!r}.")
        if self.medium > self.classes:
            raise UserError(
                f"scenes: medium is {self.medium}, but there are {self.classes} classes."
            )
        if self.control_pairs > self.pairs:
            raise UserError(
                f"scenes: control_pairs is {self.control_pairs}, but {self.classes} classes with "
                f"{self.medium} medium ones make {self.pairs} pairs. Lower control_pairs or medium."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image, px."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def pairs(self) -> int:
        """Number of head/tail pairs; classes p and K + 1 - p (ids from 1) make pair p."""
        return (self.classes - self.medium) // 2

    @property
    def splits(self) -> dict[str, int]:
        """Number of images per split, splits without images left out."""
        counts = {"train": self.train, "val": self.val, "holdout": self.holdout}
        return {split: count for split, count in counts.items() if count}

    def roles(self) -> dict[int, str]:
        """Part of each class (id from 1) in the frequencies.

        `head`, `tail` or (equally frequent) `even` in a pair; `control head`, … in a pair that does
        not share its body; `medium` without a partner.
        """
        chances = self.probabilities()
        roles = {}
        for label in range(1, self.classes + 1):
            pair = min(label, self.classes + 1 - label)
            own, other = chances[label - 1], chances[self.classes - label]
            side = "even" if own == other else "head" if own > other else "tail"
            control = "control " if pair > self.pairs - self.control_pairs else ""
            roles[label] = f"{control}{side}" if pair <= self.pairs else "medium"
        return roles

    def probabilities(self) -> np.ndarray:
        """Frequency of each class among the objects, (K,) float64, sum 1; in order of the ids."""
        ranks = np.arange(self.classes)
        if self.frequencies == "power":
            exponent = math.log(self.imbalance) / math.log(self.classes)
            weights = (ranks + 1.0) ** -exponent
        else:
            weights = np.full(self.classes, math.sqrt(self.imbalance))
            weights[: self.pairs] = self.imbalance
            weights[self.classes - self.pairs :] = 1.0
        if self.swap_roles:
            paired = np.minimum(ranks, ranks[::-1]) < self.pairs
            weights = np.where(paired, weights[::-1], weights)
        return weights / weights.sum()


def make_settings(values: dict[str, Any]) -> SceneSettings:
    """Settings from a mapping as params.yaml holds it.

    Raises:
        UserError: an unknown key (with the nearest valid one) or a bad value.
    """
    valid = [field.name for field in dataclasses.fields(SceneSettings)]
    for key in values:
        if key not in valid:
            raise unknown("scenes setting", key, valid)
    return SceneSettings(**values)


def _check_number(name: str, value: Any, low: float, high: float, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        want = "a whole number" if whole else "a number"
        raise UserError(f"scenes: {name} must be {want}, got {value!r}.")
    if not low <= value <= high:  # also refuses NaN
        raise UserError(f"scenes: {name} must lie in {low}..{high}, got {value!r}.")


def _check_sizes(size: Any, scale: Any) -> None:
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise UserError(f"scenes: size must be a side or [height, width] in px, got {size!r}.")
    for side in sides:
        _check_number("size", side, 16, 4096, whole=True)
    if not isinstance(scale, tuple) or len(scale) != 2:
        raise UserError(f"scenes: scale must be [smallest, largest], got {scale!r}.")
    for bound in scale:
        _check_number("scale", bound, 0.02, 0.9, whole=False)
    if scale[0] > scale[1]:
        raise UserError(f"scenes: scale must be [smallest, largest], got {list(scale)}.")
    if scale[0] * min(sides) < SMALLEST_PX:
        raise UserError(
            f"scenes: scale {scale[0]} of {min(sides)} px gives objects under {SMALLEST_PX:.0f} px."
            " Raise scale or size."
        )
