"""Finer feature maps from a classification network: strides removed, later kernels spread.

Works on any stack of convolutions (torchvision's own option knows only bottleneck ResNets).
"""

from collections.abc import Iterable, Sequence

from torch import nn

from wsssbench.errors import UserError
from wsssbench.models.base import STAGES

OUTPUT_STRIDES = (8, 16, 32)


def set_output_stride(
    stages: Sequence[Sequence[nn.Module]],
    strides: Sequence[int],
    output_stride: int,
    *,
    dilate: bool = True,
) -> dict[str, int]:
    """Remove the strides that would go beyond `output_stride`, in place.

    With `dilate`, each kernel behind a removed stride is spread by that stride, which is exactly
    the function of the original network on a denser grid: every second (fourth) position of the
    new map equals the old one. The convolution that lost its stride keeps the dilation it had, so
    in torchvision's terms the first bottleneck keeps the previous dilation. Without `dilate` the
    kernels stay as they are (ResNet of IRN and RecurSeed).

    Args:
        stages: layers of C1..C5, in running order.
        strides: native strides of C1..C5 against the image.
        output_stride: 8, 16 or 32.
        dilate: spread the kernels behind a removed stride.

    Returns:
        {"C1": stride, …, "C5": stride} as they are now.

    Raises:
        UserError: another output stride.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise UserError(f"output_stride is {output_stride!r}; valid: 8, 16, 32.")
    reached, dilation, result = 1, 1, {}
    for name, layers, before, native in zip(STAGES, stages, (1, *strides), strides, strict=False):
        step = native // before
        previous = dilation
        remove = reached * step > output_stride
        if not remove:
            reached *= step
        elif dilate:
            dilation *= step
        _spread(_convolutions(layers), previous, dilation, remove)
        result[name] = reached
    return result


def _convolutions(layers: Iterable[nn.Module]) -> list[nn.Conv2d]:
    return [m for layer in layers for m in layer.modules() if isinstance(m, nn.Conv2d)]


def _spread(convolutions: list[nn.Conv2d], previous: int, dilation: int, remove: bool) -> None:
    """Give one stage its dilations: `previous` up to the removed stride, `dilation` behind it."""
    rate = previous
    for convolution in convolutions:
        strided = convolution.stride != (1, 1)
        if remove:
            convolution.stride = (1, 1)
        if convolution.kernel_size == (1, 1):
            continue
        convolution.dilation = (rate, rate)
        convolution.padding = tuple(rate * (size - 1) // 2 for size in convolution.kernel_size)
        if remove and strided:
            rate = dilation
