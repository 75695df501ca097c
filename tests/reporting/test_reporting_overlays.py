import numpy as np

from wsssbench.reporting.overlays import (
    CATEGORIES,
    FALSE_DETECTION,
    HIT,
    IGNORED,
    MISS,
    TRUE_BACKGROUND,
    WRONG_CLASS,
    class_overlay,
    error_categories,
    error_overlay,
    heat_overlay,
)

TRUTH = np.array([[0, 0, 1, 1],
                  [0, 2, 2, 1],
                  [0, 2, 255, 255],
                  [1, 0, 255, 255]], np.uint8)  # fmt: skip
PREDICTION = np.array([[0, 1, 1, 0],
                       [2, 2, 1, 255],
                       [255, 2, 1, 0],
                       [2, 0, 255, 2]], np.uint8)  # fmt: skip
B, H, F, M, W, I = TRUE_BACKGROUND, HIT, FALSE_DETECTION, MISS, WRONG_CLASS, IGNORED
EXPECTED = [[B, F, H, M],
            [F, H, W, M],
            [B, H, I, I],
            [W, B, I, I]]  # fmt: skip


def colour(code):
    return np.array([int(CATEGORIES[code][1][i : i + 2], 16) for i in (1, 3, 5)])


def test_categories_by_hand():
    assert error_categories(TRUTH, PREDICTION).tolist() == EXPECTED


def test_swapping_truth_and_prediction_swaps_false_and_missed():
    truth, prediction = (np.where(m == 255, 0, m) for m in (TRUTH, PREDICTION))
    there, back = error_categories(truth, prediction), error_categories(prediction, truth)
    swapped = there.copy()
    swapped[there == F], swapped[there == M] = M, F
    assert (back == swapped).all()


def test_overlay_by_hand_at_full_strength():
    image = np.full((4, 4, 3), 100, np.uint8)
    picture = error_overlay(image, TRUTH, PREDICTION, strength=1.0)
    for code in (H, F, M, W):
        assert (picture[np.array(EXPECTED) == code] == colour(code)).all()
    assert (picture[np.array(EXPECTED) == B] == 165).all()  # 110 + 0.55 · 100: pale, not coloured


def test_ignored_pixels_are_striped():
    truth = np.full((12, 12), 255, np.uint8)
    picture = error_overlay(np.zeros((12, 12, 3), np.uint8), truth, truth, strength=1.0)
    grey = (picture == colour(I)).all(axis=2)
    assert 0.3 < grey.mean() < 0.7
    assert grey[0, 0]
    assert not grey[0, 3]


def test_the_arguments_are_left_alone():
    image, truth, prediction = np.zeros((4, 4, 3), np.uint8), TRUTH.copy(), PREDICTION.copy()
    error_overlay(image, truth, prediction)
    assert (truth == TRUTH).all()
    assert (prediction == PREDICTION).all()
    assert not image.any()


def test_class_overlay_colours_objects_only():
    colours = np.zeros((256, 3), np.uint8)
    colours[1], colours[255] = (200, 0, 0), (1, 2, 3)
    image = np.full((4, 4, 3), 100, np.uint8)
    picture = class_overlay(image, TRUTH, colours, strength=1.0)
    assert (picture[TRUTH == 1] == (200, 0, 0)).all()
    assert (picture[(TRUTH == 0) | (TRUTH == 255)] == 165).all()


def test_heat_is_resized_and_brighter_where_the_score_is_higher():
    image = np.full((8, 12, 3), 128, np.uint8)
    picture = heat_overlay(image, np.array([[0.0, 1.0]], np.float16))
    assert picture.shape == (8, 12, 3)
    light = picture.astype(int).sum(axis=2)
    assert (np.diff(light[0]) >= 0).all()
    assert light[0, -1] > light[0, 0] + 200
