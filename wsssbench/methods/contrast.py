"""Contrastive separation of CoSA (Yang et al., ECCV 2024): positions of one image that are surely
of one class, or surely background, shall be alike, and unlike all others.

Not in the released code: form and constants as remembered from the paper, similarity and space
inferred.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_separation(
    features: Tensor,
    labels: Tensor,
    sure: Tensor,
    *,
    temperature: float = 0.5,
    anchors: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean over anchors of -log(e^s+ / (e^s+ + sum of e^s-)), first averaged over their positives.

    Args:
        features: (B, D, h, w) float; normalised here and compared by cosine.
        labels: (B, h, w) integer; the background is a label like the others.
        sure: (B, h, w) bool, positions that take part.
        temperature: divides the cosine.
        anchors: at most so many per image, drawn among the sure ones; 0: all.
        generator: for that draw.

    Returns:
        A float32 scalar over all anchors of the batch that have a positive and a negative; 0, with
        zero gradient, where there is none.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(features.float().flatten(2), dim=1)
        labels, sure = labels.flatten(1), sure.flatten(1)
        count = sure.shape[1]
        if anchors and anchors < count:
            lots = torch.rand(sure.shape, generator=generator, device=sure.device)
            chosen = lots.masked_fill(~sure, -1).topk(anchors).indices
        else:
            chosen = torch.arange(count, device=sure.device).expand(len(sure), -1)
        at = x.gather(2, chosen[:, None].expand(-1, x.shape[1], -1))
        similarity = at.transpose(1, 2) @ x / temperature  # (B, A, N)
        pairs = sure.gather(1, chosen)[..., None] & sure[:, None]
        same = labels.gather(1, chosen)[..., None] == labels[:, None]
        itself = chosen[..., None] == torch.arange(count, device=sure.device)
        positive, negative = pairs & same & ~itself, pairs & ~same
        # a finite stand-in for -inf, whose gradient would be NaN where an anchor has no negative
        against = similarity.masked_fill(~negative, -1e4).logsumexp(2, keepdim=True)
        terms = F.softplus(against - similarity) * positive
        loss = terms.sum(2) / positive.sum(2).clamp_min(1)
        counts = positive.any(2) & negative.any(2)
        return (loss * counts).sum() / counts.sum().clamp_min(1)


def dealt_anew(labels: Tensor, sure: Tensor, generator: torch.Generator) -> Tensor:
    """The labels of each image's sure positions, shuffled among these; both (B, h, w)."""
    labels, sure, shape = labels.flatten(1), sure.flatten(1), labels.shape
    lots = torch.rand(sure.shape, generator=generator, device=sure.device)
    order = sure.float().argsort(dim=1, descending=True, stable=True)  # the sure ones first
    drawn = (lots + ~sure).argsort(1)  # the same ones first, in random order
    return labels.scatter(1, order, labels.gather(1, drawn)).view(shape)
