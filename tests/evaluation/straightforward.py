"""The definitions of the protocol, written as plainly as possible, to hold fast code against."""

import numpy as np
from hypothesis import settings

# The same examples each time, however busy the machine is.
STEADY = settings(deadline=None, derandomize=True)


def loop_counts(prediction, truth, num_classes, ignore_index=255):
    """(K+1, 3) P, T, TP by masked sums."""
    valid = truth != ignore_index
    return np.array(
        [
            [
                np.sum((prediction == c) & valid),
                np.sum((truth == c) & valid),
                np.sum((prediction == c) & (truth == c) & valid),
            ]
            for c in range(num_classes)
        ]
    )


def loop_sweep(maps, truth, thresholds):
    """(T, K+1, 3) by an argmax over [t, maps] for each threshold."""
    result = []
    for threshold in thresholds:
        background = np.full((1, *truth.shape), threshold, dtype=np.float32)
        prediction = np.concatenate([background, maps.astype(np.float32)]).argmax(axis=0)
        result.append(loop_counts(prediction, truth, len(maps) + 1))
    return np.array(result)


def loop_means(counts):
    """(mIoU, FP, FN) of one (K+1, 3) table, class by class."""
    iou, fp, fn = [], [], []
    for label, (predicted, labelled, both) in enumerate(counts.tolist()):
        union = predicted + labelled - both
        if union == 0:
            continue
        iou.append(both / union)
        if label > 0:
            fp.append((predicted - both) / union)
            fn.append((labelled - both) / union)
    return tuple(np.mean(x) if x else np.nan for x in (iou, fp, fn))
