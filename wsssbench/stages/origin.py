"""Which weights the files of a stage come from: a training repeated later must not pass for theirs.

Each stage begins by forgetting what it said before, so that files half made anew are no result.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from wsssbench.errors import UserError
from wsssbench.files import read_json, write_json

ORIGIN = "origin.json"


def begin(out: Path) -> None:
    """Forget the protocols of what an earlier call left in a stage's directory."""
    for path in (out / ORIGIN, *out.glob("*/protocol.json")):
        path.unlink(missing_ok=True)


def finish(out: Path, run: Path, kinds: Sequence[str] = ()) -> None:
    """Note the run's weights, once all files of the stage are written.

    Args:
        out: the stage's directory.
        run: of the run.
        kinds: of its maps, the main one first.
    """
    write_json(out / ORIGIN, {"model": _weights(run), "kinds": list(kinds)})


def check(out: Path, run: Path, again: str) -> None:
    """Refuse what was made from other weights than the run's; a stage without a note passes.

    Args:
        out: the stage's directory.
        run: of the run.
        again: what to do, a sentence.

    Raises:
        UserError: the weights are not the same.
    """
    if not (out / ORIGIN).exists() or not (weights := _weights(run)):
        return
    if read_json(out / ORIGIN, again)["model"] != weights:
        raise UserError(f"{out} was made from an earlier training of this run. {again}")


def _weights(run: Path) -> str:
    """Hash of the run's weights, 16 hex digits; empty where there are none (supervised)."""
    path = run / "train" / "model.pt"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""
