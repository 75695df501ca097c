"""Checkpoints that survive a kill and are never used for another recipe.

They lie in .ckpt/, outside every stage's outputs (DVC deletes outputs before a run), carry a
fingerprint of settings, data and code, and are deleted when the training is finished.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from wsssbench.errors import UserError
from wsssbench.files import atomic, check_writable

ROOT = Path(".ckpt")


def fingerprint(*parts: Any) -> str:
    """Hash of everything that must be equal for a checkpoint to be continued."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def path_for(out: Path) -> Path:
    """Where the checkpoint of the run that writes to `out` lies."""
    return ROOT / ("-".join(Path(out).parts).strip("/-") + ".pt")


def save(path: Path, state: dict[str, Any], mark: str) -> None:
    """Write `state` with its fingerprint, whole or not at all.

    Raises:
        UserError: disk full or no permission; the previous checkpoint is intact.
    """
    with atomic(path, durable=True) as stream:
        torch.save({"fingerprint": mark, **state}, stream)


def load(path: Path, mark: str) -> dict[str, Any] | None:
    """The state at `path`, or None where there is none or it is of another recipe or broken."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types for a damaged file
        print(f"{path} cannot be read ({error}); training starts anew.", file=sys.stderr)
        return None
    if state.pop("fingerprint") != mark:
        print(
            f"{path} belongs to other settings, data or code; training starts anew.",
            file=sys.stderr,
        )
        return None
    return state


@contextlib.contextmanager
def in_use(out: Path) -> Iterator[None]:
    """Hold the run directory `out` for this process. A killed process lets go by itself.

    Raises:
        UserError: another process trains into `out`.
    """
    path = path_for(out).with_suffix(".lock")
    check_writable(path.parent)
    with open(path, "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise UserError(
                f"{out} is in use by {holder}. Wait until it is done, or stop it."
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()}")
        stream.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
