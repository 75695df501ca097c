import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from torchvision import tv_tensors

from wsssbench.data.palette import IGNORE
from wsssbench.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TrainTransform,
    denormalise,
    normalise,
    resize_longer_side,
)


def sample(height=30, width=50, seed=0):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    mask = torch.from_numpy(rng.integers(0, 4, (height, width), dtype=np.uint8))
    return {"id": "a", "image": tv_tensors.Image(image), "mask": tv_tensors.Mask(mask)}


def test_normalise_by_hand_and_back():
    image = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    expected = [(1 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD)]
    torch.testing.assert_close(normalise(image)[:, 0, 0], torch.tensor(expected))
    torch.testing.assert_close(denormalise(normalise(image)), torch.ones(3, 2, 2))


def test_resize_matches_pil_and_keeps_mask_values():
    resized = resize_longer_side(sample(), 80)
    assert resized["image"].shape == (3, 48, 80)
    pil = PILImage.fromarray(sample()["image"].permute(1, 2, 0).numpy())
    expected = np.asarray(pil.resize((80, 48), PILImage.Resampling.BICUBIC), dtype=int)
    difference = np.abs(resized["image"].permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 1
    assert set(np.unique(resized["mask"])) <= {0, 1, 2, 3}
    assert resized["id"] == "a"


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(16, 48), st.integers(0, 10**6))
def test_crop_padding_and_validity_agree(height, width, crop, seed):
    torch.manual_seed(seed)
    out = TrainTransform(crop, (10, 64))(sample(height, width))
    assert out["image"].shape == (3, crop, crop)
    assert out["image"].dtype == torch.float32
    assert out["valid"].shape == (crop, crop)
    assert (out["image"][:, ~out["valid"]] == 0).all()  # padding is the mean colour
    assert (out["mask"][~out["valid"]] == IGNORE).all()
    assert (out["mask"][out["valid"]] < 4).all()
    rows, columns = out["valid"].any(1), out["valid"].any(0)
    assert torch.equal(out["valid"], rows[:, None] & columns[None])  # a rectangle
    assert type(out["image"]) is torch.Tensor


def test_small_pictures_are_placed_anywhere():
    transform = TrainTransform(40, (20, 20), flip=0)
    tops = set()
    for seed in range(60):
        torch.manual_seed(seed)
        tops.add(int(transform(sample(20, 20))["valid"].any(1).nonzero()[0]))
    assert min(tops) <= 2
    assert max(tops) >= 18


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_and_mask_move_together(flip):
    """The mask is painted into the image; it must still be there after the geometry."""
    data = sample(40, 40)
    painted = data["mask"].to(torch.uint8) * 60
    data["image"] = tv_tensors.Image(painted[None].repeat(3, 1, 1))
    out = TrainTransform(32, (40, 40), flip=flip)(data)
    shown = (denormalise(out["image"])[0] * 255 / 60).round().to(torch.uint8)
    assert torch.equal(shown, out["mask"])


def test_same_seed_same_draw():
    transform = TrainTransform(24, (20, 60), 0.5, (0.3, 0.3, 0.3, 0.1), jpeg=(30, 95))
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(transform(sample())["image"])
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_jpeg_changes_pixels():
    torch.manual_seed(0)
    plain = TrainTransform(30, (50, 50), flip=0)(sample(50, 50))["image"]
    torch.manual_seed(0)
    coded = TrainTransform(30, (50, 50), flip=0, jpeg=(30, 30))(sample(50, 50))["image"]
    assert plain.shape == coded.shape
    assert not torch.equal(plain, coded)
