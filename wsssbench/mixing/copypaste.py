"""Copy-Paste (Ghiasi et al., CVPR 2021): objects of one image, rescaled, on another.

Without instance masks, an object is a connected component of a class in the pseudo-mask. The source
image is scaled, shifted and mirrored, then a random subset of its objects overwrites the base.

Departs from the paper: components for instances; only the source is warped (the base has had its
own crop); scale 0.5 to 2 on a logarithmic axis instead of 0.1 to 2.0, too harsh for noisy masks; no
smoothing of the borders. With scale 1, no mirroring and all components kept it is ClassMix with all
foreground classes. Expected: COCO instances +0.6 mask AP; no published figure for this use.
"""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.apply import count_classes
from wsssbench.mixing.base import Mixer, Pairing, move, uniform
from wsssbench.mixing.batch import IGNORE, Layer, MixBatch, MixPlan


class CopyPaste(Mixer):
    """A subset of the source's components, scaled, shifted and mirrored.

    Args:
        scale: range of the factor; its logarithm is uniform.
        min_area: smallest component, share of the image.
        flip: probability of mirroring the source.
        pairing: see `base.pair`.
    """

    needs = ("mask",)
    refiner = "decoder"

    def __init__(
        self,
        *,
        scale: tuple[float, float] = (0.5, 2.0),
        min_area: float = 0.005,
        flip: float = 0.5,
        pairing: Pairing = "derangement",
    ):
        super().__init__(pairing=pairing)
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"copypaste: scale: expected a range above 0, got {scale!r}.")
        if not (0 <= min_area <= 1 and 0 <= flip <= 1):
            raise UserError(
                f"copypaste: min_area and flip: expected 0 to 1, got {min_area!r}, {flip!r}."
            )
        self.scale, self.min_area, self.flip = tuple(scale), min_area, flip

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Any]:
        """`scale` (B,) and `shift` (B, 2) float64, see `positions`; `flip` (B,) bool; `keep`: per
        row the numbers of the source's components to paste, a subset of uniform size 1..n.
        """
        rows = self.rows(batch, generator)
        count = len(rows["src"])
        numbers = components(batch, self.min_area)
        low, high = (math.log(factor) for factor in self.scale)
        return {
            **rows,
            "scale": uniform(low, high, (count,), generator).exp(),
            "shift": uniform(0, 1, (count, 2), generator),
            "flip": uniform(0, 1, (count,), generator) < self.flip,
            "keep": [_subset(int(numbers[row].max()), generator) for row in rows["src"].tolist()],
        }

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """See Mixer. The source is a view, warped; its pixels outside the objects have weight 0."""
        device, size = batch.images.device, tuple(batch.images.shape[2:])
        base, src = move(draws["base"], device), move(draws["src"], device)
        numbers = components(batch, self.min_area)[draws["src"].cpu().numpy()]
        chosen = np.stack([np.isin(n, keep.numpy()) for n, keep in zip(numbers, draws["keep"])])
        frame = [positions(size[axis], draws["scale"], draws["shift"][:, axis]) for axis in (0, 1)]
        frame[1] = torch.where(draws["flip"][:, None], size[1] - 1 - frame[1], frame[1])
        rows, cols = (move(at.float(), device) for at in frame)
        source = batch.pick(src)
        pasted = take_nearest(move(torch.from_numpy(chosen), device), rows, cols, False)
        pasted = pasted & (base != src)[:, None, None]
        mask = take_nearest(batch.need("mask", "CopyPaste")[src], rows, cols, IGNORE)
        owned = count_classes(torch.where(pasted, mask, IGNORE), batch.labels.shape[1])[:, 1:] > 0
        view = Layer(
            images=take_linear(source.images, rows, cols),
            labels=source.labels,
            mask=mask,
            dense={name: take_linear(maps, rows, cols) for name, maps in source.dense.items()},
        )
        return MixPlan(
            base=base,
            src=src,
            weight=pasted[:, None].float(),
            src_view=view,
            src_classes=owned,
            label_rule="union",
            info=dict(draws),
        )


def components(batch: MixBatch, min_area: float) -> NDArray[np.int32]:
    """Objects in the masks of a batch.

    Args:
        batch: with a mask; its padding and classes that the image's label lacks are no objects.
        min_area: smallest object, share of the image.

    Returns:
        (B, H, W) int32: 0 for none, 1..n the 8-connected components of all classes, in ascending
        order of the class.
    """
    masks = batch.need("mask", "CopyPaste")
    masks = masks if batch.valid is None else masks.masked_fill(~batch.valid, IGNORE)
    numbers = np.zeros(tuple(masks.shape), np.int32)
    for row, (mask, labels) in enumerate(zip(masks.cpu().numpy(), batch.labels.cpu().numpy())):
        found = 0
        for klass in np.flatnonzero(labels > 0) + 1:
            picture = (mask == klass).astype(np.uint8)
            _, parts, stats, _ = cv2.connectedComponentsWithStats(picture, connectivity=8)
            large = stats[:, cv2.CC_STAT_AREA] >= min_area * mask.size
            large[0] = False  # what is not of this class
            rank = np.where(large, found + np.cumsum(large), 0).astype(np.int32)
            numbers[row] += rank[parts]
            found += int(large.sum())
    return numbers


def positions(length: int, scale: Tensor, shift: Tensor) -> Tensor:
    """Where each pixel of an axis comes from when the source is scaled inside its frame.

    Args:
        length: n, px.
        scale: (B,) factor.
        shift: (B,) in [0, 1], where the scaled source lies: 0 flush with the start, 1 with the end
            (below factor 1 it floats in the frame, above it overhangs). Without effect at 1.

    Returns:
        (B, n) float64 position in the source, px, 0 at the centre of its first pixel.
    """
    scale, start = scale[:, None].double(), (shift * length * (1 - scale))[:, None].double()
    return (torch.arange(length, dtype=torch.float64) + 0.5 - start) / scale - 0.5


def take_nearest(values: Tensor, rows: Tensor, cols: Tensor, outside: float) -> Tensor:
    """(B, H, W) at the positions (B, H) and (B, W), nearest pixel; `outside` beyond the frame."""
    height, width = values.shape[1:]
    row, col = ((at + 0.5).floor().long() for at in (rows, cols))
    inside = ((row >= 0) & (row < height))[:, :, None] & ((col >= 0) & (col < width))[:, None]
    image = torch.arange(len(values), device=values.device)[:, None, None]
    row, col = row.clamp(0, height - 1), col.clamp(0, width - 1)
    return values[image, row[:, :, None], col[:, None]].masked_fill(~inside, outside)


def take_linear(values: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """(B, C, H, W) float at the positions (B, H) and (B, W), bilinear; the border goes on outside.

    Whole positions give the pixel's very value.
    """
    for axis, at in ((2, rows), (3, cols)):
        at = at.clamp(0, values.shape[axis] - 1)
        low = at.floor()
        near, far = low.long(), (low.long() + 1).clamp_max(values.shape[axis] - 1)
        view = (len(at), 1, -1, 1) if axis == 2 else (len(at), 1, 1, -1)
        shape = [*values.shape]
        one, two = (values.gather(axis, step.view(view).expand(shape)) for step in (near, far))
        values = torch.lerp(one, two, (at - low).to(values.dtype).view(view))
    return values


def _subset(count: int, generator: torch.Generator) -> Tensor:
    """Numbers out of 1..count, int64: as many as drawn uniformly from 1..count; none of 0."""
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    size = int(torch.randint(1, count + 1, (), generator=generator))
    return torch.randperm(count, generator=generator)[:size].sort().values + 1
