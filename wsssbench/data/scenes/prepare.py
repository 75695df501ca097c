"""The drawn set as a folder in VOC layout, with the hidden layers beside the masks.

Files are written whole, the mask of a picture last; so a picture with a mask is complete, and what
an interruption left out is drawn by the next call.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wsssbench.data import layout
from wsssbench.data.palette import BACKGROUND, IGNORE, read_mask, write_mask
from wsssbench.data.scenes.draw import Scene, draw_scene
from wsssbench.data.scenes.looks import class_names
from wsssbench.data.scenes.settings import SceneSettings, make_settings
from wsssbench.errors import UserError, unknown
from wsssbench.files import atomic, read_json, write_json
from wsssbench.progress import progress

DRAWING = 1  # raise it when a change of the code changes a picture: folders are then drawn anew
HIDDEN = "Hidden"
SETTINGS = "settings.json"
JPEG_QUALITY = 95
CONTENTS = ("random", "singles", "pairs")
OURS = (layout.IMAGES, layout.MASKS, HIDDEN, "ImageSets", layout.CLASSES, layout.LABELS)


def prepare(root: str | Path, *, contents: str = "random", **settings: Any) -> None:
    """Draw the set into `root`: images, masks, hidden layers, lists, classes and labels.

    The same settings give the same bytes (with the same versions of OpenCV and NumPy). A second
    call with the same settings draws only what is missing; other settings replace the old pictures.

    Args:
        root: a new or empty folder, or one that this function made.
        contents: `random` classes; `singles`: one object per picture, all classes in turn;
            `pairs`: both classes of a head/tail pair, all pairs in turn, either one on top.
        **settings: fields of `SceneSettings`.

    Raises:
        UserError: unknown or bad settings; `root` holds something else; no permission; disk full.
    """
    root, wanted = Path(root), make_settings(settings)
    if contents not in CONTENTS:
        raise unknown("scenes contents", contents, CONTENTS)
    if contents == "pairs" and not wanted.pairs:
        raise UserError("scenes: contents is pairs, but all classes are medium. Lower medium.")
    # Through JSON and back, so that tuples compare equal to the lists that the file holds.
    record = json.loads(json.dumps({"drawing": DRAWING, **dataclasses.asdict(wanted)}))
    if contents != "random":
        record["contents"] = contents
    if _record(root) != record:
        _clear(root)
        write_json(root / SETTINGS, record)
    ids = {split: [f"{split}_{i:05d}" for i in range(n)] for split, n in wanted.splits.items()}
    if _complete(root, ids):
        return
    for folder in (layout.IMAGES, layout.MASKS, HIDDEN):
        for leftover in (root / folder).glob(".*"):  # a killed process could not tidy up
            leftover.unlink(missing_ok=True)

    names = class_names(wanted)
    labels = {}
    jobs = [(split, i, name) for split in ids for i, name in enumerate(ids[split])]
    for split, index, name in progress(jobs, "drawing scenes"):
        if all(path.exists() for path in _paths(root, name)):
            present = np.setdiff1d(read_mask(_paths(root, name)[-1]), (BACKGROUND, IGNORE))
        else:
            scene = draw_scene(wanted, split, index, _classes(wanted, contents, index))
            _write(root, name, scene)
            present = scene.labels
        labels[name] = [names[label - 1] for label in present]
    layout.write_classes(root, names)
    for split in ids:
        layout.write_ids(root, split, ids[split])
    layout.write_labels(root, labels)


def read_hidden(root: str | Path, name: str) -> dict[str, np.ndarray]:
    """Hidden layers of image `name`: `part`, `companion` (H, W) uint8, `instance` (H, W) uint16.

    Raises:
        UserError: the folder has none for this image.
    """
    path = Path(root) / HIDDEN / f"{name}.npz"
    if not path.exists():
        raise UserError(f"{path} does not exist. Only a scenes folder has hidden layers.")
    with np.load(path) as layers:
        return dict(layers)


def _classes(settings: SceneSettings, contents: str, index: int) -> list[int] | None:
    """Class ids of the objects in picture `index`, the last one on top; None: random ones."""
    if contents == "singles":
        return [1 + index % settings.classes]
    if contents == "pairs":
        turn, pair = divmod(index, settings.pairs)
        both = [1 + pair, settings.classes - pair]
        return both[::-1] if turn % 2 else both
    return None


def _paths(root: Path, name: str) -> tuple[Path, Path, Path]:
    """Files of a picture in the order in which they are written."""
    return (
        root / layout.IMAGES / f"{name}.jpg",
        root / HIDDEN / f"{name}.npz",
        root / layout.MASKS / f"{name}.png",
    )


def _write(root: Path, name: str, scene: Scene) -> None:
    image, hidden, mask = _paths(root, name)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(scene.image[..., ::-1]), options)
    with atomic(image) as stream:
        stream.write(encoded.tobytes())
    with atomic(hidden) as stream:
        np.savez_compressed(
            stream, part=scene.part, companion=scene.companion, instance=scene.instance
        )
    write_mask(mask, scene.mask)


def _complete(root: Path, ids: dict[str, list[str]]) -> bool:
    texts = [root / layout.CLASSES, root / layout.LABELS]
    texts += [layout.list_path(root, split) for split in ids]
    count = sum(map(len, ids.values()))
    folders = ((layout.IMAGES, "*.jpg"), (layout.MASKS, "*.png"), (HIDDEN, "*.npz"))
    return all(path.exists() for path in texts) and all(
        len(list((root / folder).glob(ending))) == count for folder, ending in folders
    )


def _record(root: Path) -> dict[str, Any] | None:
    """Settings that the folder was drawn with, None for a new or empty one.

    Raises:
        UserError: the folder holds a data set that is not ours to replace.
    """
    advice = "Name a new folder for the drawn set."
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file. {advice}")
    if (root / SETTINGS).exists():
        record = read_json(root / SETTINGS, advice)
        if isinstance(record, dict) and "drawing" in record:
            return record
        raise UserError(f"{root / SETTINGS} does not come from scenes. {advice}")
    for name in OURS:
        if (root / name).exists():
            raise UserError(f"{root} holds {name} that scenes did not draw. {advice}")
    return None


def _clear(root: Path) -> None:
    # An interruption from here on leaves a record that matches no settings: the folder stays ours.
    write_json(root / SETTINGS, {"drawing": 0})
    for name in OURS:
        path = root / name
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"Cannot replace {path} ({error.strerror}). Remove it.") from error
