"""Many small file tasks at once, in order, with progress, and stopping at once on Ctrl-C."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from wsssbench.progress import progress


def in_threads(
    function: Callable[[Any], Any], items: Sequence, desc: str, workers: int | None = None
) -> Iterator:
    """Yield `function(item)` in the order of `items`; for reading, hashing and decoding files."""
    workers = workers or min(32, cpus() + 4)
    return _run(ThreadPoolExecutor(workers), function, items, desc)


def in_processes(
    function: Callable[[Any], Any], items: Sequence, desc: str, workers: int | None = None
) -> Iterator:
    """As `in_threads`, for work that holds Python's lock; serial with one worker.

    `function` must be importable, `items` and results small: they travel between processes.
    """
    workers = workers or cpus()
    if workers == 1:
        return (function(item) for item in progress(items, desc))
    # Spawned, not forked: the caller may be a notebook in which torch runs threads.
    context = multiprocessing.get_context("spawn")
    return _run(ProcessPoolExecutor(workers, mp_context=context), function, items, desc, 16)


def cpus() -> int:
    """Cores this process may use; a container or a batch system often grants a part only."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(
    pool: Executor, function: Callable, items: Sequence, desc: str, chunk: int = 1
) -> Iterator:
    try:
        yield from progress(pool.map(function, items, chunksize=chunk), desc, len(items))
    finally:
        # After an error or Ctrl-C the tasks that wait must not run to the end first.
        pool.shutdown(wait=True, cancel_futures=True)
