"""Official archives: their names, where they are to be had, unpacking whole or not at all."""

import errno
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wsssbench.errors import UserError
from wsssbench.progress import progress


@dataclass(frozen=True)
class Archive:
    """A file that the data set's authors give out.

    Attributes:
        name: file name.
        page: the authors' page.
        bytes: size, None where it is not known for certain.
        md5: checksum, likewise.
    """

    name: str
    page: str
    bytes: int | None = None
    md5: str | None = None

    def __str__(self) -> str:
        facts = [f"{self.bytes} bytes" if self.bytes else "", f"md5 {self.md5}" if self.md5 else ""]
        known = ", ".join(fact for fact in facts if fact)
        return (
            f"{self.name} ({known}) from {self.page}" if known else f"{self.name} from {self.page}"
        )


def need(archive: Archive, folder: Path, what: str) -> Path:
    """Path of an archive in `folder`.

    Raises:
        UserError: it is not there; says where to get it, where to put it, or `what` else to do.
    """
    path = folder / archive.name
    if not path.exists():
        raise UserError(f"{path} does not exist. Get {archive} and put it there, or {what}.")
    return path


def unpack(archive: Archive, path: Path, target: Path, wanted: Callable[[str], bool]) -> Path:
    """Unpack the files for which `wanted(name)` holds; a finished `target` is left as it is.

    The files go to a neighbour of `target` first and take its name when all are there, so that an
    interrupted run is never mistaken for a finished one.

    Returns:
        `target`.

    Raises:
        UserError: the archive is incomplete or damaged, the disk is full, no permission.
    """
    if target.is_dir():
        return target
    partial = target.parent / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    again = f"Get {archive} again and put it in {path.parent}."
    try:
        partial.mkdir(parents=True)
        opener = _unzip if zipfile.is_zipfile(path) else _untar
        if not opener(path, partial, wanted):
            raise UserError(f"{path} holds none of the files expected of it. {again}")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is incomplete or damaged ({error}). {again}") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"Disk full while unpacking {path}. Free some space there.") from error
        if isinstance(error, PermissionError):
            raise UserError(f"No permission to unpack into {target.parent}.") from error
        # gzip reports damage as a plain OSError
        raise UserError(f"{path} cannot be unpacked ({error}). {again}") from error
    else:
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def check_size(archive: Archive, path: Path) -> None:
    """Tell an incomplete download from the real file by its size.

    Raises:
        UserError: another number of bytes than the authors' file has.
    """
    size = path.stat().st_size
    if archive.bytes and size != archive.bytes:
        raise UserError(
            f"{path} has {size} bytes instead of {archive.bytes}: the download is incomplete or "
            f"another file. Get {archive} again."
        )


def _untar(path: Path, target: Path, wanted: Callable[[str], bool]) -> int:
    count = 0
    with tarfile.open(path) as archive:
        for member in progress(archive, f"unpacking {path.name}"):
            if member.isfile() and wanted(member.name):
                _write(archive.extractfile(member), target, member.name)
                count += 1
    return count


def _write(source: IO[bytes], target: Path, name: str) -> None:
    """Write a member below `target`; tarfile's own filter for this came with Python 3.11.4."""
    path = target / name
    if target.resolve() not in path.resolve().parents:
        raise tarfile.TarError(f"{name} would lie outside")
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, open(path, "wb") as stream:
        shutil.copyfileobj(source, stream)


def _unzip(path: Path, target: Path, wanted: Callable[[str], bool]) -> int:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if wanted(name) and not name.endswith("/")]
        for name in progress(members, f"unpacking {path.name}"):
            archive.extract(name, target)
    return len(members)
