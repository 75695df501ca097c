"""PPMG against published code's results (golden), by hand, and its invariances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wsssbench.errors import UserError
from wsssbench.refinement.dense_crf import binary_crf, dense_crf, unary_from_scores
from wsssbench.refinement.ppmg import ppmg, proportional, shares

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pmm_ppmg.npz")
CASES = {case["name"]: case for case in json.loads(str(GOLDEN["meta"]))["cases"]}


def scene(name):
    """Image, maps and class ids (background first) of a golden case."""
    place = "in2" if CASES[name].get("scene") == 2 else "in"
    known, keys = GOLDEN[f"{place}_keys"].tolist(), CASES[name]["keys"]
    maps = torch.from_numpy(GOLDEN[f"{place}_cam"][[known.index(key) for key in keys]])
    return GOLDEN[f"{place}_img"], maps, np.array([0, *[key + 1 for key in keys]])


@pytest.mark.parametrize("name", [name for name in CASES if name != "empty"])
def test_golden_from_the_claims(name):
    _, maps, ids = scene(name)
    claims = torch.from_numpy(GOLDEN[f"out_fg_{name}"])
    assert np.array_equal(ids[proportional(maps, claims)], GOLDEN[f"out_label_{name}"])
    if (key := f"out_imp_{name}") in GOLDEN:
        found = shares(maps, claims)
        torch.testing.assert_close(found, torch.from_numpy(GOLDEN[key]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_golden_with_the_own_crf(name):
    image, maps, ids = scene(name)
    case = CASES[name]
    form = {"alpha": case["alpha"], "scale": case["cv_scale"], "threshold": case["cam_thresh"]}
    wrong = ids[ppmg(image, maps, **form)] != GOLDEN[f"out_label_{name}"]
    assert wrong.sum() <= 1  # a pixel may round to the other side


def test_smoothing_finds_the_weak_half():
    image, maps, _ = scene("partial")
    with_cvs, without = (int((ppmg(image, maps, scale=scale) > 0).sum()) for scale in (0.3, 0))
    assert with_cvs > 1.8 * without


def test_shares_decide_and_not_scores():
    claims = torch.tensor([[[1, 1, 1, 0]], [[0, 0, 1, 1]]]).bool()
    maps = torch.tensor([[[0.9, 0.8, 0.6, 0.1]], [[0, 0.1, 0.5, 0.4]]])
    found = shares(maps, claims)[:, 0, 2]
    torch.testing.assert_close(found, torch.tensor([0.6 / 3.3, 0.5 / 1.9]))
    assert proportional(maps, claims).tolist() == [[1, 1, 2, 2]]


def test_unclaimed_and_zero_pixels_are_background():
    maps = torch.tensor([[[0.0, -0.1, 0.5, 0.9]]])
    claims = torch.tensor([[[True, True, True, False]]])
    assert proportional(maps, claims).tolist() == [[0, 0, 1, 0]]


def test_nearly_no_matter_how_bright_a_class_is():
    _, maps, _ = scene("two")
    claims = torch.from_numpy(GOLDEN["out_fg_two"])
    brighter = maps * torch.tensor([3.0, 1])[:, None, None]
    changed = proportional(maps, claims) != proportional(brighter, claims)
    assert changed.float().mean() < 0.01


def test_without_classes_or_scores_all_is_background():
    image = np.full((6, 7, 3), 90, np.uint8)
    assert not ppmg(image, torch.zeros(0, 6, 7)).any()
    assert not ppmg(image, torch.zeros(2, 6, 7)).any()
    half = torch.full((1, 6, 7), 0.9, dtype=torch.float16)
    assert (ppmg(image, half) == 1).all()


def test_many_fields_are_those_of_each_alone():
    image = GOLDEN["in_img"]
    scores = torch.rand(3, 2, *image.shape[:2], generator=torch.Generator().manual_seed(0))
    unary = unary_from_scores(scores)
    for settings in ({"iterations": 2}, {"iterations": 0}, {"bilateral": (0, 1, 1)}):
        together = binary_crf(image, unary, **settings)
        alone = torch.stack([dense_crf(image, field, **settings)[1] for field in unary])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="Resize the maps to the image"):
        ppmg(np.zeros((6, 7, 3), np.uint8), torch.ones(1, 5, 7))
