import numpy as np
import pytest

from wsssbench.data.examples import choose_pair
from wsssbench.data.folder import Folder
from wsssbench.data.palette import write_mask
from wsssbench.errors import UserError


def test_choice_of_images(toy_root):
    folder = Folder(toy_root)
    masks = {"im000": [(1, 200), (2, 30)], "im001": [(1, 300), (2, 100)], "im002": [(1, 250)]}
    masks |= {"im003": [(2, 250)], "im004": [(2, 900)]}
    for index, name in enumerate(folder.ids("train")):
        mask = np.zeros(1280, np.uint8)
        for label, pixels in masks.get(name, []):
            mask[np.flatnonzero(mask == 0)[:pixels]] = label
        write_mask(folder.mask_path(name), mask.reshape(40, 32))
        if index > 5:
            folder.mask_path(name).unlink()
    assert choose_pair(folder, "train") == ("im001", "im002")
    assert choose_pair(folder, "train", "im002") == ("im002", "im003")
    assert choose_pair(folder, "train", "", "im001")[0] == "im000"
    assert choose_pair(folder, "train", "x", "y") == ("x", "y")
    for name in folder.ids("train")[1:6]:
        folder.mask_path(name).unlink()
    with pytest.raises(UserError, match="Name image_id and partner_id"):
        choose_pair(folder, "train")
