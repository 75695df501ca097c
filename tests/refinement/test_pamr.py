"""PAMR against published code's results (golden), hand examples and its invariances."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.errors import UserError
from wsssbench.refinement import pamr
from wsssbench.refinement.pamr import pamr_weights, propagate

STEADY = settings(deadline=None, derandomize=True, max_examples=30)
MODULE = importlib.import_module("wsssbench.refinement.pamr")
NEAR = {"rtol": 0, "atol": 1e-5}
CASES = {
    "a": {"align_corners": True},
    "a_iter1": {"align_corners": True, "iterations": 1},
    "b": {"dilations": (1,), "iterations": 1},
    "c": {"dilations": (1, 2, 4)},
    "d": {"dilations": (1, 2), "iterations": 2},
    "e": {"dilations": (1, 2, 4)},
}


@pytest.fixture(scope="module")
def golden():
    """See `pamr.md`."""
    with np.load(Path(__file__).parents[1] / "golden" / "pamr.npz") as stored:
        return {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype == np.float32}


def draw(images=2, channels=3, size=(13, 18), grid=None, seed=0):
    """Images in [0, 1] with flat areas, and maps in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(images, 3, *size, generator=generator) * 4).floor() / 4
    maps = torch.rand(images, channels, *(grid or size), generator=generator)
    return x, maps


def pixel_by_pixel(image, maps, iterations, dilations, sigma=0.1):
    """PAMR of one image (3, H, W) as plainly as possible, in float64."""
    image, maps = image.double().numpy(), maps.double().numpy()
    height, width = image.shape[1:]
    weights, places = {}, {}
    for y, x in np.ndindex(height, width):
        places[y, x] = [
            (min(max(y + d * dy, 0), height - 1), min(max(x + d * dx, 0), width - 1))
            for d in dilations
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy, dx) != (0, 0)
        ]
        centre = image[:, y, x]
        near = np.array([image[:, v, u] for v, u in places[y, x]])
        deviation = np.concatenate([near, [centre] * len(dilations)]).std(axis=0, ddof=1)
        closeness = (-abs(near - centre) / (1e-8 + sigma * deviation)).mean(axis=1)
        weights[y, x] = np.exp(closeness) / np.exp(closeness).sum()
    for _ in range(iterations):
        before, maps = maps, maps.copy()
        for (y, x), weight in weights.items():
            maps[:, y, x] = sum(
                w * before[:, v, u] for w, (v, u) in zip(weight, places[y, x], strict=True)
            )
    return torch.from_numpy(maps).float()


@pytest.mark.parametrize("case", CASES)
def test_golden(golden, case):
    images, maps = golden[f"in_{case[0]}_image"], golden[f"in_{case[0]}_mask"]
    torch.testing.assert_close(pamr(images, maps, **CASES[case]), golden[f"out_{case}"], **NEAR)


def test_golden_of_ssss():
    """The paper's own release and RecurSeed's copy are one function; see `sss_pamr.md`."""
    with np.load(Path(__file__).parents[1] / "golden" / "sss_pamr.npz") as stored:
        images, maps, voc, one = (
            torch.from_numpy(stored[k]) for k in ("in_image", "in_mask", "out_voc", "out_one")
        )
    torch.testing.assert_close(pamr(images, maps, align_corners=True), voc, **NEAR)
    small = {"dilations": (1,), "iterations": 1, "align_corners": True}
    torch.testing.assert_close(pamr(images, maps, **small), one, **NEAR)


def test_golden_weights(golden):
    weights = pamr_weights(golden["in_b_image"], dilations=(1,))
    torch.testing.assert_close(weights, golden["out_b_affinity"][:, 0], rtol=0, atol=2e-6)


def test_golden_recurseed_copy(golden):
    images, maps = golden["in_a_image"], golden["out_a_mask_up"]
    torch.testing.assert_close(pamr(images, maps), golden["out_a_rs"], **NEAR)
    torch.testing.assert_close(pamr(images, maps, sigma=0.3), golden["out_a_rs_sigma03"], **NEAR)


def test_golden_normalised_and_raw_image(golden):
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    maps, given = golden["in_c_mask"], golden["in_c_image"]
    raw = given if given.min() >= 0 else given * deviation + mean
    torch.testing.assert_close(
        pamr(raw, maps, dilations=(1, 2, 4)), golden["out_c_raw"], rtol=0, atol=3e-6
    )
    torch.testing.assert_close(
        pamr((raw - mean) / deviation, maps, dilations=(1, 2, 4)),
        golden["out_c"],
        rtol=0,
        atol=3e-6,
    )


def test_hand_weights():
    image = torch.tensor([0.0, 0.0, 1.0]).expand(1, 3, 1, 3)
    weights = pamr_weights(image, dilations=(1,))[0, :, 0, 1]
    expected = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0]) / 5
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-8)


def test_constant_image_spreads_evenly():
    maps = torch.zeros(1, 1, 12, 15)
    maps[..., 5, 7] = 1
    once = pamr(torch.full((1, 3, 12, 15), 0.3), maps, iterations=1, dilations=(1, 2))[0, 0]
    expected = torch.zeros(12, 15)
    for distance in (1, 2):
        for y in (-distance, 0, distance):
            for x in (-distance, 0, distance):
                expected[5 + y, 7 + x] = 1 / 16
    expected[5, 7] = 0  # a pixel is no neighbour of itself
    torch.testing.assert_close(once, expected)


def test_smoothing_stops_at_a_step():
    image = torch.zeros(1, 3, 12, 16)
    image[..., 8:] = 1
    maps = torch.zeros(1, 1, 12, 16)
    maps[..., :4] = 1
    refined = pamr(image, maps, dilations=(1, 2, 4))[0, 0]
    assert refined[:, 8:].max() < 1e-6
    assert refined[:, 4:8].min() > 0.1


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    dilations=st.sampled_from([(1,), (1, 3), (2, 9)]),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@STEADY
def test_agrees_with_a_loop_over_pixels(size, dilations, iterations, seed):
    images, maps = draw(1, 2, size, seed=seed)
    refined = pamr(images, maps, iterations=iterations, dilations=dilations)
    expected = pixel_by_pixel(images[0], maps[0], iterations, dilations)
    torch.testing.assert_close(refined[0], expected, **NEAR)


@given(seed=st.integers(0, 99), factor=st.floats(0.01, 255), offset=st.floats(-3, 3))
@STEADY
def test_scale_of_the_image_does_not_matter(seed, factor, offset):
    images, maps = draw(1, size=(7, 9), seed=seed)
    changed = images * torch.tensor([factor, 1, 1 / factor]).view(3, 1, 1) + offset
    options = {"dilations": (1, 2), "iterations": 3}
    torch.testing.assert_close(
        pamr(changed, maps, **options), pamr(images, maps, **options), rtol=0, atol=1e-3
    )


@given(seed=st.integers(0, 99), factor=st.floats(-5, 5), offset=st.floats(-5, 5))
@STEADY
def test_linear_in_the_maps_and_within_their_range(seed, factor, offset):
    images, maps = draw(seed=seed)
    refined = pamr(images, maps)
    torch.testing.assert_close(
        pamr(images, factor * maps + offset), factor * refined + offset, rtol=0, atol=1e-4
    )
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    assert ((refined >= low - 1e-6) & (refined <= high + 1e-6)).all()


def test_maps_that_sum_to_one_still_do():
    images, maps = draw()
    total = pamr(images, maps.softmax(1)).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_weights_sum_to_one():
    weights = pamr_weights(draw()[0])
    assert weights.shape == (2, 48, 13, 18)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 13, 18))


def test_sharp_sigma_underflows_to_the_nearest_colour_not_to_nan():
    weights = pamr_weights(torch.rand(1, 3, 9, 9), sigma=1e-4)
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 9, 9))


def test_channels_and_images_are_independent():
    images, maps = draw(3, 4)
    together = pamr(images, maps)
    alone = [
        [pamr(images[b : b + 1], maps[b : b + 1, c : c + 1]) for c in range(4)] for b in (0, 2)
    ]
    torch.testing.assert_close(together[[0, 2]], torch.cat([torch.cat(row, 1) for row in alone]))


def test_mirrored_image_gives_mirrored_maps():
    images, maps = draw()
    mirrored = pamr(images.flip(-1), maps.flip(-1))
    torch.testing.assert_close(mirrored.flip(-1), pamr(images, maps), **NEAR)


def test_zero_maps_stay_zero_and_take_no_part():
    images, maps = draw(3, 4)
    maps[0, 1:3] = 0
    maps[1] = 0
    refined = pamr(images, maps)
    assert (refined[0, 1:3] == 0).all()
    assert (refined[1] == 0).all()
    torch.testing.assert_close(refined[0, 3:], pamr(images[:1], maps[:1, 3:])[0])
    torch.testing.assert_close(refined[2], pamr(images[2:], maps[2:])[0])
    assert (pamr(images, torch.zeros(3, 2, 4, 4)) == 0).all()


def test_only_chosen_pairs():
    images, maps = draw(3, 4)
    weights = pamr_weights(images)
    index, channel = torch.tensor([2, 0, 2, 2]), torch.tensor([3, 1, 0, 2])
    pairs = propagate(weights, maps[index, channel], index=index)
    torch.testing.assert_close(pairs, propagate(weights, maps)[index, channel])
    torch.testing.assert_close(pairs, pamr(images, maps)[index, channel])
    none = propagate(weights, maps[:0, 0], index=index[:0])
    assert none.shape == (0, 13, 18)


@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_are_resized_first(align_corners):
    images, maps = draw(grid=(4, 5))
    resized = F.interpolate(maps, (13, 18), mode="bilinear", align_corners=align_corners)
    refined = pamr(images, maps, align_corners=align_corners)
    torch.testing.assert_close(refined, pamr(images, resized))


def test_bounds_of_memory_do_not_change_the_result(monkeypatch):
    images, maps = draw(5, 4, grid=(6, 6))
    maps[1, 2:] = 0
    together, sizes, real = pamr(images, maps), [], MODULE.propagate

    def spy(weights, *args, **options):
        sizes.append(len(weights))
        return real(weights, *args, **options)

    monkeypatch.setattr(MODULE, "propagate", spy)
    monkeypatch.setattr(MODULE, "CPU_BYTES", 2 * 2 * 48 * 4 * 13 * 18)
    monkeypatch.setattr(MODULE, "CPU_STRIP", 100)
    torch.testing.assert_close(pamr(images, maps), together)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken_as_float32(dtype):
    images, maps = (tensor.to(dtype) for tensor in draw(grid=(4, 5)))
    refined = pamr(images, maps)
    assert refined.dtype == torch.float32
    torch.testing.assert_close(refined, pamr(images.float(), maps.float()))
    weights = pamr_weights(images)
    assert weights.dtype == propagate(weights, maps.new_ones(2, 1, 13, 18)).dtype == torch.float32


def test_autocast_changes_nothing():
    images, maps = draw(grid=(4, 5))
    expected = pamr(images, maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pamr(images, maps), expected)


def test_threads_are_as_before():
    images, maps = draw()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        pamr(images, maps)
        assert torch.get_num_threads() == 2
        with pytest.raises(TypeError):
            pamr(images, maps, iterations=None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_gradient_and_inputs_stay():
    images, maps = draw()
    before = images.clone(), maps.clone()
    images.requires_grad_()
    maps.requires_grad_()
    weights = pamr_weights(images)
    kept = weights.clone()
    assert not weights.requires_grad
    assert not propagate(weights, maps).requires_grad
    assert not pamr(images, maps).requires_grad
    assert torch.equal(images, before[0])
    assert torch.equal(maps, before[1])
    assert torch.equal(weights, kept)


def test_views_are_as_good_as_contiguous_maps():
    images, maps = draw(2, 4)
    expected = pamr(images, maps[:, ::2].contiguous())
    assert torch.equal(pamr(images, maps[:, ::2]), expected)
    last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(pamr(last, maps[:, ::2]), expected)


def test_false_positives_fall_at_the_outline():
    """A blurred map that spills over a disc is drawn back to its edge."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(72.0), indexing="ij")
    radius = ((y - 30) ** 2 + (x - 36) ** 2).sqrt()
    truth = radius < 15
    noise = 0.02 * torch.rand(1, 3, 64, 72, generator=torch.Generator().manual_seed(0))
    image = torch.where(truth, 0.7, 0.3) + noise
    spilled = torch.sigmoid((20 - radius) / 2)[None, None]

    def false_positives(maps):
        return int(((maps[0, 0] > 0.5) & ~truth).sum())

    refined = pamr(image, spilled)
    assert false_positives(refined) < 0.5 * false_positives(spilled)


@pytest.mark.parametrize(
    ("images", "maps", "options", "message"),
    [
        ((2, 5, 7, 3), (2, 4, 5, 7), {}, "images"),
        ((2, 3, 5, 7), (3, 4, 5, 7), {}, "maps"),
        ((2, 3, 5, 7), (4, 5, 7), {}, "maps"),
        ((2, 3, 5, 7), (2, 4, 5, 7), {"dilations": ()}, "dilations"),
        ((2, 3, 5, 7), (2, 4, 5, 7), {"dilations": (0, 1)}, "dilations"),
        ((2, 3, 5, 7), (2, 4, 5, 7), {"sigma": 0}, "sigma"),
    ],
)
def test_errors_say_what_is_wrong(images, maps, options, message):
    with pytest.raises(UserError, match=message) as error:
        pamr(torch.rand(images), torch.rand(maps), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        ((2, 4, 5, 8), {}, "Resize them"),
        ((3, 4, 5, 7), {}, "do not fit"),
        ((4, 5, 7), {}, "index"),
        ((4, 5, 7), {"index": torch.tensor([0, 1, 2, 0])}, "one of 2 images"),
        ((4, 5, 7), {"index": torch.tensor([0, 1, -1, 0])}, "one of 2 images"),
        ((4, 5, 7), {"index": torch.tensor([0, 1])}, "4 maps"),
        ((2, 4, 5, 7), {"index": torch.tensor([0, 1])}, "index"),
        ((2, 4, 5, 7), {"dilations": (1,)}, "dilations"),
    ],
)
def test_propagate_names_what_does_not_fit(maps, options, message):
    weights = pamr_weights(torch.rand(2, 3, 5, 7), dilations=(1, 2))
    options = {"dilations": (1, 2), **options}
    with pytest.raises(UserError, match=message):
        propagate(weights, torch.rand(maps), **options)
