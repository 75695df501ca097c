import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from straightforward import STEADY

from wsssbench.evaluation import pixels


def drawn_pair(shape, count, dtype):
    rng = np.random.default_rng(count)
    rows = rng.integers(0, count, shape).astype(dtype)
    rows.ravel()[: rows.size // 2] = count - 1
    return rows, rng.choice(np.array([0, 1, 7, 255], np.uint8), shape)


@STEADY
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    st.sampled_from([1, 2, 3, 21, 64, 65, 128, 129, 255, 256, 257, 300, 1000]),
)
def test_joint_histogram_counts_pairs(shape, count):
    rows, columns = drawn_pair(shape, count, np.min_scalar_type(count - 1))
    expected = np.zeros((count, 256), np.int64)
    np.add.at(expected, (rows.ravel(), columns.ravel()), 1)
    counts = pixels.joint_histogram(rows, columns, count)
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64


@pytest.mark.parametrize("shape", [(1, 300_001), (300_001,), (300_001, 1), (700, 500)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_joint_histogram_of_large_images(shape, dtype):
    rows, columns = drawn_pair(shape, 40, dtype)
    pairs = rows.ravel().astype(int) * 256 + columns.ravel()
    expected = np.bincount(pairs, minlength=40 * 256).reshape(40, 256)
    np.testing.assert_array_equal(pixels.joint_histogram(rows, columns, 40), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("result", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("old_opencv", [False, True])
def test_translate_is_a_table_lookup(dtype, result, old_opencv, monkeypatch):
    rng = np.random.default_rng(0)
    size = np.iinfo(dtype).max + 1
    values = rng.integers(0, size, (7, 11)).astype(dtype)
    table = rng.integers(0, 200, size).astype(result)
    if old_opencv:
        real = cv2.LUT

        def bytes_only(ids, table):
            if ids.dtype != np.uint8:
                raise cv2.error("8-bit input expected")
            return real(ids, table)

        monkeypatch.setattr(cv2, "LUT", bytes_only)
    for layout in (values, np.asfortranarray(values), values[:, ::2], values[:0]):
        translated = pixels.translate(layout, table)
        np.testing.assert_array_equal(translated, table[layout])
        assert translated.dtype == result
