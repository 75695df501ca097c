"""The lattice against a walk through it in plain Python, hand examples and the true Gaussian."""

import itertools
import math

import numpy as np
import pytest
import torch

from wsssbench.errors import UserError
from wsssbench.refinement.permutohedral import build_lattice, filter_values


def draw(dimensions, count, labels=3, spread=2.0, seed=0):
    """Features (d, N) and values (N, L)."""
    generator = torch.Generator().manual_seed(seed)
    features = spread * torch.randn(dimensions, count, generator=generator)
    return features, torch.rand(count, labels, generator=generator)


def corners(point):
    """Vertices of the simplex around a point with their weights, all d + 1 coordinates."""
    d = len(point)
    scaled = [
        f * math.sqrt(2 / 3) * (d + 1) / math.sqrt(i * (i + 1)) for i, f in enumerate(point, 1)
    ]
    elevated = [sum(scaled[j:]) - j * (scaled[j - 1] if j else 0) for j in range(d + 1)]
    whole = [round(e / (d + 1)) for e in elevated]
    base = [(d + 1) * v for v in whole]
    by_residual = sorted(range(d + 1), key=lambda i: base[i] - elevated[i])
    rank = {i: place + sum(whole) for place, i in enumerate(by_residual)}
    for i in rank:
        wrap = (d + 1) * ((rank[i] < 0) - (rank[i] > d))
        rank[i] += wrap
        base[i] += wrap
    share = {rank[i]: (elevated[i] - base[i]) / (d + 1) for i in rank}
    weights = [share[d] + 1 - share[0], *(share[d - k] - share[d - k + 1] for k in range(1, d + 1))]
    for k, weight in enumerate(weights):
        yield tuple(base[i] + k - (d + 1) * (rank[i] > d - k) for i in range(d + 1)), weight


def point_by_point(features, values):
    """The filter in float64, one node after another."""
    points, values = features.double().T.tolist(), values.double().numpy()
    d = len(features)
    simplices = [list(corners(point)) for point in points]
    nodes = {key: np.zeros(values.shape[1]) for simplex in simplices for key, _ in simplex}
    if len(points) % 4:
        nodes |= {
            key: np.zeros(values.shape[1]) for key, _ in corners([0.0] * d) if key not in nodes
        }
    for simplex, value in zip(simplices, values):
        for key, weight in simplex:
            nodes[key] = nodes[key] + weight * value
    for axis in range(d + 1):
        move = np.array([1 - (d + 1) * (i == axis) for i in range(d + 1)])
        sides = {key: (tuple(np.add(key, move)), tuple(np.subtract(key, move))) for key in nodes}
        nodes = {
            key: value + sum(nodes.get(side, 0) for side in sides[key]) / 2
            for key, value in nodes.items()
        }
    gain = 1 / (1 + 2.0**-d)
    rows = [gain * sum(weight * nodes[key] for key, weight in simplex) for simplex in simplices]
    return torch.from_numpy(np.array(rows)).float()


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 40, 57])
@pytest.mark.parametrize("spread", [0.3, 2])
def test_equals_the_walk_through_all_nodes(dimensions, count, spread):
    features, values = draw(dimensions, count, spread=spread, seed=dimensions)
    found = filter_values(build_lattice(features), values)
    torch.testing.assert_close(found, point_by_point(features, values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("copies", [1, 3, 4])
def test_points_alone_in_a_plane(copies):
    """Weight 1 at one node; the blur of three axes adds 1/8 around: 9/8 · 4/5 in the end."""
    found = filter_values(build_lattice(torch.zeros(2, copies)), torch.ones(copies, 1))
    torch.testing.assert_close(found, torch.full((copies, 1), 0.9 * copies))


@pytest.mark.parametrize("dimensions", [2, 5])
def test_close_to_the_true_gaussian(dimensions):
    features, values = draw(dimensions, 400, spread=1.0)
    lattice = build_lattice(features)
    kernel = (-torch.cdist(features.T, features.T).square() / 2).exp()
    mean = filter_values(lattice, values) / filter_values(lattice, torch.ones_like(values))
    expected = kernel @ values / kernel.sum(1, keepdim=True)
    far = kernel.sum(1) > 5
    assert far.sum() > 50
    torch.testing.assert_close(mean[far], expected[far], rtol=0, atol=0.1)
    assert (mean - expected)[far].abs().mean() < 0.3 * (expected[far] - values.mean()).abs().mean()


def test_weights_and_the_absent_node():
    features, _ = draw(5, 50)
    lattice = build_lattice(features)
    absent = lattice.neighbours.shape[1] - 1
    read = lattice.slice_weights * (1 + 2**-5)
    torch.testing.assert_close(read.sum(1), torch.ones(50))
    assert read.min() > -1e-5
    assert lattice.nodes.max() < absent
    assert (lattice.neighbours[:, absent] == absent).all()
    assert lattice.starts[absent] == len(lattice.points)
    for near in lattice.neighbours[:, :absent]:
        inside = near[:, 1] != absent
        assert (near[near[inside, 1].long(), 2] == near[inside, 0]).all()


def test_fours_are_filled_up_with_points_at_the_origin():
    """Four points far away: not a node more. Three of them: three empty nodes near the origin."""
    features = torch.tensor([[90.0, 91, 92, 93], [7.0, 7, 7, 7]])
    whole, rest = build_lattice(features), build_lattice(features[:, :3])
    own = {tuple(key) for point in features.T.tolist()[:3] for key, _ in corners(point)}
    assert rest.neighbours.shape[1] == len(own) + 3 + 1
    assert whole.neighbours.shape[1] == len(own | {k for k, _ in corners([93.0, 7.0])}) + 1
    assert rest.nodes.shape == (3, 3)
    found = filter_values(rest, torch.ones(3, 1))
    torch.testing.assert_close(found, point_by_point(features[:, :3], torch.ones(3, 1)))


def test_linear_and_blind_to_the_order_of_points():
    features, values = draw(5, 60)
    lattice, order = build_lattice(features), torch.randperm(60)
    found = filter_values(lattice, values)
    shuffled = filter_values(build_lattice(features[:, order]), values[order])
    torch.testing.assert_close(shuffled, found[order])
    torch.testing.assert_close(
        filter_values(lattice, 2 * values - 1),
        2 * found - filter_values(lattice, torch.ones_like(values)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_same_columns_give_the_same_bits_on_any_number_of_threads():
    features, values = draw(5, 500, labels=1)
    found = filter_values(build_lattice(features), values.expand(-1, 21).contiguous())
    assert (found == found[:, :1]).all()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again = filter_values(build_lattice(features), values.expand(-1, 21).contiguous())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found, again)


@pytest.mark.parametrize("scale", [1e7, 1e30, float("inf")])
@pytest.mark.parametrize("dimensions", [2, 5])
def test_too_wide_a_range(dimensions, scale):
    with pytest.raises(UserError, match="Use larger ones") as error:
        build_lattice(scale * (1 + torch.rand(dimensions, 8)))
    assert "\n" not in str(error.value)


def test_two_wide_coordinates_fit_and_five_do_not():
    ends = torch.tensor(list(itertools.product([0.0, 9e4], repeat=5))).T
    assert build_lattice(ends[:2]).nodes.shape == (32, 3)
    with pytest.raises(UserError, match="too small"):
        build_lattice(ends)
