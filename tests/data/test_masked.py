import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from wsssbench.data.folder import Folder
from wsssbench.data.layout import IMAGES, MASKS
from wsssbench.data.masked import MaskedImages, digest
from wsssbench.data.palette import IGNORE, read_mask, write_mask
from wsssbench.data.transforms import TrainTransform, denormalise
from wsssbench.errors import UserError

IDS = ["im001", "im000", "im004"]


@pytest.fixture
def own(toy_root, tmp_path):
    """Masks of our own beside the data set's: its true ones, one class as the other."""
    for name in IDS:
        mask = read_mask(toy_root / MASKS / f"{name}.png")
        write_mask(tmp_path / "own" / f"{name}.png", np.where(mask == 1, 2, mask))
    return tmp_path / "own"


def test_items_hold_the_masks_of_the_folder_in_order(toy_root, own):
    data = MaskedImages(Folder(toy_root), IDS, own)
    assert len(data) == 3
    for place, name in enumerate(IDS):
        item = data[place]
        assert item["id"] == name
        assert item["mask"].dtype == torch.uint8
        assert np.array_equal(item["mask"].numpy(), read_mask(own / f"{name}.png"))
        assert item["image"].shape[-2:] == item["mask"].shape
        assert item["label"].tolist() == Folder(toy_root).label(name).tolist()


def test_missing_masks_are_counted_before_anything_is_read(toy_root, own):
    (own / "im000.png").unlink()
    (own / "im004.png").unlink()
    with pytest.raises(UserError, match=r"2 of 3 masks are missing in .*own.*im000\.png"):
        MaskedImages(Folder(toy_root), IDS, own)


def test_another_size_is_refused(toy_root, own):
    write_mask(own / "im001.png", np.zeros((32, 40), np.uint8))
    with pytest.raises(UserError, match=r"im001\.png is 32×40 px \(height, width\), .* 40×32"):
        MaskedImages(Folder(toy_root), IDS, own)[0]


def test_an_unknown_class_is_refused_but_not_255(toy_root, own):
    mask = np.zeros((40, 32), np.uint8)
    mask[:4], mask[4:8] = IGNORE, 2
    write_mask(own / "im001.png", mask)
    data = MaskedImages(Folder(toy_root), IDS, own)
    assert data[0]["mask"].unique().tolist() == [0, 2, 255]
    mask[8] = 3
    write_mask(own / "im001.png", mask)
    with pytest.raises(UserError, match="holds class 3, but the data set has 2 classes"):
        data[0]
    write_mask(own / "im001.png", np.full((40, 32), IGNORE, np.uint8))
    assert data[0]["mask"].unique().tolist() == [255]


@pytest.mark.parametrize("size", [(41, 35), (24, 50)])
def test_image_and_mask_are_cropped_and_mirrored_together(tmp_path, toy_root, size):
    """The image holds its own mask as colours, which must still agree after the augmentation."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    mask[3 : height // 2, 5 : width // 3] = 1
    mask[height // 2 :, width // 2 :] = 2
    mask[-3:, :7] = IGNORE
    write_mask(tmp_path / "own" / "im000.png", mask)
    colour = np.stack([np.where(mask == IGNORE, 128, 100 * mask)] * 3, axis=-1).astype(np.uint8)
    Image.fromarray(colour).save(toy_root / IMAGES / "im000.png")
    transform = TrainTransform(32, (max(size), max(size)), flip=0.5)
    data = MaskedImages(Folder(toy_root), ["im000"], tmp_path / "own", transform)
    flips = set()
    for seed in range(12):
        torch.manual_seed(seed)
        item = data[0]
        found, valid = item["mask"], item["valid"]
        assert found.shape == valid.shape == item["image"].shape[-2:] == (32, 32)
        assert type(found) is torch.Tensor
        assert (found[~valid] == IGNORE).all()
        shown = (255 * denormalise(item["image"])[0]).round()
        for label, level in ((0, 0), (1, 100), (2, 200), (IGNORE, 128)):
            assert torch.equal(found[valid] == label, shown[valid] == level), label
        left = (found[:, :16] == 2).sum() > (found[:, 16:] == 2).sum()
        flips.add(bool(left))
    assert flips == {True, False}


def test_a_resized_mask_invents_no_class(toy_root, own):
    transform = TrainTransform(32, (20, 70), flip=0.5)
    data = MaskedImages(Folder(toy_root), IDS, own, transform)
    torch.manual_seed(0)
    for _ in range(10):
        assert set(data[1]["mask"].unique().tolist()) <= {0, 2, IGNORE}


def test_batches_of_a_loader(toy_root, own):
    data = MaskedImages(Folder(toy_root), IDS, own, TrainTransform(24, (40, 40)))
    batch = next(iter(DataLoader(data, batch_size=3)))
    assert batch["mask"].shape == (3, 24, 24)
    assert batch["image"].shape == (3, 3, 24, 24)
    assert batch["valid"].dtype == torch.bool


def test_digest_tells_masks_apart(toy_root, own):
    before = digest(own, IDS)
    assert before == digest(own, IDS)
    assert before != digest(own, IDS[::-1])
    assert before != digest(toy_root / MASKS, IDS)
    mask = read_mask(own / "im004.png")
    mask[0, 0] = 1
    write_mask(own / "im004.png", mask)
    assert before != digest(own, IDS)
    (own / "im004.png").unlink()
    with pytest.raises(UserError, match="im004"):
        digest(own, IDS)
