"""What every method is: losses for training, maps for pseudo-masks, predictions without labels.

A method knows nothing of files, devices or logging. It is one nn.Module in one file. A `Learner` is
the half of it that the training loop sees; the networks of later stages are learners as well.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wsssbench.methods.multiscale import OWN_BACKGROUND, with_background

Gate = Callable[[Tensor], Tensor]


@dataclass
class Progress:
    """Where training stands, for start epochs, draws and diagnostics.

    Attributes:
        epoch: 1-based.
        epochs: how many there will be.
        step: 0-based, over the whole training.
        steps: how many there will be.
        generator: torch.Generator seeded per epoch and process; take every draw from it.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    generator: torch.Generator
    logged: dict[str, float] = field(default_factory=dict)

    def log(self, **values: float | Tensor) -> None:
        """Record diagnostics; history.csv has the mean over those steps of an epoch that do."""
        self.logged.update(
            {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}
        )


@dataclass(frozen=True)
class Inference:
    """Maps and class scores of a batch.

    Attributes:
        maps: per kind (B, K, h, w) float32 in [0, 1], zero for classes outside the gate.
        probabilities: (B, K) float32, the classifier's sigmoid scores.
        gate: (B, K) bool, the classes that were kept.
    """

    maps: dict[str, Tensor]
    probabilities: Tensor
    gate: Tensor


class Learner(nn.Module, ABC):
    """What the training loop trains: losses of a batch, parameters in groups, perhaps a memory."""

    @abstractmethod
    def losses(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Named scalar losses, already weighted; their sum is optimised.

        Args:
            batch: `image` float32 (B, 3, S, S), `label` float32 (B, K), `valid` bool (B, S, S),
                `id` list of B texts; where the data set has masks, also `mask` uint8 (B, S, S).
            progress: where training stands.
        """

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """{"backbone": […], "new": […], "decoder": […]}, each with a learning rate of its own."""

    def begin(self, labels: Tensor) -> None:
        """Called once before training, with the labels of all its images: (N, K) float32."""

    def after_step(self) -> None:
        """Called after each optimiser step, for an EMA teacher or a memory."""

    def warning(self, row: dict) -> str:
        """What to say of an epoch, given its row of history.csv; empty: nothing is wrong."""
        return ""

    def memory(self) -> dict:
        """What is kept between steps beside the weights, for the checkpoint."""
        return {}

    def remember(self, memory: dict) -> None:
        """Take back what `memory` gave."""

    def forward(self, batch: dict, progress: Progress) -> dict[str, Tensor]:
        """Same as `losses`: the entrance that DistributedDataParallel and torch.compile wrap."""
        return self.losses(batch, progress)


class Method(Learner):
    """Base class: the three contracts, and the class gate that all methods share.

    Subclasses implement `losses` and `infer`, and name their new layers in `parameter_groups`.

    Attributes:
        kinds: kinds of maps that `infer` can give, the usual one first.
        maps: those that it shall give; empty: the usual one.
        own_background: kinds that weigh a class against a background map of the method's own, see
            `multiscale.against_background`; of fixed thresholds only .5 fits them.
        scales, flip: views of multi-scale inference.
        threshold: constant background score of `score_maps` and `predict`, but for kinds of
            `own_background`.
        competing: kinds in which the map of a class depends on the other classes that are kept.
        conf_threshold: without image labels a class is kept where its own probability reaches this.
    """

    kinds: tuple[str, ...] = ("cam",)
    maps: tuple[str, ...] = ()
    own_background: tuple[str, ...] = ()
    competing: tuple[str, ...] = ()
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    threshold: float = 0.3
    conf_threshold: float = 0.5

    @abstractmethod
    def infer(self, images: Tensor, gate: Gate, stride: int = 1) -> Inference:
        """Maps of the classes that `gate` (probabilities (B, K) -> bool (B, K)) keeps.

        Args:
            images: (B, 3, H, W) float32, ImageNet-normalised, all of one size.
            gate: decides after classification, so that only kept classes are refined.
            stride: 1 for maps of H×W, s for ceil(H/s)×ceil(W/s).
        """

    @classmethod
    def check(cls, settings: Mapping[str, Any], where: str) -> None:
        """Check what names and types of settings do not tell, before anything is built.

        Raises:
            UserError: names the place and the remedy.
        """

    @classmethod
    def code(cls, settings: Mapping[str, Any]) -> list[str]:
        """Files below the package that these settings bring in by name, e.g. mixing/cutmix.py."""
        return []

    @classmethod
    def wants_masks(cls, settings: Mapping[str, Any]) -> bool:
        """Whether training needs true masks: only an upper bound, never weak supervision."""
        return False

    @property
    def wanted(self) -> tuple[str, ...]:
        """The kinds of maps that `infer` shall give."""
        return self.maps or self.kinds[:1]

    @torch.inference_mode()
    def score_maps(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What becomes a pseudo-mask: (B, K+1, H, W) float32 in [0, 1], background first.

        Args:
            images: (B, 3, H, W) float32, normalised.
            labels: (B, K) image labels, which gate the classes; None: the own prediction does.
        """
        gate = self.own_gate if labels is None else (lambda _: labels > 0)
        kind = self.wanted[0]
        threshold = OWN_BACKGROUND if kind in self.own_background else self.threshold
        return with_background(self.infer(images, gate).maps[kind], threshold)

    def predict(self, images: Tensor) -> Tensor:
        """Prediction without labels: (B, K+1, H, W) float32 in [0, 1], background first."""
        return self.score_maps(images)

    def own_gate(self, probabilities: Tensor) -> Tensor:
        """Classes that the classifier itself believes in, (B, K) bool."""
        return probabilities >= self.conf_threshold
