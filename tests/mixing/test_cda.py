"""CDA: sizes and places of the release, and what a pasted instance does to a batch."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mix_batches import CLASSES, make_batch
from scipy import ndimage

from wsssbench.errors import UserError
from wsssbench.mixing import MixBatch, apply_mix
from wsssbench.mixing.batch import IGNORE
from wsssbench.mixing.cda import CDA
from wsssbench.mixing.instance_bank import Instance, InstanceBank, write_bank
from wsssbench.mixing.paste import paste_size, place, rotated_frame, warp
from wsssbench.mixing.pixels import from_bytes, to_bytes

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "cda.npz")
CASES = json.loads(str(GOLDEN["meta"]))["parameters"]


def golden(name, case):
    value = GOLDEN[f"{name}_{case}"]
    return value if value.ndim else value.item()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def red(height=4, width=6):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 255
    return Instance(image, np.ones((height, width), bool))


def bank_of(*classes, **how):
    bank = InstanceBank()
    for klass in classes:
        bank.add(klass, red(**how))
    return bank


def golden_batch(case):
    image = torch.from_numpy(golden("in_bg", case)).permute(2, 0, 1)[None]
    labels = torch.zeros(1, 20)
    mask = torch.zeros(1, *image.shape[2:], dtype=torch.int64)
    return MixBatch(from_bytes(image), labels, mask, {"rs": torch.zeros(1, 20, *image.shape[2:])})


def golden_draws(case):
    sides = np.array(golden("in_bg", case).shape[:2]) - golden("out_size", case) + 1
    corner = np.array([golden("in_row", case), golden("in_col", case)])
    return {
        "base": torch.tensor([0]),
        "src": torch.tensor([0]),
        "klass": torch.tensor([golden("in_class", case)]),
        "instance": torch.tensor([0]),
        "angle": torch.tensor([golden("in_degree", case)]),
        "scale": torch.tensor([golden("in_scale", case)]),
        "place": torch.from_numpy((corner + 0.5) / sides)[None],
    }


def golden_mix(case, **settings):
    bank = InstanceBank()
    segment = golden("in_seg", case) > 0
    bank.add(golden("in_class", case), Instance(golden("in_fg", case), segment))
    batch = golden_batch(case)
    plan = CDA(bank=bank, **settings).plan_from(batch, golden_draws(case))
    return plan, apply_mix(batch, plan)


def test_release_names_its_cases():
    functions = [case["function"] for case in CASES]
    assert functions == ["data_aug_rotation"] * 3 + ["data_aug"] * 2 + ["data_aug_rotation_blur"]


@pytest.mark.parametrize("case", range(6))
def test_sizes_of_the_release(case):
    shape = golden("in_fg", case).shape[:2]
    frame, _ = rotated_frame(shape, golden("in_degree", case))
    assert frame == golden("out_rot_seg", case).shape
    canvas = golden("in_bg", case).shape[:2]
    size = paste_size(frame, canvas, scale=golden("in_scale", case))
    assert size == tuple(golden("out_size", case))


@pytest.mark.parametrize("case", range(5))
def test_legacy_is_the_release(case):
    plan, out = golden_mix(case, resample="legacy")
    pasted = golden("out_paste_mask", case) > 0
    assert np.mean(plan.weight[0, 0].bool().numpy() != pasted) <= 1e-3
    image = to_bytes(out.images)[0].permute(1, 2, 0).numpy()
    assert np.mean(np.abs(image.astype(int) - golden("out_image", case)) > 1) <= 2e-3
    assert out.labels[0].nonzero().tolist() == [[golden("in_class", case) - 1]]


def test_blur_is_the_release():
    """Given the small instance; the release blurs a segment with soft borders, we a hard one."""
    small, segment = golden("out_small_img", 5), golden("out_small_seg", 5) > 0
    bank = InstanceBank()
    bank.add(12, Instance(small, segment))
    batch = golden_batch(5)
    draws = golden_draws(5) | {"angle": torch.tensor([0])}
    plan = CDA(bank=bank, blur=3).plan_from(batch, draws)
    image = to_bytes(apply_mix(batch, plan).images)[0].permute(1, 2, 0).numpy()
    differ = np.abs(image.astype(int) - golden("out_image", 5))
    assert differ.max() <= 15
    assert differ[plan.weight[0, 0].numpy() > 0].mean() <= 1
    assert 0 < plan.weight[0, 0][plan.weight[0, 0] > 0].min() < 0.1


@pytest.mark.parametrize("resample", ["binary_linear", "nearest"])
@pytest.mark.parametrize("case", range(5))
def test_resampled_like_the_release(case, resample):
    plan, out = golden_mix(case, resample=resample)
    theirs, ours = golden("out_paste_mask", case) > 0, plan.weight[0, 0].bool().numpy()
    # class 20 of case 1: the release widens the object by a seventh
    least = 0.83 if case == 1 else 0.9
    assert (ours & theirs).sum() / (ours | theirs).sum() >= least
    core = cv2.erode((ours & theirs).astype(np.uint8), np.ones((3, 3))) > 0
    image = to_bytes(out.images)[0].permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - golden("out_image", case))[core].mean() <= 6


@pytest.mark.parametrize("shape", [(60, 50), (1, 7), (7, 1), (2, 2), (33, 64)])
def test_rotated_frames_are_scipys(shape):
    for angle in range(-90, 91, 3):
        expected = ndimage.rotate(np.zeros(shape, np.uint8), angle, order=0).shape
        assert rotated_frame(shape, angle)[0] == expected


@pytest.mark.parametrize(
    ("canvas", "shape", "expected"),
    [
        ((80, 120), (78, 76), (56, 54)),
        ((75, 50), (70, 98), (25, 35)),
        ((100, 100), (70, 70), (70, 70)),
        ((100, 100), (9, 11), (9, 11)),  # never enlarged
        ((10, 1000), (1, 900), (1, 700)),  # not below one pixel
        ((10, 10), (1, 900), (1, 7)),
    ],
)
def test_size_rule(canvas, shape, expected):
    assert paste_size(shape, canvas) == expected


def test_quarter_turn_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    segment = image[..., 0] > 128
    turned = warp(Instance(image, segment), 90, (100, 100))
    assert np.array_equal(turned.image, np.rot90(image))
    assert np.array_equal(turned.segment, np.rot90(segment))


def test_places_reach_both_borders():
    parts = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64).tolist()
    tops = [place((part, part), (3, 5), (7, 5)) for part in parts]
    assert {top for top, _ in tops} == {0, 1, 2, 3, 4}
    assert {left for _, left in tops} == {0}
    assert np.bincount([top for top, _ in tops]).tolist() == [200] * 5


def test_class_and_instance_are_uniform_over_what_is_absent_and_stocked():
    bank = bank_of(1, 2, 2, 4, 4, 4)
    labels = torch.zeros(4000, CLASSES)
    labels[:, 0] = 1
    batch = MixBatch(torch.zeros(1, 3, 8, 8).expand(4000, -1, -1, -1), labels)
    draws = CDA(bank=bank).draw(batch, seeded())
    counts = torch.bincount(draws["klass"], minlength=CLASSES + 1)
    assert counts[[0, 1, 3]].tolist() == [0, 0, 0]
    assert abs(counts[2].item() - 2000) < 130  # 4 standard deviations
    of_two, of_four = (draws["instance"][draws["klass"] == klass] for klass in (2, 4))
    assert (of_two.bincount().tolist() != [], of_two.max(), of_four.max()) == (True, 1, 2)
    assert (of_four.bincount() - len(of_four) / 3).abs().max() < 90
    angles = draws["angle"]
    assert (angles.min(), angles.max()) == (-90, 90)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_pasted(seed, padded):
    batch = make_batch(seed, count=5, height=21, width=16, padded=padded)
    mixer = CDA(bank=bank_of(1, 2, 3, 4), scale=(0.5, 1.0))
    plan = mixer.plan(batch, seeded(seed))
    out = apply_mix(batch, plan)
    klass, pasted = plan.info["klass"], plan.weight[:, 0].bool()
    for row in range(5):
        before, after = batch.labels[row], out.labels[row]
        inside, outside = pasted[row], ~pasted[row]
        assert torch.equal(out.images[row][:, outside], batch.images[row][:, outside])
        assert torch.equal(out.mask[row][outside & batch_valid(batch)[row]],
                           batch.mask[row][outside & batch_valid(batch)[row]])  # fmt: skip
        if not klass[row]:
            assert before.all()
            assert not inside.any()
            assert torch.equal(before, after)
            continue
        one_hot = torch.nn.functional.one_hot(klass[row] - 1, CLASSES)
        assert before[klass[row] - 1] == 0
        assert inside.any()
        assert torch.equal(after, before + one_hot)
        assert (out.mask[row][inside] == klass[row]).all()
        assert torch.equal(out.dense["rs"][row][:, inside].T.unique(dim=0)[0], one_hot.float())
        assert torch.equal(out.dense["probs"][row][1:, inside].T.unique(dim=0)[0], one_hot.float())
        assert (out.dense["probs"][row][0, inside] == 0).all()
        assert torch.allclose(to_bytes(out.images[row])[:, inside].double().mean(1),
                              torch.tensor([255.0, 0, 0]).double())  # fmt: skip


def batch_valid(batch):
    return torch.ones_like(batch.mask, dtype=torch.bool) if batch.valid is None else batch.valid


def test_box_holds_the_weight():
    batch = make_batch(count=5, height=21, width=16)
    plan = CDA(bank=bank_of(1, 2, 3, 4)).plan(batch, seeded())
    for weight, (top, left, height, width) in zip(plan.weight[:, 0], plan.info["box"].tolist()):
        assert weight.sum() == weight[top : top + height, left : left + width].sum()


def test_full_labels_and_empty_bank_leave_the_batch():
    batch = make_batch(per_image=CLASSES)
    for mixer in (CDA(bank=bank_of(1, 2)), CDA()):
        plan = mixer.plan(batch, seeded())
        out = apply_mix(batch, plan)
        assert plan.info["klass"].tolist() == [0, 0, 0]
        assert not plan.weight.any()
        assert torch.equal(out.images, batch.images)
        assert torch.equal(out.labels, batch.labels)
    plan = CDA().plan(make_batch(per_image=0), seeded())
    assert not plan.weight.any()


def test_image_without_labels_gets_any_class():
    plan = CDA(bank=bank_of(3)).plan(make_batch(per_image=0), seeded())
    assert plan.info["klass"].tolist() == [3, 3, 3]


def test_works_without_masks_and_on_one_image():
    batch = make_batch(count=1, per_image=1)
    batch = MixBatch(batch.images, batch.labels)
    plan = CDA(bank=bank_of(1, 2, 3, 4)).plan(batch, seeded())
    out = apply_mix(batch, plan)
    assert plan.weight.any()
    assert out.mask is None
    assert out.labels.sum() == 2


def single(klass, box, *, size=(12, 15), valid=None):
    """One image with one label, its mask showing the class in a box and class 1 in the corner."""
    top, left, bottom, right = box
    mask = torch.zeros(1, *size, dtype=torch.int64)
    mask[0, top:bottom, left:right] = klass
    mask[0, -1, -1] = 1
    images = torch.randn(1, 3, *size, generator=seeded(3)).clamp(-1, 1)
    return MixBatch(images, torch.eye(CLASSES)[[klass - 1]], mask, valid=valid)


def test_online_bank_cuts_single_label_images():
    mixer = CDA()
    batch = single(3, (2, 4, 8, 10))
    mixer.observe(batch)
    assert mixer.bank.counts(CLASSES) == [0, 0, 1, 0]  # class 1, not in the label, is gated away
    (instance,) = mixer.bank.pool[3]
    expected = to_bytes(batch.images)[0, :, 2:8, 4:10].permute(1, 2, 0).numpy()
    assert np.array_equal(instance.image, expected)
    assert instance.segment.all()
    for labels in ([0, 0, 0, 0], [1, 0, 1, 0]):
        mixer.observe(replace(batch, labels=torch.tensor([labels]).float()))
    mixer.observe(replace(batch, mask=torch.full_like(batch.mask, IGNORE)))
    mixer.observe(single(3, (0, 0, 12, 14)))  # 93 % of the image
    assert len(mixer.bank) == 1


def test_online_bank_cuts_no_padding():
    valid = torch.ones(1, 12, 15, dtype=torch.bool)
    valid[:, 6:] = False
    mixer = CDA()
    mixer.observe(single(3, (2, 4, 8, 10), valid=valid))
    assert mixer.bank.pool[3][0].segment.shape == (4, 6)


def test_online_bank_is_a_queue_that_survives_a_checkpoint(tmp_path):
    mixer = CDA(per_class_cap=2)
    for left in (1, 2, 3):
        mixer.observe(single(3, (2, left, 8, left + 5 + left)))
    assert [one.segment.shape[1] for one in mixer.bank.pool[3]] == [7, 8]
    torch.save(mixer.memory(), tmp_path / "memory.pt")
    again = CDA(per_class_cap=2)
    again.remember(torch.load(tmp_path / "memory.pt", weights_only=True))
    batch = make_batch(per_image=1)
    plans = [one.plan(batch, seeded()) for one in (mixer, again)]
    assert plans[0].weight.any()
    assert torch.equal(plans[0].weight, plans[1].weight)
    assert torch.equal(plans[0].src_view.images, plans[1].src_view.images)


def test_folder_bank(tmp_path):
    image = np.full((12, 12, 3), 200, np.uint8)
    mask = np.zeros((12, 12), np.uint8)
    mask[3:8, 2:9] = 2
    write_bank(tmp_path, [image], [mask], ["a"])
    mixer = CDA(bank=str(tmp_path))
    batch = make_batch(per_image=0)
    mixer.observe(batch)  # nothing to learn
    assert mixer.needs == ()
    assert mixer.memory() == {"instances": []}
    assert mixer.plan(batch, seeded()).info["klass"].tolist() == [2, 2, 2]
    few = replace(batch, labels=batch.labels[:, :1])
    with pytest.raises(UserError, match="another data set"):
        mixer.plan(few, seeded())


def test_same_seed_same_plan_and_nothing_else_moves():
    batch = make_batch(per_image=1)
    copies = [batch.images.clone(), batch.mask.clone(), batch.dense["rs"].clone()]
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    mixer = CDA(bank=bank_of(1, 2, 3, 4))
    first, second = (mixer.plan(batch, seeded(5)) for _ in range(2))
    other = mixer.plan(batch, seeded(6))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(mixer.plan_from(batch, first.info).weight, first.weight)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    for before, after in zip(copies, (batch.images, batch.mask, batch.dense["rs"])):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": (0.5, 1.5)},
        {"scale": (0.0, 1.0)},
        {"max_frac": 1.2},
        {"ratio": (0.7, 0.1)},
        {"rotate": -1},
        {"blur": 2},
        {"per_class_cap": -1},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match="cda: "):
        CDA(**settings)


def test_online_bank_needs_masks():
    batch = make_batch()
    with pytest.raises(UserError, match="needs `mask`"):
        CDA().observe(replace(batch, mask=None))


def test_dense_maps_of_unknown_meaning():
    batch = make_batch()
    batch = replace(batch, dense={"edges": batch.dense["rs"][:, :1]})
    with pytest.raises(UserError, match="dense map `edges` of 1 channels"):
        CDA(bank=bank_of(1)).plan(batch, seeded())
