"""The published evaluators (their float32 results) on the arrays of `eval_miou_fp_fn.md`."""

from pathlib import Path

import numpy as np
import pytest

from wsssbench.evaluation import ConfusionMatrix, ThresholdSweep, cf1_sweep

PERCENT = {"rtol": 0, "atol": 1e-4}
FRACTION = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[1] / "golden" / "eval_miou_fp_fn.npz"
    with np.load(path) as stored:
        return dict(stored)


def test_label_maps(golden):
    confusion = ConfusionMatrix(6)
    for prediction, truth in zip(golden["in_pred"], golden["in_gt"], strict=True):
        confusion.update(prediction, truth)
    expected = np.stack([golden[f"out_seg_{name}"] for name in ("P", "T", "TP")], axis=1)
    np.testing.assert_array_equal(confusion.counts(), expected)
    np.testing.assert_allclose(100 * confusion.iou(), golden["out_seg_IoU"], **PERCENT)
    np.testing.assert_allclose(confusion.fp(), golden["out_seg_FP_class"], **FRACTION)
    np.testing.assert_allclose(confusion.fn(), golden["out_seg_FN_class"], **FRACTION)
    on_background, on_foreground = confusion.fp_split()
    np.testing.assert_allclose(on_background[1:], golden["out_seg_FP_BG_class"], **FRACTION)
    np.testing.assert_allclose(on_foreground[1:], golden["out_seg_FP_FG_class"], **FRACTION)
    assert 100 * confusion.miou() == pytest.approx(float(golden["out_seg_mIoU"]), abs=1e-4)
    assert confusion.mfp() == pytest.approx(float(golden["out_seg_FP"]), abs=1e-6)
    assert confusion.mfn() == pytest.approx(float(golden["out_seg_FN"]), abs=1e-6)


@pytest.mark.parametrize("thresholds", ["wide", "default"])
@pytest.mark.parametrize("case", ["nolabel", "label"])
def test_threshold_sweep(golden, thresholds, case):
    prefix = f"out_cam_{thresholds}_{case}"
    maps = golden["in_cam" if case == "nolabel" else "in_cam_masked"]
    sweep = ThresholdSweep(6, golden[f"{prefix}_thresholds"])
    for image, truth in zip(maps, golden["in_gt"], strict=True):
        sweep.update(image, truth)
    assert_sweep(sweep, golden, prefix)


@pytest.mark.parametrize("thresholds", ["wide", "default"])
def test_labelled_maps_alone_give_the_same_as_zero_maps(golden, thresholds):
    prefix = f"out_cam_{thresholds}_label"
    sweep = ThresholdSweep(6, golden[f"{prefix}_thresholds"])
    for maps, label, truth in zip(
        golden["in_cam"], golden["in_labels"], golden["in_gt"], strict=True
    ):
        present = np.flatnonzero(label)
        sweep.update_sparse(present + 1, maps[present], truth)
    assert_sweep(sweep, golden, prefix)


def test_the_published_skip_of_unlabelled_classes_is_understood_and_left_out(golden):
    """Case `filter`: no P, T or TP of a class c > 0 in images whose labels lack it."""
    thresholds = golden["out_cam_wide_filter_thresholds"]
    skipping, ours = np.zeros((len(thresholds), 6, 3)), ThresholdSweep(6, thresholds)
    for maps, label, truth in zip(
        golden["in_cam"], golden["in_labels"], golden["in_gt"], strict=True
    ):
        image = ThresholdSweep(6, thresholds)
        image.update(maps, truth)
        skipping += image.counts() * np.concatenate([[1], label])[:, None]
        ours = ours + image
    expected = [golden[f"out_cam_wide_filter_{name}"] for name in ("P", "T", "TP")]
    np.testing.assert_array_equal(skipping, np.stack(expected, axis=2))
    assert (ours.counts()[:, 1:, 0] > skipping[:, 1:, 0]).any()


def test_classification(golden):
    sweep = cf1_sweep(golden["in_cls_prob"], golden["in_cls_gt"], golden["out_cls_thresholds"])
    np.testing.assert_allclose(100 * sweep.cp, golden["out_cls_CP"], **PERCENT)
    np.testing.assert_allclose(100 * sweep.cr, golden["out_cls_CR"], **PERCENT)
    np.testing.assert_allclose(100 * sweep.cf1, golden["out_cls_CF"], **PERCENT)
    threshold, *scores = sweep.best()
    assert threshold == pytest.approx(golden["out_cls_best"][0])
    np.testing.assert_allclose(100 * np.array(scores), golden["out_cls_best"][1:], **PERCENT)


def assert_sweep(sweep, golden, prefix):
    expected = np.stack([golden[f"{prefix}_{name}"] for name in ("P", "T", "TP")], axis=2)
    np.testing.assert_array_equal(sweep.counts(), expected)
    np.testing.assert_allclose(100 * sweep.miou(), golden[f"{prefix}_mIoU"], **PERCENT)
    np.testing.assert_allclose(sweep.mfp(), golden[f"{prefix}_FP"], **FRACTION)
    np.testing.assert_allclose(sweep.mfn(), golden[f"{prefix}_FN"], **FRACTION)
    threshold, miou, fp, fn = sweep.best()
    best = golden[f"{prefix}_best"]
    assert threshold == pytest.approx(best[0])
    assert 100 * miou == pytest.approx(best[1], abs=1e-4)
    assert (fp, fn) == pytest.approx((best[2], best[3]), abs=1e-6)
