"""What the benchmarks share: time, peak memory, and the conditions they were measured under."""

import ctypes
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")
STATUS = Path("/proc/self/status")  # Linux: VmRSS is the memory in use, VmHWM its peak
RESET_PEAK = Path("/proc/self/clear_refs")


def clock(device: torch.device) -> float:
    """Seconds, once everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def with_peak_memory(run: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """The result and the MB needed on top of what was in use before; NaN where unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return run(), (torch.cuda.max_memory_allocated() - before) / 1e6
    if not os.access(RESET_PEAK, os.W_OK):
        return run(), float("nan")
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # what earlier calls left behind would hide what this one needs
    RESET_PEAK.write_text("5")
    before = status_mb("VmRSS")
    return run(), status_mb("VmHWM") - before


def status_mb(key: str) -> float:
    """A figure of the process's memory, in MB; NaN where the system does not tell."""
    if not STATUS.exists():
        return float("nan")
    return int(re.search(rf"{key}:\s+(\d+)", STATUS.read_text())[1]) * 1024 / 1e6


def conditions() -> str:
    """The sentences that belong under every table of times."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    threads = torch.get_num_threads()
    return f"PyTorch {torch.__version__}, {threads} threads. Load averages {load}."
