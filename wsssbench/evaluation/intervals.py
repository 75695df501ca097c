"""Bootstrap intervals over images: how far a score would move with another draw of images.

Images are the unit that is drawn; their pixel counts are added before any ratio is formed, as in
the score itself. The spread between training seeds is another quantity and not covered.
"""

import numpy as np

from wsssbench.evaluation.ratios import means

WEIGHTS_AT_ONCE = 2**22  # 32 MiB of resampling weights


def bootstrap(
    counts: np.ndarray, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of mIoU, FP and FN.

    Args:
        counts: (N, K+1, 3) P, T, TP of each image.
        samples: resamplings of N images with replacement.
        seed: of the generator; the same seed gives the same interval.
        level: share of the resamplings inside the interval.

    Returns:
        {"miou": (low, high), "fp": ..., "fn": ...}, fractions; NaN where nothing can be scored.
    """
    scores = resampled(counts, samples, seed)
    tail = 100 * (1 - level) / 2
    return {
        name: _percentiles(values, (tail, 100 - tail))
        for name, values in zip(("miou", "fp", "fn"), scores, strict=True)
    }


def resampled(
    counts: np.ndarray, samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mIoU, FP and FN of each resampling, three (samples,) float64.

    Drawing N images with replacement is drawing how often each is used: multinomial weights, so
    that a resampled count is one matrix product.
    """
    counts = np.asarray(counts)
    images = len(counts)
    if images == 0:
        return (np.full(samples, np.nan),) * 3
    generator = np.random.default_rng(seed)
    flat = counts.reshape(images, -1).astype(np.float64)  # sums stay exact below 2**53
    step = max(1, WEIGHTS_AT_ONCE // images)
    sums = []
    for start in range(0, samples, step):
        size = min(step, samples - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=size)
        sums.append(weights.astype(np.float64) @ flat)
    return means(np.concatenate(sums).reshape(samples, *counts.shape[1:]))


def _percentiles(values: np.ndarray, ends: tuple[float, float]) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, ends)
    return float(low), float(high)
