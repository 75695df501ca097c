import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from straightforward import STEADY

from wsssbench.evaluation import objects


def found(prediction, truth, classes=(1,)):
    arguments = np.asarray(prediction, np.uint8), np.asarray(truth, np.uint8), classes
    return list(objects.find_objects(*arguments))


def square(top, left, side, value=1, size=(40, 60), into=None):
    mask = np.zeros(size, np.uint8) if into is None else into
    mask[top : top + side, left : left + side] = value
    return mask


def test_perfect_prediction():
    truth = square(5, 5, 10)
    assert found(truth, truth) == [(1, 100, 1.0, 1.0)]


def test_recall_and_iou_by_hand():
    truth, prediction = square(10, 10, 10), square(10, 15, 10)
    assert found(prediction, truth) == [(1, 100, 0.5, 50 / 150)]


def test_far_away_false_positives_belong_to_no_object():
    truth = square(10, 10, 10)
    prediction = square(2, 40, 12, into=truth.copy())
    assert found(prediction, truth) == [(1, 100, 1.0, 1.0)]
    near = square(10, 20, 10, into=truth.copy())  # the box reaches 5 px beyond the object
    assert found(near, truth) == [(1, 100, 1.0, 100 / 150)]


def test_the_other_object_of_the_class_is_no_false_positive():
    truth = square(10, 22, 10, into=square(10, 10, 10))
    assert found(truth, truth) == [(1, 100, 1.0, 1.0)] * 2
    assert found(square(10, 10, 10), truth) == [(1, 100, 1.0, 1.0), (1, 100, 0.0, 0.0)]


def test_touching_corners_join_and_classes_do_not():
    truth = square(10, 10, 5, into=square(5, 5, 5))
    assert [area for _, area, *_ in found(truth, truth)] == [50]
    truth = square(5, 10, 5, value=2, into=square(5, 5, 5))
    prediction = np.where(truth == 2, 1, truth)
    assert found(prediction, truth, (1, 2)) == [(1, 25, 1.0, 25 / (25 + 10)), (2, 25, 0.0, 0.0)]


def test_ignored_pixels_are_no_false_positives():
    truth = square(10, 20, 10, value=255, into=square(10, 10, 10))
    assert found(square(10, 10, 20), truth)[0][3] == 100 / (100 + 75)
    assert found((truth > 0).astype(np.uint8), truth) == [(1, 100, 1.0, 1.0)]


def test_sizes_are_shares_of_the_image():
    rows = [
        ("a", "cat", area, 1000, recall, recall / 2)
        for area, recall in (
            (9, 0.1),
            (10, 0.2),
            (49, 0.4),
            (50, 0.5),
            (199, 0.7),
            (200, 0.8),
            (1000, 1.0),
        )
    ]
    table = objects.by_size(pd.DataFrame(rows, columns=objects.COLUMNS)).set_index("size")
    assert list(table.index) == ["tiny", "small", "medium", "large"]
    assert table["objects"].tolist() == [1, 2, 2, 2]
    assert table["recall"].tolist() == pytest.approx([0.1, 0.3, 0.6, 0.9])
    assert table["iou"].tolist() == pytest.approx([0.05, 0.15, 0.3, 0.45])
    assert table["low_px"].tolist() == [0, 10, 50, 200]
    assert table["high_px"].tolist() == [10, 50, 200, 1000]


def test_no_objects_at_all():
    table = objects.by_size(pd.DataFrame([], columns=objects.COLUMNS))
    assert table["objects"].tolist() == [0, 0, 0, 0]
    assert table[["low_px", "recall", "iou"]].isna().all(axis=None)


def plain_objects(prediction, truth, label):
    """The definition on whole images, with SciPy's components."""
    parts, count = ndimage.label(truth == label, np.ones((3, 3)))
    for part in range(1, count + 1):
        inside = parts == part
        y, x = np.nonzero(inside)
        height, width = y.max() - y.min() + 1, x.max() - x.min() + 1
        rows, columns = np.indices(truth.shape)
        near = (rows >= y.min() - height // 2) & (rows <= y.max() + height // 2)
        near &= (columns >= x.min() - width // 2) & (columns <= x.max() + width // 2)
        near &= (truth != 255) & ((parts == 0) | inside)
        claimed = near & (prediction == label)
        found = (claimed & inside).sum()
        yield label, inside.sum(), found / inside.sum(), found / (claimed | inside).sum()


@STEADY
@given(st.integers(0, 10**6))
def test_equals_the_definition_on_whole_images(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 20, 2)
    truth = rng.choice(np.array([0, 0, 0, 1, 2, 255], np.uint8), size)
    prediction = rng.choice(np.array([0, 1, 2], np.uint8), size)
    for label in np.unique(truth[(truth > 0) & (truth < 255)]):
        ours = sorted(objects.find_objects(prediction, truth, [label]))
        assert ours == sorted(plain_objects(prediction, truth, label))
