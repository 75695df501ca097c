"""Seeds, pair labels and losses against published code's results (golden) and hand examples."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsssbench.errors import UserError
from wsssbench.refinement.affinity_labels import (
    PairLabels,
    irn_seeds,
    join_irn_seeds,
    pair_labels,
    pool_scores,
    psa_scores,
    psa_seeds,
    shrink,
)
from wsssbench.refinement.affinity_losses import affinity_losses
from wsssbench.refinement.pairs import directions, path_affinity

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


@pytest.fixture(scope="module")
def golden():
    """See `affinity_labels.md`."""
    with np.load(Path(__file__).parents[1] / "golden" / "affinity_labels.npz") as stored:
        return {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype.kind in "fiu"}


def irn_order(radius):
    return [directions(radius).index(step) for step in directions(radius, "irn")]


def flat(labels, order=None):
    """Pair labels of the first image as (3, D, S)."""
    stacked = torch.stack(labels)[:, 0].flatten(2)
    return stacked if order is None else stacked[:, order]


def stored_pairs(golden, case):
    return torch.stack([golden[f"out_{case}_{kind}"] for kind in ("bg", "fg", "neg")]).bool()


@pytest.mark.parametrize("case", [0, 1])
def test_golden_pair_labels(golden, case):
    radius = int(golden[f"in_aff_{case}_radius"])
    labels = pair_labels(golden[f"in_aff_{case}_label"][None], radius, 20)
    assert torch.equal(flat(labels, irn_order(radius)), stored_pairs(golden, f"aff_{case}"))


@pytest.mark.parametrize("case", [0, 1])
def test_golden_losses_and_gradient(golden, case):
    radius = int(golden[f"in_aff_{case}_radius"])
    label = golden[f"in_aff_{case}_label"].expand(2, -1, -1)
    logits = golden[f"in_aff_{case}_edge_logit"].clone().requires_grad_()
    affinity = path_affinity(logits.sigmoid(), radius)
    losses = affinity_losses(affinity, pair_labels(label, radius, 20))
    expected = golden[f"out_aff_{case}_losses"]
    torch.testing.assert_close(torch.stack(losses), expected[:3], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses.total, expected[5], rtol=1e-5, atol=1e-7)
    losses.total.backward()
    expected = golden[f"out_aff_{case}_grad_edge"]
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("case", "rows"), [(0, slice(3, 10)), (1, slice(None))])
def test_golden_psa_seeds(golden, case, rows):
    crop = int(golden[f"in_psa_{case}_crop"])
    scores = [golden[f"in_psa_{case}_{kind}"] for kind in ("la", "ha")]
    expected = golden[f"out_psa_{case}_label"]
    height, width = 8 * len(expected[rows]), crop
    padded = [F.pad(s, (0, width - s.shape[2], 0, height - s.shape[1])) for s in scores]
    assert torch.equal(psa_seeds(*padded), expected[rows].long())


@pytest.mark.parametrize("case", [0, 1])
def test_golden_psa_pairs_and_losses(golden, case):
    labels = pair_labels(golden[f"out_psa_{case}_label"][None], 5, 20)
    assert torch.equal(flat(labels), stored_pairs(golden, f"psa_{case}"))
    flattened = PairLabels(*(kind.flatten(2) for kind in labels))
    losses = affinity_losses(golden[f"in_psa_{case}_aff"][None], flattened)
    expected = golden[f"out_psa_{case}_losses"]
    found = torch.stack([*losses, losses.total])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [0, 1])
def test_golden_irn_seeds(golden, case):
    dense_crf = pytest.importorskip("wsssbench.refinement.dense_crf").dense_crf

    def crf(image, mask, num_labels):
        energy = torch.full((num_labels, *mask.shape), float(-np.log(0.3 / (num_labels - 1))))
        energy.scatter_(0, mask[None], float(-np.log(0.7)))
        options = {"gaussian": (3, 3), "bilateral": (10, 50, 5)}
        return dense_crf(image, energy, iterations=10, **options).argmax(0)

    foreground, background = golden[f"in_ir_{case}_thresholds"].tolist()
    seeds = irn_seeds(
        golden[f"in_ir_{case}_cam"],
        (golden[f"in_ir_{case}_keys"] + 1).tolist(),
        foreground=foreground,
        background=background,
        image=golden[f"in_ir_{case}_img"],
        crf=crf,
    )
    assert (seeds == golden[f"out_ir_{case}_label"]).float().mean() >= 0.999


def test_pair_labels_by_hand():
    """One source, column 2: partners 0..4 at the right and below hold 255, 0, 5, 5, 0."""
    labels = torch.tensor([[0, 0, 5, 255, 5], [255, 0, 5, 5, 0], [9, 9, 9, 9, 9]])[None]
    bg, fg, neg = (kind[0, :, 0, 0] for kind in pair_labels(labels, 3, 5))
    partner = [labels[0, dy, 2 + dx].item() for dy, dx in directions(3)]
    assert fg.tolist() == [number == 5 for number in partner]
    assert neg.tolist() == [number == 0 for number in partner]  # 9 > K and 255 are unknown
    assert not bg.any()
    row = torch.tensor([[0, 0, 5, 255]]).repeat(2, 1)[None]
    bg, fg, neg = (kind[0, directions(2).index((0, 1)), 0] for kind in pair_labels(row, 2, 20))
    assert (bg.tolist(), fg.tolist(), neg.tolist()) == ([False] * 2, [False] * 2, [True, False])
    bg = pair_labels(row.flip(-1), 2, 20).bg_pos[0, directions(2).index((0, 1)), 0]
    assert bg.tolist() == [False, True]  # columns 1 and 2 are sources: (5, 0) and (0, 0)


def test_labels_above_twenty_count_with_more_classes():
    labels = torch.full((1, 3, 5), 80)
    assert pair_labels(labels, 2, 80).fg_pos.all()
    assert not torch.stack(pair_labels(labels, 2, 20)).any()


@STEADY
@given(st.integers(2, 4), st.integers(0, 2**16))
def test_kinds_exclude_each_other(radius, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, 8, 9), generator=generator)
    labels[torch.rand(2, 8, 9, generator=generator) < 0.2] = 255
    kinds = torch.stack(pair_labels(labels, radius, 3)).int()
    assert kinds.sum(0).max() == 1
    renamed = torch.tensor([0, 3, 1, 2, *[255] * 252])[labels]
    assert torch.equal(torch.stack(pair_labels(renamed, radius, 3)).int(), kinds)


def test_losses_by_hand():
    affinity = torch.tensor([0.5, 0.25, 0.5, 0.0]).view(1, 4, 1)
    kinds = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]).bool().view(3, 1, 4, 1)
    losses = affinity_losses(affinity, PairLabels(*kinds))
    expected = torch.tensor([2.0, 4.0]).log().mean()
    torch.testing.assert_close(losses.bg, expected, rtol=1e-4, atol=0)
    assert losses.fg == 0
    torch.testing.assert_close(losses.neg, torch.tensor(2.0).log(), rtol=1e-4, atol=0)
    torch.testing.assert_close(losses.total, losses.bg / 4 + losses.neg / 2)


def test_losses_are_means_over_the_batch_not_over_images():
    affinity = torch.tensor([[0.5, 0.5, 0.5], [0.25, 1.0, 1.0]])[..., None]
    bg = torch.tensor([[True, True, True], [True, False, False]])[..., None]
    losses = affinity_losses(affinity, PairLabels(bg, ~bg & False, ~bg & False))
    expected = (3 * np.log(2) + np.log(4)) / 4
    assert float(losses.bg) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_losses_stay_finite(value):
    affinity = torch.full((1, 4, 3), value, requires_grad=True)
    every = torch.ones(1, 4, 3, dtype=torch.bool)
    losses = affinity_losses(affinity, PairLabels(every, ~every, every))
    losses.total.backward()
    assert losses.total.isfinite()
    assert affinity.grad.isfinite().all()
    nothing = affinity_losses(affinity, PairLabels(~every, ~every, ~every))
    assert nothing.total == 0


def test_losses_under_half_precision():
    affinity = torch.ones(1, 4, 3, dtype=torch.bfloat16)
    every = torch.ones(1, 4, 3, dtype=torch.bool)
    losses = affinity_losses(affinity, PairLabels(every, every, every))
    assert losses.total.dtype == torch.float32
    assert losses.total.isfinite()


def test_losses_refuse_labels_of_another_radius():
    labels = pair_labels(torch.zeros(1, 9, 9, dtype=torch.long), 3, 5)
    with pytest.raises(UserError, match="one shape"):
        affinity_losses(torch.rand(1, 34, 5, 1), labels)


def test_irn_seeds_by_hand():
    """Certain, unsure, exactly at each threshold, certainly nothing; the stronger class wins."""
    maps = torch.tensor([[[0.9, 0.2, 0.3, 0.05, 0.0, 0.4]], [[0.1, 0.0, 0.3, 0.0, 0.0, 0.5]]])
    seeds = irn_seeds(maps, [7, 3])
    assert seeds.dtype == torch.int64
    assert seeds.tolist() == [[7, 255, 255, 0, 0, 3]]
    assert irn_seeds(maps[:1], [80], foreground=0.8, background=0.0).tolist() == [
        [80, 255, 255, 255, 0, 255]
    ]


def test_irn_seeds_by_given_masks():
    certain, likely = torch.tensor([[1, 0, 0, 2, 0]]), torch.tensor([[1, 1, 0, 0, 2]])
    assert join_irn_seeds(certain, likely, [5, 9]).tolist() == [[5, 255, 0, 9, 255]]


def test_irn_crf_sees_image_mask_and_number_of_labels():
    image = torch.randint(0, 255, (3, 4, 3), dtype=torch.uint8)
    seen = []

    def crf(given, mask, count):
        seen.append((given, mask.clone(), count))
        return torch.full_like(mask, len(seen) % 2)  # first certain, then background

    seeds = irn_seeds(torch.full((2, 3, 4), 0.2), [4, 6], image=image, crf=crf)
    assert (seeds == 4).all()
    assert [count for *_, count in seen] == [3, 3]
    assert all(given is image for given, *_ in seen)
    assert [int(mask.max()) for _, mask, _ in seen] == [0, 1]


def unwanted(*_):
    raise AssertionError("there is nothing to sharpen")


def test_images_without_classes_are_background():
    image = torch.zeros(5, 6, 3, dtype=torch.uint8)
    empty = torch.zeros(0, 5, 6)
    assert (irn_seeds(empty, [], image=image, crf=unwanted) == 0).all()
    scores = psa_scores(empty, 4, image=image, crf=unwanted)
    assert torch.equal(scores, torch.ones(1, 5, 6))
    assert (psa_seeds(scores, scores) == 0).all()


def test_psa_scores_by_hand():
    maps = torch.tensor([[[0.5, 0.0]], [[0.25, 0.0]]])
    scores = psa_scores(maps, 4)
    expected = torch.tensor([[[0.0625, 1]], [[0.5, 0]], [[0.25, 0]]])
    torch.testing.assert_close(scores, expected)
    sharpened = psa_scores(
        maps, 4, image=torch.zeros(1, 2, 3, dtype=torch.uint8), crf=lambda image, s: s.square()
    )
    torch.testing.assert_close(sharpened, expected.square())


def test_psa_seeds_by_hand():
    """A class must beat the strong background; the weak one suffices for background."""
    strong = torch.tensor([[0.2, 0.6, 0.9, 0.0], [0.7, 0.5, 0.1, 0.0]]).view(2, 1, 4)
    weak = torch.tensor([[0.1, 0.3, 0.8, 0.0], [0.7, 0.5, 0.1, 0.0]]).view(2, 1, 4)
    assert psa_seeds(strong, weak, stride=1).tolist() == [[1, 255, 0, 255]]


def test_psa_seeds_of_odd_sizes_cover_the_image():
    scores = torch.rand(3, 17, 30)
    assert psa_seeds(scores, scores).shape == (3, 4)
    pooled = pool_scores(scores)
    torch.testing.assert_close(pooled[:, 0, 0], scores[:, :8, :8].mean((1, 2)))
    torch.testing.assert_close(pooled[:, 2, 0], scores[:, 16, :8].sum(1) / 64)


def test_shrink_samples_as_pil_does():
    labels = torch.randint(0, 255, (2, 24, 40), dtype=torch.uint8)
    picture = Image.fromarray(labels[1].numpy()).resize((10, 6), Image.Resampling.NEAREST)
    assert np.array_equal(shrink(labels)[1], np.array(picture))
    assert torch.equal(shrink(labels)[0, 2, 3], labels[0, 10, 14])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_shrink_has_the_size_of_the_features(dtype):
    labels = torch.zeros(5, 10, dtype=dtype)
    assert shrink(labels).tolist() == [[0, 0, 255], [255, 255, 255]]  # pixels 2, 6 and 10


IMAGE = torch.zeros(5, 6, 3, dtype=torch.uint8)
MAPS = torch.rand(2, 5, 6)
SEED_ERRORS = {
    "for each of 1 classes": lambda: irn_seeds(MAPS, [1]),
    "for each of 5 classes": lambda: irn_seeds(MAPS[0], [1] * 5),
    "foreground = 0.1": lambda: irn_seeds(MAPS, [1, 2], foreground=0.1, background=0.2),
    "1..254": lambda: irn_seeds(MAPS, [0, 2]),
    "not numbers": lambda: irn_seeds(MAPS * float("nan"), [1, 2]),
    r"in \[0, 1\]": lambda: psa_scores(MAPS * 9, 4),
    "alpha": lambda: psa_scores(MAPS, 0),
    r"maps \(K, H, W\)": lambda: psa_scores(MAPS[0], 4),
    "needs the image .* got None": lambda: irn_seeds(MAPS, [1, 2], crf=unwanted),
    r"needs the image \(5, 6, 3\)": lambda: psa_scores(MAPS, 4, crf=unwanted, image=IMAGE[1:]),
    "must return": lambda: psa_scores(MAPS, 4, image=IMAGE, crf=lambda image, scores: scores[1:]),
    r"return \(5, 6\)": lambda: irn_seeds(MAPS, [1, 2], image=IMAGE, crf=lambda *_: MAPS),
    "of one size": lambda: psa_seeds(MAPS, MAPS[:1]),
    "integers": lambda: pair_labels(MAPS, 2, 3),
    "at least 5×9": lambda: pair_labels(torch.zeros(1, 5, 8, dtype=torch.long), 5, 3),
}


@pytest.mark.parametrize("message", SEED_ERRORS)
def test_errors_say_what_is_wrong(message):
    with pytest.raises(UserError, match=message) as error:
        SEED_ERRORS[message]()
    assert "\n" not in str(error.value)
