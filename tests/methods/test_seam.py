"""SEAM's losses against published code's results (golden), by hand, and where gradients may run."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import check_settings
from wsssbench.methods.base import Progress
from wsssbench.methods.multiscale import merge_views
from wsssbench.methods.seam import SEAM, hardest, lowest, max_norm, seam_losses
from wsssbench.models.pcm import resize_aligned

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "seam_pcm.npz")
ALL = {"scales": (1.0, 0.5), "maps": SEAM.kinds}


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def make(**settings) -> SEAM:
    torch.manual_seed(0)
    backbone = models.build("tiny", output_stride=8)
    return SEAM(backbone, 3, widths=(8, 12, 16), **settings)


def progress():
    return Progress(1, 1, 0, 1, torch.Generator())


def batch(size=3, sides=(64, 56)):
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(size, 3, *sides, generator=generator),
        "label": torch.eye(3)[torch.arange(size) % 3],
        "valid": torch.ones(size, *sides, dtype=torch.bool),
        "id": [str(i) for i in range(size)],
    }


def gradient(loss, module):
    """Sum of the absolute gradients of a module's parameters; the graph stays."""
    found = torch.autograd.grad(loss, [*module.parameters()], retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


def test_golden_losses_and_gradients():
    cams = [golden(f"in_loss_cam{i}")[:, 1:].requires_grad_() for i in (1, 2)]
    rewritten = [golden(f"in_loss_cam_rv{i}").requires_grad_() for i in (1, 2)]
    found = seam_losses(cams, rewritten, golden("in_loss_label"))
    cls1, cls2, min1, min2, er, ecr1, ecr2, total = golden("out_losses")
    expected = {"cls": (cls1 + cls2) / 2, "min": (min1 + min2) / 2, "er": er, "ecr": ecr1 + ecr2}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(sum(found.values()), total, rtol=0, atol=1e-5)
    sum(found.values()).backward()
    for i, (cam, maps) in enumerate(zip(cams, rewritten), start=1):
        background = golden(f"out_grad_cam{i}")[:, 0]
        assert (background == 0).all()  # which is why the classifier has no such row here
        close = {"rtol": 0, "atol": 1e-6}
        torch.testing.assert_close(cam.grad, golden(f"out_grad_cam{i}")[:, 1:], **close)
        torch.testing.assert_close(maps.grad, golden(f"out_grad_cam_rv{i}"), **close)


def test_golden_max_norm():
    cam = torch.nn.functional.conv2d(golden("in_conv6"), golden("in_fc8"))
    found = max_norm(resize_aligned(cam, golden("in_x").shape[-2:]))[:, :, ::8, ::8]
    torch.testing.assert_close(found, golden("out_max_norm"), rtol=0, atol=1e-5)


def test_max_norm_by_hand():
    found = max_norm(torch.tensor([[[[0.0, 1.0, 3.0]], [[-1.0, -2.0, -3.0]]]]))
    expected = torch.tensor([[[[0.0, (1 - 1e-5) / (3 + 1e-5), 0.99999]], [[0.0, 0, 0]]]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_lowest_and_hardest_by_hand():
    # highest class per position: 1 … 8; the lowest quarter of 8 positions is 1 and 2
    maps = torch.stack([torch.arange(1.0, 9), torch.zeros(8)]).reshape(1, 2, 2, 4)
    assert lowest(maps) == 1.5
    assert lowest(-maps[:, :1]) == 0  # rectified after the choice
    # 10 errors: the largest fifth by absolute value is 10 and 9
    assert hardest(torch.arange(-10.0, 0).reshape(1, 2, 5, 1)) == 9.5


def test_equal_copies_agree():
    maps = torch.zeros(1, 2, 6, 6)
    maps[:, 0, :3], maps[:, 1, 3:] = 4.0, 2.0
    exact = torch.cat([torch.zeros(1, 1, 6, 6), (maps > 0).float()], 1)
    found = seam_losses([maps, maps], [exact, exact], torch.ones(1, 2))
    assert found["er"] == 0
    assert found["ecr"] < 1e-4


def test_absent_classes_do_not_count():
    torch.manual_seed(0)
    cams = [torch.randn(2, 3, 9, 7), torch.randn(2, 3, 5, 4)]
    rewritten = [torch.rand(2, 4, *cam.shape[2:]) for cam in cams]
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    before = seam_losses(cams, rewritten, labels)
    for cam, maps in zip(cams, rewritten):
        cam[0, 1:], cam[1] = 7.0, 7.0
        maps[0, 2:], maps[1, 1:] = 0.3, 0.3
    after = seam_losses(cams, rewritten, labels)
    for name in ("min", "er", "ecr"):
        torch.testing.assert_close(after[name], before[name])
    assert after["cls"] != before["cls"]


def test_where_gradients_run():
    method = make().train()
    losses = method.losses(batch(), progress())
    for name in ("ecr", "min"):
        assert gradient(losses[name], method.network) == 0, name
    assert all(gradient(losses["ecr"], m) > 0 for m in method.pcm.children())
    for name in ("cls", "er"):
        assert gradient(losses[name], method.network.classifier) > 0, name
        assert gradient(losses[name], method.network.backbone) > 0, name
        assert gradient(losses[name], method.pcm) == 0, name


@pytest.mark.parametrize("name", ["er", "ecr", "all"])
def test_steps_lower_the_loss(name):
    method = make(dropout=0.0).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.02)
    data, values = batch(), []
    for _ in range(5):
        losses = method.losses(data, progress())
        loss = sum(losses.values()) if name == "all" else losses[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0]


def test_weights_act():
    torch.manual_seed(0)
    plain = make(dropout=0.0).eval().losses(batch(), progress())
    method = make(dropout=0.0, w_min=2.0, w_er=0.0, w_ecr=0.5).eval()
    found = method.losses(batch(), progress())
    expected = {"cls": 1.0, "min": 2.0, "er": 0.0, "ecr": 0.5}
    assert list(found) == list(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight * plain[name])


@pytest.mark.parametrize(
    ("dtype", "sides"),
    [(torch.float32, (53, 37)), (torch.bfloat16, (53, 37)), (torch.float32, (9, 8))],
)
def test_a_batch_of_one_of_odd_size_without_labels(dtype, sides):
    method, data = make(), batch(1, sides)
    method.train(sides != (9, 8))  # the small copy's single cell has no batch statistics
    data["label"][:] = 0
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = method.losses(data, progress())
    sum(losses.values()).backward()
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert losses["er"] == losses["min"] == 0


def test_a_small_copy_is_a_smaller_pass():
    method, sizes = make().eval(), []
    maps_of = method.maps_of
    method.maps_of = lambda images: sizes.append(tuple(images.shape[-2:])) or maps_of(images)
    method.losses(batch(), progress())
    assert sizes == [(64, 56), (19, 16)]


def test_all_kinds_of_maps():
    method = make().eval()
    vars(method).update(ALL)
    images = torch.randn(2, 3, 37, 50)
    gate = torch.tensor([[True, False, True], [False, False, False]])
    for stride, size in ((1, (37, 50)), (4, (10, 13))):
        with torch.inference_mode():
            found = method.infer(images, lambda _: gate, stride)
        assert tuple(found.maps) == SEAM.kinds
        assert found.probabilities.shape == (2, 3)
        for kind, maps in found.maps.items():
            assert maps.shape == (2, 3, *size), kind
            assert 0 <= maps.min() <= maps.max() <= 1 + 1e-6, kind
            assert (maps[~gate] == 0).all()
            assert maps[0, 0].max() > 0
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = method.infer(images, lambda _: gate, stride)
    assert all(maps.dtype == torch.float32 for maps in half.maps.values())


@torch.inference_mode()
def test_maps_follow_the_recipe():
    """Each pass enlarged to its own size, then to the image's, as one goes through the views."""
    method = make().eval()
    method.maps, method.flip = ("pcm", "cam"), False
    images = torch.randn(2, 3, 40, 33)
    passes, maps_of = [], method.maps_of

    def recorded(copies):
        cam, rewritten = maps_of(copies)
        passes.append([resize_aligned(x, copies.shape[-2:]) for x in (cam, rewritten[:, 1:])])
        return cam, rewritten

    method.maps_of = recorded
    found = method.infer(images, lambda p: torch.ones_like(p, dtype=torch.bool))
    for kind, number in (("cam", 0), ("pcm", 1)):
        expected = merge_views([p[number][:, None] for p in passes], (40, 33), merge="seam")
        torch.testing.assert_close(found.maps[kind], expected)
    scores = torch.stack([p[0].mean((2, 3)).sigmoid() for p in passes]).mean(0)
    torch.testing.assert_close(found.probabilities, scores)


@torch.inference_mode()
def test_a_mirrored_image_gives_mirrored_maps():
    method = make().eval()
    images, labels = torch.randn(1, 3, 32, 48), torch.ones(1, 3)
    maps = method.score_maps(images, labels)
    mirrored = method.score_maps(images.flip(-1), labels).flip(-1)
    torch.testing.assert_close(mirrored, maps, atol=1e-4, rtol=0)


def test_stages_of_other_strides_are_brought_to_one_grid():
    torch.manual_seed(0)
    backbone = models.build("resnet18", output_stride=16)
    method = SEAM(backbone, 2, levels=("C2", "C4"), widths=(4, 4, 4)).eval()
    assert (method.pcm.f8_3.in_channels, method.pcm.f8_4.in_channels) == (64, 256)
    with torch.no_grad():
        cam, rewritten = method.maps_of(torch.randn(1, 3, 65, 50))
    assert cam.shape == (1, 2, 5, 4)
    assert rewritten.shape == (1, 3, 5, 4)


def test_the_classifier_starts_as_the_release_or_as_cam():
    torch.manual_seed(0)
    backbone = models.build("tiny")
    width = backbone.channels["C5"]
    for released, spread in ((True, (2 / (width + 50)) ** 0.5), (False, (3 * width) ** -0.5)):
        weight = SEAM(backbone, 50, release_start=released).network.classifier.weight
        assert weight.std().item() == pytest.approx(spread, rel=0.1)


def test_new_layers_are_of_the_group_new():
    method = make()
    groups = method.parameter_groups()
    new = {id(p) for part in (method.network.classifier, method.pcm) for p in part.parameters()}
    assert {id(p) for p in groups["new"]} == new


def test_wrong_settings_are_explained():
    for settings, text in [
        ({"second_scale": 0.0}, r"in \(0, 1\], got 0.0"),
        ({"levels": ("C3", "C6")}, "Unknown stage 'C6'"),
        ({"widths": (64, 128)}, "expected a tuple like"),
        ({"pamr": {"sgima": 0.1}}, "Did you mean 'sigma'"),
    ]:
        with pytest.raises(UserError, match=text):
            check_settings("seam", settings, "here")
