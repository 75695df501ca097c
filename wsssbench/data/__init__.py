"""Where images and labels come from: folders in VOC layout and the programs that make them.

Adding a data set: one file with `prepare(root, *, option=…)` that leaves such a folder, and one
line in `SOURCES`.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsssbench import settings
from wsssbench.data import coco14, folder, msrc, scenes, voc12
from wsssbench.data.palette import BACKGROUND, IGNORE
from wsssbench.errors import unknown

__all__ = ["BACKGROUND", "IGNORE", "SOURCES", "prepare"]

SOURCES: dict[str, Callable[..., None]] = {
    "scenes": scenes.prepare,
    "folder": folder.prepare,
    "voc12": voc12.prepare,
    "coco14": coco14.prepare,
    "msrc": msrc.prepare,
}


def prepare(source: str, root: str | Path, **options: Any) -> None:
    """Make or complete the data set folder `root`.

    Args:
        source: a name in `SOURCES`.
        root: the folder.
        options: of that source's `prepare`.

    Raises:
        UserError: unknown source or option, or whatever the source finds wrong.
    """
    if source not in SOURCES:
        raise unknown("data source", source, SOURCES)
    parameters = inspect.signature(SOURCES[source]).parameters
    if not any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        settings.check(SOURCES[source], options, f"data.options of source {source}")
    SOURCES[source](Path(root), **options)
