"""The last stage of the multi-stage setting: a DeepLab taught by masks that lie ready.

Not a method of its own: the masks may be anybody's pseudo-masks, or the true ones for the upper
bound. Architectures and losses live in `models`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wsssbench.methods.base import Learner, Progress
from wsssbench.methods.multiscale import make_views, unflip
from wsssbench.models.base import Backbone
from wsssbench.models.decoder import resize
from wsssbench.models.deeplab import DeepLabV2, DeepLabV3Plus
from wsssbench.models.segmentation_losses import msc_loss

NETWORKS = {"deeplab_v2": DeepLabV2, "deeplab_v3plus": DeepLabV3Plus}


class Segmentation(Learner):
    """A segmentation network and its loss.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        network: "deeplab_v3plus" or "deeplab_v2".
        width: channels of DeepLabV3+'s head; DeepLabV2 has no hidden layer.
        balanced: background and objects weigh the same, see `masked_cross_entropy`.
        puf: pretended under-fitting, settings of `segmentation_losses.underfit`; None: without.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        network: Literal["deeplab_v3plus", "deeplab_v2"] = "deeplab_v3plus",
        width: int = 256,
        balanced: bool = False,
        puf: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        head = {"width": width} if network == "deeplab_v3plus" else {}
        self.network = NETWORKS[network](backbone, num_classes + 1, **head)
        self.form = {"balanced": balanced, "puf": puf}

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Cross entropy against the mask, 255 left out."""
        pyramid = self.network.pyramid(batch["image"])
        return {"seg": msc_loss(pyramid, batch["mask"].long(), **self.form)}

    @torch.inference_mode()
    def predict(self, images: Tensor, scales: Sequence[float], flip: bool) -> Tensor:
        """Class probabilities, the mean over views of the softmax at the view's own size.

        Args:
            images: (B, 3, H, W) float32, normalised.
            scales: of the views.
            flip: add the mirrored ones.

        Returns:
            (B, K+1, H, W) float32, sum 1, background first.
        """
        size, total = images.shape[-2:], 0.0
        for scale in scales:
            views = make_views(images, scale, flip)
            scores = resize(self.network(views).float(), views.shape[-2:]).softmax(1)
            apart = scores.unflatten(0, (-1, len(images))).transpose(0, 1)  # (B, V, K+1, h, w)
            total = total + resize(unflip(apart).sum(1), size)
        return total / (len(scales) * (2 if flip else 1))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of the backbone and of the head."""
        return self.network.parameter_groups()
