"""Measures of single failures, for pictures of which every pixel is known: is a method's claimed
mechanism there, or has only the overlap with the truth changed?

Three families. Measures of maps need no threshold, or choose one for each class at which something
else is equal, so that a map which merely shrinks or grows gains nothing. Measures of masks are
taken at one threshold for all classes, `@best` for mIoU on these very pictures or `@fixed`. Those
of tags look at the classifier alone. Maps are those of the classes that a picture has, as image
labels say. All values are shares in [0, 1] or ratios, pooled over the pixels of all pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsssbench.evaluation.boundaries import within_band
from wsssbench.evaluation.confusion import ConfusionMatrix
from wsssbench.evaluation.ratios import means, rates
from wsssbench.evaluation.sweep import ThresholdSweep

MATCHED_RECALL = 0.7  # cosa.md 11.3
MATCHED_SPILL = 0.1
THRESHOLDS = tuple(step / 50 for step in range(1, 50))
ALL = 0  # class id of values that belong to no single class

MAPS = {  # per class
    "body_to_part": "mean score on the body / on the unique part",
    "body_auc": "P(body pixel scores above a pixel off the object)",
    "body_recall_matched": "share of the body found where 10 % of the rest is claimed",
    "companion_leak": "mean score on the companion / on the object",
    "rest_leak": "mean score on the other background / on the object",
    "companion_auc": "P(object pixel scores above a companion pixel)",
    "companion_fp_matched": "share of the companion claimed where 70 % of the object is found",
}
MASKS = {  # per class
    "body_recall": "share of the body's pixels that are found",
    "part_recall": "share of the unique part's pixels that are found",
    "partner_leak": "share of the body's pixels called the partner, where both are there",
    "companion_share": "share of a class's false pixels that lie on its companion",
    "iou": "IoU",
    "class_fp": "FP",
    "class_fn": "FN",
}
SCORES = {  # of all classes together
    "miou": "mIoU",
    "fp": "FP",
    "fn": "FN",
    "boundary_error": "share of wrong pixels near outlines",
    "threshold": "threshold of the background",
}
TAGS = {  # per class
    "tag_f1": "F1 of the classifier at probability .5",
    "companion_tag": "mean probability where the companion is there and the class is not",
}
MEASURES = {
    **MAPS,
    **{f"{name}@{at}": text for at in ("best", "fixed") for name, text in (MASKS | SCORES).items()},
    **TAGS,
}


@dataclass(frozen=True)
class Case:
    """One picture.

    Attributes:
        keys: (n,) ids of its classes.
        maps: (n, H, W) float32 in [0, 1], one per class.
        truth: (H, W) uint8, 0 background, 1..K, 255 ignore.
        part: (H, W) bool, the unique part of an object.
        companion: (H, W) uint8, id of the class whose companion is there, else 0.
    """

    keys: np.ndarray
    maps: np.ndarray
    truth: np.ndarray
    part: np.ndarray
    companion: np.ndarray


@dataclass(frozen=True)
class Value:
    """A measure of a class (or of ALL) and how many pixels or pictures it rests on."""

    label: int
    measure: str
    value: float
    n: int


def of_maps(cases: Sequence[Case], labels: Iterable[int]) -> list[Value]:
    """The measures MAPS of each class in `labels`; NaN where nothing can be measured."""
    found = []
    for label in labels:
        body, part, companion, rest = _regions(cases, label)
        thing = np.concatenate([body, part])
        off = np.concatenate([companion, rest])
        values = {
            "body_to_part": (_ratio(body, part), len(body)),
            "body_auc": (auc(body, off), len(body)),
            "body_recall_matched": (share_above(body, off, MATCHED_SPILL), len(body)),
            "companion_leak": (_ratio(companion, thing), len(companion)),
            "rest_leak": (_ratio(rest, thing), len(rest)),
            "companion_auc": (auc(thing, companion), len(companion)),
            "companion_fp_matched": (share_above(companion, thing, MATCHED_RECALL), len(companion)),
        }
        found += [Value(label, name, *values[name]) for name in MAPS]
    return found


def of_masks(
    cases: Sequence[Case],
    masks: Sequence[np.ndarray],
    partners: Mapping[int, int],
    band_px: int,
) -> list[Value]:
    """The measures MASKS and SCORES but for the threshold, of predicted masks (H, W) uint8.

    Args:
        cases: the pictures.
        masks: their predictions.
        partners: {class id 1..K: its partner; a class without one is its own}.
        band_px: see `boundaries.boundary_band`.
    """
    size = len(partners) + 1
    whole, band = ConfusionMatrix(size), ConfusionMatrix(size)
    hits = np.zeros((size, 3, 2), np.int64)  # class; body, part, body of pairs; found, all
    false = np.zeros((size, 2), np.int64)  # class; on the companion, all
    for case, mask in zip(cases, masks, strict=True):
        whole.update(mask, case.truth)
        band += within_band(mask, case.truth, size, band_px)
        for label in map(int, case.keys):
            own, claimed = case.truth == label, mask == label
            body = own & ~case.part
            hits[label, 0] += _count(claimed, body)
            hits[label, 1] += _count(claimed, own & case.part)
            if partners[label] != label and partners[label] in case.keys:
                hits[label, 2] += _count(mask == partners[label], body)
            wrong = claimed & ~own & (case.truth != whole.ignore_index)
            false[label] += _count(case.companion == label, wrong)
    return _mask_values(whole, band, hits, false)


def _mask_values(
    whole: ConfusionMatrix, band: ConfusionMatrix, hits: np.ndarray, false: np.ndarray
) -> list[Value]:
    counts = whole.counts()
    pixels, (_, near, right) = int(counts[:, 1].sum()), band.counts().sum(axis=0)
    found = [Value(ALL, name, float(value), pixels)
             for name, value in zip(("miou", "fp", "fn"), means(counts))]  # fmt: skip
    found.append(Value(ALL, "boundary_error", 1 - _share(right, near), int(near)))
    overlap = dict(zip(("iou", "class_fp", "class_fn"), rates(counts)))
    for label in range(1, len(counts)):
        shares = dict(zip(("body_recall", "part_recall", "partner_leak"), hits[label]))
        shares["companion_share"] = false[label]
        found += [Value(label, name, _share(*pair), int(pair[1])) for name, pair in shares.items()]
        found += [Value(label, name, float(values[label]), int(counts[label, 1]))
                  for name, values in overlap.items()]  # fmt: skip
    return found


def of_tags(probabilities: np.ndarray, present: np.ndarray, companions: np.ndarray) -> list[Value]:
    """The measures TAGS.

    Args:
        probabilities: (N, K) float, of the classifier.
        present: (N, K) bool, the image labels.
        companions: (N, K) bool, whether the companion of the class is in the picture.
    """
    found = []
    for place in range(present.shape[1]):
        scores, truth = probabilities[:, place], present[:, place]
        said, alone = scores >= 0.5, companions[:, place] & ~truth
        f1 = _share(2 * np.count_nonzero(said & truth), int(said.sum() + truth.sum()))
        misled = float(scores[alone].mean()) if alone.any() else float("nan")
        found.append(Value(place + 1, "tag_f1", f1, int(truth.sum())))
        found.append(Value(place + 1, "companion_tag", misled, int(alone.sum())))
    return found


def best_threshold(cases: Sequence[Case], num_classes: int) -> float:
    """The threshold of the background at which the mIoU of these pictures is best."""
    sweep = ThresholdSweep(num_classes, THRESHOLDS)
    for case in cases:
        sweep.update_sparse(case.keys, case.maps, case.truth)
    return sweep.best()[0]


def mask_at(case: Case, threshold: float) -> np.ndarray:
    """(H, W) uint8: the strongest class, background where none is above the threshold."""
    if not len(case.keys):
        return np.zeros(case.truth.shape, np.uint8)
    winner = case.keys.astype(np.uint8)[case.maps.argmax(0)]
    return np.where(case.maps.max(0) > np.float32(threshold), winner, np.uint8(0))


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """P(a value of `higher` exceeds one of `lower`), ties count half; NaN without values."""
    if not (len(higher) and len(lower)):
        return float("nan")
    lower = np.sort(lower)
    below = np.searchsorted(lower, higher, "left").sum(dtype=np.int64)
    upto = np.searchsorted(lower, higher, "right").sum(dtype=np.int64)
    return float((below + upto) / 2 / len(higher) / len(lower))


def share_above(values: np.ndarray, reference: np.ndarray, share: float) -> float:
    """Share of `values` above the threshold that `share` of `reference` exceeds.

    Where the reference holds many equal values no threshold has exactly this share above it; those
    that equal the threshold then count in part, in `values` as in `reference`. NaN without values.
    """
    if not (len(values) and len(reference)):
        return float("nan")
    threshold = np.quantile(reference, 1 - share, method="inverted_cdf")
    above, equal = (reference > threshold).mean(), (reference == threshold).mean()
    part = (share - above) / equal
    return float((values > threshold).mean() + part * (values == threshold).mean())


def _regions(cases: Sequence[Case], label: int) -> list[np.ndarray]:
    """Scores of the class on its body, its part, its companion and the rest, pooled over cases.

    Ignored pixels are left out.
    """
    pools: list[list[np.ndarray]] = [[], [], [], []]
    for case in cases:
        place = np.flatnonzero(case.keys == label)
        if not len(place):
            continue
        scores, own = case.maps[place[0]], case.truth == label
        beside = (case.companion == label) & (case.truth == 0)
        rest = ~own & ~beside & (case.truth != 255)
        for pool, region in zip(pools, (own & ~case.part, own & case.part, beside, rest)):
            pool.append(scores[region])
    empty = np.zeros(0, np.float32)
    return [np.concatenate(pool) if pool else empty for pool in pools]


def _ratio(values: np.ndarray, reference: np.ndarray) -> float:
    """Mean of `values` / mean of `reference`."""
    if not (len(values) and len(reference)) or reference.mean() <= 0:
        return float("nan")
    return float(values.mean(dtype=np.float64) / reference.mean(dtype=np.float64))


def _count(claimed: np.ndarray, region: np.ndarray) -> tuple[int, int]:
    """Pixels of the region that are claimed, and all of them."""
    return np.count_nonzero(claimed & region), np.count_nonzero(region)


def _share(number: int, total: int) -> float:
    return float(number / total) if total else float("nan")
