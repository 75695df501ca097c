"""Optimiser with explicit parameter groups, and the poly schedule."""

import torch
from torch import nn

from wsssbench.params import TrainSettings


def make(groups: dict[str, list[nn.Parameter]], settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD or AdamW over the groups `backbone` (lr), `new` (lr_new) and `decoder` (lr_decoder).

    Momentum and weight decay are true to their names: the optimiser gets what params.yaml says.
    Parameters without gradient (frozen stages) are left out.
    """
    decoder = settings.lr_new if settings.lr_decoder is None else settings.lr_decoder
    rates = {"backbone": settings.lr, "new": settings.lr_new, "decoder": decoder}
    described = [
        {"params": kept, "lr": rates[name], "base_lr": rates[name], "name": name}
        for name, parameters in groups.items()
        if (kept := [p for p in parameters if p.requires_grad])
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(described, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        described,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def set_rate(
    optimizer: torch.optim.Optimizer, step: int, steps: int, epoch: int, settings: TrainSettings
) -> None:
    """Set each group's rate before step `step` (0-based): base · (1 - step/steps)^power · drop."""
    factor = (1 - step / steps) ** settings.power
    if settings.drop and epoch >= settings.drop[0]:
        factor *= settings.drop[1]
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
