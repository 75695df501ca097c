"""The sections `random_walk` and `segment` of a params.yaml: what follows the pseudo-masks."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from wsssbench.schema import Between, Count, NotNegative, Positive, Share, Whole


@dataclass(frozen=True)
class RandomWalkSettings:
    """From score maps to better ones through learnt affinities between pixels.

    The walk starts at the maps of the kind `seed` (empty: the experiment's usual kind). Labels for
    the affinity network are the classes of these maps above `certain` and the background below
    `uncertain`, each sharpened by IRNet's dense CRF; the default limits suit plain CAMs, kinds
    weighed against a background of their own, as SFC's and SIPE's, want .5 and .33. The dense CRF
    `crf` makes the kinds `crf` and `rw+crf`; `none` leaves these out and the labels as they are.
    `ppmg_alpha` makes the kind `ppmg` of the seed, see `refinement.ppmg`; PMM has 11, like a
    background threshold of .156, 3.4 is like .3 and 1 like .5; None leaves the kind out. `network`
    none skips the walk: later stages then start from the seed. `backbone` says whose weights the
    affinity network starts from: the `initial` ones of the section `model` (published: ImageNet's),
    or those that the `method` has learnt, where there are no others. `train` holds keys of the
    section `train` that differ for the affinity network.

    The walk's own maps become masks at `threshold`, by the rule of `pseudo_masks`. `per_class`
    divides each map by its own maximum instead of the image's.
    """

    network: Literal["irn", "affinitynet", "none"] = "irn"
    backbone: Literal["initial", "method"] = "initial"
    seed: str = ""
    certain: Share = 0.30
    uncertain: Share = 0.05
    crf: str = "irn"
    crf_iterations: Count = 1
    ppmg_alpha: Positive | None = None
    radius: Annotated[int, Between(2)] = 10
    walk_radius: Annotated[int, Between(2)] = 5
    beta: NotNegative = 10.0
    log2_steps: Whole = 8
    per_class: bool = False
    threshold: Share = 0.25
    train: dict = field(default_factory=dict)


@dataclass(frozen=True)
class PufSettings:
    """Pretended under-fitting, see `models.segmentation_losses.underfit`."""

    mode: Literal["clamp", "ignore", "pow"] = "clamp"
    beta: Positive = 0.5
    k: Positive = 0.5


@dataclass(frozen=True)
class SegmentSettings:
    """A segmentation network trained on pseudo-masks: the multi-stage setting.

    `masks` says on which: `seed`, `crf`, `ppmg`, `rw`, `rw+crf`, or `truth` for full supervision,
    the upper bound. `network` none skips the stage. `width` are the channels of DeepLabV3+'s head.
    `puf` lets the loss pretend to underfit. With `cycles` 1 the predictions of the trained network
    on the training images become masks for a second one, which starts from the initial weights,
    learns without `puf` and is the one that counts (PMM's cyclic pseudo-mask). `crf` names the
    dense CRF at test time, also of those masks; `none` leaves the kind `segment+crf` out. `train`
    and `model` hold keys of these sections that differ here.
    """

    network: Literal["deeplab_v3plus", "deeplab_v2", "none"] = "deeplab_v3plus"
    masks: Literal["seed", "crf", "ppmg", "rw", "rw+crf", "truth"] = "rw+crf"
    width: Count = 256
    balanced: bool = False
    puf: PufSettings | None = None
    cycles: Literal[0, 1] = 0
    scales: tuple[Positive, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    crf: str = "deeplab"
    train: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
