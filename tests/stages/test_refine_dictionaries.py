"""Maps as other code saves them: what is read, and that nothing else is made of a pickle."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from wsssbench import cli
from wsssbench.errors import UserError
from wsssbench.evaluation.reading import read_maps
from wsssbench.stages.refine_dictionaries import read_dictionary

SIZE = 16, 20
MAPS = np.random.default_rng(0).random((2, *SIZE)).astype(np.float32)
SMALL = MAPS[:, ::4, ::4]
FORMS = {
    "irnet": {"keys": torch.tensor([2, 6]), "cam": torch.from_numpy(SMALL), "high_res": MAPS},
    "puzzlecam": {"keys": np.array([0, 3, 7]), "cam": SMALL, "hr_cam": MAPS},
    "seam": {2: MAPS[0], 6: MAPS[1]},
}


def save(path, content):
    np.save(path, content, allow_pickle=True)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_other_code(tmp_path, form):
    stored = read_dictionary(save(tmp_path / "a.npy", FORMS[form]), SIZE)
    assert stored.keys.tolist() == [3, 7]
    np.testing.assert_array_equal(stored.maps, MAPS)
    assert stored.gated.tolist() == [True, True]
    assert stored.size == SIZE


def test_strided_maps_and_none_at_all(tmp_path):
    path = save(tmp_path / "a.npy", {"keys": np.array([0]), "cam": torch.from_numpy(SMALL[:1])})
    stored = read_dictionary(path, SIZE)
    assert (stored.keys.tolist(), stored.maps.shape, stored.size) == ([1], (1, 4, 5), SIZE)
    stored = read_dictionary(save(tmp_path / "b.npy", {}), SIZE)
    assert (stored.keys.tolist(), len(stored.maps), stored.size) == ([], 0, SIZE)


class Danger:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"keys": np.array([1]), "maps": SMALL}, "keys without high_res, hr_cam or cam"),
        ({0: MAPS[0], 1: SMALL[1]}, "must have the same shape"),
        ([1, 2], r"an array \(2,\)"),
        ({0: Danger()}, "wants to make a posix.mkdir"),
        ({"keys": np.array([1]), "cam": Danger()}, "wants to make a posix.mkdir"),
    ],
)
def test_what_is_no_dictionary_of_maps_is_refused(tmp_path, monkeypatch, content, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no dictionary of score maps .*{text}"):
        read_dictionary(save(tmp_path / "a.npy", content), SIZE)
    assert not (tmp_path / "made").exists()


def test_damage_is_named(tmp_path):
    path = save(tmp_path / "a.npy", FORMS["seam"])
    for content in (path.read_bytes()[:200], b"", b"nothing"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.npy holds no dictionary"):
            read_dictionary(path, SIZE)


def test_refine_takes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "irn", "npz"):
        (tmp_path / folder).mkdir()
    image = np.random.default_rng(1).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(image).save("images/a.png")
    save(tmp_path / "irn/a.npy", FORMS["irnet"])
    np.savez("npz/a.npz", keys=np.array([3, 7]), maps=MAPS, size=np.array(SIZE))
    for source in ("irn", "npz"):
        command = ["refine", "pamr", source, f"out-{source}", "--images", "images"]
        CliRunner().invoke(cli.app, command, catch_exceptions=False)
    found, same = (
        read_maps(tmp_path / "out-irn/maps/a.npz"),
        read_maps(tmp_path / "out-npz/maps/a.npz"),
    )
    assert found.keys.tolist() == same.keys.tolist() == [3, 7]
    np.testing.assert_array_equal(found.maps, same.maps)
