"""Labels of a small grid by alpha-beta swaps (Boykov, Veksler, Zabih, PAMI 2001).

Each swap is one minimum cut, by scipy's maximum flow. Orders and ties follow the GCO library (the
solver of Puzzle Mix's release, whose Python package stops at numpy 1.23): start from label 0,
pairs (0, L-1), …, (0, 1), (1, L-1), …, and a site that may take either label takes the lower one.
For L = 2 the result is the global minimum.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

Ints = NDArray[np.integer]


def swap_labels(unary: Ints, weight_rows: Ints, weight_cols: Ints) -> Ints:
    """Local minimum, with respect to swaps, of `grid_energy`.

    Args:
        unary: (r, c, L) integer, L >= 2, cost of each label.
        weight_rows: (r-1, c) integer >= 0, weight between vertical neighbours.
        weight_cols: (r, c-1) integer >= 0, weight between horizontal neighbours.

    Returns:
        (r, c) int64 in 0..L-1.
    """
    grid = _Grid(unary, weight_rows, weight_cols)
    labels = np.zeros(len(grid.unary), np.int64)
    best = grid.energy(labels)
    while True:
        for low in range(grid.count):
            for high in range(grid.count - 1, low, -1):
                labels = grid.swap(labels, low, high)
        energy = grid.energy(labels)
        if energy >= best:
            return labels.reshape(unary.shape[:2])
        best = energy


def grid_energy(labels: Ints, unary: Ints, weight_rows: Ints, weight_cols: Ints) -> float:
    """Sum of `unary` at the labels and of weight·((i-j)/(L-1))² over neighbours i, j.

    Args: see `swap_labels`; labels is (r, c).
    """
    grid = _Grid(unary, weight_rows, weight_cols)
    return grid.energy(np.ravel(labels)) / (grid.count - 1) ** 2


class _Grid:
    """The energy times (L-1)², so that every term is an integer."""

    def __init__(self, unary: Ints, weight_rows: Ints, weight_cols: Ints) -> None:
        self.count = unary.shape[2]
        site = np.arange(unary.shape[0] * unary.shape[1]).reshape(unary.shape[:2])
        self.one = np.concatenate([site[:-1].ravel(), site[:, :-1].ravel()])
        self.two = np.concatenate([site[1:].ravel(), site[:, 1:].ravel()])
        self.weight = np.concatenate([np.ravel(weight_rows), np.ravel(weight_cols)])
        self.weight = self.weight.astype(np.int64)
        self.unary = unary.reshape(-1, self.count).astype(np.int64) * (self.count - 1) ** 2

    def energy(self, labels: Ints) -> int:
        own = np.take_along_axis(self.unary, labels[:, None], axis=1).sum()
        pairs = self.weight * (labels[self.one] - labels[self.two]) ** 2
        return int(own + pairs.sum())

    def swap(self, labels: Ints, low: int, high: int) -> Ints:
        """The best labelling reachable by exchanging `low` and `high` among their sites."""
        active = (labels == low) | (labels == high)
        sites = np.flatnonzero(active)
        if not len(sites):
            return labels
        cost_low, cost_high = self.unary[:, low].copy(), self.unary[:, high].copy()
        for here, there in ((self.one, self.two), (self.two, self.one)):
            rim = active[here] & ~active[there]
            here, fixed, weight = here[rim], labels[there[rim]], self.weight[rim]
            np.add.at(cost_low, here, weight * (low - fixed) ** 2)
            np.add.at(cost_high, here, weight * (high - fixed) ** 2)
        inner = active[self.one] & active[self.two]
        number = np.cumsum(active) - 1
        takes_low = _source_side(
            (cost_high - cost_low)[sites],
            number[self.one[inner]],
            number[self.two[inner]],
            self.weight[inner] * (high - low) ** 2,
        )
        labels = labels.copy()
        labels[sites] = np.where(takes_low, low, high)
        return labels


def _source_side(gain: Ints, one: Ints, two: Ints, capacity: Ints) -> NDArray[np.bool_]:
    """(n,) bool: nodes on the source's side of the minimum cut that has the most of them.

    `gain` (n,) is what the source's side saves over the sink's; one-two edges carry `capacity`.
    """
    nodes, source, sink = np.arange(len(gain)), len(gain), len(gain) + 1
    start = np.concatenate([np.full(len(gain), source), nodes, one, two])
    end = np.concatenate([nodes, np.full(len(gain), sink), two, one])
    flow_limit = np.concatenate([gain.clip(min=0), (-gain).clip(min=0), capacity, capacity])
    kept = flow_limit > 0
    shape = (len(gain) + 2, len(gain) + 2)
    graph = csr_array((flow_limit[kept].astype(np.int32), (start[kept], end[kept])), shape=shape)
    left = csr_array((graph - maximum_flow(graph, source, sink).flow).T)
    left.eliminate_zeros()
    on_source = np.ones(len(gain) + 2, bool)
    on_source[breadth_first_order(left, sink, return_predecessors=False)] = False
    return on_source[:-2]
