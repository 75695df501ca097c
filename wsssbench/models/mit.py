"""Mix Transformer, the encoder of SegFormer (Xie et al., NeurIPS 2021), with the parameter names of
its release, so that its ImageNet weights fit. `mit_tiny` is a small one of our own, to be trained
from scratch.

C1 is the first patch embedding, C2..C5 are the four stages behind their layer norms. Patches
overlap and no position is embedded, so images may have any size. The last stages lose their stride
with `output_stride` (AFA: 16). Attention takes no N×N array; who wants one builds it from the
queries and keys that `attend` gives.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from wsssbench.errors import UserError
from wsssbench.models.base import STAGES, Backbone
from wsssbench.models.dilation import OUTPUT_STRIDES

STRIDES = (4, 8, 16, 32)  # of the four stages
REDUCTIONS = (8, 4, 2, 1)  # of keys and values, per side
ATTENDED = 2  # last blocks whose queries and keys `attend` gives
DROP_PATH = 0.1  # probability of leaving the last block out; it rises linearly from 0


class MiT(Backbone):
    """SegFormer's encoder.

    Args:
        widths: channels of the four stages.
        heads: of their attention.
        depths: blocks of each stage, two of the last at least.
        output_stride: 8, 16 or 32.
        dilate: not used: what is behind a removed stride attends everywhere.
    """

    head = ("head.",)

    def __init__(
        self,
        widths: Sequence[int],
        heads: Sequence[int],
        depths: Sequence[int],
        *,
        output_stride: int = 16,
        dilate: bool = True,
    ):
        if output_stride not in OUTPUT_STRIDES:
            raise UserError(f"output_stride is {output_stride!r}; valid: 8, 16, 32.")
        super().__init__((widths[0], *widths))
        self.attention_maps = ATTENDED * heads[-1]
        reached = [min(stride, output_stride) for stride in STRIDES]
        self.strides = dict(zip(STAGES, (reached[0], *reached), strict=True))
        drops = iter(torch.linspace(0, DROP_PATH, sum(depths), device="cpu").tolist())
        inputs, before = (3, *widths), (1, *reached)
        for i in range(len(STRIDES)):
            step, size = reached[i] // before[i], 3 if i else 7
            blocks = [
                Block(widths[i], heads[i], REDUCTIONS[i], next(drops)) for _ in range(depths[i])
            ]
            self.add_module(f"patch_embed{i + 1}", PatchEmbedding(inputs[i], widths[i], size, step))
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(widths[i], eps=1e-6))
        self.apply(_initialise)

    def stages(self) -> list[list[nn.Module]]:
        """The first patch embedding; blocks and norm of each stage, behind its own embedding."""
        first, *others = [
            [getattr(self, f"{part}{number}") for part in ("patch_embed", "block", "norm")]
            for number in range(1, len(STRIDES) + 1)
        ]
        return [first[:1], first[1:], *others]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps of all stages, see `Backbone.forward`."""
        return self.attend(images)[0]

    def attend(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Feature maps of all stages, and what the last blocks' attention compares.

        Args:
            images: (B, 3, H, W) float, ImageNet-normalised, any H and W.

        Returns:
            Maps as of `forward`; queries and keys, each (B, attention_maps, N, d) float, for the N
            positions of C5: q·kᵀ is a raw map of attention, neither scaled nor a softmax.
        """
        maps, pairs = {}, []
        x = images.permute(0, 2, 3, 1)  # layers run on (B, h, w, C)
        for number, modules in enumerate(self.stages(), start=1):
            with self.gradient(number):
                for module in modules:
                    if isinstance(module, nn.ModuleList):
                        for block in module:
                            x, *pair = block(x)
                            pairs = [*pairs, pair][-ATTENDED:]
                    else:
                        x = module(x)
            maps[STAGES[number - 1]] = x.permute(0, 3, 1, 2)
        queries, keys = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
        return maps, queries, keys


class PatchEmbedding(nn.Module):
    """A strided convolution over overlapping patches."""

    def __init__(self, channels: int, width: int, size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, size, stride, padding=size // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, ceil(H/stride), ceil(W/stride), width)."""
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Block(nn.Module):
    """Attention and a perceptron with a depth-wise convolution, on (B, h, w, C)."""

    def __init__(self, width: int, heads: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The new map; queries and keys (B, heads, ·, d)."""
        mixed, queries, keys = self.attn(self.norm1(x))
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x))), queries, keys


class Attention(nn.Module):
    """Multi-head self-attention; keys and values on a grid coarser by `reduction`."""

    def __init__(self, width: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, h, w, C) -> the same; queries and keys (B, heads, ·, C / heads)."""
        queries, seen = self._apart(self.q(x))[0], x
        if self.reduction > 1:
            maps, lack = x.permute(0, 3, 1, 2), [max(0, self.reduction - n) for n in x.shape[1:3]]
            if any(lack):  # a map smaller than one patch
                maps = F.pad(maps, (0, lack[1], 0, lack[0]))
            seen = self.norm(self.sr(maps).permute(0, 2, 3, 1))
        keys, values = self._apart(self.kv(seen))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.proj(mixed.transpose(1, 2).reshape(x.shape)), queries, keys

    def _apart(self, x: Tensor) -> list[Tensor]:
        """(B, h, w, n·C) -> n tensors (B, heads, h·w, C / heads)."""
        width = self.proj.in_features
        parts = x.flatten(1, 2).unflatten(2, (-1, self.heads, width // self.heads))
        return [part.transpose(1, 2) for part in parts.unbind(2)]


class Mlp(nn.Module):
    """Two linear layers, a depth-wise 3×3 convolution between them."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)
        wide = ratio * width
        self.dwconv = nn.Sequential()
        self.dwconv.add_module("dwconv", nn.Conv2d(wide, wide, 3, padding=1, groups=wide))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same."""
        maps = self.dwconv(self.fc1(x).permute(0, 3, 1, 2))
        return self.fc2(F.gelu(maps.permute(0, 2, 3, 1)))


def _initialise(module: nn.Module) -> None:
    """The release's start for training from scratch."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.zeros_(module.bias)
