"""PAR against published code's results (golden), a loop over pixels, and its invariances."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.errors import UserError
from wsssbench.refinement.pamr import propagate
from wsssbench.refinement.par import par, par_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "afa_par.npz"


def golden(name):
    """See `afa_par.md`."""
    with np.load(GOLDEN) as stored:
        return torch.from_numpy(stored[name])


def draw(images=2, channels=3, size=(13, 18), seed=0):
    """Images in [0, 1] with flat areas, and maps in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(images, 3, *size, generator=generator) * 4).floor() / 4
    return x, torch.rand(images, channels, *size, generator=generator)


def pixel_by_pixel(image, maps, iterations, dilations):
    """PAR of one image (3, H, W) as plainly as possible, in float64."""
    image, maps = image.double().numpy(), maps.double().numpy()
    height, width = image.shape[1:]
    ring = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    steps = [(d * y, d * x) for d in dilations for y, x in ring]
    far = np.hypot(*np.array(steps).T)
    nearness = np.exp(-((far / far.std(ddof=1) / 0.3) ** 2))
    nearness /= nearness.sum()
    weights, places = {}, {}
    for y, x in np.ndindex(height, width):
        places[y, x] = [
            (min(max(y + v, 0), height - 1), min(max(x + u, 0), width - 1)) for v, u in steps
        ]
        near = np.array([image[:, v, u] for v, u in places[y, x]])
        scaled = (near - image[:, y, x]) / (near.std(axis=0, ddof=1) + 1e-8) / 0.3
        closeness = -(scaled**2).mean(axis=1)
        colour = np.exp(closeness - closeness.max())
        weights[y, x] = colour / colour.sum() + 0.01 * nearness
    for _ in range(iterations):
        before, maps = maps, maps.copy()
        for (y, x), weight in weights.items():
            maps[:, y, x] = sum(w * before[:, v, u] for w, (v, u) in zip(weight, places[y, x]))
    return torch.from_numpy(maps).float()


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("d6_it10", {}),
        ("d6_it15", {"iterations": 15}),
        ("d2_it1", {"iterations": 1, "dilations": (1, 2)}),
    ],
)
def test_golden(case, options):
    found = par(golden("in_image"), golden("in_mask"), **options)
    torch.testing.assert_close(found, golden(f"out_{case}"), rtol=0, atol=2e-5)


@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilations=st.sampled_from([(1,), (1, 3), (2, 9)]),
    iterations=st.integers(0, 2),
    seed=st.integers(0, 99),
)
@settings(deadline=None, derandomize=True, max_examples=6)
def test_agrees_with_a_loop_over_pixels(size, dilations, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, *size, generator=generator)
    maps = torch.rand(2, *size, generator=generator)
    found = par(image[None], maps[None], iterations=iterations, dilations=dilations)
    expected = pixel_by_pixel(image, maps, iterations, dilations)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-4)


def test_total_weight_is_one_and_a_hundredth():
    images, maps = draw()
    weights = par_weights(images)
    assert weights.shape == (2, 48, 13, 18)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.full((2, 13, 18), 1.01))
    constant = par(images, torch.full_like(maps, 0.6))
    torch.testing.assert_close(constant, torch.full_like(maps, 0.6 * 1.01**10))


def test_a_constant_image_has_equal_colour_weights():
    weights = par_weights(torch.full((1, 3, 9, 9), 0.4), dilations=(1,), position=0.0)
    torch.testing.assert_close(weights, torch.full((1, 8, 9, 9), 1 / 8))
    near = par_weights(torch.full((1, 3, 9, 9), 0.4), dilations=(1, 2))[0, :, 4, 4] - 1 / 16
    # of 1, √2, 2 and 2·√2 px the first takes all but nothing
    expected = torch.tensor([0, 1, 0, 1, 1, 0, 1, *[0] * 9]) * 0.01 / 4
    torch.testing.assert_close(near, expected, rtol=0, atol=1e-6)


def test_mass_moves_to_the_edge_of_the_image_and_hardly_across():
    image, mask = torch.zeros(1, 3, 12, 24), torch.zeros(1, 1, 12, 24)
    image[..., 12:] = 1
    mask[..., :8] = 1  # falls short of the edge by 4 px
    found = par(image, mask, dilations=(1, 2, 4))[0, 0]
    assert found[:, 8:12].min() > 0.2
    assert found[:, 12:].max() < 0.1


def test_classes_do_not_see_each_other_and_zero_stays_zero():
    images, maps = draw()
    maps[0, 1] = 0
    found, order = par(images, maps), [2, 0, 1]
    torch.testing.assert_close(par(images, maps[:, order]), found[:, order])
    assert (found[0, 1] == 0).all()


def test_weights_serve_several_maps():
    images, maps = draw()
    weights = par_weights(images)
    kept = weights.clone()
    torch.testing.assert_close(propagate(weights, maps), par(images, maps))
    torch.testing.assert_close(propagate(weights, maps[:, :1]), par(images, maps[:, :1]))
    assert torch.equal(weights, kept)


def test_scale_of_the_image_and_autocast_do_not_matter():
    images, maps = draw(size=(7, 9))
    expected = par(images, maps)
    torch.testing.assert_close(par(images * 200 - 3, maps), expected, rtol=0, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(par(images, maps), expected)


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="images"):
        par(torch.rand(2, 4, 5, 7), torch.rand(2, 1, 5, 7))
    with pytest.raises(UserError, match="sigma > 0"):
        par_weights(torch.rand(2, 3, 5, 7), sigma=0)
