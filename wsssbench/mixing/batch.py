"""What mixing takes and gives: a batch, a plan that holds every draw, and the mixed batch.

Shapes: B images in, B' images out (usually B), K foreground classes, H×W px. Images are
ImageNet-normalised; a padded pixel is 0, the mean colour.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from wsssbench.errors import UserError

IGNORE = 255
LabelRule = Literal["area", "union", "calibrated", "visible"]


@dataclass(frozen=True)
class Layer:
    """Images with everything that travels with their pixels.

    Attributes:
        images: (B, 3, H, W) float32.
        labels: (B, K) float32 in [0, 1], image labels.
        mask: (B, H, W) int64 pseudo-mask, 0 background, 1..K, 255 ignore; or None.
        dense: maps mixed with the same weights, {name: (B, C, H, W) float32}.
        valid: (B, H, W) bool, False where the crop was padded; None: valid everywhere.
    """

    images: Tensor
    labels: Tensor
    mask: Tensor | None = None
    dense: Mapping[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None

    def pick(self, rows: Tensor) -> "Layer":
        """The layer of the images `rows` (int64), in that order."""

        def take(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        dense = {name: value[rows] for name, value in self.dense.items()}
        return Layer(self.images[rows], self.labels[rows], take(self.mask), dense, take(self.valid))


@dataclass(frozen=True)
class MixBatch(Layer):
    """A batch to be mixed. All tensors are detached; mixers never write into them.

    Attributes:
        probs: (B, K+1, H, W) float32, softmax of the decoder gated by the labels and renormalised,
            background first; or None.
        saliency: (B, h, w) float32 at any resolution, for mixers that ask for it; or None.
        ids: B texts, for messages.
    """

    probs: Tensor | None = None
    saliency: Tensor | None = None
    ids: tuple[str, ...] = ()

    def need(self, name: str, mixer: str) -> Tensor:
        """The part `name` of the batch.

        Raises:
            UserError: it is None; says which mixer asks for it.
        """
        value = getattr(self, name)
        if value is None:
            raise UserError(f"The mixer {mixer} needs `{name}`, which this batch does not have.")
        return value


@dataclass(frozen=True)
class MixPlan:
    """All randomness of one mix; what `apply_mix` does with it is deterministic.

    Attributes:
        base, src: (B',) int64, rows of the batch: canvas and what is pasted.
        weight: (B', 1, H, W) float32 in [0, 1], weight of the SOURCE; exactly 0 or 1 for hard
            mixers.
        base_view, src_view: layers of B' images to be used instead of the batch's rows, where the
            mixer moves pixels (CDA, Copy-Paste, Puzzle Mix).
        src_classes: (B', K) bool, classes that may come from the source; None: all it has.
        lam_base: (B',) float32, label weight of the base, for the rule `calibrated`.
        label_rule: how the label of the mixed image follows, see `apply_mix`.
        info: the draws (boxes, classes, …), for logs and golden tests.
    """

    base: Tensor
    src: Tensor
    weight: Tensor
    base_view: Layer | None = None
    src_view: Layer | None = None
    src_classes: Tensor | None = None
    lam_base: Tensor | None = None
    label_rule: LabelRule = "area"
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MixOut(Layer):
    """The mixed batch: `labels` may be soft.

    Attributes:
        gate: (B', K) float32 0/1, classes that CAM and decoder may show.
        weight: (B', 1, H, W) float32, weight of the source that was applied.
        lam_base: (B',) float32, the base's share of the label.
        mask_base, mask_src: (B', H, W) int64, the masks of the two layers, for soft weights.
        info: of the plan.
    """

    gate: Tensor | None = None
    weight: Tensor | None = None
    lam_base: Tensor | None = None
    mask_base: Tensor | None = None
    mask_src: Tensor | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
