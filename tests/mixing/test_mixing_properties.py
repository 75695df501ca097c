"""What holds for every mixer; a new one in MIXERS is covered without a change here."""

import copy
import random
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mix_batches import CLASSES, make_batch, rows_of
from torch import Tensor

from wsssbench.mixing import (
    MIXERS,
    MixBatch,
    apply_mix,
    build,
    mixed_cross_entropy,
    pixel_weight,
)
from wsssbench.mixing.batch import IGNORE

SOFT = ("mixup", "puzzlemix")
WAITING = ("cda", "copypaste", "puzzlemix")  # these work on the CPU in between
REGIONS = ("classmix", "edgepredictmix", "copypaste", "cda")  # ignored pixels are never pasted
EVERY = pytest.mark.parametrize("name", MIXERS)
QUICK = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BATCHES = st.builds(
    make_batch,
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 5]),
    st.integers(4, 17),
    st.integers(4, 17),
    padded=st.booleans(),
)


def planned(name, batch, seed=0):
    mixer = build(name, {})
    mixer.observe(make_batch(seed + 1, 6, ignored=0, per_image=1))  # fills a memory, if any
    return mixer.plan(batch, torch.Generator().manual_seed(seed))


def global_states():
    """Of all generators that code could use without being handed one."""
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return torch.get_rng_state().tolist(), legacy, random.getstate()


def flatten(value):
    """All tensors in a plan, a layer or a dictionary, by name."""
    if isinstance(value, Tensor):
        return {"": value}
    if hasattr(value, "__dataclass_fields__"):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    return {f"{k}.{n}": t for k, v in value.items() for n, t in flatten(v).items()}


def assert_same(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@EVERY
@QUICK
@given(BATCHES)
def test_weights_of_0_and_1_copy_a_layer(name, batch):
    plan = planned(name, batch)
    layers = rows_of(batch, plan)
    for value, layer in zip((0.0, 1.0), layers):
        full = replace(plan, weight=torch.full_like(plan.weight, value), label_rule="area")
        out = apply_mix(replace(batch, valid=None), _without_padding(full))
        assert torch.equal(out.images, layer.images)
        assert torch.equal(out.mask, layer.mask)
        assert torch.equal(out.labels, layer.labels)
        present = (layer.labels > 0)[..., None, None]
        assert torch.equal(out.dense["rs"], layer.dense["rs"] * present)


@EVERY
@QUICK
@given(BATCHES)
def test_pixels_come_from_either_layer(name, batch):
    plan = planned(name, batch)
    out, (base, src) = apply_mix(batch, plan), rows_of(batch, plan)
    weight = out.weight[:, 0]
    assert ((weight >= 0) & (weight <= 1)).all()
    if name not in SOFT:
        assert ((weight == 0) | (weight == 1)).all()
    for value, layer in ((0, base), (1, src)):
        taken = weight == value
        for mixed, own in ((out.images, layer.images), (out.dense["rs"], _gated(layer))):
            assert torch.equal(mixed.movedim(1, -1)[taken], own.movedim(1, -1)[taken])
        inside = taken if layer.valid is None else taken & layer.valid
        assert torch.equal(out.mask[inside], layer.mask[inside])


@EVERY
def test_a_single_image_is_left_alone(name):
    """Pasting needs a partner; only a memory has one for a single image."""
    for seed in range(5):
        batch = make_batch(seed, 1, padded=bool(seed % 2))
        plan = build(name, {}).plan(batch, torch.Generator().manual_seed(seed))
        out = apply_mix(batch, plan)
        assert torch.equal(out.images, batch.images)
        assert torch.equal(out.labels, batch.labels)
        assert out.weight.eq(0).all()


@EVERY
@QUICK
@given(BATCHES, st.integers(0, 1000))
def test_plans_depend_on_the_generator_alone(name, batch, seed):
    before, states = copy.deepcopy(batch), global_states()
    one, other = (planned(name, batch, seed) for _ in range(2))
    out = apply_mix(batch, one)
    assert_same(one, other)
    assert_same(out, apply_mix(batch, other))
    assert_same(batch, before)
    assert global_states() == states


@EVERY
@QUICK
@given(BATCHES, st.integers(0, 1000))
def test_labels(name, batch, seed):
    plan = planned(name, batch, seed)
    base, src = rows_of(batch, plan)
    for rule in (None, "area", "union", "visible"):
        out = apply_mix(batch, plan, label_rule=rule)
        labels, used = out.labels, rule or plan.label_rule
        assert ((labels >= 0) & (labels <= 1)).all()
        assert (labels <= torch.maximum(base.labels, src.labels)).all()
        assert torch.equal(out.gate, (labels > 0).float())
        if used in ("area", "calibrated"):
            assert labels[(base.labels == 1) & (src.labels == 1)].eq(1).all()
        if used == "union":
            assert (labels >= base.labels).all()
        shown = torch.nn.functional.pad(out.gate, (1, 0), value=1)
        shown = torch.nn.functional.pad(shown, (0, IGNORE - CLASSES), value=1)
        assert shown.gather(1, out.mask.flatten(1)).all()


@EVERY
@QUICK
@given(BATCHES, st.integers(0, 1000))
def test_ignored_pixels(name, batch, seed):
    plan = planned(name, batch, seed)
    out = apply_mix(batch, plan)
    pasted = out.weight[:, 0] == 1
    assert (out.mask != IGNORE)[pasted].all() or name not in REGIONS
    if out.valid is not None:
        assert out.mask[~out.valid].eq(IGNORE).all()
    if name not in SOFT:
        layers = torch.where(pasted, out.mask_src, out.mask_base)
        assert torch.equal(out.mask == IGNORE, layers == IGNORE)


@EVERY
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_to_paste(name, count):
    """Images without labels and masks that are ignored everywhere."""
    batch = make_batch(0, count, 7, 5, ignored=2.0)
    batch = replace(batch, labels=torch.zeros_like(batch.labels))
    plan = build(name, {}).plan(batch, torch.Generator().manual_seed(0))
    for rule in (None, "visible"):
        out = apply_mix(batch, plan, label_rule=rule)
        assert out.mask.eq(IGNORE).all()
        assert out.labels.eq(0).all()
        assert out.images.isfinite().all()
    logits = torch.randn(count, CLASSES + 1, 7, 5, requires_grad=True)
    loss = mixed_cross_entropy(logits, out)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", sorted(set(MIXERS) - set(WAITING)))
def test_nothing_waits_for_the_device(name):
    """Meta tensors have a device and no values: reading one, or mixing devices, would fail."""
    batch, mixer = make_batch(0, 3, 16, 12, padded=True), build(name, {})
    draws = mixer.draw(batch, torch.Generator().manual_seed(0))
    there = {key: to_meta(getattr(batch, key)) for key in ("images", "labels", "mask", "valid")}
    there |= {key: to_meta(getattr(batch, key)) for key in ("dense", "probs", "saliency")}
    batch = MixBatch(**there)
    out = apply_mix(batch, mixer.plan_from(batch, draws), label_rule="visible")
    logits = torch.zeros(3, CLASSES + 1, 4, 3, device="meta")
    confidence = pixel_weight(batch.probs, "fraction")
    assert mixed_cross_entropy(logits, out, confidence=confidence).device.type == "meta"
    assert all(t.device.type == "meta" for t in flatten(replace(out, info={})).values())


@EVERY
def test_no_gradient_reaches_the_targets(name):
    batch = make_batch(0, 3, 16, 12)
    leaves = [batch.probs, batch.saliency, *batch.dense.values(), batch.images, batch.labels]
    for leaf in leaves:
        leaf.requires_grad_()
    out = apply_mix(batch, planned(name, batch))
    assert not any(t.requires_grad for t in flatten(out).values())
    logits = torch.zeros(3, CLASSES + 1, 16, 12, requires_grad=True)
    mixed_cross_entropy(logits, out).backward()
    assert logits.grad.isfinite().all()
    assert all(leaf.grad is None for leaf in leaves)


def to_meta(value):
    if isinstance(value, dict):
        return {key: to_meta(item) for key, item in value.items()}
    return value.to("meta")


def _without_padding(plan):
    views = {name: getattr(plan, name) for name in ("base_view", "src_view")}
    return replace(
        plan, **{name: view and replace(view, valid=None) for name, view in views.items()}
    )


def _gated(layer):
    return layer.dense["rs"] * (layer.labels > 0)[..., None, None]
