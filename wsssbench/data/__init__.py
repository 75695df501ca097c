"""Where images and labels come from: folders in VOC layout and the programs that make them.

Adding a data set: one file with `prepare(root, *, option=…)` that leaves such a folder, and one
line in `SOURCES`.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsssbench import settings
from wsssbench.data import coco14, folder, layout, msrc, scenes, voc12
from wsssbench.data.palette import BACKGROUND, IGNORE
from wsssbench.errors import UserError, unknown

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
        UserError: unknown source or option, no folder of the user's own, or whatever the source
            finds wrong.
    """
    if source not in SOURCES:
        raise unknown("data source", source, SOURCES)
    parameters = inspect.signature(SOURCES[source]).parameters
    if not any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        settings.check(SOURCES[source], options, f"data.options of source {source}")
    if source == "folder":
        _check_own(Path(options.get("copy_from") or root))
    SOURCES[source](Path(root), **options)


def _check_own(root: Path) -> None:
    """Say what a folder must hold that only its owner can put there."""
    if not root.is_dir():
        raise UserError(
            f"Data set folder {root} does not exist. Put it there: {layout.IMAGES}/<id>.jpg, "
            f"{layout.LISTS}/<list>.txt, {layout.CLASSES}, and {layout.LABELS} or masks "
            f"{layout.MASKS}/<id>.png; the README says more."
        )
