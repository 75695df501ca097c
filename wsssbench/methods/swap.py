"""What CoSA's two branches teach each other (Yang et al., ECCV 2024): class activation maps become
masks for the segmentation, the segmentation becomes targets for the maps.

Only the classes that an image may have are carried along, M at most per image, so that the cost
does not grow with the number of classes of the data set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.methods.base import Gate
from wsssbench.methods.multiscale import normalise_max, unflip, with_background
from wsssbench.models.aux_network import AuxOutput
from wsssbench.models.decoder import resize

BACKGROUND, IGNORE = 0, 255
NEVER = -1e5  # logit of a class that the image does not have
TEMPERATURE = 0.01  # of the segmentation's softmax


@dataclass(frozen=True)
class Assignment:
    """What a network says about images, all views together; no gradient.

    Attributes:
        classes: (B, M) int64, 0-based, the classes that `kept` marks first, in ascending order.
        kept: (B, M) bool.
        cam: (B, M, H, W) float32 in [0, 1), 0 where not kept.
        aux: the same of the earlier level.
        seg: (B, M + 1, H, W) float32, sum of the views' logits, background first; NEVER where not
            kept.
        probabilities: (B, K) float32, the views' mean.
        gate: (B, K) bool.
        views: their number.
    """

    classes: Tensor
    kept: Tensor
    cam: Tensor
    aux: Tensor
    seg: Tensor
    probabilities: Tensor
    gate: Tensor
    views: int

    def spread(self, maps: Tensor) -> Tensor:
        """(B, M, h, w) -> (B, K, h, w), 0 for classes that are not kept."""
        full = maps.new_zeros(*self.gate.shape, *maps.shape[2:])
        full[_rows(self.classes), self.classes] = maps * self.kept[..., None, None]
        return full


@torch.no_grad()
def assign(
    network: Callable[[Tensor], AuxOutput],
    images: Tensor,
    gate: Gate,
    *,
    scales: Sequence[float],
    flip: bool = True,
    aux_sum: bool = False,
    stride: int = 1,
) -> Assignment:
    """Several views of images, fused.

    Class activation maps: maximum of the two mirrored views, ReLU, sum of the scales, between 0 and
    1 per image and class. Logits of the segmentation are added up.

    Args:
        network: gives both maps and the segmentation.
        images: (B, 3, H, W) float32, normalised.
        gate: probabilities (B, K) -> (B, K) bool.
        scales: of the views, resized bilinearly.
        flip: add the mirrored ones.
        aux_sum: add up the earlier level's scales as well; as released only the last one counts.
        stride: 1 for maps of H×W, s for ceil(H/s)×ceil(W/s).
    """
    size = images.shape[-2:]
    views = []
    for scale in scales:
        copies = resize(images, [max(1, int(side * scale)) for side in size])
        views.append(network(torch.cat([copies, copies.flip(-1)]) if flip else copies))
    return fuse(views, len(images), gate, [-(-side // stride) for side in size], aux_sum=aux_sum)


@torch.no_grad()
def fuse(
    views: Sequence[AuxOutput], images: int, gate: Gate, size: Sequence[int], *, aux_sum: bool
) -> Assignment:
    """See `assign`; each of `views` holds one scale's images and then, perhaps, mirrored ones."""

    def apart(x: Tensor) -> Tensor:  # (V·B, …) -> (B, V, …)
        return x.float().unflatten(0, (-1, images)).transpose(0, 1)

    scores = [apart(view.logits.float().sigmoid()).mean(1) for view in views]
    probabilities = torch.stack(scores).mean(0)
    kept_of_all = gate(probabilities)
    classes, kept = chosen(kept_of_all)
    shown = kept[..., None, None]

    def map_of(cams: Sequence[Tensor]) -> Tensor:
        total: Tensor | float = 0.0
        for cam in cams:
            both = unflip(apart(cam)[_rows(classes), :, classes].transpose(1, 2))
            total = (
                total + resize(both.flatten(0, 1), size).unflatten(0, both.shape[:2]).amax(1).relu()
            )
        return normalise_max(total - total.amin((2, 3), keepdim=True)) * shown

    def logits_of(decoded: Sequence[Tensor]) -> Tensor:
        total: Tensor | float = 0.0
        for logits in decoded:
            total = total + resize(
                take_with_background(unflip(apart(logits)).sum(1), classes), size
            )
        never = torch.cat([torch.zeros_like(shown[:, :1]), ~shown], 1)
        return total.masked_fill(never, NEVER)

    aux = [view.aux_cam for view in views]
    return Assignment(
        classes=classes,
        kept=kept,
        cam=map_of([view.cam for view in views]),
        aux=map_of(aux if aux_sum else aux[-1:]),
        seg=logits_of([view.decoder for view in views]),
        probabilities=probabilities,
        gate=kept_of_all,
        views=sum(len(view.cam) for view in views) // images,
    )


def chosen(present: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) bool -> (B, M) int64 classes, those present first, and (B, M) bool, which are."""
    most = max(1, int(present.sum(1).max()))
    order = present.float().argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, present.gather(1, order)


def take_with_background(maps: Tensor, classes: Tensor) -> Tensor:
    """Of (B, K + 1, h, w) the background and the chosen classes, (B, M + 1, h, w)."""
    return torch.cat([maps[:, :1], maps[_rows(classes), classes + 1]], 1)


def band_mask(
    cam: Tensor,
    classes: Tensor,
    kept: Tensor,
    valid: Tensor,
    *,
    low: float,
    high: float,
    reduce: int = 2,
) -> Tensor:
    """Pseudo-mask with an unsure band: a class above `high`, background below `low`, else 255.

    Softmax of scores and threshold at a reduced size, enlarged again: smoother than comparing.

    Args:
        cam: (B, M, H, W) float32 in [0, 1].
        classes: (B, M) int64, 0-based.
        kept: (B, M) bool.
        valid: (B, H, W) bool; 255 outside.
        low: below it is background.
        high: above it is foreground.
        reduce: divides the size.

    Returns:
        (B, H, W) int64 of 0..K and 255.
    """
    size, absent = cam.shape[-2:], ~kept[..., None, None]
    small = [max(1, side // reduce) for side in size]

    def winner(threshold: float) -> Tensor:
        scores = resize(with_background(cam, threshold), small)
        scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(absent, -torch.inf)], 1)
        return _labels(resize(scores.softmax(1), size).argmax(1), classes)

    above, below = winner(high), winner(low)
    mask = torch.where((above == BACKGROUND) & (below != BACKGROUND), IGNORE, above)
    return mask.masked_fill(~valid, IGNORE)


def split_mask(cam: Tensor, classes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Pseudo-mask without a band: the best class where it reaches the threshold, else background.

    Shapes as for `band_mask`; 255 outside the picture only.
    """
    score, best = cam.max(1)
    label = _labels(torch.where(score >= threshold, best + 1, 0), classes)
    return label.masked_fill(~valid, IGNORE)


def perplexity(
    confidence: Tensor, threshold: float, *, alpha: float = 0.8, beta: float = 1.0
) -> Tensor:
    """How unsure a label is: (-ln(alpha·r))^beta, r the distance to the threshold, 1 at the ends.

    Args:
        confidence: float in [0, 1], the highest class's map.
        threshold: between background and foreground, in (0, 1).
        alpha: in (0, 1); keeps the surest pixels above 0. Remembered from the paper; its figure
            says .9.
        beta: power.
    """
    above = (confidence - threshold) / (1 - threshold)
    below = (threshold - confidence) / threshold
    distance = torch.where(confidence >= threshold, above, below).clamp(1e-6, 1)
    return (-(alpha * distance).log()).pow(beta)


def reliability(perplexity: Tensor, valid: Tensor) -> Tensor:
    """Weights proportional to 1 / perplexity, of mean 1 over the batch's valid pixels, else 0."""
    weight = valid / perplexity
    return weight * valid.sum() / weight.sum().clamp_min(1e-12)


def segmentation_target(seg: Tensor, size: Sequence[int]) -> Tensor:
    """Sharp softmax of summed logits, without the background, at the size of a CAM.

    Equals a bilinear resize of the whole softmax; only the pixels that it reads are computed.

    Args:
        seg: (B, M + 1, H, W) float32.
        size: (h, w).

    Returns:
        (B, M, h, w) float32 in [0, 1].
    """
    (y, down), (x, right) = (_taps(n, m, seg.device) for n, m in zip(seg.shape[-2:], size))
    read = (seg[..., y, :][..., x] / TEMPERATURE).softmax(1)[:, 1:]
    rows = torch.lerp(read[..., 0::2, :], read[..., 1::2, :], down[:, None])
    return torch.lerp(rows[..., 0::2], rows[..., 1::2], right)


def cam_loss(cam: Tensor, target: Tensor) -> Tensor:
    """Multi-label loss of rectified class scores (B, K, h, w) against targets in [0, 1].

    Never below ln 2 where the target is 0, and without gradient where the score is not positive.
    """
    return F.binary_cross_entropy_with_logits(cam.relu(), target)


def _rows(classes: Tensor) -> Tensor:
    return torch.arange(len(classes), device=classes.device)[:, None]


def _labels(winner: Tensor, classes: Tensor) -> Tensor:
    """(B, H, W) number among the background and the M classes -> 0..K."""
    ids = F.pad(classes + 1, (1, 0))
    return ids.gather(1, winner.flatten(1)).view_as(winner)


def _taps(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels that a bilinear resize reads, two for each new one, and the weight of the second."""
    at = (torch.arange(after, device=device) + 0.5) * (before / after) - 0.5
    at = at.clamp_min(0)
    first = at.floor().long()
    pair = torch.stack([first, (first + 1).clamp_max(before - 1)], 1)
    return pair.flatten(), at - first
