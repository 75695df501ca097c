from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsssbench.methods.multiscale import (
    equivalent_threshold,
    make_views,
    merge_views,
    with_background,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "cam_merge.npz")
CASES = [int(key.split("_")[1]) for key in GOLDEN.files if key.endswith("_psa")]


def golden_views(case):
    scales = len(GOLDEN[f"in_{case}_scales"])
    views = [torch.from_numpy(GOLDEN[f"in_{case}_raw_{j}"])[None] for j in range(scales)]
    return views, tuple(int(side) for side in GOLDEN[f"in_{case}_size"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("irn_highres", {}),
        ("irn_strided", {"stride": 4}),
        ("psa", {"merge": "psa"}),
        ("seam", {"merge": "seam"}),
    ],
)
def test_golden_maps(case, key, options):
    views, size = golden_views(case)
    expected = GOLDEN[f"out_{case}_{key}"]
    if key == "seam":  # the released script leaves values below zero, ours are clamped
        expected = expected.clip(min=0)
    np.testing.assert_allclose(merge_views(views, size, **options)[0], expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_golden_prediction(case):
    views, size = golden_views(case)
    labels = with_background(merge_views(views, size), 0.15)[0].argmax(0).numpy()
    ids = np.concatenate([[0], GOLDEN[f"in_{case}_keys"] + 1])
    assert (ids[labels] == GOLDEN[f"out_{case}_irn_pred_015"]).mean() >= 0.999


def test_hand_example():
    view = torch.tensor([[[[2.0, -1.0]]], [[[0.0, 4.0]]]])[None]  # (1, 2, 1, 1, 2)
    merged = merge_views([view], (1, 2), merge="psa")
    torch.testing.assert_close(merged, torch.tensor([[[[6 / 6.00001, 0.0]]]]))


def test_empty_map_is_zero_not_nan():
    view = -torch.ones(1, 2, 1, 3, 3)
    for merge in ("irn", "psa", "seam"):
        assert (merge_views([view], (16, 16), merge=merge) == 0).all()


def test_mirrored_image_gives_mirrored_map():
    views, size = golden_views(0)
    swapped = [view.flip(1) for view in views]  # the mirrored view becomes the image
    torch.testing.assert_close(
        merge_views(swapped, size, merge="psa"), merge_views(views, size, merge="psa").flip(-1)
    )


@pytest.mark.parametrize(
    ("alpha", "threshold"), [(4, 0.2755), (16, 0.1228), (24, 0.0939), (2, 0.382)]
)
def test_equivalent_threshold(alpha, threshold):
    assert equivalent_threshold(alpha) == pytest.approx(threshold, abs=5e-5)


@given(st.floats(0, 1), st.sampled_from([2, 4, 6, 16, 32]))
def test_power_background_is_a_threshold(value, alpha):
    threshold = equivalent_threshold(alpha)
    if abs(value - threshold) > 1e-9:
        assert (value > (1 - value) ** alpha) == (value > threshold)


def test_background_wins_ties():
    maps = torch.tensor([0.3, 0.31]).view(1, 1, 1, 2)
    assert with_background(maps, 0.3).argmax(1).flatten().tolist() == [0, 1]


def test_views_sizes_and_order():
    images = torch.rand(2, 3, 21, 10)
    views = make_views(images, 1.5, flip=True)
    assert views.shape == (4, 3, 32, 15)
    torch.testing.assert_close(views[2:], views[:2].flip(-1), atol=1e-5, rtol=0)
    assert torch.equal(make_views(images, 1.0, flip=False), images)


def test_afa_takes_the_higher_of_the_mirrored_views_and_the_range():
    plain, mirrored = torch.tensor([1.0, 5.0, 3.0]), torch.tensor([2.0, 4.0, -1.0])
    views = [torch.stack([plain, mirrored.flip(-1)]).view(1, 2, 1, 1, 3)]  # max: 2, 5, 3
    found = merge_views(views, (1, 3), merge="afa").flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, 3.0, 1.0]) / (3 + 1e-5))
    views.append(-torch.ones(1, 1, 1, 1, 3))  # adds nothing: rectified
    torch.testing.assert_close(merge_views(views, (1, 3), merge="afa").flatten(), found)
    assert (merge_views(views[1:], (1, 3), merge="afa") == 0).all()
