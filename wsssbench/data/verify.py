"""Everything that can be wrong with a data set folder, found before training and said plainly.

`verify` collects problems instead of stopping at the first one; `describe` (in a file of its own)
gives the statistics.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

import pandas as pd

from wsssbench.data import layout
from wsssbench.data.describe import describe
from wsssbench.data.folder import Folder
from wsssbench.data.palette import BACKGROUND, IGNORE
from wsssbench.data.scan import Seen, scan
from wsssbench.errors import UserError, unknown

__all__ = ["Problem", "Report", "describe", "verify"]


@dataclass(frozen=True)
class Problem:
    """One finding. Errors stop a run, warnings may bend its numbers, notes are to be known."""

    severity: Literal["error", "warning", "note"]
    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        place = "" if self.where in self.what else f"{self.where}: "
        return f"{self.severity}: {place}{self.what}. {self.remedy}".rstrip()


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        root: the folder.
        problems: in the order of severity.
        counts: images, masks, unlabelled and, per split, its number of images.
        classes: one row per foreground class: class, labelled (images with the label),
            in_mask (images whose mask holds it), pixels.
    """

    root: Path
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop a run."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def add(self, severity: str, where: object, what: str, remedy: str = "") -> None:
        """Note one finding."""
        self.problems.append(Problem(severity, str(where), what, remedy))

    def add_error(self, where: object, error: UserError) -> None:
        """Note what a reader raised; its text is a finding and a remedy already."""
        what, _, remedy = str(error).partition(". ")
        self.add("error", where, what.rstrip("."), remedy)

    def raise_on_errors(self, show: int = 3) -> None:
        """Stop with one message that names the first errors and counts the rest.

        Raises:
            UserError: there is at least one error.
        """
        if not self.errors:
            return
        shown = " | ".join(str(problem) for problem in self.errors[:show])
        rest = len(self.errors) - show
        more = f" | and {rest} more: wsssbench data verify {self.root}" if rest > 0 else ""
        raise UserError(f"{len(self.errors)} error(s) in the data set {self.root}: {shown}{more}")

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        kinds = Counter(problem.severity for problem in self.problems)
        total = ", ".join(f"{kinds[kind]} {kind}s" for kind in ("error", "warning", "note"))
        lines = [f"{self.root}: {numbers}" if numbers else str(self.root)]
        return "\n".join([*lines, *map(str, self.problems), total])


def verify(
    root: str | Path,
    splits: Iterable[str] | None = None,
    *,
    masks_for: Iterable[str] = (),
    need_labels: bool = True,
) -> Report:
    """Read every image, mask and list of a folder and report what is wrong.

    Args:
        root: a data set folder.
        splits: the lists to check, all by default.
        masks_for: splits in which every image must have a mask (those that are to be scored);
            elsewhere missing masks are a note.
        need_labels: whether `labels.csv` must exist.

    Returns:
        The report; call its `raise_on_errors` to stop on errors.
    """
    report = Report(Path(root))
    try:
        folder = Folder(root)
        folder.images  # noqa: B018 (reads the listing: without images there is nothing to check)
    except UserError as error:
        report.add_error(root, error)
        return report
    ids = _check_lists(report, folder, splits)
    labels = _check_labels(report, folder, need_labels)
    every = layout.union(ids.values())
    _check_masks_exist(report, folder, ids, set(masks_for))
    seen = list(scan(folder, every))
    for item in seen:
        _check_files(report, folder, item)
    if labels is not None:
        _check_agreement(report, folder, labels, seen)
        _check_unlabelled(report, folder, labels, ids)
    report.counts |= {split: len(names) for split, names in ids.items()}
    report.counts |= {"images": len(every), "masks": sum(bool(item.pixels) for item in seen)}
    report.classes = _frequencies(folder, labels or {}, seen)
    report.problems.sort(key=lambda problem: ("error", "warning", "note").index(problem.severity))
    return report


def _check_lists(
    report: Report, folder: Folder, splits: Iterable[str] | None
) -> dict[str, list[str]]:
    """Ids per split without repetitions and without those that have no image."""
    wanted = list(folder.splits if splits is None else splits)
    if not wanted:
        where = folder.root / layout.LISTS
        report.add("error", where, "there is no list", "Write train.txt and val.txt, one id a line")
    ids = {}
    for split in wanted:
        path = layout.list_path(folder.root, split)
        try:
            names = layout.read_ids(folder.root, split)
        except UserError as error:
            report.add_error(path, error)
            continue
        for name in layout.repeated(names):
            report.add("error", path, f"id {name!r} is listed more than once", "Keep it once")
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in folder.images:
                what = f"id {name!r} has no image in {folder.root / layout.IMAGES}"
                report.add("error", path, what, "Put the image there or correct the list")
        ids[split] = [name for name in names if name in folder.images]
    for train, other in product(ids, ids):
        both = sorted(set(ids[train]) & set(ids[other]))
        if train.startswith("train") and other.startswith(("val", "test")) and both:
            what = f"{len(both)} images are in {train} as well as in {other}, e.g. {both[0]!r}"
            remedy = "Remove them from one list: scores on training images say little"
            report.add("warning", layout.list_path(folder.root, other), what, remedy)
    return ids


def _check_labels(report: Report, folder: Folder, needed: bool) -> dict[str, list[str]] | None:
    path = folder.root / layout.LABELS
    if not needed and not path.exists():
        return None
    try:
        return layout.read_labels(folder.root, folder.classes)
    except UserError as error:
        report.add_error(path, error)
        return None


def _check_masks_exist(
    report: Report, folder: Folder, ids: dict[str, list[str]], masks_for: set[str]
) -> None:
    where = folder.root / layout.MASKS
    for split in masks_for - set(ids):
        report.add("error", where, str(unknown("split for scoring", split, ids)).rstrip("."))
    for split, names in ids.items():
        missing = [name for name in names if not folder.has_mask(name)]
        if not missing:
            continue
        what = f"{len(missing)} of {len(names)} images of {split} have no mask, e.g. {missing[0]!r}"
        if split in masks_for:
            remedy = "Add <id>.png masks or take the ids off the list: the split is to be scored"
            report.add("error", where, what, remedy)
        else:
            report.add("note", where, what, "They can be trained on, not scored")


def _check_files(report: Report, folder: Folder, seen: Seen) -> None:
    for path, error in seen.faults:
        report.add_error(path, error)
    path = folder.mask_path(seen.name)
    strange = [value for value in seen.pixels if folder.num_classes < value != IGNORE]
    if strange:
        values = ", ".join(map(str, strange[:5])) + (", …" if len(strange) > 5 else "")
        what = f"mask values {values} are neither a class (1..{folder.num_classes}) nor {IGNORE}"
        report.add("error", path, what, "Correct the mask or add the classes to classes.txt")
    if seen.size and seen.mask_size and seen.size != seen.mask_size:
        (height, width), (mask_height, mask_width) = seen.size, seen.mask_size
        what = f"the mask is {mask_width}×{mask_height}, its image {width}×{height}"
        remedy = "Export the mask at the size of the image"
        if seen.turned and seen.size == seen.mask_size[::-1]:
            remedy = "The image is turned by its EXIF entry only: save it turned, without EXIF"
        report.add("error", path, what, remedy)


def _check_agreement(
    report: Report, folder: Folder, labels: dict[str, list[str]], seen: Sequence[Seen]
) -> None:
    """Compare labels and masks; only images that have both a row and a readable mask count."""
    where = folder.root / layout.LABELS
    lacking, unseen = [], []
    for item in seen:
        if not item.pixels or item.name not in labels:
            continue
        present = {folder.classes[value - 1] for value in _classes_in(folder, item)}
        lacking += [(item.name, name) for name in sorted(present - set(labels[item.name]))]
        unseen += [(item.name, name) for name in sorted(set(labels[item.name]) - present)]
    if lacking:
        what = f"masks of {_images(lacking)} hold a class that the labels lack, {_example(lacking)}"
        remedy = "With labels given such a region can never be found; check the labels"
        report.add("warning", where, what, remedy)
    if unseen:
        what = f"labels of {_images(unseen)} name a class that the mask lacks, {_example(unseen)}"
        report.add("note", where, what, "Usual for tiny objects")


def _check_unlabelled(
    report: Report, folder: Folder, labels: dict[str, list[str]], ids: dict[str, list[str]]
) -> None:
    where = folder.root / layout.LABELS
    empty = {
        split: [name for name in names if not labels.get(name)] for split, names in ids.items()
    }
    report.counts["unlabelled"] = len(layout.union(empty.values()))
    every = layout.union(ids.values())
    if every and not any(name in labels for name in every):
        what = f"none of its {len(labels)} ids is that of an image on the lists"
        report.add("error", where, what, f"Ids are file names without ending, as {every[0]!r}")
        return
    for split, names in empty.items():
        if names:
            what = f"{len(names)} images of {split} have no label, e.g. {names[0]!r}"
            report.add("note", where, what, "They are kept, as images without any class")
    used = {label for names in ids.values() for name in names for label in labels.get(name, [])}
    for name in folder.classes:
        if name not in used:
            report.add("warning", where, f"no image has the label {name!r}", "It cannot be learnt")


def _frequencies(
    folder: Folder, labels: dict[str, list[str]], seen: Sequence[Seen]
) -> pd.DataFrame:
    labelled = Counter(label for item in seen for label in labels.get(item.name, ()))
    in_mask = Counter(value for item in seen for value in _classes_in(folder, item))
    pixels = Counter[int]()
    for item in seen:
        pixels.update(item.pixels)
    rows = [
        {
            "class": name,
            "labelled": labelled[name],
            "in_mask": in_mask[index],
            "pixels": pixels[index],
        }
        for index, name in enumerate(folder.classes, 1)
    ]
    return pd.DataFrame(rows)


def _classes_in(folder: Folder, seen: Seen) -> list[int]:
    return [value for value in seen.pixels if BACKGROUND < value <= folder.num_classes]


def _images(pairs: Sequence[tuple[str, str]]) -> str:
    return f"{len({name for name, _ in pairs})} images"


def _example(pairs: Sequence[tuple[str, str]]) -> str:
    return f"e.g. {pairs[0][0]!r} ({pairs[0][1]})"
