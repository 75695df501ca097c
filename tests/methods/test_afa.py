"""AFA's labels against published code's results (golden), its losses by phase, and its maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import check_settings
from wsssbench.methods.afa import AFA
from wsssbench.methods.afa_labels import (
    ParSettings,
    par_labels,
    refine_inside,
    walked_labels,
    with_softmax,
)
from wsssbench.methods.base import Progress

GOLDEN = Path(__file__).parents[1] / "golden" / "afa_par_label.npz"
OFFICIAL = {"thresholds": (0.55, 0.35), "par": ParSettings()}
FAST = {"decoder_width": 8, "par": {"iterations": 2, "dilations": [1, 2]}}
BACKBONES = ("tiny", "mit_tiny")


@pytest.fixture(scope="module")
def golden():
    """See `afa_par_label.md`; the box of each image as a mask."""
    with np.load(GOLDEN) as stored:
        found = {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype.kind in "fiu"}
    valid = torch.zeros(found["out_label"].shape, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(valid, found["in_img_box"], strict=True):
        mask[top:bottom, left:right] = True
    return found | {"valid": valid, "present": found["in_cls_label"] > 0}


def make(name="tiny", **settings):
    torch.manual_seed(0)
    backbone = models.build(name, output_stride=8)
    return AFA(backbone, 3, **{"seg_start": 2, "walk_start": 3, **FAST, **settings})


def at(epoch):
    return Progress(epoch, 4, 0, 1, torch.Generator())


def batch(size=3, sides=(48, 40)):
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(size, *sides, dtype=torch.bool)
    valid[0, :5], valid[0, :, -7:] = False, False
    return {
        "image": torch.randn(size, 3, *sides, generator=generator),
        "label": torch.eye(3)[torch.arange(size) % 3],
        "valid": valid,
        "id": [str(i) for i in range(size)],
    }


def test_golden_labels(golden):
    found = par_labels(
        golden["in_image"], golden["in_cam"], golden["present"], golden["valid"], **OFFICIAL
    )
    assert (found == golden["out_label"]).float().mean() >= 0.999
    assert (found == golden["out_ignore_box"]).float().mean() >= 0.999


def test_golden_refinement_inside_the_box(golden):
    scores = pad(golden["in_cam"], (0, 0, 0, 0, 1, 0), value=0.35)
    kept = pad(golden["present"], (1, 0), value=True)
    found = refine_inside(golden["in_image"], scores, kept, golden["valid"], ParSettings())
    torch.testing.assert_close(found, golden["out_refine_cls"], rtol=0, atol=2e-5)


def test_softmax_over_present_classes_by_hand():
    cams = torch.tensor([1.0, 5.0]).view(1, 2, 1, 1)
    found = with_softmax(cams, torch.tensor([[True, False]]), 0.0).flatten()
    e = torch.tensor(1.0).exp()
    torch.testing.assert_close(found, torch.tensor([1 / (1 + e), e / (1 + e), 0.0]))


def test_a_walk_that_stays_gives_the_labels_of_the_cam():
    """One class in the left half, on an image that shows the same halves."""
    image, cams = torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 32, 32)
    image[..., :16], cams[:, 0, :, :16], cams[:, 1] = 1, 1, 1
    valid, present = torch.ones(1, 32, 32, dtype=torch.bool), torch.tensor([[True, False]])
    stay = torch.eye(64)[None]
    mask = walked_labels(image, cams, present, valid, stay, (8, 8), radius=8, **OFFICIAL)
    assert (mask[..., :12] == 1).all()
    assert (mask[..., 20:] == 0).all()
    nothing = walked_labels(image, cams, present, ~valid, stay, (8, 8), radius=8, **OFFICIAL)
    assert (nothing == 255).all()


def test_labels_do_not_write_into_their_arguments():
    data, cams, affinity = batch(), torch.rand(3, 3, 48, 40), torch.rand(3, 30, 30)
    kept = [x.clone() for x in (data["image"], cams, affinity, data["valid"])]
    present = data["label"] > 0
    walked_labels(
        data["image"], cams, present, data["valid"], affinity, (6, 5), radius=2, **OFFICIAL
    )
    par_labels(data["image"], cams, present, data["valid"], **OFFICIAL)
    assert all(map(torch.equal, kept, (data["image"], cams, affinity, data["valid"])))


@pytest.mark.parametrize("name", BACKBONES)
def test_losses_by_phase(name):
    method, data = make(name).train(), batch()
    assert list(method.losses(data, at(1))) == ["cls"]
    for epoch in (2, 3):
        losses = method.losses(data, at(epoch))
        assert list(losses) == ["cls", "seg", "aff"]
        assert all(torch.isfinite(value) and value > 0 for value in losses.values())


@pytest.mark.parametrize("name", BACKBONES)
def test_where_gradients_run(name):
    method = make(name).train()
    losses = method.losses(batch(), at(3))

    def learns(loss, module):
        found = torch.autograd.grad(
            loss, [*module.parameters()], retain_graph=True, allow_unused=True
        )
        return any(g is not None and g.any() for g in found)

    net = method.network
    parts = (net.classifier, net.affinity, net.decoder, net.backbone)
    expected = {"cls": (1, 0, 0, 1), "seg": (0, 0, 1, 1), "aff": (0, 1, 0, 1)}
    for loss, wanted in expected.items():
        assert [learns(losses[loss], part) for part in parts] == [bool(w) for w in wanted], loss


def test_labels_are_made_in_evaluation_mode_and_training_goes_on():
    method, data = make("mit_tiny").train(), batch()
    first, second = (method.label_maps(data["image"], with_affinity=True)[0] for _ in range(2))
    assert torch.equal(first, second)  # no path was dropped
    assert not first.requires_grad
    assert all(module.training for module in method.modules())
    cnn = make().train()
    before = {k: v.clone() for k, v in cnn.state_dict().items()}
    cnn.label_maps(data["image"], with_affinity=True)
    assert all(torch.equal(v, before[k]) for k, v in cnn.state_dict().items())


def test_affinity_is_that_of_the_largest_view():
    method, images = make(label_scales=(1.0, 1.5, 0.5)).eval(), batch()["image"]
    cams, affinity, grid = method.label_maps(images, with_affinity=True)
    assert cams.shape == (3, 3, 48, 40)
    assert grid == (9, 8)
    assert affinity.shape == (3, 72, 72)
    assert method.label_maps(images, with_affinity=False)[1] is None


@pytest.mark.parametrize("epoch", [2, 3])
@pytest.mark.parametrize("background", [True, False])
def test_pixels_of_one_kind_only_cost_no_nan(epoch, background):
    method, data = make(low=0.001, high=0.002).train(), batch()
    if background:
        data["label"][:] = 0  # without labels all is background
    losses = method.losses(data, at(epoch))
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    data["valid"][:] = False  # nothing is taught at all
    silent = method.losses(data, at(epoch))
    assert silent["seg"] == silent["aff"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sides", [(53, 37), (9, 8)])
def test_one_image_of_odd_size(dtype, sides):
    method, data = make("mit_tiny").train(), batch(1, sides)
    data["valid"][:] = True
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = method.losses(data, at(3))
    sum(losses.values()).backward()
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", BACKBONES)
def test_steps_lower_the_loss(name):
    method, data, values = make(name).train(), batch(), []
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for _ in range(8):
        loss = sum(method.losses(data, at(2)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0]


def test_weights_act():
    data = batch()
    plain = make("mit_tiny", w_seg=1.0, w_aff=1.0).eval().losses(data, at(3))
    found = make("mit_tiny", w_seg=0.25, w_aff=0.0).eval().losses(data, at(3))
    expected = {"cls": plain["cls"], "seg": 0.25 * plain["seg"], "aff": 0 * plain["aff"]}
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_all_kinds_of_maps(name):
    method = make(name).eval()
    method.scales, method.maps = (0.5, 1.0, 1.5), AFA.kinds
    images = torch.randn(2, 3, 37, 50)
    gate = torch.tensor([[True, False, True], [False, False, False]])
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        with torch.inference_mode():
            found = method.infer(images, lambda _: gate, stride)
        assert tuple(found.maps) == AFA.kinds
        for kind, maps in found.maps.items():
            assert maps.shape == (2, 3, *size), kind
            assert 0 <= maps.min() <= maps.max() <= 1, kind
            assert (maps[~gate] == 0).all()
            assert maps[0, 0].max() > 0
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = method.infer(images, lambda _: gate, stride)
    assert all(maps.dtype == torch.float32 for maps in half.maps.values())


@torch.inference_mode()
def test_segmentation_at_one_half_is_the_arg_max():
    method = make().eval()
    method.scales, method.flip, method.threshold = (1.0,), False, 0.5
    images = torch.randn(2, 3, 40, 32)
    logits = method.network(images).decoder
    full = torch.nn.functional.interpolate(logits, (40, 32), mode="bilinear")
    assert len(full.argmax(1).unique()) > 1
    masks = method.score_maps(images, torch.ones(2, 3)).argmax(1)
    assert torch.equal(masks, full.argmax(1))


@torch.inference_mode()
def test_affinities_that_underflow_give_empty_walked_maps():
    method = make().eval()
    method.maps, method.scales = ("aff_cam",), (1.0,)
    method.network.affinity.join.bias.fill_(-100)
    maps = method.score_maps(torch.randn(2, 3, 40, 32), torch.ones(2, 3))
    assert (maps[:, 1:] == 0).all()  # the first is the background, at its threshold


@torch.inference_mode()
def test_a_mirrored_image_gives_mirrored_maps():
    method = make().eval()
    images, labels = torch.randn(1, 3, 32, 48), torch.ones(1, 3)
    for kind in ("decoder", "cam"):  # the walk takes the affinity of one of the two
        method.maps = (kind,)
        maps = method.score_maps(images, labels)
        mirrored = method.score_maps(images.flip(-1), labels).flip(-1)
        torch.testing.assert_close(mirrored, maps, atol=1e-4, rtol=0)


def test_layer_norms_may_be_frozen():
    method = make("mit_tiny", freeze_norms=True).train()
    sum(method.losses(batch(), at(3)).values()).backward()
    frozen = {n for n, p in method.network.backbone.named_parameters() if not p.requires_grad}
    assert {n.split(".")[-2][:4] for n in frozen} == {"norm"}
    grouped = {id(p) for group in method.parameter_groups().values() for p in group}
    assert grouped == {id(p) for p in method.parameters() if p.requires_grad}


def test_wrong_settings_are_explained():
    for settings, text in [
        ({"low": 0.6}, "got low 0.6 and high 0.55"),
        ({"seg_start": 20}, "got 20 and 16"),
        ({"radius": 0}, "at least 1, got 0"),
        ({"label_scales": []}, "positive scales"),
        ({"affinity": "attention maps"}, "Unknown value"),
        ({"par": {"sgima": 0.1}}, "Did you mean 'sigma'"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("afa", settings, "here")
    with pytest.raises(UserError, match="Set affinity to features or auto"):
        make(affinity="attention")
