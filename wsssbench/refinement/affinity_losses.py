"""The loss of AffinityNet (CVPR 2018) and, with the same weights, IRNet (CVPR 2019): pairs of one
class shall have affinity 1, pairs of two classes 0.

IRNet's losses of the displacement field, which serves instances only, are left out.
"""

from typing import NamedTuple

from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.refinement.affinity_labels import PairLabels

EPS = 1e-5


class AffinityLosses(NamedTuple):
    """Mean losses of the three kinds of pairs, scalars >= 0; 0 where the batch has none of them.

    Attributes:
        bg: background pairs.
        fg: pairs of one class.
        neg: pairs of two classes.
    """

    bg: Tensor
    fg: Tensor
    neg: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised: a quarter, a quarter and a half."""
        return self.bg / 4 + self.fg / 4 + self.neg / 2


def affinity_losses(affinity: Tensor, labels: PairLabels) -> AffinityLosses:
    """Cross-entropy of affinities, each kind of pairs averaged over the whole batch.

    Args:
        affinity: (B, D, …) float in [0, 1], of `path_affinity` or `feature_affinity`; taken as
            float32, in which the logarithms stay finite from 0 to 1.
        labels: of `pair_labels` with the same radius, each (B, D, …) bool.

    Raises:
        UserError: shapes do not fit.
    """
    if affinity.shape != labels.neg.shape:
        found = f"{tuple(affinity.shape)} and {tuple(labels.neg.shape)}"
        raise UserError(f"Affinities and their labels must have one shape, got {found}.")
    affinity = affinity.float()
    together, apart = -(affinity + EPS).log(), -(1 + EPS - affinity).log()
    return AffinityLosses(
        _mean(together, labels.bg_pos), _mean(together, labels.fg_pos), _mean(apart, labels.neg)
    )


def _mean(cost: Tensor, chosen: Tensor) -> Tensor:
    return (cost * chosen).sum() / (chosen.sum() + EPS)
