"""Pairs against published code's results (golden), counts by hand and plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.errors import UserError
from wsssbench.refinement.pairs import (
    directions,
    feature_affinity,
    pad_border,
    path_affinity,
    path_cells,
    shifted,
)

STEADY = settings(deadline=None, derandomize=True, max_examples=30)


@pytest.fixture(scope="module")
def golden():
    """See `random_walk.md`."""
    with np.load(Path(__file__).parents[1] / "golden" / "random_walk.npz") as stored:
        return {k: torch.from_numpy(v) for k, v in stored.items() if v.dtype.kind in "fiu"}


def irn_order(radius):
    """Places of IRN's directions in a pair tensor."""
    return [directions(radius).index(step) for step in directions(radius, "irn")]


def pair_by_pair(boundary, radius):
    """(h, w) -> (D, h-f, w-2f): the path maximum as plainly as possible."""
    f, (height, width) = radius - 1, boundary.shape
    result = torch.empty(len(directions(radius)), height - f, width - 2 * f)
    for number, step in enumerate(directions(radius)):
        for y, x in np.ndindex(*result.shape[1:]):
            values = [boundary[y + v, f + x + u] for v, u in path_cells(step)]
            result[number, y, x] = 1 - max(values)
    return result


@pytest.mark.parametrize("case", [0, 1])
def test_golden_pairs(golden, case):
    radius, height, width = golden[f"in_idx_{case}_radius_size"].tolist()
    assert directions(radius, "irn") == tuple(
        map(tuple, golden[f"out_idx_{case}_search_dst"].tolist())
    )
    numbers = torch.arange(height * width, dtype=torch.int32).view(height, width)
    assert torch.equal(shifted(numbers, (0, 0), radius).flatten(), golden[f"out_idx_{case}_src"])
    partners = [shifted(numbers, step, radius).flatten() for step in directions(radius, "irn")]
    assert torch.equal(torch.stack(partners), golden[f"out_idx_{case}_dst"])


@pytest.mark.parametrize("case", [0, 1])
def test_golden_paths(golden, case):
    radius = int(golden[f"in_idx_{case}_radius_size"][0])
    expected = {}
    for group in range(len(golden[f"out_idx_{case}_path_lengths"])):
        for path in golden[f"out_idx_{case}_paths_{group}"].tolist():
            expected[tuple(path[0])] = set(map(tuple, path))
    assert {step: set(path_cells(step)) for step in directions(radius)} == expected


@pytest.mark.parametrize("case", [0, 1])
def test_golden_path_affinity(golden, case):
    radius = int(golden[f"in_idx_{case}_radius_size"][0])
    affinity = path_affinity(golden[f"in_idx_{case}_edge"], radius)[:, irn_order(radius)]
    expected = golden[f"out_idx_{case}_affinity"]
    torch.testing.assert_close(affinity.flatten(2), expected, rtol=0, atol=1e-6)


def test_golden_dense_affinity(golden):
    radius, height, width = golden["in_idx_1_radius_size"].tolist()
    numbers = torch.arange(height * width).view(height, width)
    source = shifted(numbers, (0, 0), radius)
    dense = torch.eye(height * width)
    affinity = path_affinity(golden["in_idx_1_edge"][:1], radius)[0]
    for step, plane in zip(directions(radius), affinity, strict=True):
        partner = shifted(numbers, step, radius)
        dense[source, partner] = dense[partner, source] = plane
    torch.testing.assert_close(dense, golden["out_idx_1_dense"], rtol=0, atol=1e-6)


def test_golden_psa_pairs(golden):
    numbers = torch.arange(12 * 15).view(12, 15)
    source = shifted(numbers, (0, 0), 5).flatten()
    assert torch.equal(source, golden["out_psa_ind_from"])
    partners = torch.stack([shifted(numbers, step, 5).flatten() for step in directions(5)])
    assert torch.equal(partners.flatten(), golden["out_psa_ind_to"].long())


@pytest.mark.parametrize(("radius", "count", "cells"), [(5, 34, 242), (10, 152, 2134)])
def test_counts(radius, count, cells):
    for order in ("psa", "irn"):
        assert len(directions(radius, order)) == count
        assert sum(len(path_cells(step)) for step in directions(radius, order)) == cells


def test_orders():
    assert directions(5)[:6] == ((0, 1), (0, 2), (0, 3), (0, 4), (1, -4), (1, -3))
    assert directions(5, "irn")[:6] == ((0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (1, -1))


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_half_of_a_disc(radius):
    steps = set(directions(radius))
    mirrored = {(-dy, -dx) for dy, dx in steps}
    assert not steps & mirrored
    everything = {
        (y, x)
        for y in range(-radius, radius + 1)
        for x in range(-radius, radius + 1)
        if 0 < y * y + x * x < radius * radius
    }
    assert steps | mirrored == everything


def test_paths_by_hand():
    assert path_cells((0, 3)) == ((0, 3), (0, 2), (0, 1), (0, 0))
    assert set(path_cells((1, 1))) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(path_cells((1, -2))) == 6
    assert len(path_cells((2, 3))) == 8
    for step in directions(7):
        assert path_cells(step)[0] == step
        assert path_cells(step)[-1] == (0, 0)


@STEADY
@given(st.integers(2, 4), st.integers(0, 3), st.integers(0, 4), st.integers(0, 2**16))
def test_equals_pair_by_pair(radius, more_rows, more_columns, seed):
    generator = torch.Generator().manual_seed(seed)
    size = (radius + more_rows, 2 * radius - 1 + more_columns)
    boundary = torch.rand(size, generator=generator)
    affinity = path_affinity(boundary[None, None], radius)[0]
    torch.testing.assert_close(affinity, pair_by_pair(boundary, radius))


def test_gradient_numerically():
    generator = torch.Generator().manual_seed(0)
    boundary = torch.rand(2, 1, 6, 9, generator=generator, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: path_affinity(x, 4), boundary)
    features = torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: feature_affinity(x, 3), features)


def test_gradient_goes_to_the_strongest_cell_only():
    boundary = torch.zeros(1, 1, 5, 9)
    boundary[..., 0, 6] = 0.7
    boundary[..., 0, 5] = 0.4
    boundary.requires_grad_()
    path_affinity(boundary, 5)[0, directions(5).index((0, 4)), 0, 0].backward()  # columns 4..8
    expected = torch.zeros(5, 9)
    expected[0, 6] = -1
    assert torch.equal(boundary.grad[0, 0], expected)


def test_tied_cells_share_nothing():
    boundary = torch.full((2, 1, 9, 11), 0.5, requires_grad=True)
    affinity = path_affinity(boundary, 4)
    affinity.sum().backward()
    assert boundary.grad.sum() == -affinity.numel()
    assert torch.equal(boundary.grad, boundary.grad.round())


def test_same_values_with_and_without_gradient():
    boundary = torch.rand(2, 1, 12, 21, generator=torch.Generator().manual_seed(0))
    features = torch.randn(2, 6, 12, 21, generator=torch.Generator().manual_seed(0))
    for function, x in ((path_affinity, boundary), (feature_affinity, features)):
        plain = function(x, 5)
        assert not plain.requires_grad
        assert torch.equal(function(x.clone().requires_grad_(), 5), plain)


def test_feature_affinity_by_hand():
    features = torch.tensor([[0.0, 1.0, 4.0], [2.0, 2.0, 0.0]]).view(1, 2, 1, 3)
    features = torch.cat([features, features + 1], dim=2)  # a second row, one more everywhere
    found = feature_affinity(features, 2)[0, :, 0, 0]  # one source, column 1
    assert directions(2) == ((0, 1), (1, -1), (1, 0), (1, 1))
    expected = torch.tensor([(3 + 2) / 2, (0 + 1) / 2, 1, (4 + 1) / 2]).neg().exp()
    torch.testing.assert_close(found, expected)


def test_padded_border_makes_every_position_a_source():
    boundary = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    affinity = path_affinity(pad_border(boundary, 5), 5)
    assert affinity.shape == (1, 34, 3, 4)
    for number, (dy, dx) in enumerate(directions(5)):
        for y, x in np.ndindex(3, 4):
            if not (y + dy < 3 and 0 <= x + dx < 4):
                assert affinity[0, number, y, x] == 0


@pytest.mark.parametrize("radius", [1, 0, -3, 2.0, True, "5"])
def test_radius_must_reach_a_neighbour(radius):
    assert len(directions(2, "irn")) == 4
    with pytest.raises(UserError, match="whole number of at least 2") as error:
        directions(radius, "irn")
    assert "\n" not in str(error.value)


def test_unknown_order_names_the_known():
    with pytest.raises(UserError, match="Valid: psa, irn"):
        directions(5, "irm")


@pytest.mark.parametrize("size", [(4, 9), (5, 8)])
def test_too_small_a_map_is_refused(size):
    for function, channels in ((path_affinity, 1), (feature_affinity, 3)):
        with pytest.raises(UserError, match=r"at least 5×9") as error:
            function(torch.rand(1, channels, *size), 5)
        assert "\n" not in str(error.value)
    assert path_affinity(torch.rand(1, 1, 5, 9), 5).shape == (1, 34, 1, 1)


def test_wrong_shapes_are_refused():
    with pytest.raises(UserError, match=r"\(B, 1, h, w\)"):
        path_affinity(torch.rand(1, 2, 9, 9), 3)
    with pytest.raises(UserError, match=r"\(B, C, h, w\)"):
        feature_affinity(torch.rand(3, 9, 9), 3)
