import numpy as np

from wsssbench.evaluation import ratios


def test_rates_by_hand_over_leading_axes():
    counts = np.array([[[4, 2, 1], [0, 0, 0]], [[0, 3, 0], [2, 2, 2]]])
    iou, fp, fn = ratios.rates(counts)
    np.testing.assert_allclose(iou, [[1 / 5, np.nan], [0, 1]])
    np.testing.assert_allclose(fp, [[3 / 5, np.nan], [0, 0]])
    np.testing.assert_allclose(fn, [[1 / 5, np.nan], [1, 0]])


def test_means_include_the_background_for_iou_only():
    miou, fp, fn = ratios.means(np.array([[10, 10, 10], [4, 2, 1], [0, 0, 0]]))
    assert (miou, fp, fn) == (0.6, 0.6, 0.2)
