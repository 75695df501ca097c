import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsssbench.evaluation import pixels


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    st.sampled_from([1, 2, 255, 256, 257, 4000, 16384, 16385, 100000]),
    st.sampled_from([np.uint8, np.uint16, np.uint32]),
)
def test_histogram_is_bincount(shape, cells, dtype):
    top = min(cells, np.iinfo(dtype).max + 1)
    values = np.random.default_rng(cells).integers(0, top, shape).astype(dtype)
    values.ravel()[: values.size // 2] = top - 1
    expected = np.bincount(values.ravel(), minlength=cells)
    counts = pixels.histogram(values, cells)
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64


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
