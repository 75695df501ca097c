"""CAM (Zhou et al., CVPR 2016, as the first stage of Ahn et al., CVPR 2018 and 2019): a multi-label
classifier whose last 1×1 layer, applied per pixel, gives one map per class.

Departs from the releases: SGD's momentum and weight decay are what params.yaml says (three official
repositories pass the decay into the momentum slot); scales are resized as float tensors, not as
uint8 PIL images. Expected: VOC 2012 train 48.3-48.8 mIoU (ResNet-50, IRNet's recipe, best
threshold).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import multilabel_soft_margin_loss

from wsssbench.methods.base import Gate, Inference, Method, Progress
from wsssbench.methods.multiscale import Merge, make_views, merge_views
from wsssbench.models.cam_network import CamNetwork


class CAM(Method):
    """Plain class activation maps: precise in class, incomplete in extent.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        bias: give the classifier a bias (then pooling and classifying no longer commute).
        dropout: channel dropout before the classifier (PSA: 0.5).
        merge: how views become one map, see `multiscale.merge_views`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        bias: bool = False,
        dropout: float = 0.0,
        merge: Merge = "irn",
    ):
        super().__init__()
        self.network = CamNetwork(backbone, num_classes, bias=bias, dropout=dropout)
        self.merge = merge

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Multi-label soft margin loss of the pooled scores, mean over classes and batch."""
        logits = self.network(batch["image"]).logits.float()
        progress.log(confidence=_confidence(logits.detach(), batch["label"]))
        return {"cls": multilabel_soft_margin_loss(logits, batch["label"])}

    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Multi-scale maps and the views' mean class score; see `multiscale` for the arithmetic."""
        views, scores = [], []
        for scale in self.scales:
            out = self.network(make_views(images, scale, self.flip))
            count = out.cam.shape[0] // images.shape[0]
            views.append(out.cam.unflatten(0, (count, -1)).transpose(0, 1))
            scores.append(out.logits.float().sigmoid().unflatten(0, (count, -1)).mean(0))
        probabilities = torch.stack(scores).mean(0)
        kept = gate(probabilities)
        maps = merge_views(views, images.shape[-2:], stride=stride, merge=self.merge)
        return Inference(maps * kept[..., None, None], probabilities, kept)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's parameters and the classifier's."""
        return self.network.parameter_groups()


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean probability given to the truth of each class and image; 1 is a converged classifier."""
    return torch.where(labels > 0.5, logits.sigmoid(), (-logits).sigmoid()).mean()
