"""AFA's affinity head (Ru et al., CVPR 2022): one symmetric affinity from many maps of attention.

The release adds each raw map q·kᵀ to its transpose and joins the maps by a 1×1 convolution. That is
a weighted sum, so the queries are weighted instead and one product remains: the same numbers
without an array (B, maps, N, N). For backbones without attention, queries and keys are learnt from
C5 (ours, "AFA-style").
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wsssbench.errors import UserError
from wsssbench.models.base import Backbone
from wsssbench.models.cam_network import CamNetwork, Output


@dataclass
class AffinityOutput(Output):
    """What one pass gives; beside an `Output`'s:

    Attributes:
        affinity: (B, N, N) float32 in (0, 1), symmetric, of the N positions of `cam`; or None.
    """

    affinity: Tensor | None = None


class AffinityCamNetwork(CamNetwork):
    """A CAM network that also tells which positions show one class.

    Args:
        backbone: see `backbones.build`.
        num_classes: K, without background.
        source: "attention": queries and keys of the backbone's last blocks; "features": learnt from
            C5; "auto": attention where there is one.
        heads: maps of the source "features".
        width: channels of a query there.
        settings: of `CamNetwork`.

    Raises:
        UserError: attention is asked of a backbone that has none.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        source: Literal["auto", "attention", "features"] = "auto",
        heads: int = 4,
        width: int = 16,
        **settings,
    ):
        super().__init__(backbone, num_classes, **settings)
        if source == "attention" and not backbone.attention_maps:
            raise UserError(
                "affinity: attention needs a backbone that has it (mit_b1, mit_b0, mit_tiny), and "
                f"{type(backbone).__name__} has none. Set affinity to features or auto."
            )
        own = source == "features" or not backbone.attention_maps
        self.compare = Compare(backbone.channels["C5"], heads, width) if own else None
        self.affinity = AffinityHead(heads if own else backbone.attention_maps)

    def forward(
        self, images: Tensor, *, with_decoder: bool = True, with_affinity: bool = True
    ) -> AffinityOutput:
        """As `CamNetwork.forward`; `with_affinity` False skips the affinity."""
        if self.compare is None:
            features, *pair = self.backbone.attend(images)
        else:
            features = self.backbone(images)
            pair = self.compare(features["C5"]) if with_affinity else ()
        out = self.read(features, images.shape[2:], with_decoder=with_decoder)
        return AffinityOutput(**vars(out), affinity=self.affinity(*pair) if with_affinity else None)


class AffinityHead(nn.Module):
    """sigmoid(Σ w·(q·kᵀ + k·qᵀ) + b), a sum over maps of attention.

    Args:
        maps: how many there are.
    """

    def __init__(self, maps: int):
        super().__init__()
        self.join = nn.Conv2d(maps, 1, 1)
        nn.init.kaiming_normal_(self.join.weight, a=5**0.5, mode="fan_out")

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Affinities.

        Args:
            queries: (B, maps, N, d) float.
            keys: the same.

        Returns:
            (B, N, N) float32 in (0, 1), symmetric.
        """
        with torch.autocast(queries.device.type, enabled=False):
            weighted = queries.float() * self.join.weight.view(-1, 1, 1)
            weighted, keys = (x.transpose(1, 2).flatten(2) for x in (weighted, keys.float()))
            logits = weighted @ keys.mT
            return (logits + logits.mT + self.join.bias).sigmoid()


class Compare(nn.Module):
    """Queries and keys of a convolutional map, normalised per position as before attention.

    Args:
        channels: of the map.
        heads: pairs of queries and keys.
        width: channels of each.
    """

    def __init__(self, channels: int, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 2 * heads * width)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> queries and keys (B, heads, h·w, width)."""
        projected = self.project(self.norm(maps.flatten(2).mT))
        queries, keys = projected.unflatten(2, (2, self.heads, -1)).unbind(2)
        return queries.transpose(1, 2), keys.transpose(1, 2)
