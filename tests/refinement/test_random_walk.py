"""Random walk against published code's results (golden), hand examples and a dense walk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from wsssbench.errors import UserError
from wsssbench.refinement import random_walk
from wsssbench.refinement.affinity_labels import pool_scores, psa_scores
from wsssbench.refinement.pairs import directions, feature_affinity, pad_border, path_affinity
from wsssbench.refinement.random_walk import diffuse, offsets, transition, walk, walk_maps

STEADY = settings(deadline=None, derandomize=True, max_examples=30)
GOLDEN = Path(__file__).parents[1] / "golden"


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype.kind in "fiu"}


@pytest.fixture(scope="module")
def golden():
    """See `random_walk.md`."""
    return load("random_walk")


def draw(classes=2, size=(7, 9), seed=0):
    """Maps in [0, 1] and a boundary map with gaps."""
    generator = torch.Generator().manual_seed(seed)
    boundary = torch.rand(1, *size, generator=generator) ** 3
    return torch.rand(classes, *size, generator=generator), boundary


def padded_affinity(boundary, radius):
    return path_affinity(pad_border(boundary, radius)[None], radius)[0]


def dense(affinity, size, radius, beta):
    """(h·w, h·w) float64 transition matrix, from pairs of all positions."""
    height, width = size
    matrix = torch.eye(height * width, dtype=torch.double)
    for number, (dy, dx) in enumerate(directions(radius)):
        for y, x in np.ndindex(height, width):
            if y + dy < height and 0 <= x + dx < width:
                i, j = y * width + x, (y + dy) * width + x + dx
                matrix[i, j] = matrix[j, i] = affinity[number, y, x].double() ** beta
    return matrix / matrix.sum(0)


def one_step(affinity, size, **options):
    """The transition matrix as `walk` applies it: row i is where a one at i goes."""
    ones = torch.eye(size[0] * size[1]).view(-1, *size)
    return walk(ones, affinity, log2_steps=0, **options).flatten(1)


@pytest.mark.parametrize("case", [0, 1])
def test_golden_walk(golden, case):
    radius, beta, steps = golden[f"in_prop_{case}_params"].tolist()
    maps, boundary = golden[f"in_prop_{case}_cam"], golden[f"in_prop_{case}_edge"]
    options = {"radius": radius, "beta": beta, "log2_steps": steps}
    walked = random_walk(maps, boundary, **options)
    expected = golden[f"out_prop_{case}_rw"][:, 0]
    torch.testing.assert_close(walked, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("case", [0, 1])
def test_golden_transition(golden, case):
    radius, beta, _ = golden[f"in_prop_{case}_params"].tolist()
    boundary = golden[f"in_prop_{case}_edge"]
    affinity = padded_affinity(boundary, radius)
    matrix = one_step(affinity, boundary.shape[1:], radius=radius, beta=beta)
    torch.testing.assert_close(matrix, golden[f"out_prop_{case}_trans0"], rtol=0, atol=1e-6)
    if case == 1:
        matrix = one_step(affinity, boundary.shape[1:], radius=radius, beta=1)
        whole = golden["out_prop_1_affinity_dense"]
        torch.testing.assert_close(matrix, whole / whole.sum(0), rtol=0, atol=1e-6)


def psa_affinity(golden):
    """Un-padded affinities (34, h-4, w-8) from the golden features and weights."""
    heads = [
        F.elu(F.conv2d(golden[f"in_psa_conv{level}"], golden[f"in_psa_f8_{level - 1}"]))
        for level in (4, 5, 6)
    ]
    features = F.elu(F.conv2d(torch.cat(heads, dim=1), golden["in_psa_f9"]))
    return feature_affinity(features, 5)[0]


def test_golden_psa(golden):
    affinity = psa_affinity(golden)
    torch.testing.assert_close(affinity.flatten(1), golden["out_psa_aff"][0], rtol=0, atol=1e-6)
    matrix = one_step(affinity, (12, 15), radius=5, beta=8)
    torch.testing.assert_close(matrix, golden["out_psa_trans0"], rtol=0, atol=1e-6)
    start = pool_scores(psa_scores(golden["in_psa_cam"], 16))
    walked = walk(start, affinity, radius=5, beta=8)
    rows = [0, *(golden["in_psa_cam_classes"]).tolist()]
    expected = golden["out_psa_rw"][0]
    torch.testing.assert_close(walked, expected[rows], rtol=0, atol=2e-4)
    assert expected.count_nonzero() == expected[rows].count_nonzero()
    label = torch.tensor(rows)[walk_maps(walked, (93, 115), stride=8, divide="none").argmax(0)]
    assert (label == golden["out_psa_label"]).float().mean() >= 0.999


@pytest.mark.parametrize("case", [0, 1])
def test_golden_label(golden, case):
    maps, boundary = golden[f"in_sem_{case}_cam"], golden[f"in_sem_{case}_edge"]
    size, keys = golden[f"in_sem_{case}_size"].tolist(), golden[f"in_sem_{case}_keys"]
    scores = walk_maps(random_walk(maps, boundary), size)
    assert scores.shape == (len(maps), *size)
    assert scores.max() == 1
    scores = F.pad(scores, (0, 0, 0, 0, 1, 0), value=0.25)
    label = F.pad(keys + 1, (1, 0))[scores.argmax(0)]
    assert (label == golden[f"out_sem_{case}_label"]).float().mean() >= 0.999


@pytest.mark.parametrize(
    ("background", "suffix", "reach"), [(0.35, "", 3), (0.55, "", 3), (0.35, "_nomask", 11)]
)
def test_golden_afa_step(background, suffix, reach):
    """One step over an asymmetric affinity; see `afa_random_walk.md`."""
    afa = load("afa_random_walk")
    size = afa["in_cam"].shape[2:]
    window = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    for number, (cams, dense) in enumerate(zip(afa["in_cam"], afa["in_aff"], strict=True)):
        planes = torch.zeros(len(window), *size)
        for plane, (dy, dx) in zip(planes, window, strict=True):
            for y, x in np.ndindex(*size):
                if 0 <= y + dy < size[0] and 0 <= x + dx < size[1]:
                    plane[y, x] = dense[(y + dy) * size[1] + x + dx, y * size[1] + x] ** 2
        planes /= planes.sum(0) + 0.1
        present = F.pad(afa["in_cls_label"][number], (1, 0), value=1) > 0
        scores = F.pad(cams, (0, 0, 0, 0, 1, 0), value=background)[present].softmax(0)
        expected = afa[f"out_bg{background}{suffix}"][number]
        step = diffuse(scores, planes, window, 1)
        torch.testing.assert_close(step, expected[present], rtol=0, atol=1e-6)


def test_wall_by_hand():
    maps = torch.tensor([[[1.0, 0, 0, 0, 0]]])
    walked = random_walk(maps, torch.tensor([[[0.0, 0, 1, 0, 0]]]))
    torch.testing.assert_close(walked, torch.tensor([[[0.5, 0.5, 0, 0, 0]]]))


def test_leak_by_hand():
    maps = torch.tensor([[[1.0, 0, 0, 0, 0]]])
    boundary = torch.tensor([[[0.0, 0, 0.1, 0, 0]]])
    expected = torch.tensor([0.4032, 0.3630, 0.1584, 0.0252, 0.0065])
    walked = random_walk(maps, boundary, radius=2, log2_steps=2)[0, 0]
    torch.testing.assert_close(walked, expected, rtol=0, atol=5e-5)
    walked = random_walk(maps, boundary, radius=2, log2_steps=8)[0, 0]
    torch.testing.assert_close(walked, torch.full((5,), 2 / 10.3948), rtol=0, atol=1e-4)


def test_maps_start_lower_on_a_boundary():
    maps, boundary = torch.ones(1, 4, 5), torch.full((1, 4, 5), 0.25)
    torch.testing.assert_close(random_walk(maps, boundary), torch.full((1, 4, 5), 0.75))


@STEADY
@given(
    st.integers(2, 5),
    st.tuples(st.integers(1, 7), st.integers(1, 9)),
    st.integers(0, 4),
    st.sampled_from([0, 0.5, 1, 8]),
    st.integers(0, 2**16),
)
def test_equals_dense_walk(radius, size, log2_steps, beta, seed):
    maps, boundary = draw(size=size, seed=seed)
    options = {"radius": radius, "beta": beta}
    matrix = dense(padded_affinity(boundary, radius), size, **options)
    start = (maps * (1 - boundary)).double().flatten(1)
    expected = (start @ torch.linalg.matrix_power(matrix, 2**log2_steps)).view(-1, *size)
    walked = random_walk(maps, boundary, **options, log2_steps=log2_steps)
    torch.testing.assert_close(walked.double(), expected, rtol=0, atol=1e-5)


@STEADY
@given(st.integers(2, 5), st.tuples(st.integers(1, 8), st.integers(1, 8)), st.integers(0, 2**16))
def test_invariants(radius, size, seed):
    maps, boundary = draw(size=size, seed=seed)
    affinity = padded_affinity(boundary, radius)
    planes = transition(affinity, size, radius=radius, beta=10)
    torch.testing.assert_close(planes.sum(0), torch.ones(size))
    assert (planes >= 0).all()
    options = {"radius": radius, "beta": 10, "log2_steps": 5}
    constant = torch.full((1, *size), 0.3)
    torch.testing.assert_close(walk(constant, affinity, **options), constant, rtol=0, atol=2e-5)
    walked = walk(maps, affinity, **options)
    for before, after in zip(maps, walked, strict=True):
        assert before.min() - 1e-5 <= after.min() <= after.max() <= before.max() + 1e-5
    degree = 1 / planes[-1]  # column sums of W, whose diagonal is 1
    mass = (maps * degree).sum((1, 2)), (walked * degree).sum((1, 2))
    torch.testing.assert_close(*mass, rtol=1e-4, atol=1e-4)


def test_a_sparse_border_leaves_corners_alone():
    """Without padding 10 of 12×15 positions have no partner (AffinityNet's release)."""
    planes = transition(torch.full((34, 8, 7), 0.5), (12, 15), radius=5, beta=1)
    assert (planes[-1] == 1).sum() == 10
    maps, boundary = draw(size=(12, 15))
    walked = random_walk(maps, boundary, border="psa")
    start = maps * (1 - boundary)
    assert torch.equal(walked[:, 0, :4], start[:, 0, :4])
    assert not torch.allclose(random_walk(maps, boundary)[:, 0, :4], start[:, 0, :4])
    inner = walk(start, path_affinity(boundary[None], 5)[0], radius=5, beta=10)
    assert torch.equal(walked, inner)


def test_a_padded_border_does_not_count():
    """Whatever stands in it: affinity to a position outside the map is none."""
    maps, _ = draw(size=(6, 8))
    features = torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    walked = [
        walk(maps, feature_affinity(pad_border(features, 5, value), 5)[0]) for value in (0.0, 1.0)
    ]
    assert torch.equal(*walked)


def test_classes_do_not_meddle_and_mirror_images_agree():
    maps, boundary = draw(classes=4, size=(9, 13))
    walked = random_walk(maps, boundary)
    torch.testing.assert_close(random_walk(maps[[2]], boundary), walked[[2]])
    mirrored = random_walk(maps.flip(-1), boundary.flip(-1)).flip(-1)
    torch.testing.assert_close(mirrored, walked, rtol=0, atol=5e-5)
    upside_down = random_walk(maps.flip(-2), boundary.flip(-2)).flip(-2)
    torch.testing.assert_close(upside_down, walked, rtol=0, atol=5e-5)


def test_arguments_stay_and_result_has_no_gradient():
    maps, boundary = draw()
    before = maps.clone(), boundary.clone()
    walked = random_walk(maps.requires_grad_(), boundary.requires_grad_())
    assert not walked.requires_grad
    assert torch.equal(maps, before[0])
    assert torch.equal(boundary, before[1])


def test_half_precision_and_strided_maps_are_taken():
    maps, boundary = draw(size=(8, 6))
    half = random_walk(maps.half(), boundary.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, random_walk(maps, boundary), rtol=0, atol=5e-3)
    strided = maps.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(random_walk(strided, boundary), random_walk(maps, boundary))


def test_images_without_classes_and_with_one():
    _, boundary = draw()
    empty = random_walk(torch.zeros(0, 7, 9), boundary)
    assert empty.shape == (0, 7, 9)
    assert walk_maps(empty, (27, 34)).shape == (0, 27, 34)
    single = random_walk(torch.rand(1, 7, 9), boundary)
    assert walk_maps(single, (27, 34)).amax() == 1


def test_memory_grows_with_the_pixels_only():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    maps, boundary = draw(classes=3, size=(94, 125))
    with Largest() as largest:
        random_walk(maps, boundary, log2_steps=1)
    assert largest.numel < 75 * 94 * 125


def quality(maps, truth):
    """IoU, false positives and false negatives of class maps above .35."""
    found = F.pad(maps, (0, 0, 0, 0, 1, 0), value=0.35).argmax(0)
    shown = torch.arange(1, len(maps) + 1)[:, None, None]
    found, real = found == shown, truth == shown
    union = (found | real).sum((1, 2))
    shares = [(found & real), (found & ~real), (~found & real)]
    return [float((part.sum((1, 2)) / union).mean()) for part in shares]


def test_true_edges_mend_and_no_edges_blur():
    """Two blobs; the seeds miss much of each and spill over its edge."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    distance = torch.stack([((y - 20) ** 2 + (x - c) ** 2).sqrt() for c in (18, 44)])
    truth = torch.zeros(40, 60, dtype=torch.long)
    truth[distance[0] < 11] = 1
    truth[distance[1] < 9] = 2
    part = ((y - 14) ** 2 + (x - torch.tensor([18.0, 44.0])[:, None, None]) ** 2).sqrt()
    seeds = torch.exp(-((part / 8) ** 2))
    edges = ((distance - torch.tensor([11.0, 9.0])[:, None, None]).abs() < 1).any(0)[None].float()
    iou, false, missed = quality(seeds, truth)
    walked = walk_maps(random_walk(seeds, edges), (40, 60), stride=1)
    better, fewer_false, fewer_missed = quality(walked, truth)
    assert better > iou + 0.1
    assert fewer_false < false
    assert fewer_missed < missed
    blurred = walk_maps(random_walk(seeds, torch.zeros(1, 40, 60)), (40, 60), stride=1)
    assert quality(blurred, truth)[1] > false
    blind = walk_maps(random_walk(seeds, 0.9 * edges, beta=0), (40, 60), stride=1)
    assert quality(blind, truth)[0] < better - 0.1


def test_division_by_the_maximum_of_all_or_of_each():
    walked = torch.tensor([0.2, 0.4, 0.1, 0.05]).view(2, 1, 2)
    whole = walk_maps(walked, (1, 2), stride=1)
    torch.testing.assert_close(whole.flatten(), torch.tensor([0.5, 1, 0.25, 0.125]))
    each = walk_maps(walked, (1, 2), stride=1, divide="class")
    torch.testing.assert_close(each.flatten(), torch.tensor([0.5, 1, 1, 0.5]))
    assert torch.equal(walk_maps(walked, (1, 2), stride=1, divide="none"), walked)
    zero = torch.zeros(2, 1, 2)
    for divide in ("all", "class", "none"):
        assert torch.equal(walk_maps(zero, (1, 2), stride=1, divide=divide), zero)


def test_maps_are_enlarged_before_they_are_cropped():
    row = torch.tensor([[[0.0, 4.0]]])
    cropped = walk_maps(row, (1, 3), stride=2, divide="none")
    torch.testing.assert_close(cropped, torch.tensor([[[0.0, 1.0, 3.0]]]))


NAN = float("nan")


@pytest.mark.parametrize(
    ("maps", "boundary", "options", "message"),
    [
        (torch.rand(5, 7), torch.rand(1, 5, 7), {}, r"\(K, h, w\)"),
        (torch.ones(2, 5, 7).long(), torch.rand(1, 5, 7), {}, "floating point"),
        (torch.rand(2, 0, 7), torch.rand(1, 0, 7), {}, r"\(K, h, w\)"),
        (torch.rand(2, 5, 7), torch.rand(1, 5, 8), {}, r"must be \(1, 5, 7\)"),
        (torch.rand(2, 5, 7), torch.rand(5, 7), {}, r"must be \(1, 5, 7\)"),
        (torch.full((2, 5, 7), NAN), torch.rand(1, 5, 7), {}, "The maps"),
        (torch.full((2, 5, 7), 1.5), torch.rand(1, 5, 7), {}, "The maps"),
        (torch.rand(2, 5, 7), torch.full((1, 5, 7), NAN), {}, "The boundary"),
        (torch.rand(2, 5, 7), -torch.ones(1, 5, 7), {}, "The boundary"),
        (torch.rand(2, 5, 7), torch.rand(1, 5, 7), {"radius": 1}, "radius"),
        (torch.rand(2, 5, 7), torch.rand(1, 5, 7), {"beta": -1}, "beta"),
        (torch.rand(2, 5, 7), torch.rand(1, 5, 7), {"log2_steps": -1}, "log2_steps"),
        (torch.rand(2, 5, 7), torch.rand(1, 5, 7), {"log2_steps": 2.5}, "log2_steps"),
        (torch.rand(2, 5, 7), torch.rand(1, 5, 7), {"border": "none"}, "Valid: irn, psa"),
        (torch.rand(2, 5, 8), torch.rand(1, 5, 8), {"border": "psa"}, "at least 5×9"),
    ],
)
def test_errors_say_what_is_wrong(maps, boundary, options, message):
    with pytest.raises(UserError, match=message) as error:
        random_walk(maps, boundary, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("affinity", "options", "message"),
    [
        (torch.rand(34, 5, 8), {}, r"must be \(34, 6, 11\).* 8 columns less"),
        (torch.rand(33, 6, 11), {}, "radius 5"),
        (torch.rand(34, 6, 11), {"radius": 4}, "radius 4"),
        (torch.full((34, 6, 11), 1.1), {}, "affinities"),
        (torch.full((34, 6, 11), NAN), {}, "affinities"),
        (torch.rand(34, 6, 11), {"beta": NAN}, "beta"),
    ],
)
def test_walk_names_what_does_not_fit(affinity, options, message):
    with pytest.raises(UserError, match=message):
        walk(torch.rand(3, 6, 11), affinity, **options)


def test_walk_takes_any_finite_scores():
    affinity = torch.rand(34, 6, 11)
    assert walk(torch.full((1, 6, 11), -3.0), affinity).mean() == pytest.approx(-3, abs=1e-4)
    with pytest.raises(UserError, match="not finite"):
        walk(torch.full((1, 6, 11), float("inf")), affinity)


@pytest.mark.parametrize(
    ("walked", "size", "options", "message"),
    [
        (torch.rand(2, 5, 7), (21, 28), {}, "do not cover"),
        (torch.rand(2, 5, 7), (20, 29), {}, "do not cover"),
        (torch.rand(5, 7), (20, 28), {}, "do not cover"),
        (torch.rand(2, 5, 7), (20, 28), {"divide": "both"}, "Valid: all, class, none"),
    ],
)
def test_maps_that_cannot_be_made(walked, size, options, message):
    with pytest.raises(UserError, match=message):
        walk_maps(walked, size, **options)


def test_offsets_hold_each_position_once():
    assert len(set(offsets(5))) == 69
    assert offsets(5)[-1] == (0, 0)
