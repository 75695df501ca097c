import numpy as np
import pytest
from straightforward import loop_means

from wsssbench.evaluation import bootstrap, intervals, ratios


def image_counts(images=30, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    both = rng.integers(0, 100, (images, classes)) * (rng.random((images, classes)) < 0.5)
    extra = rng.integers(0, 60, (images, classes, 2)) * (both > 0)[..., None]
    return np.stack([both + extra[..., 0], both + extra[..., 1], both], axis=2)


def test_resampling_equals_drawing_images_one_by_one():
    counts = image_counts()
    generator = np.random.default_rng(5)
    drawn = generator.multinomial(30, np.full(30, 1 / 30), size=20)
    expected = []
    for times in drawn:
        chosen = [counts[i] for i, n in enumerate(times) for _ in range(n)]
        assert len(chosen) == 30
        expected.append(loop_means(np.sum(chosen, axis=0)))
    got = np.stack(intervals.resampled(counts, samples=20, seed=5), axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_interval_leaves_out_the_same_share_at_both_ends():
    counts = image_counts()
    for scores, name in zip(intervals.resampled(counts, 400, 7), ("miou", "fp", "fn"), strict=True):
        ends = bootstrap(counts, samples=400, seed=7, level=0.8)[name]
        assert ends == pytest.approx(np.percentile(scores, [10, 90]))


def test_distribution_is_that_of_a_plain_bootstrap():
    counts = image_counts(images=40)
    rng = np.random.default_rng(1)
    plain = np.array([loop_means(counts[rng.integers(0, 40, 40)].sum(axis=0)) for _ in range(1500)])
    result = bootstrap(counts, samples=1500, seed=2)
    for column, name in enumerate(("miou", "fp", "fn")):
        low, high = np.percentile(plain[:, column], [2.5, 97.5])
        assert result[name] == pytest.approx((low, high), abs=0.25 * (high - low))


def test_interval_holds_the_score_and_repeats_with_its_seed():
    counts = image_counts()
    first = bootstrap(counts, seed=3)
    assert first == bootstrap(counts, seed=3)
    assert first != bootstrap(counts, seed=4)
    for (low, high), score in zip(first.values(), ratios.means(counts.sum(axis=0)), strict=True):
        assert low < score < high


def test_wider_level_and_fewer_images_widen_the_interval():
    def width(**settings):
        low, high = bootstrap(**settings)["miou"]
        return high - low

    counts = image_counts(images=200)
    assert width(counts=counts, level=0.99) > width(counts=counts) > width(counts=counts, level=0.5)
    assert width(counts=counts[:20]) > width(counts=counts)


def test_blocks_of_weights_do_not_change_the_result(monkeypatch):
    whole = bootstrap(image_counts(), samples=50)
    monkeypatch.setattr(intervals, "WEIGHTS_AT_ONCE", 70)
    assert bootstrap(image_counts(), samples=50) == whole


def test_identical_images_have_no_spread():
    low, high = bootstrap(np.repeat(image_counts(1), 20, axis=0), samples=50)["miou"]
    assert low == pytest.approx(high)


@pytest.mark.parametrize("counts", [np.zeros((0, 3, 3)), np.zeros((5, 3, 3))])
def test_nothing_to_score_is_nan(counts, recwarn):
    assert all(np.isnan(ends).all() for ends in bootstrap(counts, samples=10).values())
    assert not recwarn.list
