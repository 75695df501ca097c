"""Many small file tasks at once, in order, with progress, and stopping at once on Ctrl-C."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from wsssbench.progress import progress

Show = Callable[[Iterable, str, int], Iterable]


def in_threads(
    function: Callable[[Any], Any],
    items: Sequence,
    desc: str,
    workers: int | None = None,
    show: Show = progress,
) -> Iterator:
    """Yield `function(item)` in the order of `items`; for work that releases Python's lock.

    Args:
        function: called with each item.
        items: the items.
        desc: what the progress display calls it.
        workers: threads; None: a few more than cores, since some wait for the disk; 1: none.
        show: `show(iterable, desc, total)`, or `silent`.
    """
    if workers == 1:
        return (function(item) for item in show(items, desc, len(items)))
    return _run(ThreadPoolExecutor(workers or min(32, cpus() + 4)), function, items, desc, 1, show)


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
    pool = ProcessPoolExecutor(workers, mp_context=context)
    return _run(pool, function, items, desc, 16, progress)


def silent(iterable: Iterable, desc: str, total: int) -> Iterable:
    """Shows no progress."""
    return iterable


def cpus() -> int:
    """Cores this process may use; a container or a batch system often grants a part only."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(
    pool: Executor, function: Callable, items: Sequence, desc: str, chunk: int, show: Show
) -> Iterator:
    try:
        yield from show(pool.map(function, items, chunksize=chunk), desc, len(items))
    finally:
        # After an error or Ctrl-C the tasks that wait must not run to the end first.
        pool.shutdown(wait=True, cancel_futures=True)
