"""The strong view: each operation by hand, what it leaves alone, and its draws."""

import pytest
import torch

from wsssbench.methods.strong_view import OPERATIONS, strong_view
from wsssbench.mixing.pixels import from_bytes, to_bytes


def pixels(*values):
    """One grey image 1×N."""
    return torch.tensor(values, dtype=torch.uint8).expand(1, 3, 1, len(values)).contiguous()


def change(name, images, magnitude):
    return OPERATIONS[name](images, torch.tensor([magnitude]).view(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("name", "magnitude", "expected"),
    [
        ("identity", 5, [0, 100, 200]),
        ("autocontrast", 5, [0, 127, 255]),
        ("solarize", 5, [0, 100, 55]),  # from 128 on upside down
        ("solarize", 9, [0, 100, 200]),  # from 230
        ("posterize", 1, [0, 96, 192]),  # four bits: 100 -> 6·16
        ("posterize", 9, [0, 0, 128]),  # 4 - 3 = one bit
        ("brightness", 5, [0, 100, 200]),  # factor 1
        ("brightness", 9, [0, 172, 255]),  # 1.72
        ("contrast", 1, [72, 100, 128]),  # mean 100, factor .28
        ("colour", 9, [0, 100, 200]),  # grey stays grey
    ],
)
def test_operations_by_hand(name, magnitude, expected):
    found = change(name, pixels(0, 100, 200), magnitude)
    assert found.dtype == torch.uint8
    difference = found[0, :, 0].int() - torch.tensor(expected)
    blended = name in ("autocontrast", "brightness", "contrast")  # truncated, as PIL does
    assert difference.abs().max() <= blended


def test_sharpness_and_colour_have_two_directions():
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    for name, spread in (("sharpness", (2, 3)), ("colour", 1)):
        weak, same, strong = (change(name, image, m).float().var(spread).mean() for m in (1, 5, 9))
        assert weak < same < strong, name


def test_every_image_has_its_own_draw():
    image = torch.rand(1, 3, 12, 10).mul(255).to(torch.uint8)
    images = from_bytes(image).expand(64, -1, -1, -1)
    valid = torch.ones(64, 12, 10, dtype=torch.bool)
    generator = torch.Generator().manual_seed(3)
    strong = to_bytes(strong_view(images, valid, generator))
    different = {tuple(one.flatten().tolist()) for one in strong}
    assert len(different) > 20
    assert (strong == image).flatten(1).all(1).any()  # identity is among them
    generator.manual_seed(3)
    assert torch.equal(to_bytes(strong_view(images, valid, generator)), strong)


def test_padding_and_input_stay():
    images = torch.randn(9, 3, 7, 5)
    valid = torch.zeros(9, 7, 5, dtype=torch.bool)
    valid[:, :4] = True
    images = images * valid[:, None]
    before = images.clone()
    strong = strong_view(images, valid, torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    assert (strong[:, :, 4:] == 0).all()
    assert strong.isfinite().all()
    assert strong.dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_tiny_images(size):
    for seed in range(6):
        images, valid = torch.zeros(9, 3, *size), torch.ones(9, *size, dtype=torch.bool)
        assert strong_view(images, valid, torch.Generator().manual_seed(seed)).isfinite().all()
