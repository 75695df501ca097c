"""SFC against published code's results (golden), by hand, and where gradients run."""

from types import SimpleNamespace

import prototype_cases as cases
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings as limits
from hypothesis import strategies as st
from prototype_cases import CLOSE, batch, gradient, progress

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import check_settings
from wsssbench.methods.msdw import distribution_coefficient, prototype_loss, scale_loss
from wsssbench.methods.multiscale import normalise_max, with_background
from wsssbench.methods.prototype_maps import class_maps, read_scales, shown
from wsssbench.methods.sfc import SFC
from wsssbench.models.pcm import correlate, resize_aligned
from wsssbench.models.prototypes import prototypes, winner

GOLDEN, MSDW, FUSE = (cases.load(f"sfc_{name}") for name in ("prototype_cam", "msdw", "fuse"))


def make(**settings) -> SFC:
    torch.manual_seed(0)
    backbone = models.build("tiny", output_stride=8)
    return SFC(backbone, 3, side_widths=(4, 4, 6, 6), pcm_width=16, **settings)


def golden_method(prefix="in"):
    method = SFC(cases.given(GOLDEN, prefix), 6, side_widths=(4, 4, 6, 6))
    return method, cases.set_weights(method, GOLDEN)


def test_golden_training_maps_and_gradients():
    method, layers = golden_method()
    stages = [x.requires_grad_() for x in method.network.backbone.features.values()]
    parts, allowed = method.parts(GOLDEN["in_x_small"]), GOLDEN["in_valid_mask"]
    torch.testing.assert_close(parts["cam"].mean((2, 3)), GOLDEN["out_score"], **CLOSE)
    plain = class_maps(parts["cam"], (7, 9)) * allowed
    torch.testing.assert_close(plain, GOLDEN["out_orignal_cam"], **CLOSE)
    maps = method.smoothed(parts, allowed)
    torch.testing.assert_close(maps, GOLDEN["out_cam1"], **CLOSE)
    scores = maps.detach().clone()
    scores[:, 0] *= 0.3
    seeds = winner(scores, allowed)
    assert (seeds == GOLDEN["out_seeds"]).all()
    centres = prototypes(parts["side"], seeds)
    torch.testing.assert_close(centres, GOLDEN["out_prototype"], **CLOSE)
    found = method.prototype_maps(maps, parts["side"], allowed)
    torch.testing.assert_close(found, GOLDEN["out_cam2"], **CLOSE)
    scaled = normalise_max(found)
    torch.testing.assert_close(scaled, GOLDEN["out_cam2_norm"], **CLOSE)
    ((maps * GOLDEN["in_G1"]).sum() + (scaled * GOLDEN["in_G2"]).sum()).backward()
    for name, layer in layers.items():
        expected = GOLDEN[f"out_grad_{name}"]
        torch.testing.assert_close(layer.weight.grad[..., 0, 0], expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(stages[3].grad, GOLDEN["out_grad_x4"], rtol=0, atol=2e-4)
    assert all(stage.grad is None for stage in stages[:3])


@torch.no_grad()
def test_golden_inference():
    method, _ = golden_method("in_inf")
    scales = read_scales(method.parts, GOLDEN["in_inf_x_small"][:1], (1.0,), flip=True)
    (parts,) = scales.parts
    torch.testing.assert_close(
        class_maps(parts["cam"], (7, 9))[0], GOLDEN["out_inf_orignal_cam"], **CLOSE
    )
    allowed = GOLDEN["in_inf_label"][None, :, None, None]
    maps = method.smoothed(parts, torch.ones(1))
    torch.testing.assert_close(maps[0], GOLDEN["out_inf_cam"], **CLOSE)
    found = method.prototype_maps(maps, parts["side"], allowed)
    torch.testing.assert_close(found[0], GOLDEN["out_inf_IS_cam"], **CLOSE)


def test_golden_losses_and_gradients():
    labels, counts = MSDW["in_labels"], MSDW["in_counts_voc"]
    weights = distribution_coefficient(counts, 396)
    torch.testing.assert_close(weights, MSDW["out_dc_voc"], rtol=0, atol=1e-5)
    names = ("cam1", "pcam1_raw", "cam2")
    maps, found, reduced = (MSDW[f"in_{name}"].requires_grad_() for name in names)
    loss_p = 1.6 * prototype_loss(maps, found, weights)
    loss_w = 0.8 * scale_loss(maps, reduced, shown(labels), weights)
    for name, loss in (("p", loss_p), ("w", loss_w)):
        torch.testing.assert_close(loss, MSDW[f"out_loss_{name}"], rtol=0, atol=1e-6)
    (loss_p + loss_w).backward()
    for name, tensor in zip(names, (maps, found, reduced)):
        torch.testing.assert_close(tensor.grad, MSDW[f"out_grad_{name}"], rtol=0, atol=1e-6)
    scores = [MSDW["in_score1"], MSDW["in_score2"]]
    loss = sum(torch.nn.functional.multilabel_soft_margin_loss(s, labels) for s in scores) / 2
    torch.testing.assert_close(loss, MSDW["out_loss_cls"], rtol=0, atol=1e-6)
    generic = distribution_coefficient(MSDW["in_counts_generic"], float(MSDW["in_extra_generic"]))
    torch.testing.assert_close(generic, MSDW["out_dc_generic"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("w03", "fused", {"w_proto": 0.3}),
        ("w07", "fused", {"w_proto": 0.7}),
        ("w10", "fused", {}),
        ("pcam", "proto", {}),
    ],
)
@torch.no_grad()
def test_golden_fusion(monkeypatch, name, kind, settings):
    """The maps of four scales are given; `infer` adds them, lifts them and weighs them."""
    method, kept = make(**settings).eval(), FUSE["in_label"][None, 1:] > 0
    method.smoothed = lambda parts, _: parts["plain"]
    method.prototype_maps = lambda maps, side, allowed: side
    parts = [
        {"cam": torch.zeros(1), "plain": FUSE[f"in_cam_s{i}"][None],
         "side": FUSE[f"in_pcam_s{i}"][None]} for i in range(4)
    ]  # fmt: skip
    size = FUSE["in_size"].tolist()
    for found, golden in zip(method.both(parts, kept, size), ("cam", "pcam")):
        torch.testing.assert_close(torch.cat(found), FUSE[f"out_{golden}"], **CLOSE)
    scales = SimpleNamespace(parts=parts, probabilities=kept.float(), cams=[])
    monkeypatch.setattr("wsssbench.methods.sfc.read_scales", lambda *_: scales)
    method.maps = (kind,)
    maps = method.infer(torch.zeros(1, 3, *size), lambda p: p > 0.5).maps[kind]
    found = with_background(maps, 0.5).argmax(1)[0]
    assert (found == FUSE[f"out_argmax_{name}"]).float().mean() >= 0.999


def test_pcm_of_two_pixels_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).T.reshape(1, 2, 1, 2)
    found = correlate(torch.tensor([[[[1.0, 0.0]]]]), features, rounds=2)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.53125, 0.46875]), **CLOSE)


def test_distribution_coefficient_by_hand():
    found = distribution_coefficient(torch.tensor([4, 2, 1, 1]), 1)
    torch.testing.assert_close(found, torch.tensor([0.9231, 0.7692, 1.1538, 1.1538]),
                               rtol=0, atol=1e-4)  # fmt: skip
    for equal in ([5, 5, 5], [0, 0]):
        assert (distribution_coefficient(torch.tensor(equal), 0) == 1).all()
    for extra in (0, 1):  # a class of no image leaves the weights of the others as they are
        found = distribution_coefficient(torch.tensor([0, 4, 2, 0, 1, 1]), extra)
        others = distribution_coefficient(torch.tensor([4, 2, 1, 1]), extra)
        torch.testing.assert_close(found[[1, 2, 4, 5]], others)
        assert (found[[0, 3]] == 1).all()


@limits(max_examples=15, deadline=None)
@drawn(st.lists(st.integers(1, 5000), min_size=2, max_size=30), st.integers(0, 500))
def test_distribution_coefficient_properties(counts, extra):
    counts = torch.tensor(counts)
    found = distribution_coefficient(counts, extra)
    assert float(found.sum()) == pytest.approx(len(counts), rel=1e-4)
    scaled = distribution_coefficient(3 * counts, 3 * extra)
    torch.testing.assert_close(scaled, found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distribution_coefficient(counts.flip(0), extra), found.flip(0))


def test_prototype_loss_by_hand():
    weights = distribution_coefficient(torch.tensor([30, 10]), 0)
    maps = torch.tensor([[0.2, 0.9], [0.8, 0.1], [0, 0]]).reshape(1, 3, 1, 2)
    found = torch.tensor([[0.1, 0.5], [0.6, 0.3], [0, 0]]).reshape(1, 3, 1, 2)
    loss = 1.6 * prototype_loss(maps, found, weights)
    assert float(loss) == pytest.approx(0.10666, abs=1e-5)
    present = torch.tensor([1.0, 1, 0]).reshape(1, 3, 1, 1)
    assert float(prototype_loss(maps, found, weights, present)) == pytest.approx(
        float(loss) / 1.6 * 1.5
    )
    assert prototype_loss(normalise_max(found), found, weights) < 1e-6


def test_losses_of_a_batch_by_hand():
    """Weights of uneven classes; the padding of the first image is allowed no map."""
    method, data = make(n_draw=0).eval(), batch()
    method.begin(torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 1], [1, 0, 0]]))
    weights = torch.tensor([6 / 4, 3, 3]) / 2.5  # distances by counts 4, 1, 1; their mean is 2.5
    whole = method.parts(data["image"])
    half = method.parts(resize_aligned(data["image"], (32, 28)))
    present = shown(data["label"])

    def allowed(parts):
        rows = parts["side"].shape[-2]
        mask = present.expand(-1, -1, rows, parts["side"].shape[-1]).clone()
        mask[0, :, : rows // 4] = 0
        return mask

    maps, reduced = (method.smoothed(parts, allowed(parts)) for parts in (whole, half))
    found = method.prototype_maps(maps, whole["side"], allowed(whole))
    losses = method.losses(data, progress())
    torch.testing.assert_close(losses["p"], 1.6 * prototype_loss(maps, found, weights))
    torch.testing.assert_close(losses["w"], 0.8 * scale_loss(maps, reduced, present, weights))
    data["valid"][:] = True
    assert not torch.isclose(method.losses(data, progress())["p"], losses["p"], rtol=1e-4)


def test_scale_loss_takes_the_classes_of_the_image():
    maps, weights = torch.rand(2, 4, 7, 5), torch.ones(3)
    reduced = torch.nn.functional.interpolate(maps, (4, 3), mode="bilinear", align_corners=True)
    present = shown(torch.tensor([[1, 0, 1], [0, 0, 0]]))
    assert scale_loss(maps, reduced, present, weights) < 1e-7
    reduced[:, 0], reduced[0, 2], reduced[1] = 9, 9, 9  # background, an absent class, no label
    assert scale_loss(maps, reduced, present, weights) < 1e-7
    assert scale_loss(maps, reduced + 1, present, weights, present) == pytest.approx(1)


def test_where_gradients_run():
    method = make().train()
    losses = method.losses(batch(), progress())
    assert list(losses) == ["cls", "p", "w"]
    for name, parts in {
        "cls": {"backbone", "classifier"},
        "p": {"backbone", "classifier", "side", "pcm"},
        "w": {"backbone", "classifier", "pcm"},
    }.items():
        modules = {"backbone": method.network.backbone, "classifier": method.network.classifier}
        modules |= {"side": method.side, "pcm": method.pcm}
        reached = {part for part, module in modules.items() if gradient(losses[name], module) > 0}
        assert reached == parts, name
    method.pcm_detach = True
    parts = method.parts(batch()["image"])
    assert gradient(parts["pcm"].sum(), method.network) == 0
    assert gradient(parts["pcm"].sum(), method.pcm) > 0


def test_parts_can_be_left_out():
    data = batch()
    base = make(pcm=False, n_draw=0, lambda_p=0.0, lambda_w=0.0, dc=False).train()
    assert base.pcm is None
    assert list(base.losses(data, progress())) == ["cls"]
    assert base.memory() == {}
    assert list(make(lambda_w=0.0).losses(data, progress())) == ["cls", "p"]
    assert list(make(lambda_p=0.0).losses(data, progress())) == ["cls", "w"]
    whole = make(n_draw=0).eval().losses(data, progress())
    scaled = make(n_draw=0, scale=True).eval().losses(data, progress())
    torch.testing.assert_close(scaled["p"], whole["p"] * 4 / 21)
    present = make(n_draw=0, normalise="present").eval().losses(data, progress())
    torch.testing.assert_close(present["w"], whole["w"] * 3)  # one class of three per image


def test_class_counts_are_learnt_and_kept():
    method = make()
    assert (method.class_weights(progress()) == 1).all()  # before: no counts, all alike
    method.begin(torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 1], [1, 0, 0]]))
    assert method.counts.tolist() == [4, 1, 1]
    at = progress(epochs=6, step=5, steps=600)
    expected = distribution_coefficient(torch.tensor([4, 1, 1]), 3 * 100 * 4 / 3)
    torch.testing.assert_close(method.class_weights(at), expected)
    assert at.logged["dc_highest"] == pytest.approx(float(expected.max()))
    other = make()
    other.load_state_dict(method.state_dict())
    assert other.counts.tolist() == [4, 1, 1]
    assert (make(dc=False).class_weights(at) == 1).all()


def test_the_batch_grows_by_the_bank_and_the_bank_resumes_exactly(tmp_path):
    method, data = make(n_draw=2), batch()
    images, labels, valid = method.with_bank(data, progress())
    assert images.shape == (5, 3, 64, 56)
    assert (images[:3] == data["image"]).all()
    assert labels.shape == (5, 3)
    assert valid.shape == (5, 64, 56)
    path = tmp_path / "memory.pt"
    torch.save(method.memory(), path)
    other = make(n_draw=2)
    other.load_state_dict(method.state_dict())
    other.remember(torch.load(path, weights_only=True))
    data["label"][:] = 0  # nothing of this batch enters: all drawn are remembered
    for one, two in zip(method.with_bank(data, progress()), other.with_bank(data, progress())):
        assert (one == two).all()


def test_both_maps_find_the_body_behind_the_badge():
    data, masks = cases.badges()
    torch.manual_seed(0)
    method = SFC(cases.Colours(), 2, side_widths=(8, 8, 8, 8), scale=True, mask_absent=True)
    values = cases.train(method, data)
    assert values[-1]["cls"] < values[0]["cls"]
    assert values[-1]["p"] < 0.5 * values[0]["p"]
    scores = cases.scores(method, data, masks)
    for kind in ("fused", "proto", "pcm"):
        assert scores[kind][0.5] > 0.9, kind
    assert max(scores["cam"].values()) < 0.93


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_one_of_odd_size_without_labels(dtype):
    method, data = make().train(), batch(1, (53, 37))
    data["label"][:] = 0
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = method.losses(data, progress())  # the four drawn are empty slots
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert losses["w"] == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@torch.no_grad()
def test_similarities_keep_their_precision_under_autocast():
    method, allowed = make().eval(), torch.ones(3, 4, 1, 1)
    parts = method.parts(batch()["image"])
    maps = method.smoothed(parts, allowed)
    found = method.prototype_maps(maps, parts["side"], allowed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (method.smoothed(parts, allowed) == maps).all()
        assert (method.prototype_maps(maps, parts["side"], allowed) == found).all()


def test_all_kinds_of_maps():
    method = make().eval()
    method.maps, method.scales = SFC.kinds, (1.0, 0.5)
    gate = torch.tensor([[True, False, True], [False, False, False]])
    images = torch.randn(2, 3, 37, 50)
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        with torch.inference_mode():
            found = method.infer(images, lambda _: gate, stride)
        assert tuple(found.maps) == SFC.kinds
        for maps in found.maps.values():
            assert maps.shape == (2, 3, *size)
            assert 0 <= maps.min() <= maps.max() <= 1
            assert (maps[~gate] == 0).all()
            assert maps[0, 0].max() > 0
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = method.infer(images, lambda _: gate)
    assert all(m.dtype == torch.float32 and m.isfinite().all() for m in half.maps.values())
    method.w_proto = 0.0
    with torch.inference_mode():
        found = method.infer(images, lambda _: gate).maps
    torch.testing.assert_close(found["fused"], found["pcm"])


@torch.inference_mode()
def test_masking_absent_classes():
    method = make().eval()
    method.scales, method.maps = (1.0,), ("pcm",)
    images, gate = torch.randn(1, 3, 40, 48), torch.tensor([[True, False, False]])
    competing, everything = (
        method.infer(images, lambda _, g=g: g).maps["pcm"] for g in (gate, gate | True)
    )
    method.mask_absent = True
    alone, again = (method.infer(images, lambda _, g=g: g).maps["pcm"] for g in (gate, gate | True))
    assert not torch.allclose(alone, competing)
    torch.testing.assert_close(again, everything)


def test_wrong_settings_are_explained():
    for settings, text in [
        ({"n_draw": -1}, "n_draw: expected 0 or more, got -1"),
        ({"side_widths": (0, 4, 4, 4)}, "1 or more"),
        ({"pcm_width": 0}, "pcm_width: expected a number of 1 or more"),
        ({"normalise": "some"}, "'some'"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("sfc", settings, "here")
