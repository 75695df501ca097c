"""Small random batches to mix, and plans by hand."""

import torch

from wsssbench.mixing import Layer, MixBatch, MixPlan
from wsssbench.mixing.batch import IGNORE

CLASSES = 4


def make_batch(seed=0, count=3, height=9, width=14, *, ignored=0.1, padded=False, per_image=None):
    """Masks hold background, labelled classes and ignored pixels in blocks of about 3x3 px.

    `per_image` is the number of labels of every image; None: 0 to all, at random.
    """
    draw = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(size, generator=draw)

    labels = (rand(count, CLASSES) < 0.5).float()
    if per_image is not None:
        labels = (rand(count, CLASSES).argsort(1).argsort(1) < per_image).float()
    cells = rand(count, CLASSES + 1, -(-height // 3), -(-width // 3))
    gate = torch.cat([torch.ones(count, 1), labels], 1)[..., None, None]
    blocks = (cells * gate).argmax(1)
    mask = blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width]
    mask = mask.masked_fill(rand(count, height, width) < ignored, IGNORE)
    valid = None
    if padded:
        valid = torch.ones(count, height, width, dtype=torch.bool)
        valid[0, : height // 3] = False
        valid[-1, :, width // 2 :] = False
    probs = rand(count, CLASSES + 1, height, width) * gate
    images = torch.randn(count, 3, height, width, generator=draw)
    return MixBatch(
        images=images if valid is None else images * valid[:, None],
        labels=labels,
        mask=mask.contiguous(),
        dense={"rs": rand(count, CLASSES, height, width), "probs": probs},
        valid=valid,
        probs=probs / probs.sum(1, keepdim=True),
        saliency=rand(count, -(-height // 4), -(-width // 4)),
        ids=tuple(f"image{i}" for i in range(count)),
    )


def pair_batch(base, src, labels=None, **layer):
    """Two one-row images from their masks: row 0 the base, row 1 the source."""
    mask = torch.tensor([base, src])[:, None]
    labels = torch.ones(2, CLASSES) if labels is None else torch.tensor(labels).float()
    images = torch.arange(float(6 * mask.shape[-1])).view(2, 3, 1, -1)
    return MixBatch(images, labels, mask, **layer)


def pasting(weight, **plan):
    """Row 1 on row 0 with a weight per pixel of a one-row image."""
    weight = torch.tensor(weight, dtype=torch.float32).view(1, 1, 1, -1)
    return MixPlan(torch.tensor([0]), torch.tensor([1]), weight, **plan)


def rows_of(batch: MixBatch, plan: MixPlan) -> tuple[Layer, Layer]:
    """The two layers of a plan."""
    base = batch.pick(plan.base) if plan.base_view is None else plan.base_view
    return base, batch.pick(plan.src) if plan.src_view is None else plan.src_view
