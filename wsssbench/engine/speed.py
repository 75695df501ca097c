"""The same network in less time on a CPU: in training, and as a copy for inference."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck

from wsssbench.models.resnet import ResNet

Network = TypeVar("Network", bound=nn.Module)


def for_inference(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """A copy whose batch norms are folded into the convolutions before them, 1×1 ones on oneDNN.

    Values differ by float32 rounding, so a GPU or another precision gets the network itself.

    Args:
        network: in evaluation mode; it stays as it is.
        dtype: precision in which it will run.

    Returns:
        The copy; not to be trained.
    """
    if dtype != torch.float32 or any(p.device.type != "cpu" for p in network.parameters()):
        return network
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for convolution, norm in _pairs(parent):
            first, second = getattr(parent, convolution), getattr(parent, norm)
            if isinstance(first, nn.Conv2d) and _fixed(second):
                setattr(parent, convolution, fuse_conv_bn_eval(first, second))
                setattr(parent, norm, nn.Identity())
    pointwise_on_onednn(network)
    return network


def pointwise_on_onednn(network: nn.Module) -> None:
    """Let the 1×1 convolutions of a network on the CPU run on oneDNN always.

    With one thread PyTorch hands an undilated one of fewer than 16 images to a routine that takes
    twice the time; a dilation does not change what a single weight computes.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = (2, 2)


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of children of which the second takes the first one's result and nobody else does."""
    names = [name for name, _ in parent.named_children()]
    if type(parent).forward is nn.Sequential.forward:
        yield from pairwise(names)
    elif isinstance(parent, BasicBlock | Bottleneck | ResNet):  # torchvision's names
        yield from ((name, name.replace("conv", "bn")) for name in names if name[:4] == "conv")


def _fixed(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and not module.training and module.track_running_stats
