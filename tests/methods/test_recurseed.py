"""RecurSeed's targets against the golden chain, losses by hand, gates by counting passes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import check_settings
from wsssbench.methods.base import Progress
from wsssbench.methods.recurseed import RecurSeed, reconstruction
from wsssbench.models.cam_network import Output
from wsssbench.models.decoder import resize
from wsssbench.refinement.certain_filter import certain_filter

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "rs_target.npz")
MIXERS = ("edgepredictmix", "classmix", "identity", "cutmix", "saliency_grafting", "cda", "mixup")


def make(**settings) -> RecurSeed:
    torch.manual_seed(0)
    backbone = models.build("tiny", output_stride=8)
    return RecurSeed(backbone, 3, decoder_width=16, **settings)


def progress(epoch=1):
    return Progress(epoch, 10, 0, 10, torch.Generator().manual_seed(0))


def batch(size=4, side=48):
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(size, side, side - 8, dtype=torch.bool)
    valid[0, :, -5:] = False
    return {
        "image": torch.randn(size, 3, side, side - 8, generator=generator),
        "label": torch.eye(3)[torch.arange(size) % 3],
        "valid": valid,
        "id": [str(i) for i in range(size)],
    }


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def test_golden_chain_from_cam_to_mask():
    method = make(guard_empty=False)
    features = {f"C{i}": golden(f"in_C{i}") for i in range(1, 6)}
    cam, labels = golden("in_F"), golden("in_labels").float()
    images = golden("in_image")
    valid = torch.ones(images.shape[0], *images.shape[2:], dtype=torch.bool)
    out = Output(features, cam, cam.mean((2, 3)))
    target = method.target(out, images, labels, valid)
    torch.testing.assert_close(target.maps, golden("out_Mrs"), atol=1e-5, rtol=0)
    assert (target.mask != golden("out_Mseg").long()).sum() <= 3
    loss = reconstruction(cam, target.maps, target.present, valid)
    torch.testing.assert_close(loss, golden("out_Lrec").reshape(()).float(), atol=1e-6, rtol=0)


def test_reconstruction_is_zero_at_its_target_and_blind_to_absent_classes():
    cam = torch.rand(2, 3, 4, 5)
    gate = torch.tensor([[True, False, True], [False, True, False]])
    valid = torch.ones(2, 32, 40, dtype=torch.bool)
    target = (cam / (cam.amax((2, 3), keepdim=True) + 1e-5)).repeat_interleave(8, 2)
    target = target.repeat_interleave(8, 3)
    assert reconstruction(cam, target, gate, valid) < 1e-12
    other = cam.clone()
    other[0, 1] += 3
    assert reconstruction(other, target, gate, valid) < 1e-12
    other[0, 0, 0, 0] += 3
    assert reconstruction(other, target, gate, valid) > 1e-3


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 50))
def test_reconstruction_does_not_see_the_scale_of_a_cam(factor):
    torch.manual_seed(3)
    cam, target = torch.randn(1, 2, 3, 3), torch.rand(1, 2, 24, 24)
    gate, valid = torch.ones(1, 2), torch.ones(1, 24, 24, dtype=torch.bool)
    one = reconstruction(cam, target, gate, valid)
    torch.testing.assert_close(reconstruction(cam * factor, target, gate, valid), one,
                               atol=1e-4, rtol=0)  # fmt: skip


def test_reconstruction_by_hand():
    cam = torch.tensor([[[[2.0, 1.0]], [[1.0, 1.0]]]])
    target = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]]]])
    gate, valid = torch.tensor([[1.0, 0.0]]), torch.ones(1, 1, 2, dtype=torch.bool)
    # class 0: (1, .5) against (1, 0): squares 0, .25; their mean .125, of absolutes .25
    for kind, expected in (("l2", 0.125), ("l1", 0.25)):
        found = reconstruction(cam, target, gate, valid, loss=kind)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)
    # all: class 1 adds (1, 1) against (.5, .5): .25 each
    found = reconstruction(cam, target, gate, valid, reduce="all")
    torch.testing.assert_close(found, torch.tensor(0.1875), atol=1e-4, rtol=0)
    valid[0, 0, 1] = False
    assert reconstruction(cam, target, gate, valid) < 1e-6


def test_negative_cams_have_a_finite_gradient():
    cam = -torch.rand(1, 2, 3, 3)
    cam.requires_grad_(True)
    ones = torch.ones(1, 24, 24, dtype=torch.bool)
    reconstruction(cam, torch.rand(1, 2, 24, 24), torch.ones(1, 2), ones).backward()
    assert torch.isfinite(cam.grad).all()


def test_epoch_gates(monkeypatch):
    method = make(rs_start=2, mix={"mixer": "edgepredictmix", "start": 3})
    calls = []
    forward = method.network.forward
    monkeypatch.setattr(method.network, "forward",
                        lambda *a, **k: calls.append(k) or forward(*a, **k))  # fmt: skip
    for epoch, passes in ((1, 1), (2, 1), (3, 2)):
        calls.clear()
        method.zero_grad()
        at = progress(epoch)
        losses = method.losses(batch(), at)
        sum(losses.values()).backward()
        decoder = [p.grad for p in method.network.decoder.parameters()]
        assert len(calls) == passes
        assert all(g is None for g in decoder) == (epoch == 1)
        assert ("rec_mix" in losses) == (epoch == 3)
    assert 0 <= at.logged["pasted"] <= 1
    assert at.logged["certain_foreground"] + at.logged["certain_background"] + at.logged[
        "ignored"
    ] == pytest.approx(1, abs=1e-5)


def test_no_gradient_reaches_the_targets():
    plain, silent = make(rs_start=99), make(rs_start=1, w_rec=0.0, w_seg=0.0)
    for method in (plain, silent):
        torch.manual_seed(0)
        sum(method.losses(batch(), progress()).values()).backward()
    for (name, a), b in zip(plain.network.named_parameters(), silent.network.parameters()):
        if not name.startswith("decoder"):
            torch.testing.assert_close(a.grad, b.grad)


def test_the_decoder_learns_the_pixel_in_the_middle_of_each_cell(monkeypatch):
    """A disc keeps its place on the way to the decoder's size and back."""
    method = make(rs_start=1)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    mask = ((y - 22) ** 2 + (x - 25) ** 2 < 100).long().expand(4, 48, 48)
    data = batch(side=56)  # 56×48
    data = {**data, "image": data["image"][:, :, :48], "valid": torch.ones(4, 48, 48).bool()}
    logits = torch.zeros(4, 4, 12, 12, requires_grad=True)
    out = method.network(data["image"])
    seen = replace(out, decoder=logits)
    monkeypatch.setattr(method.network, "forward", lambda *a, **k: seen)
    target = replace(method.target(out, data["image"], data["label"], data["valid"]), mask=mask)
    monkeypatch.setattr(method, "target", lambda *a: target)
    method.losses(data, progress())["seg"].backward()
    taught = -logits.grad[0, 1]  # positive where the class is taught
    back = resize((taught > 0).float()[None, None], (48, 48))[0, 0]
    for axis, centre in ((y, 22), (x, 25)):
        assert abs((back * axis).sum() / back.sum() - centre) < 1


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("mode", ["own", "label", "mask", "both"])
def test_every_mixer_gives_finite_losses(mixer, mode):
    method = make(rs_start=1, mix={"mixer": mixer, "start": 1, "mode": mode}).train()
    for _ in range(2):
        losses = method.losses(batch(), progress())
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    extra = {name for name in losses if name.endswith("_mix")}
    wanted = {"label": {"cls_mix"}, "mask": {"rec_mix", "seg_mix"}}
    wanted["both"] = wanted["label"] | wanted["mask"]
    own = "label" if mixer in ("cutmix", "saliency_grafting", "cda", "mixup") else "mask"
    assert extra == wanted[own if mode == "own" else mode]


def test_a_saliency_of_gradients_passes_frozen_stages():
    torch.manual_seed(0)
    backbone = models.build("tiny", output_stride=8, frozen_stages=2)
    mix = {"mixer": "puzzlemix", "start": 1}
    method = RecurSeed(backbone, 3, decoder_width=16, rs_start=1, mix=mix).train()
    losses = method.losses(batch(), progress())
    assert all(torch.isfinite(value) for value in losses.values())
    assert method.training


@pytest.mark.parametrize("refiner", ["seed", "decoder", "pamr", "cf", "ep"])
def test_refiners(refiner):
    mix = {"mixer": "classmix", "start": 1, "refiner": refiner}
    method = make(rs_start=1, mix=mix).train()
    data = batch()
    data["label"][0] = 0  # an image without labels
    losses = method.losses(data, progress())
    assert all(torch.isfinite(value) for value in losses.values())


def test_the_decoder_is_filtered_by_limits_of_its_own():
    data, masks = batch(), []
    for own in ({}, {"certain": 0.2, "uncertain": 0.02}):
        mix = {"mixer": "classmix", "start": 1, "refiner": "cf", "certain": 0.3, "uncertain": 0.2}
        method = make(rs_start=1, mix=mix, **own).eval()
        torch.manual_seed(0)
        out = method.network(data["image"])
        target = method.target(out, data["image"], data["label"], data["valid"])
        with torch.no_grad():
            mixed = method.mixed.batch(method, data, out, target)
            probs = resize(out.decoder.softmax(1), data["image"].shape[-2:])[:, 1:]
            probs = method.pamr.refine(target.weights, probs, target.present)
        limits = {"certain": 0.3, "uncertain": 0.2}
        wanted = certain_filter(probs, target.present, valid=data["valid"], **limits)
        torch.testing.assert_close(mixed.mask, wanted)
        masks.append((target.mask, mixed.mask))
    assert not torch.equal(masks[0][0], masks[1][0])
    torch.testing.assert_close(masks[0][1], masks[1][1])


def test_images_without_labels_and_cams_of_zero():
    method = make(rs_start=1, mix={"mixer": "edgepredictmix", "start": 1}).train()
    data = batch()
    data["label"][:] = 0
    with torch.no_grad():
        method.network.classifier.weight.fill_(-1)
    losses = method.losses(data, progress())
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["rec"] == 0


def test_a_present_class_with_an_empty_map_teaches_no_background():
    out = Output({}, -torch.ones(1, 2, 2, 2), torch.zeros(1, 2))
    images, valid = torch.rand(1, 3, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool)
    labels = torch.tensor([[1.0, 0.0]])
    for guard, value in ((True, 255), (False, 0)):
        method = make(guard_empty=guard, use_scg=False)
        assert (method.target(out, images, labels, valid).mask == value).all()


def test_fixed_point():
    """A CAM that is the object already is left nearly as it is."""
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, 16:48, 16:48] = 1.0
    truth = torch.zeros(1, 64, 64, dtype=torch.long)
    truth[:, 16:48, 16:48] = 1
    cam = torch.full((1, 3, 8, 8), -1.0)
    cam[:, 0, 2:6, 2:6] = 4.0
    small = torch.nn.functional.avg_pool2d(images, 8)
    features = {f"C{i}": torch.cat([small, 1 - small], 1) for i in range(1, 6)}
    target = make().target(
        Output(features, cam, cam.mean((2, 3))),
        images,
        torch.tensor([[1.0, 0, 0]]),
        torch.ones(1, 64, 64, dtype=torch.bool),
    )
    certain = target.mask != 255
    hit = (target.mask == 1) & (truth == 1)
    union = ((target.mask == 1) | (truth == 1)) & certain
    assert hit.sum() / union.sum() > 0.9
    assert certain.float().mean() > 0.7


def test_all_kinds_of_maps():
    method = make().eval()
    method.scales, method.maps = (1.0, 0.5), method.kinds
    images = torch.randn(2, 3, 37, 50)
    gate = torch.tensor([[True, False, True], [False, False, False]])
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        with torch.inference_mode():
            found = method.infer(images, lambda _: gate, stride)
        assert set(found.maps) == set(method.kinds)
        for kind, maps in found.maps.items():
            assert maps.shape == (2, 3, *size), kind
            assert maps.min() >= 0
            assert maps.max() <= 1 + 1e-6
            assert (maps[~gate] == 0).all()
            assert maps[0, 0].max() > 0


@pytest.mark.parametrize(
    ("epoch", "ignored", "foreground", "warned"),
    [
        (4, None, None, False),  # before the recursion a row has no shares
        (5, 0.33, 0.19, False),  # a real training with the paper's limits
        (5, 0.95, 0.02, True),  # VOC photographs, started too early
        (5, 0.3, 0.004, True),
    ],
)
def test_lost_seeds_are_told(epoch, ignored, foreground, warned):
    row = {"epoch": epoch}
    if ignored is not None:
        row |= {"ignored": ignored, "certain_foreground": foreground}
    text = make(rs_start=5).warning(row)
    assert bool(text) == warned
    if warned:
        assert f"ignores {ignored:.0%}" in text
        assert "rs_start 5" in text


def test_wrong_settings_are_explained():
    with pytest.raises(UserError, match="Did you mean 'first_threshold'"):
        check_settings("recurseed", {"scg": {"first_treshold": 0.3}}, "here")
    with pytest.raises(UserError, match="Did you mean 'edgepredictmix'"):
        check_settings("recurseed", {"mix": {"mixer": "edgepredictmx"}}, "here")
    with pytest.raises(UserError, match=r"here\.mix"):
        check_settings("recurseed", {"mix": {"mixer": "cutmix", "strat": 3}}, "here")
    with pytest.raises(UserError, match=r"here: certain = 0\.05, uncertain = 0\.1"):
        check_settings("recurseed", {"certain": 0.05}, "here")
    with pytest.raises(UserError, match=r"here\.mix: certain = 0\.55, uncertain = 0\.6"):
        check_settings("recurseed", {"mix": {"mixer": "cutmix", "uncertain": 0.6}}, "here")
    with pytest.raises(UserError, match=r"here\.mix: start 4 comes before rs_start 5"):
        check_settings("recurseed", {"mix": {"mixer": "cutmix", "start": 4}}, "here")
    with pytest.raises(UserError, match="l3"):
        check_settings("recurseed", {"rec_loss": "l3"}, "here")


def test_a_batch_of_one_is_explained():
    method = make(rs_start=1).train()
    with pytest.raises(UserError, match="at least 2 images"):
        method.losses(batch(1), progress())
