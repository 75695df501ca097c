"""Puzzle Mix (Kim, Choo, Song, ICML 2020): keep the salient blocks of both images, then move them.

A graph cut gives each block a share of either image (much saliency, little change between
neighbours, wanted total); a transport then moves salient blocks to where their image is kept.

Departs from the release (snu-mllab/PuzzleMix): any image size (n×n blocks of ⌊H/n⌋×⌊W/n⌋ px; the
rest at the lower and right edge, under n px wide, stays the base's); colour differences are pooled
over the largest of 4, 3, 2, 1 px that divides a block's side; transport always moves the blocks of
the cut (no `t_size`); no added noise or adversarial images; a row paired with itself stays as it
is. Holes left by the transport are the mean colour, as released, but ignored in the mask. Expected:
ImageNet, ResNet-50, top-1 error 21.24 % (CutMix 21.40 %); no published figure for segmentation.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.mixing.base import Mixer, Pairing, move
from wsssbench.mixing.base import beta as beta_draw
from wsssbench.mixing.batch import Layer, MixBatch, MixPlan
from wsssbench.mixing.blocks import block_saliency, move_layer, transport_plan
from wsssbench.mixing.graph_cut import swap_labels
from wsssbench.mixing.pixels import to_unit

COST_SCALE = 1000  # costs become integers after multiplication with 1000·n²


class PuzzleMix(Mixer):
    """Salient blocks of both images, in shares 0, 1/(L-1), …, 1, moved to where they are kept.

    Defaults are the release's, but for the partners.

    Args:
        blocks: numbers of blocks per side; one is drawn per batch.
        alpha: the base's wanted share is drawn from Beta(alpha, alpha), one per batch.
        n_labels: L, number of shares, at least 2.
        beta: smoothness of the shares.
        gamma: part of the smoothness that follows the colours, in [0, 1].
        eta: weight of the wanted share.
        transport: move blocks after the cut.
        t_eps: cost of distance in the transport, against saliency.
        fill: what the holes of the transport show: the mean colour, or the image's own block.
        pairing: see `base.pair`; `permutation` in the release.
    """

    mode = "label"
    needs = ("saliency",)
    saliency = "gradient"

    def __init__(
        self,
        *,
        blocks: tuple[int, ...] = (2, 4, 8, 16),
        alpha: float = 1.0,
        n_labels: int = 3,
        beta: float = 1.2,
        gamma: float = 0.5,
        eta: float = 0.2,
        transport: bool = True,
        t_eps: float = 0.8,
        fill: Literal["mean", "identity"] = "mean",
        pairing: Pairing = "derangement",
    ):
        super().__init__(pairing=pairing)
        if not blocks or min(blocks) < 1:
            raise UserError(f"puzzlemix: blocks: expected numbers above 0, got {blocks!r}.")
        if n_labels < 2:
            raise UserError(f"puzzlemix: n_labels: expected 2 or more, got {n_labels!r}.")
        if alpha <= 0 or min(beta, eta, t_eps) < 0 or not 0 <= gamma <= 1:
            raise UserError(
                "puzzlemix: alpha must be above 0; beta, eta and t_eps at least 0; gamma from 0 to "
                f"1; got {alpha!r}, {beta!r}, {eta!r}, {t_eps!r}, {gamma!r}."
            )
        self.blocks, self.alpha, self.n_labels = tuple(blocks), alpha, n_labels
        self.beta, self.gamma, self.eta = beta, gamma, eta
        self.transport, self.t_eps, self.fill = transport, t_eps, fill

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`blocks`: () int64, per side; `share`: () float64, the base's wanted share."""
        rows = self.rows(batch, generator)
        fitting = [n for n in self.blocks if n <= min(batch.images.shape[-2:])] or [1]
        number = int(torch.randint(len(fitting), (), generator=generator))
        share = beta_draw(self.alpha, 1, generator)[0]
        return {**rows, "blocks": torch.tensor(fitting[number]), "share": share}

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """See Mixer. `info` adds `shares`, (B, n, n) in [0, 1], each block's share of the source,
        and with transport `origin_base`, `origin_src`, (B, n²) int64, see `transport_plan`.
        """
        device, size = batch.images.device, batch.images.shape[-2:]
        base, src = move(draws["base"], device), move(draws["src"], device)
        n = int(draws["blocks"])
        side = (size[0] // n, size[1] // n)
        grid = (n * side[0], n * side[1])
        salient = block_saliency(batch.need("saliency", "PuzzleMix"), size, n)
        image = to_unit(batch.images[..., : grid[0], : grid[1]])
        costs = block_costs(
            image[base], image[src], salient[base], salient[src],
            share=float(draws["share"]), n_labels=self.n_labels,
            beta=self.beta, gamma=self.gamma, eta=self.eta,
        )  # fmt: skip
        labels = np.stack([swap_labels(*row) for row in zip(*(c.cpu().numpy() for c in costs))])
        shares = move(torch.from_numpy(labels).float() / (self.n_labels - 1), device)
        shares = shares * (base != src)[:, None, None]
        weight = shares.repeat_interleave(side[0], 1).repeat_interleave(side[1], 2)
        weight = F.pad(weight, (0, size[1] - grid[1], 0, size[0] - grid[0]))[:, None]
        views: dict[str, Layer] = {}
        info = {**draws, "shares": shares}
        if self.transport:
            for name, rows, kept in (("base", base, 1 - shares), ("src", src, shares)):
                origin = transport_plan(kept, salient[rows], self.t_eps)
                here = torch.arange(n * n, device=device)
                stays = (base == src)[:, None] | (origin < 0) & (self.fill == "identity")
                origin = torch.where(stays, here, origin)
                views[f"{name}_view"] = move_layer(batch.pick(rows), origin, n)
                info[f"origin_{name}"] = origin
        return MixPlan(base, src, weight, label_rule="area", info=info, **views)


def block_costs(
    image_1: Tensor, image_2: Tensor, salient_1: Tensor, salient_2: Tensor, *,
    share: float, n_labels: int = 3, beta: float = 1.2, gamma: float = 0.5, eta: float = 0.2,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The energy of the shares j/(L-1) of image 2, as integers (times 1000·n²).

    Args:
        image_1: (B, 3, n·h, n·w) float RGB in [0, 1].
        image_2: the same, its partners.
        salient_1: (B, n, n) from `block_saliency`.
        salient_2: the same, its partners'.
        share: wanted share of image 1, in [0, 1].
        n_labels: see `PuzzleMix`.
        beta: see there.
        gamma: see there.
        eta: see there.

    Returns:
        What `swap_labels` takes, int32: unary (B, n, n, L), weights between vertical (B, n-1, n)
        and horizontal (B, n, n-1) neighbours.
    """
    n, last = salient_1.shape[-1], n_labels - 1
    smooth = beta / (16 * n)
    cost_1, cost_2 = salient_2.clone(), salient_1.clone()  # taking an image loses the other's
    weights = []
    for axis in (1, 2):
        # phi[p][q]: colour step where the upper (left) block shows image p, the lower (right) q
        pictures = [image.transpose(2, axis + 1) for image in (image_1, image_2)]
        phi = [[smooth * gamma * _border_steps(p, q, n) for q in pictures] for p in pictures]
        # views along this axis: filling them fills the costs
        one, two = (cost.transpose(1, axis) for cost in (cost_1, cost_2))
        one[:, :-1] += (phi[0][1] + phi[0][0]) / 2
        one[:, 1:] += (phi[1][0] + phi[0][0]) / 2
        two[:, :-1] += (phi[1][0] + phi[1][1]) / 2
        two[:, 1:] += (phi[0][1] + phi[1][1]) / 2
        weight = (phi[0][1] + phi[1][0] - phi[0][0] - phi[1][1]) / 2 + smooth
        weights.append(weight.transpose(1, axis))
    wanted = [math.comb(last, j) * share ** (last - j) * (1 - share) ** j for j in range(n_labels)]
    prior = cost_1.new_tensor([-(eta / n**2) * math.log(chance + 1e-8) for chance in wanted])
    part = torch.arange(n_labels, device=cost_1.device) / last
    unary = (1 - part) * cost_1[..., None] + part * cost_2[..., None] + prior
    rows, cols = weights
    return tuple((term * COST_SCALE * n**2).int() for term in (unary, rows, cols))


def _border_steps(first: Tensor, second: Tensor, n: int) -> Tensor:
    """(B, n-1, n): mean colour difference from the last row of each block of `first` to the first
    row of the block below it in `second`, both (B, 3, n·h, n·w), pooled.
    """
    side = [length // n for length in first.shape[-2:]]
    cell = [max(px for px in (1, 2, 3, 4) if length % px == 0) for length in side]
    high, wide = (length // px for length, px in zip(side, cell))
    first, second = (F.avg_pool2d(image, cell) for image in (first, second))
    step = (first[:, :, high - 1 : -1 : high] - second[:, :, high::high]).abs()
    return step.mean(1).unflatten(2, (n, wide)).mean(3)
