"""The text files and the image index of a data set folder; every data set writes and reads these.

root/JPEGImages/<id>.jpg                       root/classes.txt   (line i = class i)
root/SegmentationClass/<id>.png                root/labels.csv    (id,labels)
root/ImageSets/Segmentation/<split>.txt        (one id per line)
"""

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wsssbench.data.palette import MAX_CLASSES
from wsssbench.errors import UserError, unknown
from wsssbench.files import read_json, write_json, write_text

IMAGES = "JPEGImages"
MASKS = "SegmentationClass"
LISTS = "ImageSets/Segmentation"
CLASSES = "classes.txt"
LABELS = "labels.csv"
ABOUT = "about.json"
HIDDEN = "Hidden"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")


def read_text(path: Path, remedy: str) -> str:
    """Text of a UTF-8 file, with or without a byte order mark.

    Raises:
        UserError: missing, not permitted, or not UTF-8; the text ends with `remedy`.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. {remedy}") from error
    except PermissionError as error:
        raise UserError(f"No permission to read {path}. Run: chmod +r {path}") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is not a UTF-8 text file. {remedy}") from error


def read_classes(root: Path) -> list[str]:
    """Names of the foreground classes 1..K from `classes.txt`, whose first line is `background`."""
    path = root / CLASSES
    remedy = "Write one class name per line, `background` first; line i names mask id i."
    names = [line.strip() for line in read_text(path, remedy).splitlines() if line.strip()]
    if len(names) < 2 or names[0] != "background":
        raise UserError(f"{path} must start with `background` and name a class. {remedy}")
    if len(names) - 1 > MAX_CLASSES:
        raise UserError(f"{path} names {len(names) - 1} classes; masks hold {MAX_CLASSES} at most.")
    for name in names:
        if len(name.split()) > 1:
            raise UserError(
                f"{path}: class {name!r} holds a space. Write {'_'.join(name.split())}."
            )
    twice = repeated(names)
    if twice:
        raise UserError(f"{path} names {twice[0]!r} twice. Give each class its own name.")
    return names[1:]


def write_classes(root: Path, classes: Iterable[str]) -> None:
    """Write `classes.txt` for the foreground classes 1..K; blanks in names become `_`."""
    names = ["background", *("_".join(name.split()) for name in classes)]
    write_text(root / CLASSES, "\n".join(names) + "\n")


def list_path(root: Path, split: str) -> Path:
    """Where the ids of `split` stand."""
    return root / LISTS / f"{split}.txt"


def splits(root: Path) -> list[str]:
    """Names of the splits the folder has, sorted."""
    return sorted(path.stem for path in (root / LISTS).glob("*.txt"))


def read_ids(root: Path, split: str) -> list[str]:
    """Ids of a split in the order of its list, repetitions included.

    Raises:
        UserError: no such list, or an empty one.
    """
    path = list_path(root, split)
    if not path.exists():
        raise UserError(f"{unknown('split', split, splits(root))} Its list would be {path}.")
    lines = read_text(path, "Write one id per line.").splitlines()
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UserError(f"{path} is empty. Write one id per line.")
    return ids


def write_ids(root: Path, split: str, ids: Iterable[str]) -> None:
    """Write the list of a split."""
    write_text(list_path(root, split), "".join(f"{name}\n" for name in ids))


def read_labels(root: Path, classes: list[str]) -> dict[str, list[str]]:
    """Class names per id from `labels.csv`; an id with an empty field has an empty list.

    Raises:
        UserError: missing file, wrong header, an id twice, or a class that `classes.txt` lacks.
    """
    path = root / LABELS
    remedy = (
        "Write a header `id,labels` and one row per image, class names separated by a space; or, "
        "if the folder has masks, let `prepare` derive it with labels_from_masks: true."
    )
    rows = list(csv.reader(io.StringIO(read_text(path, remedy))))
    if not rows or [cell.strip() for cell in rows[0]] != ["id", "labels"]:
        raise UserError(f"{path} must start with the header `id,labels`. {remedy}")
    known = set(classes)
    labels: dict[str, list[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != 2:
            raise UserError(
                f"{path} line {number} has {len(row)} fields instead of 2. Separate several "
                "labels by a space, not by a comma."
            )
        name = row[0].strip()
        if name in labels:
            raise UserError(f"{path} line {number}: id {name!r} has a row already. Keep one.")
        names = row[1].split()
        for wrong in (label for label in names if label not in known):
            raise UserError(f"{path} line {number} (id {name}): {unknown('class', wrong, classes)}")
        labels[name] = names
    return labels


def write_labels(root: Path, labels: Mapping[str, Iterable[str]]) -> None:
    """Write `labels.csv`, sorted by id."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", "labels"])
    writer.writerows([name, " ".join(labels[name])] for name in sorted(labels))
    write_text(root / LABELS, stream.getvalue())


def index_images(root: Path) -> dict[str, Path]:
    """Image file of each id.

    Raises:
        UserError: no image folder, none in it, or two files for one id.
    """
    folder = root / IMAGES
    remedy = f"Put the images there as <id>.jpg ({', '.join(ENDINGS)} are read)."
    if not folder.is_dir():
        raise UserError(f"Image folder {folder} does not exist. {remedy}")
    index: dict[str, Path] = {}
    for path in listing(folder):
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        if path.stem in index:
            other = index[path.stem].name
            raise UserError(f"{folder} holds both {other} and {path.name}. Remove one of them.")
        index[path.stem] = path
    if not index:
        raise UserError(f"Image folder {folder} holds no image. {remedy}")
    return index


def read_about(root: Path) -> dict[str, Any]:
    """What `prepare` noted about the folder; empty for a folder that no `prepare` wrote."""
    path = root / ABOUT
    return read_json(path, "Delete it and run prepare again.") if path.exists() else {}


def write_about(root: Path, source: str, labels: str, **facts: Any) -> None:
    """Note where a folder came from. Written last, so that its presence means: complete.

    Args:
        root: the folder.
        source: name in `SOURCES`.
        labels: where the image-level labels are from, such as "masks" or "XML annotations".
        facts: whatever else a reader should know (JSON values).
    """
    write_json(root / ABOUT, {"source": source, "labels": labels, **facts})


def claim(root: str | Path, source: str) -> Path:
    """Start (or restart) making a folder: sweep up after an interruption, protect other data.

    Args:
        root: the folder to make.
        source: name in `SOURCES`.

    Returns:
        `root` as a path.

    Raises:
        UserError: the folder holds another data set, or its masks are a link to somebody's.
    """
    root = Path(root)
    other = read_about(root).get("source", source)
    if other != source:
        raise UserError(f"{root} holds a data set of source {other!r}. Choose another root.")
    if (root / MASKS).is_symlink():
        raise UserError(f"{root / MASKS} links to masks elsewhere. Choose another root.")
    for folder in (root, root / MASKS, root / LISTS):
        for path in folder.glob(".*"):  # what a killed process was writing
            if re.fullmatch(r"\..+\.(png|txt|csv|json)\.\w{8}", path.name):
                path.unlink(missing_ok=True)
    return root


def link(source: Path, target: Path, root: Path) -> None:
    """Make `target` show the file or folder `source`: a symbolic link, or a copy without links.

    A link to something in `root` is relative, so that the data set folder can be moved.

    Raises:
        UserError: `target` is a folder or file of its own; nothing is overwritten.
    """
    source = source.resolve()
    if target.is_symlink():
        if target.resolve() == source:
            return
        target.unlink()
    elif target.exists():
        if target.is_file() and target.stat().st_size == source.stat().st_size:
            return  # the copy that an earlier run made
        raise UserError(f"{target} exists already and is not a link. Move it away and try again.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        inside = source.is_relative_to(root.resolve())
        target.symlink_to(os.path.relpath(source, target.parent.resolve()) if inside else source)
    except PermissionError as error:
        raise UserError(f"No permission to write {target}. Choose another folder.") from error
    except OSError:  # a file system without links
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)


def listing(folder: Path) -> list[Path]:
    """Entries of a folder, sorted; a UserError where reading it is not permitted."""
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except PermissionError as error:
        raise UserError(f"No permission to read {folder}. Run: chmod +rx {folder}") from error


def union(lists: Iterable[Iterable[str]]) -> list[str]:
    """All ids of several lists, sorted, each once."""
    return sorted({name for names in lists for name in names})


def repeated(names: Iterable[str]) -> list[str]:
    """Names that occur more than once, in order of their first repetition."""
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))
