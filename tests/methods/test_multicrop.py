"""Multi-crop inference: windows of published code (golden), maps as one window after the other."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import CAM, check_settings
from wsssbench.methods.multicrop import CropSettings, crop_boxes, multi_crop, spans
from wsssbench.refinement.cvs import cvs

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pmm_mcrop.npz")
META = json.loads(str(GOLDEN["meta"]))
SMALL = CropSettings(scales=(0.75, 1.0, 1.5, 2.0), size=48, stride=32)


@pytest.mark.parametrize("case", META["cases"], ids=lambda case: str(case["j"]))
def test_golden_windows(case):
    form = CropSettings(tuple(META["scales"]), case["crop_size"], case["stride"])
    found = crop_boxes(case["width"], case["height"], form)
    assert np.array_equal(found, GOLDEN[f"out_boxes_{case['j']}"])


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(1, 300), st.sampled_from([0.75, 1.0, 1.25, 2.0, 2.75]))
def test_windows_lie_side_by_side_inside_the_axis(length, scale):
    found = spans(length, scale, 48, 32)
    assert found[0][0] == 0
    assert all(0 <= start < end <= length for start, end in found)
    assert all(there <= end for (_, end), (there, _) in pairwise(found))  # no gap
    assert length - found[-1][1] <= 2  # what truncation leaves out
    if scale == 1.0:
        assert found[-1][1] == length
    if length * scale <= 48:
        assert len(found) == 1


def one_by_one(maps_of, images, form, flips):
    """The mean maps as plainly as possible."""
    total, count = 0.0, torch.zeros(images.shape[-2:])
    for _, x1, y1, x2, y2 in crop_boxes(images.shape[3], images.shape[2], form):
        shape = {"mode": "bilinear", "align_corners": False}
        crop = interpolate(images[..., y1:y2, x1:x2], (form.size,) * 2, antialias=True, **shape)
        for mirror in flips:
            found = maps_of(crop.flip(-1) if mirror else crop)
            found = found.flip(-1) if mirror else found
            found = interpolate(found, (form.size,) * 2, mode="bilinear", align_corners=True)
            window = torch.zeros(*found.shape[:2], *images.shape[-2:])
            window[..., y1:y2, x1:x2] = interpolate(found, (y2 - y1, x2 - x1), **shape)
            total = total + window
            count[y1:y2, x1:x2] += 1
    return total / count.clamp_min(1)


@pytest.mark.parametrize("flip", [False, True])
@torch.no_grad()
def test_maps_are_those_of_one_window_after_the_other(flip):
    torch.manual_seed(0)
    layer, images = torch.nn.Conv2d(3, 3, 7, stride=8, padding=3), torch.randn(2, 3, 61, 83)
    kept = torch.tensor([[True, False, True], [False, False, True]])
    found = multi_crop(lambda x: layer(x).relu(), images, kept, SMALL, flip)
    plain = one_by_one(
        lambda x: layer(x).relu(), images, SMALL, (False, True) if flip else (False,)
    )
    torch.testing.assert_close(found, plain * kept[..., None, None], rtol=0, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = multi_crop(lambda x: layer(x).relu(), images, kept, SMALL, flip)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, found, rtol=0, atol=0.05)


@pytest.mark.parametrize("size", [(20, 30), (97, 33), (1, 5)])
def test_a_constant_map_comes_back(size):
    kept = torch.tensor([[True], [True]])
    images = torch.zeros(2, 3, *size)
    found = multi_crop(lambda x: torch.full((len(x), 1, 6, 6), 0.7), images, kept, SMALL, True)
    torch.testing.assert_close(found, torch.full((2, 1, *size), 0.7))


def test_no_class_no_map():
    kept = torch.zeros(1, 2, dtype=torch.bool)
    found = multi_crop(lambda x: x[:, :2], torch.rand(1, 3, 30, 30), kept, SMALL, False)
    assert torch.equal(found, torch.zeros(1, 2, 30, 30))


def test_of_any_method_s_cam():
    torch.manual_seed(0)
    crops = {"scales": [1.0, 1.5], "size": 32, "stride": 24}
    method = CAM(models.build("tiny", output_stride=8), 3, crops=crops).eval()
    method.scales, method.maps = (1.0,), ("crops", "cam", "crops+cvs", "cvs")
    gate = torch.tensor([[True, False, True], [False, False, False]])
    with torch.inference_mode():
        found = method.infer(torch.randn(2, 3, 37, 50), lambda _: gate, 4)
    assert tuple(found.maps) == method.maps
    for kind, maps in found.maps.items():
        assert maps.shape == (2, 3, 10, 13), kind
        assert 0 <= maps.min() <= maps.max() <= 1, kind
        assert (maps[~gate] == 0).all()
        assert maps[0, 0].max() > 0
    torch.testing.assert_close(cvs(found.maps["crops"]), found.maps["crops+cvs"])
    torch.testing.assert_close(cvs(found.maps["cam"]), found.maps["cvs"])


def test_wrong_windows_are_explained():
    for crops in ({"stride": 500}, {"scales": [0.0]}, {"size": 4, "stride": 2, "scales": [3.0]}):
        with pytest.raises(UserError, match=r"here.crops: expected scales above 0 and a stride"):
            check_settings("cam", {"crops": crops}, "here")
    with pytest.raises(UserError, match="Did you mean 'stride'"):
        check_settings("pmm", {"crops": {"strid": 20}}, "here")
