"""Files written whole or not at all. What they mean is decided elsewhere."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from wsssbench.errors import UserError


@contextlib.contextmanager
def atomic(path: str | Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; rename it to `path` when the block ends well.

    `durable` waits until the disk has it, so that a power cut loses nothing either (slow).

    A failure (disk full, no permission, interruption) leaves the old `path` untouched and no
    temporary file behind.

    Raises:
        UserError: the directory cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"Disk full while writing {path}. What was there before is intact; free some space "
                "and run the same command again."
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise UserError(
                f"No permission to write {path}. Choose another directory or change its owner."
            ) from error
        if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError):
            raise UserError(
                f"{path} cannot be written: a file lies where a directory is needed, or the other "
                "way round. Move it away or choose another place."
            ) from error
        if temporary is None:  # nothing is open yet: it is the place
            raise UserError(
                f"{path.parent} cannot be written to ({error.strerror}). Choose another place."
            ) from error
        raise
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def check_writable(folder: str | Path) -> None:
    """Make a directory and a file in it, which is removed: before hours of work, not after.

    Raises:
        UserError: see `atomic`.
    """
    probe = Path(folder) / ".probe"
    write_text(probe, "")
    probe.unlink(missing_ok=True)  # another process may do the same


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic(path) as stream:
        stream.write(text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN becomes null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, remedy: str) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing or broken; the text ends with `remedy`.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. {remedy}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}). {remedy}") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
