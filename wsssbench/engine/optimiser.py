"""Optimiser with explicit parameter groups, and the poly schedule."""

import torch
from torch import nn

from wsssbench.params import TrainSettings


def make(groups: dict[str, list[nn.Parameter]], settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD or AdamW over the groups `backbone` (lr) and `new` (lr_new).

    Momentum and weight decay are true to their names: the optimiser gets what params.yaml says.
    Parameters without gradient (frozen stages) are left out.
    """
    rates = {"backbone": settings.lr, "new": settings.lr_new}
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


def set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, power: float) -> None:
    """Set each group's rate to base · (1 - step/steps)^power, before step `step` (0-based)."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * (1 - step / steps) ** power
