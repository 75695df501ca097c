"""Numbers: from predicted masks or score maps and true masks to scores, under one protocol.

Everything here works on plain arrays and folders of files; no data set, model or method is known.
"""

from wsssbench.evaluation.classification import average_precision, cf1_sweep, mean_average_precision
from wsssbench.evaluation.confusion import ConfusionMatrix
from wsssbench.evaluation.folder import Scores, evaluate_folder
from wsssbench.evaluation.intervals import bootstrap
from wsssbench.evaluation.maps import evaluate_maps
from wsssbench.evaluation.protocol import Protocol
from wsssbench.evaluation.sweep import DEFAULT_THRESHOLDS, ThresholdSweep

__all__ = [
    "DEFAULT_THRESHOLDS",
    "ConfusionMatrix",
    "Protocol",
    "Scores",
    "ThresholdSweep",
    "average_precision",
    "bootstrap",
    "cf1_sweep",
    "evaluate_folder",
    "evaluate_maps",
    "mean_average_precision",
]
