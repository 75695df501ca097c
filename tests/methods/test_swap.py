"""What CoSA's branches teach each other: against published code's results (golden) and by hand."""

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from wsssbench.methods import swap
from wsssbench.methods.swap import IGNORE
from wsssbench.models.aux_network import AuxOutput
from wsssbench.models.decoder import resize
from wsssbench.models.segmentation_losses import masked_cross_entropy

FOLDER = Path(__file__).parents[1] / "golden"
FILES = {name: np.load(FOLDER / f"cosa_{name}.npz") for name in ("spl", "c2s", "camfuse", "raw")}


def golden(file, name):
    return torch.from_numpy(FILES[file][name])


def outputs(seed=0, images=2, classes=4, sizes=((4, 6), (2, 3), (6, 9))):
    """One network output per scale, mirrored images last."""
    generator = torch.Generator().manual_seed(seed)

    def draw(channels, size):
        return torch.randn(2 * images, channels, *size, generator=generator)

    return [
        AuxOutput({}, draw(classes, s), draw(classes, (1, 1)).flatten(1), draw(classes + 1, s),
                  draw(classes, s))
        for s in sizes
    ]  # fmt: skip


def compact(maps, present):
    """Maps of all classes -> those of the present ones, as `fuse` has them."""
    classes, kept = swap.chosen(present)
    return maps[torch.arange(len(maps))[:, None], classes], classes, kept


def box():
    valid = torch.zeros(3, 48, 64, dtype=torch.bool)
    for inside, (top, bottom, left, right) in zip(valid, golden("c2s", "in_img_box")):
        inside[top:bottom, left:right] = True
    return valid


def equal_share(found, expected):
    return (found == expected.long()).float().mean()


def test_golden_fusion():
    views = [
        AuxOutput({}, golden("camfuse", f"in_cam_{i}"), torch.zeros(4, 4),
                  golden("camfuse", f"in_seg_{i}"), golden("camfuse", f"in_aux_{i}"))
        for i in range(3)
    ]  # fmt: skip
    found = swap.fuse(views, 2, lambda p: torch.ones_like(p) > 0, (32, 48), aux_sum=False)
    for name in ("cam", "aux", "seg"):
        expected = golden("camfuse", f"out_{name}")
        torch.testing.assert_close(getattr(found, name), expected, rtol=0, atol=1e-5)
    assert (found.cam[:, 0] == 0).all()
    assert found.views == 6


def test_fusion_carries_only_present_classes():
    """Same maps as with all classes, whatever the others say."""
    present = torch.tensor([[False, True, False, True], [False] * 4])
    few = swap.fuse(outputs(), 2, lambda _: present, (16, 24), aux_sum=True)
    every = swap.fuse(outputs(), 2, lambda p: torch.ones_like(p) > 0, (16, 24), aux_sum=True)
    assert few.classes.tolist()[0] == [1, 3]
    assert few.kept.tolist() == [[True, True], [False, False]]
    shown = present[..., None, None]
    torch.testing.assert_close(few.spread(few.cam), every.cam * shown)
    torch.testing.assert_close(few.spread(few.aux), every.aux * shown)
    torch.testing.assert_close(few.seg[0], every.seg[0, [0, 2, 4]])
    torch.testing.assert_close(few.seg[1, 0], every.seg[1, 0])
    assert (few.seg[1, 1:] == swap.NEVER).all()
    torch.testing.assert_close(few.probabilities, every.probabilities)


def test_the_earlier_map_is_of_the_last_scale_unless_summed():
    views, everything = outputs(), lambda p: torch.ones_like(p) > 0
    last = swap.fuse(views[2:], 2, everything, (16, 24), aux_sum=True)
    for aux_sum in (False, True):
        found = swap.fuse(views, 2, everything, (16, 24), aux_sum=aux_sum)
        assert torch.equal(found.aux, last.aux) != aux_sum


def test_golden_segmentation_target():
    labels = golden("spl", "in_cls_label") > 0
    seg, classes = golden("spl", "in_seg"), swap.chosen(labels)[0]
    kept = torch.cat([labels[:, :1] | True, labels.gather(1, classes)], 1)
    seg = swap.take_with_background(seg, classes)
    seg = seg.masked_fill(~kept[..., None, None], swap.NEVER)
    expected = golden("spl", "out_spl_t0.01_before")[:, 1:]
    rows = torch.arange(3)[:, None]
    for size in ((32, 40), (9, 11), (2, 5), (1, 1)):
        found = swap.segmentation_target(seg, size)
        resized = resize(expected, size)[rows, classes]
        torch.testing.assert_close(found, resized, rtol=0, atol=5e-5)
        assert (found[2] == 0).all()  # no label: background everywhere


def test_golden_cam_loss():
    cam = golden("spl", "in_cam").requires_grad_()
    target = resize(golden("spl", "out_spl_t0.01_before")[:, 1:], cam.shape[-2:])
    loss = swap.cam_loss(cam, target)
    loss.backward()
    torch.testing.assert_close(loss, golden("spl", "out_s2c_v1"), rtol=1e-5, atol=0)
    torch.testing.assert_close(cam.grad, golden("spl", "out_s2c_grad_v1"), rtol=0, atol=1e-7)
    assert (cam.grad[cam <= 0] == 0).all()


@pytest.mark.parametrize(
    ("target", "score", "expected"),
    [(0, -1.0, log(2)), (1, 2.0, 0.1269), (0, 2.0, 2.1269)],
)
def test_cam_loss_by_hand(target, score, expected):
    found = swap.cam_loss(torch.full((1, 1, 1, 1), score), torch.full((1, 1, 1, 1), float(target)))
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_temperature_by_hand():
    seg = torch.tensor([0.0, 0.02, swap.NEVER]).view(1, 3, 1, 1)
    found = swap.segmentation_target(seg, (1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor([0.880797, 0.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "high", "reduce"), [("voc", 0.7, 2), ("coco", 0.65, 2), ("nods", 0.7, 1)]
)
def test_golden_masks(name, high, reduce):
    cam, classes, kept = compact(golden("c2s", "in_cam"), golden("c2s", "in_cls_label") > 0)
    mask = swap.band_mask(cam, classes, kept, box(), low=0.25, high=high, reduce=reduce)
    assert equal_share(mask, golden("c2s", f"out_mask_{name}")) > 0.999


def test_golden_label_with_one_threshold():
    cam, classes, _ = compact(golden("c2s", "in_cam"), golden("c2s", "in_cls_label") > 0)
    mask = swap.split_mask(cam, classes, torch.ones(3, 48, 64, dtype=torch.bool), 0.5)
    assert equal_share(mask, golden("c2s", "out_cam_to_label_0.5")) > 0.999


def test_golden_segmentation_loss():
    logits = golden("c2s", "in_logit").requires_grad_()
    mask = golden("c2s", "out_mask_voc").long()
    loss = masked_cross_entropy(logits, mask, balanced=True) / 2
    loss.backward()
    torch.testing.assert_close(loss, golden("c2s", "out_seg_loss"), rtol=1e-5, atol=0)
    found = logits.grad[:, :, ::4, ::4]
    torch.testing.assert_close(found, golden("c2s", "out_seg_grad"), rtol=0, atol=1e-8)
    plain = masked_cross_entropy(logits, mask)
    torch.testing.assert_close(plain, golden("c2s", "out_seg_lossv2"), rtol=1e-5, atol=0)
    ignored = torch.full_like(mask, IGNORE)
    assert masked_cross_entropy(logits, ignored, balanced=True) == 0


def test_weighted_loss_divides_by_numbers():
    logits, mask = torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 0, 1]]])
    weights = torch.tensor([[[2.0, 0.0, 0.5]]])
    found = masked_cross_entropy(logits, mask, balanced=True, weights=weights) / 2
    assert float(found) == pytest.approx(log(2) * (2 / 2 + 0.5) / 2)


def test_masks_of_images_without_labels_are_background():
    cam, classes = torch.zeros(1, 1, 7, 5), torch.zeros(1, 1, dtype=torch.long)
    valid = torch.ones(1, 7, 5, dtype=torch.bool)
    valid[0, 0] = False
    band = swap.band_mask(cam, classes, torch.tensor([[False]]), valid, low=0.25, high=0.7)
    for mask in (band, swap.split_mask(cam, classes, valid, 0.4)):
        assert (mask[0, 0] == IGNORE).all()
        assert (mask[0, 1:] == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_absent_classes_never_appear(seed):
    generator = torch.Generator().manual_seed(seed)
    cam = torch.rand(2, 5, 9, 7, generator=generator)
    present = torch.rand(2, 5, generator=generator) < 0.4
    few, classes, kept = compact(cam * present[..., None, None], present)
    valid = torch.ones(2, 9, 7, dtype=torch.bool)
    mask = swap.band_mask(few, classes, kept, valid, low=0.2, high=0.6)
    for image, own in zip(mask, present):
        assert set(image.unique().tolist()) <= {0, IGNORE, *(own.nonzero()[:, 0] + 1).tolist()}


@pytest.mark.parametrize("limit", [0.45, 0.6])
@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 1.0), (0.9, 1.0), (0.8, 1.5)])
def test_golden_perplexity(limit, alpha, beta):
    cam, inside = golden("raw", "in_valid_cam"), golden("raw", "in_box")
    sharpest, case = cam.amax(1), f"xi{limit}_a{alpha}_b{beta}"
    found = swap.perplexity(sharpest, limit, alpha=alpha, beta=beta)
    clear = (sharpest - limit).abs() > 1e-3
    close = {"rtol": 1e-4, "atol": 0}
    torch.testing.assert_close(found[clear], golden("raw", f"out_P_{case}")[clear], **close)
    weights = swap.reliability(found, inside)
    torch.testing.assert_close(weights[clear], golden("raw", f"out_W_{case}")[clear], **close)
    assert float(weights[inside].mean()) == pytest.approx(1, abs=1e-5)
    every = torch.arange(4).expand(3, -1)
    mask = swap.split_mask(cam, every, inside, limit)
    assert torch.equal(mask, golden("raw", f"out_cpl_xi{limit}").long())


def test_golden_perplexity_at_the_edges():
    found = swap.perplexity(golden("raw", "in_edge_nu"), 0.45)
    torch.testing.assert_close(found, golden("raw", "out_edge_P"), rtol=2e-2, atol=0)


def test_perplexity_by_hand():
    unsure = swap.perplexity(torch.tensor([0, 0.25, 0.75, 1]), 0.5)
    expected = torch.tensor([0.2231, 0.9163, 0.9163, 0.2231])
    torch.testing.assert_close(unsure, expected, rtol=0, atol=1e-4)
    weights = swap.reliability(unsure, torch.ones(4, dtype=torch.bool))
    expected = torch.tensor([1.608, 0.392, 0.392, 1.608])
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-3)
    assert (swap.reliability(unsure, torch.zeros(4, dtype=torch.bool)) == 0).all()
    rising = swap.perplexity(torch.linspace(0.5, 1, 20), 0.5)
    assert (rising.diff() < 0).all()
