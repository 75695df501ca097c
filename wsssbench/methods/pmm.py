"""PMM, its CAM stage (Li, Kuang, Liu, Chen, Zhang, ICCV 2021, arXiv 2108.12995): SEAM, whose maps
are read out over many windows of the image (`crops`) and smoothed by their coefficient of variation
(`crops+cvs`). Masks are made by `refinement.ppmg` (random_walk.ppmg_alpha, segment.masks: ppmg);
pretended under-fitting and the cyclic pseudo-mask are settings of the segmentation (segment.puf,
segment.cycles). Each of the four parts serves any other method as well.

Trained as SEAM: same losses, same layers; no dropout, which the release has on Wide-ResNet-38 only.
Departs from the release: multi-crop training is left out; scale and shift of frozen norms are
trained, biases have no rate and decay of their own; class scores are those of the whole image, for
a window rarely shows all classes; those below in `seam`. Expected: multi-crop CAMs on VOC 2012 val
53.9 mIoU with Wide-ResNet-38, 57.8 with ScaleNet-101 (best threshold; quoted from the paper's
table 1); more FP and fewer FN than SEAM.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wsssbench.methods.multicrop import CROPS, CropSettings, multi_crop, read_crops
from wsssbench.methods.multiscale import Merge
from wsssbench.methods.seam import SEAM, View
from wsssbench.schema import build


class PMM(SEAM):
    """SEAM whose maps come from many windows of the image.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        crops: keys of `CropSettings` that differ from the defaults. The kinds `crops` follow them
            and not pseudo_masks.scales; train.watch pays for them in full.
        second_scale, levels, widths, dropout, w_min, w_er, w_ecr, release_start, merge, pamr: see
            `SEAM`.
    """

    kinds = (*CROPS, *SEAM.kinds)

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        crops: Mapping[str, Any] | None = None,
        second_scale: float = 0.3,
        levels: tuple[str, str] = ("C3", "C4"),
        widths: tuple[int, int, int] = (64, 128, 192),
        dropout: float = 0.0,
        w_min: float = 1.0,
        w_er: float = 1.0,
        w_ecr: float = 1.0,
        release_start: bool = True,
        merge: Merge = "seam",
        pamr: Mapping[str, Any] | None = None,
    ):
        super().__init__(
            backbone,
            num_classes,
            second_scale=second_scale,
            levels=levels,
            widths=widths,
            dropout=dropout,
            w_min=w_min,
            w_er=w_er,
            w_ecr=w_ecr,
            release_start=release_start,
            merge=merge,
            pamr=pamr,
        )
        self.crops = build(CropSettings, crops or {}, "crops").check("crops")

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check the keys of `crops`, and what SEAM checks."""
        super().check(settings, where)
        build(CropSettings, settings.get("crops") or {}, f"{where}.crops").check(f"{where}.crops")

    def read(
        self,
        kinds: Sequence[str],
        views: dict[str, list[View]],
        images: Tensor,
        kept: Tensor,
        stride: int,
    ) -> dict[str, Tensor]:
        """As SEAM, and the rewritten maps of all windows, their mean normalised."""
        maps = super().read([k for k in kinds if k not in CROPS], views, images, kept, stride)
        if chosen := [kind for kind in kinds if kind in CROPS]:
            mean = multi_crop(self.rewritten, images, kept, self.crops, self.flip)
            maps |= read_crops(chosen, mean, stride)
        return {kind: maps[kind] for kind in kinds}

    def rewritten(self, images: Tensor) -> Tensor:
        """(B, K, h, w) float32, the classes' maps after the correlation module."""
        return self.maps_of(images)[1][:, 1:]
