"""Where a number comes from: code revision, versions, time and memory. Nothing is measured here."""

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import wsssbench

# DVC rewrites its lock files after every stage; they record runs, they do not shape them.
CODE = ("wsssbench", "notebooks", "profiles", "params.yaml", "dvc.yaml", ":(exclude)*dvc.lock")


def git_state() -> dict[str, Any]:
    """{git_revision, git_dirty}: the commit of the package's checkout.

    Dirty looks at code and settings only: a run that rewrites reports/ does not soil itself.
    Outside a git checkout the revision is `unknown`.
    """
    top = Path(wsssbench.__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=top, capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--", *CODE)
    return {"git_revision": revision or "unknown", "git_dirty": bool(changed) or revision is None}


def versions() -> dict[str, str]:
    """Versions that can change a result, and when it was made."""
    return {
        "torch": torch.__version__,
        "wsssbench": wsssbench.__version__,
        "python": platform.python_version(),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory so far, MiB: the GPU's allocations, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def device_name(device: torch.device) -> str:
    """A name for the device that means something to a reader of a table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads)"
