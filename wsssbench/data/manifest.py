"""What a data set folder held when it was prepared: counts, a content hash, a quick listing hash.

Stages depend on this small record instead of on a hundred thousand files; each stage starts with
the quick check.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wsssbench.data import layout
from wsssbench.data.folder import Folder
from wsssbench.errors import UserError
from wsssbench.parallel import in_threads


def manifest(root: str | Path, splits: Iterable[str] | None = None) -> dict[str, Any]:
    """Describe a folder by what it holds; the path and the time do not enter.

    Args:
        root: a data set folder.
        splits: the lists that count, all by default; images in none of them are left out.

    Returns:
        name (of the folder), classes (list), splits {name: number of images}, images, masks,
        unlabelled (numbers of files), bytes, labels (where they are from, or null), content_hash
        (SHA-256 over names and contents of all files), listing_hash (quick: names and sizes of
        the images, contents of the text files) and masks_listing_hash (names and sizes of masks
        and hidden layers).

    Raises:
        UserError: whatever is missing.
    """
    folder = Folder(root)
    splits = sorted(splits or folder.splits)
    ids = {split: folder.ids(split) for split in splits}
    every = layout.union(ids.values())
    texts, images = _supervision(folder, splits, every)
    masks, hidden = _masks(folder, every)
    paths = sorted({*texts, *images, *masks, *hidden})
    digests = in_threads(_digest, paths, f"hashing {folder.root.name}")
    content = hashlib.sha256()
    for path, digest in zip(paths, digests, strict=True):
        content.update(f"{path.relative_to(folder.root)}\0{digest}\n".encode())
    return {
        "name": folder.root.resolve().name,
        "classes": folder.classes,
        "splits": {split: len(names) for split, names in ids.items()},
        "images": len(images),
        "masks": len(masks),
        "unlabelled": len(folder.unlabelled(every)),
        "bytes": sum(path.stat().st_size for path in paths),
        "labels": layout.read_about(folder.root).get("labels"),
        "content_hash": content.hexdigest(),
        "listing_hash": _listing_hash(folder.root, images, texts),
        "masks_listing_hash": _listing_hash(folder.root, masks + hidden),
    }


def check(root: str | Path, manifest: dict[str, Any], *, masks: bool = True) -> None:
    """Make sure, in moments, that a folder is still what its manifest says.

    Args:
        root: the folder.
        manifest: of `manifest()`.
        masks: also look at the masks; a training stage does not, it may run without any.

    Raises:
        UserError: something changed.
    """
    changed = f"The data set in {root} changed since prepare"
    remedy = "Run prepare again (or restore the files)."
    folder = Folder(root)
    splits = sorted(manifest["splits"])
    ids = {split: folder.ids(split) for split in splits}
    for split, count in manifest["splits"].items():
        if len(ids[split]) != count:
            raise UserError(
                f"{changed}: split {split} has {len(ids[split])} images, was {count}. {remedy}"
            )
    if folder.classes != manifest["classes"]:
        raise UserError(f"{changed}: {layout.CLASSES} names other classes. {remedy}")
    every = layout.union(ids.values())
    texts, images = _supervision(folder, splits, every)
    if _listing_hash(folder.root, images, texts) != manifest["listing_hash"]:
        raise UserError(f"{changed}: other images, lists or labels. {remedy}")
    if not masks:
        return
    present, hidden = _masks(folder, every)
    if len(present) != manifest["masks"]:
        raise UserError(f"{changed}: {len(present)} masks, were {manifest['masks']}. {remedy}")
    if _listing_hash(folder.root, present + hidden) != manifest["masks_listing_hash"]:
        raise UserError(f"{changed}: masks of other sizes. {remedy}")


def _supervision(
    folder: Folder, splits: list[str], ids: list[str]
) -> tuple[list[Path], list[Path]]:
    texts = [layout.list_path(folder.root, split) for split in splits]
    texts += [folder.root / name for name in (layout.CLASSES, layout.LABELS)]
    missing = [path for path in texts if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]} does not exist. Run prepare again.")
    return texts, [folder.images[name] for name in ids]


def _masks(folder: Folder, ids: list[str]) -> tuple[list[Path], list[Path]]:
    hidden = [folder.root / layout.HIDDEN / f"{name}.npz" for name in ids]
    return (
        [folder.mask_path(name) for name in ids if folder.has_mask(name)],
        [path for path in hidden if path.exists()],
    )


def _listing_hash(root: Path, files: Iterable[Path], texts: Iterable[Path] = ()) -> str:
    """SHA-256 of names and sizes; of small text files the content, which may change in place."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\n".encode())
    for path in sorted(texts):
        digest.update(f"{path.relative_to(root)}\0{_digest(path)}\n".encode())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except PermissionError as error:
        raise UserError(f"No permission to read {path}. Run: chmod +r {path}") from error
