"""PMM's CAM stage: it is SEAM in training, and reads its maps out over windows."""

import pytest
import torch

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import METHODS, check_settings, settings_of
from wsssbench.methods.base import Progress
from wsssbench.methods.multicrop import multi_crop
from wsssbench.methods.multiscale import normalise_minmax
from wsssbench.refinement.cvs import cvs

PMM, SEAM = METHODS["pmm"], METHODS["seam"]
CROPS = {"scales": [0.75, 1.0, 1.5], "size": 32, "stride": 24}


def make(kind=PMM, **settings):
    torch.manual_seed(0)
    settings = {"widths": (8, 12, 16), "dropout": 0.0} | settings
    return kind(models.build("tiny", output_stride=8), 3, **settings)


def batch(size=3, side=48):
    """Images with a coloured square of their class."""
    generator = torch.Generator().manual_seed(1)
    images = 0.3 * torch.randn(size, 3, side, side, generator=generator)
    for index in range(size):
        images[index, index % 3, 8:24, 12:28] += 2
    label = torch.eye(3)[torch.arange(size) % 3]
    return {"image": images, "label": label, "id": [str(i) for i in range(size)]}


def progress():
    return Progress(1, 1, 0, 1, torch.Generator())


def test_it_trains_as_seam():
    assert settings_of("pmm").keys() == settings_of("seam").keys() | {"crops"}
    usual = {**settings_of("seam"), "dropout": 0.0, "crops": None}
    assert settings_of("pmm") == usual
    data = batch()
    found, expected = (make(kind).train().losses(data, progress()) for kind in (PMM, SEAM))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_maps_improve_on_a_toy():
    """In a few steps each map becomes brighter in the square of its class than outside."""
    method, data = make(crops={"scales": [0.75, 1.0, 1.5], "size": 64, "stride": 42}), batch(6, 64)
    method.scales, method.maps = (1.0,), ("crops", "crops+cvs")
    optimizer, losses, found = torch.optim.AdamW(method.parameters(), lr=3e-3), [], []
    for step in range(16):
        if step in (0, 15):
            with torch.inference_mode():
                found.append(method.eval().infer(data["image"], lambda _: data["label"] > 0).maps)
        loss = sum(method.train().losses(data, progress()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    for kind in method.maps:
        before, after = (contrast(maps[kind].sum(1)) for maps in found)
        assert before < 1.3
        assert after > 1.7
    assert found[1]["crops+cvs"].mean() > found[1]["crops"].mean()


def contrast(maps):
    """Mean inside the squares over that outside."""
    inside = torch.zeros_like(maps, dtype=torch.bool)
    inside[:, 8:24, 12:28] = True
    return maps[inside].mean() / maps[~inside].mean()


@torch.inference_mode()
def test_every_kind_of_maps():
    method = make(crops=CROPS).eval()
    method.scales, method.maps = (1.0, 0.5), method.kinds
    images, gate = torch.randn(2, 3, 37, 50), torch.tensor([[True, False, True], [False] * 3])
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        found = method.infer(images, lambda _: gate, stride)
        assert tuple(found.maps) == PMM.kinds
        for kind, maps in found.maps.items():
            assert maps.shape == (2, 3, *size), kind
            assert 0 <= maps.min() <= maps.max() <= 1 + 1e-6, kind
            assert (maps[~gate] == 0).all()
            assert maps[0, 0].max() > 0
        for kind in ("crops", "pcm"):
            torch.testing.assert_close(found.maps[f"{kind}+cvs"], cvs(found.maps[kind]))
    found = method.infer(images, lambda _: gate)
    windows = multi_crop(lambda x: method.maps_of(x)[1][:, 1:], images, gate, method.crops, True)
    torch.testing.assert_close(found.maps["crops"], normalise_minmax(windows))
    method.maps = SEAM.kinds
    seam = make(SEAM).eval()
    seam.scales, seam.maps = method.scales, SEAM.kinds
    torch.testing.assert_close(
        method.infer(images, lambda _: gate).maps, seam.infer(images, lambda _: gate).maps
    )


@torch.inference_mode()
def test_a_kind_does_not_hang_on_its_companions():
    method, images = make(crops=CROPS).eval(), torch.randn(1, 3, 40, 33)
    method.maps = PMM.kinds
    together = method.infer(images, method.own_gate)
    method.maps = ("crops",)
    alone = method.infer(images, method.own_gate)
    assert torch.equal(alone.maps["crops"], together.maps["crops"])
    assert torch.equal(alone.probabilities, together.probabilities)
    assert method.wanted == ("crops",)


def test_a_mirrored_image_gives_mirrored_maps():
    """Where the windows lie symmetrically: one per axis."""
    method = make(crops={"scales": [1.0], "size": 48, "stride": 32}).eval()
    images, labels = torch.randn(1, 3, 40, 48), torch.ones(1, 3)
    maps = method.score_maps(images, labels)
    torch.testing.assert_close(
        method.score_maps(images.flip(-1), labels).flip(-1), maps, atol=1e-4, rtol=0
    )


def test_wrong_settings_are_explained():
    for settings, text in [
        ({"second_scale": 2.0}, r"in \(0, 1\]"),
        ({"crops": {"stride": 449}}, "up to the size 448"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("pmm", settings, "here")
