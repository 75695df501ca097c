"""The segmentation loss of a mixed batch: two targets per pixel, weighted as the pixels are."""

from typing import Literal

import torch
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.batch import IGNORE, MixOut
from wsssbench.models.segmentation_losses import reduce_mask

SegWeight = Literal["none", "fraction", "threshold"]


def mixed_cross_entropy(logits: Tensor, out: MixOut, *, confidence: Tensor | None = None) -> Tensor:
    """Mean cross entropy against the base's and the source's mask, over what is not ignored.

    With weights of 0 and 1 it is the ordinary cross entropy against `out.mask`. All ignored: 0,
    with zero gradients.

    Args:
        logits: (B', K+1, h, w) float; masks and weight are reduced to h×w, see `reduce_mask`.
        out: a mixed batch with masks.
        confidence: factor of each pixel's loss (not of its share in the mean), a scalar or
            (B', H, W), see `pixel_weight`.

    Raises:
        UserError: the batch was mixed without masks.
    """
    if out.mask_base is None or out.mask_src is None:
        raise UserError("The segmentation loss needs masks, which this batch was mixed without.")
    size = logits.shape[-2:]
    weight = reduce_mask(out.weight[:, 0], size)
    log_probs = logits.float().log_softmax(dim=1)
    total, share = log_probs.new_zeros(()), log_probs.new_zeros(())
    factor = 1.0 if confidence is None else confidence
    if confidence is not None and confidence.dim():
        factor = reduce_mask(confidence, size)
    for mask, part in ((out.mask_base, 1 - weight), (out.mask_src, weight)):
        target = reduce_mask(mask, size)
        counted = part * (target != IGNORE)
        index = target.masked_fill(target == IGNORE, 0)[:, None]
        total = total - (log_probs.gather(1, index)[:, 0] * counted * factor).sum()
        share = share + counted.sum()
    return total / share.clamp_min(1)


@torch.no_grad()
def pixel_weight(probs: Tensor, kind: SegWeight, threshold: float = 0.968) -> Tensor:
    """Confidence of (mixed) probabilities as a weight of the loss (ClassMix, trainSSL.py).

    Args:
        probs: (B, K+1, H, W) float, the teacher's soft-max.
        kind: `none`; `fraction`: share of all pixels of the batch whose highest probability
            reaches the threshold; `threshold`: 1 for those pixels, 0 for the others.
        threshold: of confidence, in [0, 1].

    Returns:
        float32: a scalar, or (B, H, W) for `threshold`.
    """
    if kind == "none":
        return torch.ones((), device=probs.device)
    sure = (probs.amax(dim=1) >= threshold).float()
    return sure.mean() if kind == "fraction" else sure
