"""SIPE against published code's results (golden), by hand, and where gradients run."""

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
from wsssbench.methods.multiscale import against_background, normalise_max, with_background
from wsssbench.methods.prototype_maps import class_maps, fuse, read_scales, shown, weighed
from wsssbench.methods.sipe import SIPE, soft_iou
from wsssbench.models.prototypes import prototypes, winner

GOLDEN = cases.load("sfc_prototype_cam", "sipe_prototype")


def make(**settings) -> SIPE:
    torch.manual_seed(0)
    backbone = models.build("tiny", output_stride=8)
    return SIPE(backbone, 3, side_widths=(4, 4, 6, 6), **settings)


def golden_method(prefix="in"):
    method = SIPE(cases.given(GOLDEN, prefix), 6, side_widths=(4, 4, 6, 6))
    return method, cases.set_weights(method, GOLDEN)


def test_golden_training_maps_and_gradients():
    method, layers = golden_method()
    deep = method.network.backbone.features["C5"].requires_grad_()
    others = [method.network.backbone.features[f"C{i}"].requires_grad_() for i in (2, 3, 4)]
    parts, allowed = method.parts(GOLDEN["in_x_small"]), GOLDEN["in_valid_mask"]
    torch.testing.assert_close(parts["cam"].mean((2, 3)), GOLDEN["out_score"], **CLOSE)
    maps = class_maps(parts["cam"], (7, 9)) * allowed
    torch.testing.assert_close(maps, GOLDEN["out_cam1"], **CLOSE)
    scores = soft_iou(maps.detach(), parts["deep"])
    scores[:, 0] *= 0.5
    seeds = winner(scores, allowed)
    assert (seeds == GOLDEN["out_seeds"]).all()
    centres = prototypes(parts["side"], seeds)
    torch.testing.assert_close(centres, GOLDEN["out_prototype"], **CLOSE)
    found = method.is_cam(maps, parts, allowed, "deep")
    torch.testing.assert_close(found, GOLDEN["out_cam2"], **CLOSE)
    scaled = normalise_max(found)
    torch.testing.assert_close(scaled, GOLDEN["out_cam2_norm"], **CLOSE)
    gsc = (maps - scaled).abs().mean()
    torch.testing.assert_close(gsc, GOLDEN["out_gsc"], rtol=0, atol=1e-6)
    ((maps * GOLDEN["in_G1"]).sum() + (scaled * GOLDEN["in_G2"]).sum()).backward()
    for name, layer in layers.items():
        expected = GOLDEN[f"out_grad_{name}"]
        torch.testing.assert_close(layer.weight.grad[..., 0, 0], expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(deep.grad, GOLDEN["out_grad_x4"], rtol=0, atol=2e-4)
    assert all(stage.grad is None for stage in others)


@torch.no_grad()
def test_golden_inference():
    method, _ = golden_method("in_inf")
    (parts,) = read_scales(method.parts, torch.zeros(1, 3, 105, 139), (1.0,), flip=True).parts
    maps = class_maps(parts["cam"], (7, 9))
    torch.testing.assert_close(maps[0], GOLDEN["out_inf_cam"], **CLOSE)
    allowed = GOLDEN["in_inf_label"][None, :, None, None]
    found = method.is_cam(maps, parts, allowed, "side")
    torch.testing.assert_close(found[0], GOLDEN["out_inf_IS_cam"], **CLOSE)
    # the stored shares and threshold .5 are the release's arg max over the channels kept
    kept = GOLDEN["in_inf_label"][None, 1:] > 0
    method.scales = (1.0,)
    stored = method.infer(torch.zeros(1, 3, 105, 139), lambda _: kept).maps["is_cam"]
    large = torch.nn.functional.interpolate(found, (105, 139), mode="bilinear", align_corners=False)
    expected = normalise_max(large) * shown(kept)
    expected = expected.masked_fill(shown(kept) == 0, -1).argmax(1)
    assert (with_background(stored, 0.5).argmax(1) == expected).float().mean() > 0.9999


def test_seeds_of_two_unlike_pixels_by_hand():
    maps = torch.tensor([[0.0, 0.5], [1.0, 0.5]]).reshape(1, 2, 1, 2)
    found = soft_iou(maps, torch.eye(2).reshape(1, 2, 1, 2))
    expected = torch.tensor([[0, 0.5], [2 / 3, 0.25]]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    found[:, 0] *= 0.5
    assert winner(found, torch.ones(1, 2, 1, 1))[0, :, 0].tolist() == [[0, 1], [1, 0]]


@limits(max_examples=8, deadline=None)
@drawn(st.integers(0, 1000))
def test_soft_iou_properties(seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, 3, 4, generator=generator)
    features = torch.randn(2, 5, 3, 4, generator=generator)
    order = torch.randperm(12, generator=generator)

    def shuffled(x):
        return x.flatten(2)[..., order].view_as(x)

    found = soft_iou(maps, features)
    assert 0 <= found.min() <= found.max() < 1
    torch.testing.assert_close(soft_iou(shuffled(maps), shuffled(features)), shuffled(found))
    scale = 0.5 + torch.rand(2, 1, 3, 4, generator=generator)
    torch.testing.assert_close(soft_iou(maps, features * scale), found, atol=1e-4, rtol=0)


def test_no_features_and_no_map_is_no_agreement():
    maps = torch.rand(1, 2, 2, 2)
    maps[:, 1] = 0
    features = torch.randn(1, 3, 2, 2)
    features[..., 0, 0] = 0
    found = soft_iou(maps, features)
    assert torch.isfinite(found).all()
    assert (found[:, 1] == 0).all()
    assert (soft_iou(maps, torch.zeros_like(features)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_half_is_the_arg_max_and_another_threshold_a_factor(dtype):
    maps, background = torch.rand(2, 3, 9, 8), torch.rand(2, 1, 9, 8)
    background[0, 0, 0], maps[0, :, 0, 0] = 0, 0
    maps = (maps * 100).round() / 100 + torch.tensor([0, 0.002, 0.004])[:, None, None]
    stored = against_background(maps, background).to(dtype)  # as maps are stored
    for threshold, factor in ((0.5, 1.0), (1 / 3, 0.5)):
        found = with_background(stored, threshold).argmax(1)
        expected = torch.cat([factor * background, maps], 1).argmax(1)
        assert (found == expected).float().mean() > 0.99
    assert (found[0, 0] == expected[0, 0]).all()  # where the background is 0, too


def test_fused_scales_by_hand():
    one = torch.tensor([0.2, 0.0, 1.0, 0.4]).reshape(1, 4, 1, 1)
    two = torch.tensor([[0.2, 0.4], [9, 9], [0, 1.0], [0.0, 0]]).reshape(1, 4, 1, 2)
    kept = torch.tensor([[False, True, True]])
    background, classes = fuse([one, two], kept, (1, 2))
    torch.testing.assert_close(background, torch.tensor([[[0.4, 0.6]]]) / 0.60001)
    torch.testing.assert_close(classes[0], torch.tensor([[1.0, 2]]) / 2.00001)
    found = weighed((background, classes), kept)
    assert found.shape == (1, 3, 1, 2)
    assert (found[0, 0] == 0).all()
    torch.testing.assert_close(found[0, 1, 0, 1], torch.tensor(0.5), rtol=0, atol=1e-5)
    nothing = fuse([one, two], torch.zeros(1, 3, dtype=torch.bool), (1, 2))
    assert nothing[1].shape == (0, 1, 2)


def test_where_gradients_run():
    method = make().train()
    losses = method.losses(batch(), progress())
    assert list(losses) == ["cls", "gsc"]
    assert gradient(losses["cls"], method.side) == 0
    for module in (method.network.backbone, method.network.classifier, method.side):
        assert gradient(losses["gsc"], module) > 0
    maps = torch.rand(3, 4, 8, 7)
    parts = method.parts(batch()["image"])
    found = method.is_cam(maps, parts, torch.ones(1, 4, 1, 1), "deep").sum()
    assert gradient(found, method.network) == 0


def test_the_consistency_is_zero_where_both_agree():
    method, data = make().train(), batch()
    method.is_cam = lambda maps, *_: maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-9)
    assert method.losses(data, progress())["gsc"] < 1e-4


def test_without_consistency_seeds_and_prototypes_come_from_c5():
    method = make(w_gsc=0.0).eval()
    assert method.side is None
    assert list(method.losses(batch(), progress())) == ["cls"]
    parts = method.parts(batch()["image"])
    assert parts["side"] is parts["deep"]
    maps = method.score_maps(torch.randn(1, 3, 40, 33), torch.ones(1, 3))
    assert maps[:, 1:].max() > 0


def test_prototypes_find_the_body_behind_the_badge():
    data, masks = cases.badges()
    torch.manual_seed(0)
    method = SIPE(cases.Colours(), 2, side_widths=(8, 8, 8, 8), mask_absent=True)
    values = cases.train(method, data)
    assert values[-1]["cls"] < values[0]["cls"]
    assert values[-1]["gsc"] < 0.5 * values[0]["gsc"]
    scores = cases.scores(method, data, masks)
    assert scores["is_cam"][0.5] > scores["cam"][0.5] + 0.05
    assert max(scores["is_cam"].values()) > max(scores["cam"].values()) + 0.03
    # both classes fire on the body: without the mask the absent one takes its seeds
    method.mask_absent = False
    assert cases.scores(method, data, masks)["is_cam"][0.5] < scores["is_cam"][0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_one_of_odd_size_without_labels(dtype):
    method, data = make().train(), batch(1, (53, 37))
    data["label"][:] = 0
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = method.losses(data, progress())
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_an_image_of_padding_only_is_finite():
    method, data = make().train(), batch()
    data["image"][0], data["valid"][0] = 0, False
    sum(method.losses(data, progress()).values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@torch.no_grad()
def test_similarities_keep_their_precision_under_autocast():
    method = make().eval()
    parts = method.parts(batch()["image"])
    given = class_maps(parts["cam"], (8, 7)), parts, torch.ones(3, 4, 1, 1), "side"
    found = method.is_cam(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (method.is_cam(*given) == found).all()


def test_all_kinds_of_maps():
    method = make().eval()
    method.maps, method.scales = SIPE.kinds, (1.0, 0.5)
    gate = torch.tensor([[True, False, True], [False, False, False]])
    images = torch.randn(2, 3, 37, 50)
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        with torch.inference_mode():
            found = method.infer(images, lambda _: gate, stride)
        assert tuple(found.maps) == SIPE.kinds
        for maps in found.maps.values():
            assert maps.shape == (2, 3, *size)
            assert 0 <= maps.min() <= maps.max() <= 1
            assert (maps[~gate] == 0).all()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = method.infer(images, lambda _: gate)
    assert all(m.dtype == torch.float32 and m.isfinite().all() for m in half.maps.values())


@torch.inference_mode()
def test_a_mirrored_image_gives_mirrored_maps():
    method = make().eval()
    images, labels = torch.randn(1, 3, 32, 48), torch.ones(1, 3)
    maps = method.score_maps(images, labels)
    mirrored = method.score_maps(images.flip(-1), labels).flip(-1)
    assert ((maps - mirrored).abs() < 1e-3).float().mean() > 0.98  # a tied seed may turn over


def test_wrong_settings_are_explained():
    for settings, text in [
        ({"w_gsc": -1.0}, "0 or more, got -1"),
        ({"side_widths": (0, 4, 4, 4)}, "1 or more"),
        ({"seed_train": "x4"}, "'x4'"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("sipe", settings, "here")
