"""Tables, figures and the HTML report, from the files that runs leave behind. No model is loaded.

`build` writes a whole report; a notebook may also call the single tables and figures.
"""

from wsssbench.reporting.averages import aggregate, rows
from wsssbench.reporting.gallery import worst_images
from wsssbench.reporting.masks import open_masks
from wsssbench.reporting.page import build
from wsssbench.reporting.records import Run, load_runs

__all__ = [
    "Run",
    "aggregate",
    "build",
    "load_runs",
    "open_masks",
    "rows",
    "worst_images",
]
