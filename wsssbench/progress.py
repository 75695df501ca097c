"""Progress with an ETA: a bar for a person at a terminal or in Jupyter, plain lines in a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator

PLAIN_EVERY_S = 20.0


def progress(iterable: Iterable, desc: str, total: int | None = None) -> Iterator:
    """Iterate over `iterable`, showing `desc`, count, rate and remaining time on stderr.

    Where stderr is a terminal or an interactive notebook a tqdm bar is drawn; elsewhere (a
    papermill run, CI, a Slurm log) one line is written every 20 seconds, because a redrawn bar
    becomes one log line per update. `WSSSBENCH_PROGRESS=plain|bar|off` overrides the choice.
    """
    mode = os.environ.get("WSSSBENCH_PROGRESS") or ("bar" if _interactive() else "plain")
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if mode == "off":
        return iter(iterable)
    if mode == "bar":
        try:
            from tqdm.auto import tqdm
        except ImportError:  # a bare training machine
            return _plain(iterable, desc, total)
        return iter(tqdm(iterable, desc=desc, total=total, leave=False, dynamic_ncols=True))
    return _plain(iterable, desc, total)


def note(text: str) -> None:
    """Print one line without breaking a bar that is being drawn."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text)
    else:
        print(text, flush=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _interactive() -> bool:
    if sys.stderr.isatty():
        return True
    return "ipykernel" in sys.modules and "PAPERMILL_OUTPUT_PATH" not in os.environ


def _plain(iterable: Iterable, desc: str, total: int | None) -> Iterator:
    start = last = time.monotonic()
    for count, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            last = now
            left = f", {clock((now - start) / count * (total - count))} left" if total else ""
            print(f"{desc}: {count}/{total or '?'}{left}", file=sys.stderr, flush=True)
