"""Dense energy against published code's results (golden), the true Gaussian, and its gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsssbench.refinement.dense_energy import dense_energy, gaussian

MEAN, DEVIATION = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "dense_energy.npz") as stored:
        found = {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype.kind != "U"}
    found["images"] = 255 * (found["in_image_norm"] * DEVIATION + MEAN)
    found["valid"] = torch.zeros(found["in_label"].shape, dtype=torch.bool)
    for inside, (top, bottom, left, right) in zip(found["valid"], found["in_img_box"]):
        inside[top:bottom, left:right] = True
    return found


def draw(images=2, labels=3, size=(10, 12), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, labels, *size, generator=generator)
    pixels = 255 * torch.rand(images, 3, *size, generator=generator)
    mask = torch.randint(0, labels, (images, *size), generator=generator)
    return logits, pixels, mask, torch.ones(images, *size, dtype=torch.bool)


def exact(pixels, values, sxy, srgb):
    """Every pixel with every other."""
    height, width = pixels.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([y, x]).flatten(1).T / sxy
    found = []
    for image, value in zip(pixels.flatten(2), values.flatten(2)):
        features = torch.cat([place, image.T / srgb], 1)
        kernel = (-0.5 * torch.cdist(features, features).square()).exp()
        found.append((value @ kernel).unflatten(1, (height, width)))
    return torch.stack(found)


def test_golden(golden):
    logits = golden["in_logit"].clone().requires_grad_()
    loss = dense_energy(logits, golden["images"], golden["in_label"], golden["valid"])
    loss.backward()
    torch.testing.assert_close(loss, golden["out_loss"][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(logits.grad, golden["out_grad"], rtol=0, atol=1e-11)


def test_golden_filter(golden):
    halved = {"scale_factor": 0.5}
    shown = F.interpolate(golden["valid"][:, None].float(), **halved)
    seen = F.interpolate(golden["in_logit"].softmax(1), mode="bilinear", **halved) * shown
    pixels = F.interpolate(golden["images"], **halved)
    found = gaussian(pixels, seen, 50, 15)
    torch.testing.assert_close(found, golden["out_filtered_lattice"], rtol=1e-4, atol=3e-3)
    truth = exact(pixels, seen, 50, 15)
    assert torch.corrcoef(torch.stack([found.flatten(), truth.flatten()]))[0, 1] > 0.99


def test_images_of_a_batch_do_not_meet():
    _, pixels, _, _ = draw(3, size=(9, 8))
    values = torch.rand(3, 4, 9, 8)
    together = gaussian(pixels, values, 5, 60)
    alone = torch.cat([gaussian(*pair, 5, 60) for pair in zip(pixels.split(1), values.split(1))])
    assert (together - alone).abs().mean() < 0.01 * alone.mean()  # points on a simplex' edge
    values[1:] = 0
    assert (gaussian(pixels, values, 5, 60)[1:] == 0).all()


def test_gradient_is_that_of_the_energy_where_every_pixel_counts_in_full():
    """Central differences along random directions; the lattice is symmetric but for its blur."""
    logits, pixels, _, valid = draw(1)
    mask = torch.full((1, 10, 12), 255)
    options = {"sxy": 20.0, "srgb": 80.0, "scale": 1.0, "weight": 1.0}
    leaf = logits.clone().requires_grad_()
    dense_energy(leaf, pixels, mask, valid, **options).backward()
    for seed in range(3):
        step = 0.05 * draw(1, seed=seed + 1)[0]
        rise = [dense_energy(logits + s * step, pixels, mask, valid, **options) for s in (1, -1)]
        along = (leaf.grad * step).sum()
        limit = 0.02 * leaf.grad.norm() * step.norm()
        assert abs((rise[0] - rise[1]) / 2 - along) < limit


def test_agreement_of_like_pixels_costs_least():
    _, pixels, mask, valid = draw(1, 2, (16, 16))
    pixels[:] = 40
    pixels[..., 8:] = 200
    along, across = (torch.full((1, 2, 16, 16), -3.0) for _ in range(2))
    along[:, 0, :, :8] = along[:, 1, :, 8:] = 3
    across[:, 0, :8] = across[:, 1, 8:] = 3
    best, worst = (dense_energy(x, pixels, mask, valid) for x in (along, across))
    assert best < worst < 0


def test_what_is_outside_or_sure_has_no_gradient():
    logits, pixels, mask, valid = draw(2, size=(12, 12))
    valid[0, :, 6:] = False
    logits[1] = 0
    logits[1, 1] = 200  # sure everywhere
    logits.requires_grad_()
    dense_energy(logits, pixels, mask, valid).backward()
    assert (logits.grad[0, :, :, 6:] == 0).all()
    assert (logits.grad[0, :, :, :6] != 0).any()
    assert (logits.grad[1] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_degenerate_batches(size):
    logits, pixels, mask, valid = draw(1, size=size)
    assert dense_energy(logits, pixels, mask, torch.zeros_like(valid)) == 0
    leaf = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dense_energy(leaf, pixels, torch.full_like(mask, 255), valid)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss < 0
    assert leaf.grad.isfinite().all()
