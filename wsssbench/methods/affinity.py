"""Learning affinities from seeds: the training of IRNet's boundary branch and of AffinityNet.

Not a method of its own: it has no classes and no maps. The seeds come as masks with 255 where
nothing is certain; the networks and the losses live in `models` and `refinement`.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from wsssbench.methods.base import Learner, Progress
from wsssbench.methods.multiscale import against_background
from wsssbench.models.affinity import AffinityNet, BoundaryNet
from wsssbench.models.base import Backbone
from wsssbench.refinement.affinity_labels import pair_labels, pool_scores, psa_scores, shrink
from wsssbench.refinement.affinity_losses import affinity_losses
from wsssbench.refinement.pairs import feature_affinity, pad_border, path_affinity
from wsssbench.refinement.random_walk import random_walk, shrink_maps, walk, walk_maps

NETWORKS = {"irn": BoundaryNet, "affinitynet": AffinityNet}
PSA_ALPHA = 16.0  # power of the background in AffinityNet's walk


class Affinity(Learner):
    """An affinity network and its loss.

    Args:
        backbone: a network of `wsssbench.models` giving C1..C5.
        num_classes: K, without background.
        network: "irn" or "affinitynet".
        radius: of the pairs, in positions of the network's stride (IRNet 10, AffinityNet 5).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        network: Literal["irn", "affinitynet"] = "irn",
        radius: int = 10,
    ):
        super().__init__()
        self.network = NETWORKS[network](backbone)
        self.num_classes, self.radius = num_classes, radius

    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """The three kinds of pairs: background, one class, two classes."""
        seeds = shrink(batch["mask"].long(), self.network.stride)
        labels = pair_labels(seeds, self.radius, self.num_classes)
        found = affinity_losses(self.affinities(batch["image"]), labels)
        progress.log(seeded=(seeds <= self.num_classes).float().mean())
        return {"bg": found.bg / 4, "fg": found.fg / 4, "neg": found.neg / 2}

    def affinities(self, images: Tensor) -> Tensor:
        """(B, D, h-f, w-2f) in [0, 1] of normalised images (B, 3, H, W)."""
        output = self.network(images)
        if isinstance(self.network, BoundaryNet):
            return path_affinity(output.sigmoid(), self.radius)
        return feature_affinity(output, self.radius)

    @torch.inference_mode()
    def refine(
        self,
        images: Tensor,
        maps: Tensor,
        *,
        radius: int = 5,
        beta: float = 10.0,
        log2_steps: int = 8,
        per_class: bool = False,
    ) -> Tensor:
        """Let the maps of one image walk.

        Args:
            images: (1, 3, H, W) float32, normalised.
            maps: (n, H, W) float32 in [0, 1], of the image's classes only.
            radius: of the walk's pairs, see `refinement.random_walk`, as for the next two.
            beta: exponent of the affinities.
            log2_steps: of the number of steps.
            per_class: IRNet's walk: divide each map by its own maximum, not by that of all.

        Returns:
            (n, H, W) float32 in [0, 1]. AffinityNet's background walks too; the classes are weighed
            `against_background`, so that the highest exceeds .5 exactly where it beats it.
        """
        size, steps = images.shape[-2:], {"radius": radius, "beta": beta, "log2_steps": log2_steps}
        if isinstance(self.network, BoundaryNet):
            boundary = self.network.boundary(images)[0]
            small = shrink_maps(maps.to(boundary), self.network.stride)
            walked = random_walk(small, boundary, **steps)
            divide = "class" if per_class else "all"
            return walk_maps(walked, size, stride=self.network.stride, divide=divide)
        if not len(maps):
            return maps.to(images)
        features = pad_border(self.network(images), radius, value=0.0)
        scores = pool_scores(psa_scores(maps.to(features), PSA_ALPHA), self.network.stride)
        walked = walk(scores, feature_affinity(features, radius)[0], **steps)
        full = walk_maps(walked, size, stride=self.network.stride, divide="none")
        return against_background(full[None, 1:], full[None, :1])[0]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone's trainable parameters and the heads'."""
        return self.network.parameter_groups()
