import numpy as np
import pytest
import torch
from PIL import Image
from straightforward import loop_sweep

from wsssbench.errors import UserError
from wsssbench.evaluation import evaluate_maps
from wsssbench.evaluation.maps import full_size

K = 4
GRID = [0.1, 0.35, 0.5, 0.8]
SIZE = (33, 41)


def write(root, name, keys, maps, truth, gated=None):
    for folder in ("maps", "truth"):
        (root / folder).mkdir(exist_ok=True)
    values = {"keys": np.array(keys, np.int16), "maps": maps, "size": np.array(SIZE, np.int32)}
    if gated is not None:
        values["gated"] = np.array(gated)
    np.savez(root / "maps" / f"{name}.npz", **values)
    Image.fromarray(truth).save(root / "truth" / f"{name}.png")


def image(seed, n=2, size=SIZE):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K + 1, SIZE).astype(np.uint8)
    truth[:3] = 255
    return rng.random((n, *size)).astype(np.float16), truth


def dense(keys, maps):
    full = np.zeros((K, *SIZE), np.float32)
    full[np.array(keys, int) - 1] = maps
    return full


def run(root, ids, **settings):
    return evaluate_maps(root / "maps", root / "truth", ids, K + 1, GRID, **settings).counts()


def test_full_size_maps(tmp_path):
    expected = 0
    for number, keys in enumerate([[1, 3], [4, 2], []]):
        maps, truth = image(number, len(keys))
        write(tmp_path, str(number), keys, maps, truth)
        expected = expected + loop_sweep(dense(keys, maps), truth, GRID)
    np.testing.assert_array_equal(run(tmp_path, ["0", "1", "2"]), expected)
    np.testing.assert_array_equal(run(tmp_path, None), expected)


@pytest.mark.parametrize("size", [(9, 11), (17, 21), (40, 50)])
def test_small_maps_are_resized_as_when_masks_are_written(tmp_path, size):
    maps, truth = image(0, size=size)
    write(tmp_path, "a", [2, 4], maps, truth)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(maps.astype(np.float32))[None], SIZE, mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_array_equal(full_size(maps, SIZE), resized)
    expected = loop_sweep(dense([2, 4], resized), truth, GRID)
    np.testing.assert_array_equal(run(tmp_path, ["a"]), expected)


def test_only_gated_maps_count_unless_labels_are_given(tmp_path):
    maps, truth = image(0, 3)
    write(tmp_path, "a", [1, 2, 4], maps, truth, gated=[True, False, True])
    gated, labelled = run(tmp_path, ["a"]), run(tmp_path, ["a"], labels={"a": [2]})
    np.testing.assert_array_equal(gated, loop_sweep(dense([1, 4], maps[[0, 2]]), truth, GRID))
    np.testing.assert_array_equal(labelled, loop_sweep(dense([2], maps[[1]]), truth, GRID))


def test_of_a_class_that_occurs_twice_labels_take_the_last(tmp_path):
    maps, truth = image(0, 3)
    write(tmp_path, "a", [1, 2, 1], maps, truth, gated=[True, True, False])
    gated, labelled = run(tmp_path, ["a"]), run(tmp_path, ["a"], labels={"a": {1}})
    np.testing.assert_array_equal(gated, loop_sweep(dense([1, 2], maps[:2]), truth, GRID))
    np.testing.assert_array_equal(labelled, loop_sweep(dense([1], maps[[2]]), truth, GRID))


def test_parallel_equals_serial(tmp_path):
    names = []
    for number in range(40):
        maps, truth = image(number)
        names.append(f"{number:02d}")
        write(tmp_path, names[-1], [1, 2], maps, truth)
    serial = run(tmp_path, names, workers=1)
    np.testing.assert_array_equal(run(tmp_path, names, workers=3), serial)
    assert serial[0].sum(axis=0)[1] == 40 * 30 * 41  # labelled pixels


def test_no_class_and_small_maps(tmp_path):
    maps, truth = image(0, 0, size=(5, 5))
    write(tmp_path, "a", [], maps, truth)
    assert run(tmp_path, ["a"])[:, 1:, 0].sum() == 0


def test_errors_name_the_files(tmp_path):
    maps, truth = image(0)
    write(tmp_path, "a", [1, 2], maps, truth)
    with pytest.raises(UserError, match=r"b\.npz do not exist"):
        run(tmp_path, ["a", "b"])
    write(tmp_path, "a", [1, 7], maps, truth)
    with pytest.raises(UserError, match=r"a\.npz against .*a\.png: Map of class 7"):
        run(tmp_path, ["a"])
    write(tmp_path, "a", [1, 2], maps, truth[1:])
    with pytest.raises(UserError, match=r"a\.npz against .*do not fit"):
        run(tmp_path, ["a"])
    np.savez(tmp_path / "maps" / "a.npz", keys=np.array([1]))
    with pytest.raises(UserError, match=r"a\.npz are damaged.*maps"):
        run(tmp_path, ["a"])
    (tmp_path / "maps" / "a.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"a\.npz are damaged"):
        run(tmp_path, ["a"])
