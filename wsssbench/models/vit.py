"""ViT-B/16 (Dosovitskiy et al., ICLR 2021) with torchvision's layers and parameter names.

C1 is the patch embedding (without position), C2..C5 are the patch tokens behind blocks 3, 6, 9
and 12, the last one after the final layer norm; all at stride 16.
"""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from wsssbench.errors import UserError
from wsssbench.models.base import STAGES, Backbone

PATCH = 16
WIDTH = 768
BLOCKS_PER_STAGE = 3


class ViT(Backbone):
    """torchvision's ViT-B/16 without its head, for images of any size.

    An image is padded on the right and at the bottom with zeros (the mean colour) to a multiple
    of 16, so maps have the size (ceil(H/16), ceil(W/16)) like those of the other backbones. The
    positional embedding is resized to that grid (bicubic).

    Args:
        output_stride: 16; a ViT has no other.
        dilate: not used, there is no stride to remove.
    """

    head = ("heads.",)

    def __init__(self, *, output_stride: int = PATCH, dilate: bool = True):
        if output_stride != PATCH:
            raise UserError(
                f"output_stride is {output_stride!r}, but the patches of vit_b_16 fix it at 16. "
                "Set output_stride to 16 or choose another backbone."
            )
        super().__init__((WIDTH,) * len(STAGES))
        net = torchvision.models.vit_b_16(weights=None)
        self.class_token, self.conv_proj, self.encoder = net.class_token, net.conv_proj, net.encoder
        self.strides = dict.fromkeys(STAGES, PATCH)

    def stages(self) -> list[list[nn.Module]]:
        """Patch embedding, then four groups of three transformer blocks."""
        blocks = list(self.encoder.layers)
        step = BLOCKS_PER_STAGE
        groups = [blocks[low : low + step] for low in range(0, len(blocks), step)]
        groups[-1].append(self.encoder.ln)
        return [[self.conv_proj], *groups]

    def freeze(self) -> None:
        """As the other backbones; class token and positions go with C2, the first to use them."""
        super().freeze()
        self.class_token.requires_grad_(self.frozen_stages < 2)
        self.encoder.pos_embedding.requires_grad_(self.frozen_stages < 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps of all stages, see `Backbone.forward`."""
        (embedding,), *groups = self.stages()
        with self.gradient(1):
            patches = embedding(_pad(images))  # (B, 768, h, w)
        grid = patches.shape[2:]
        maps = {"C1": patches}
        with self.gradient(2):
            tokens = self._add_position(patches)
        for number, blocks in enumerate(groups, start=2):
            with self.gradient(number):
                for block in blocks:
                    tokens = block(tokens)
            maps[STAGES[number - 1]] = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
        return maps

    def _add_position(self, patches: Tensor) -> Tensor:
        """(B, 768, h, w) -> (B, 1 + h·w, 768): class token in front, position added."""
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        position = resize_position(self.encoder.pos_embedding, patches.shape[2:])
        return self.encoder.dropout(tokens + position)


def resize_position(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positional embedding of a square grid for another grid.

    Args:
        embedding: (1, 1 + n·n, D) float, class token first.
        grid: (h, w).

    Returns:
        (1, 1 + h·w, D) float; `embedding` itself where the grid is the same.
    """
    side = round((embedding.shape[1] - 1) ** 0.5)
    if tuple(grid) == (side, side):
        return embedding
    token, cells = embedding[:, :1], embedding[:, 1:]
    cells = cells.transpose(1, 2).unflatten(2, (side, side))
    cells = F.interpolate(cells, size=tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat([token, cells.flatten(2).transpose(1, 2)], dim=1)


def _pad(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % PATCH, 0, -height % PATCH))
