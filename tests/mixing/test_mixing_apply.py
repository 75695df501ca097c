"""What becomes of images, masks, maps and labels, by hand."""

from dataclasses import replace

import pytest
import torch
from mix_batches import CLASSES, make_batch, pair_batch, pasting

from wsssbench.errors import UserError
from wsssbench.mixing import Layer, MixBatch, MixPlan, apply_mix
from wsssbench.mixing.apply import count_classes
from wsssbench.mixing.batch import IGNORE

X = IGNORE


def test_edge_predict_mix_example():
    """A chosen class over ignored and other pixels: the source's 255 stays out, maps follow."""
    batch = pair_batch([X, 4, 4, X], [3, X, 0, 3])
    maps = torch.rand(2, CLASSES, 1, 4)
    maps[0, 3] = 0.9
    maps[1, 3] = torch.tensor([0.2, 0.1, 0.0, 0.3])
    out = apply_mix(replace(batch, dense={"rs": maps}), pasting([1, 0, 0, 1]))
    assert out.mask.tolist() == [[[3, 4, 4, 3]]]
    assert torch.equal(out.images[..., 1:3], batch.images[:1, ..., 1:3])
    assert torch.equal(out.dense["rs"][0, 3, 0, [0, 3]], maps[1, 3, 0, [0, 3]])  # no maximum
    assert torch.equal(out.dense["rs"][0, :, 0, [1, 2]], maps[0, :, 0, [1, 2]])


def test_a_soft_weight_leaves_doubtful_pixels_out():
    base = [1, 1, 1, 1, 2, X, 1, X, X]
    src = [2, 2, 2, 2, 2, 1, X, 1, X]
    weight = [0.25, 0.5, 0.59, 0.61, 0.5, 0.25, 0.25, 0.75, 0.5]
    out = apply_mix(pair_batch(base, src), pasting(weight))
    assert out.mask.flatten().tolist() == [1, X, X, 2, 2, X, 1, 1, X]
    assert out.mask_base.flatten().tolist() == base
    assert out.mask_src.flatten().tolist() == src
    expected = 0.75 * torch.arange(9.0) + 0.25 * (torch.arange(9.0) + 27)
    torch.testing.assert_close(out.images[0, 0, 0, :1], expected[:1])


def test_area_labels():
    labels = [[1, 1, 0, 0], [0, 1, 1, 0]]
    out = apply_mix(pair_batch([0, 0, 0, 0], [0, 0, 0, 0], labels), pasting([1, 0, 0, 0]))
    assert out.labels.tolist() == [[0.75, 1, 0.25, 0]]
    assert out.gate.tolist() == [[1, 1, 1, 0]]
    assert out.lam_base.tolist() == [0.75]


def test_calibrated_labels():
    labels = [[1, 1, 0, 0], [0, 1, 1, 0]]
    plan = pasting([1, 0, 0, 0], lam_base=torch.tensor([0.5]), label_rule="calibrated")
    out = apply_mix(pair_batch([0] * 4, [0] * 4, labels), plan)
    assert out.labels.tolist() == [[0.5, 1, 0.5, 0]]
    assert out.lam_base.tolist() == [0.5]


def test_union_labels():
    labels = [[1, 0, 0, 0], [0, 1, 1, 0]]
    batch = pair_batch([0] * 4, [0] * 4, labels)
    some = torch.tensor([[False, True, False, False]])
    for classes, expected in ((None, [1, 1, 1, 0]), (some, [1, 1, 0, 0])):
        plan = pasting([1, 0, 0, 0], src_classes=classes, label_rule="union")
        assert apply_mix(batch, plan).labels.tolist() == [expected]
    nothing = pasting([0, 0, 0, 0], label_rule="union")
    assert apply_mix(batch, nothing).labels.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("base", "src", "weight", "expected"),
    [
        ([1, 1, 0, 0], [2, 2, 2, 2], [1, 1, 0, 0], [0, 1, 0]),  # 1 covered, 2 pasted
        ([1, 1, 0, 1], [2, 2, 2, 2], [1, 1, 0, 0], [1, 1, 0]),  # a pixel of 1 is left
        ([0, 0, 0, 0], [2, 2, 2, 2], [1, 1, 0, 0], [1, 1, 0]),  # 1 was never located: stays
        ([1, 1, 0, 0], [0, X, 2, 2], [1, 1, 0, 0], [0, 0, 0]),  # 2 is not in what was pasted
        ([1, 1, 0, 0], [1, 1, 2, 2], [1, 1, 0, 0], [1, 0, 0]),  # 1 covered by itself
        ([1, 1, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0], [1, 0, 0]),  # nothing pasted
    ],
)
def test_visible_labels(base, src, weight, expected):
    batch = pair_batch(base, src, [[1, 0, 0], [1, 1, 0]])
    for plan in (pasting(weight, label_rule="visible"), pasting(weight)):
        out = apply_mix(batch, plan, label_rule="visible")
        assert out.labels.tolist() == [expected]
        assert out.gate.tolist() == [expected]


def test_visible_labels_of_large_images():
    """Of 10 000 pixels a pasted class needs 10; a base class goes below 10 if 95 % are lost."""

    def mixed(*pairs):
        base, src, weight = (torch.zeros(10_000) for _ in range(3))
        at = 0
        for count, (below, above) in pairs:
            base[at : at + count], src[at : at + count] = below, above
            weight[at : at + count] = above > 0
            at += count
        batch = pair_batch(base.long().tolist(), src.long().tolist(), [[1, 0, 0], [0, 1, 0]])
        return apply_mix(batch, pasting(weight.tolist(), label_rule="visible")).labels.tolist()[0]

    assert mixed((10, (0, 2))) == [1, 1, 0]
    assert mixed((9, (0, 2))) == [1, 0, 0]
    assert mixed((190, (1, 2)), (10, (1, 0))) == [1, 1, 0]  # 95 % lost, 10 left
    assert mixed((191, (1, 2)), (9, (1, 0))) == [0, 1, 0]
    assert mixed((30, (1, 2)), (9, (1, 0))) == [1, 1, 0]  # 9 left, but 77 % lost


def test_visible_needs_masks():
    batch = MixBatch(torch.zeros(2, 3, 1, 4), torch.ones(2, 3))
    with pytest.raises(UserError, match="needs masks"):
        apply_mix(batch, pasting([1, 0, 0, 0], label_rule="visible"))


def test_padding_is_neither_pasted_nor_taught():
    valid = torch.tensor([[True, False, True, False], [True, True, False, False]])[:, None]
    batch = pair_batch([1, 1, 1, 1], [2, 2, 2, 2], valid=valid)
    out = apply_mix(batch, pasting([1, 1, 1, 1]))
    assert out.weight.flatten().tolist() == [1, 1, 0, 0]
    assert out.mask.flatten().tolist() == [2, 2, 1, X]
    assert out.valid.flatten().tolist() == [True, True, True, False]
    assert out.lam_base.tolist() == [0.5]
    assert out.mask_base.flatten().tolist() == [1, X, 1, X]
    assert out.mask_src.flatten().tolist() == [2, 2, X, X]


def test_dense_maps_are_gated_by_their_own_labels():
    labels = [[1, 0, 0, 0], [0, 1, 0, 0]]
    maps = {name: torch.ones(2, count, 1, 4) for name, count in (("k", 4), ("bg", 5), ("f", 7))}
    batch = replace(pair_batch([0] * 4, [0] * 4, labels), dense=maps)
    out = apply_mix(batch, pasting([1, 0, 0, 0.5])).dense
    half = [1, 0, 0, 0.5]
    assert out["k"][0, :, 0].tolist() == [[0, 1, 1, 0.5], half, [0] * 4, [0] * 4]
    assert out["bg"][0, :, 0].tolist() == [[1] * 4, [0, 1, 1, 0.5], half, [0] * 4, [0] * 4]
    assert out["f"].eq(1).all()


def test_views_replace_rows():
    batch = pair_batch([0] * 4, [0] * 4)
    shown = Layer(torch.full((1, 3, 1, 4), 7.0), torch.ones(1, CLASSES), torch.full((1, 1, 4), 3))
    out = apply_mix(batch, replace(pasting([1, 0, 0, 1]), src_view=shown))
    assert out.images[0, 0, 0].tolist() == [7, 1, 2, 7]
    assert out.mask.tolist() == [[[3, 0, 0, 3]]]


def test_labels_only():
    """Label mode needs no masks."""
    batch = MixBatch(torch.randn(2, 3, 5, 4), torch.ones(2, 3))
    plan = MixPlan(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.ones(2, 1, 5, 4))
    out = apply_mix(batch, plan)
    assert torch.equal(out.images, batch.images)
    assert out.mask is None
    assert out.mask_base is None
    assert out.valid is None


def test_count_classes():
    mask = make_batch(3).mask
    expected = torch.stack([(mask == c).sum((1, 2)) for c in range(CLASSES + 1)], 1)
    assert torch.equal(count_classes(mask, CLASSES), expected.int())
