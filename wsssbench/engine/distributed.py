"""One to many processes: started by torchrun, or spawned here from a script or a notebook."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from wsssbench.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among all of them."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0


def is_first() -> bool:
    """Whether this process is the only one or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def launch(worker: Callable, job: object, devices: int) -> None:
    """Run `worker(world, job)` in `devices` processes; in this one if there is only one.

    Under torchrun (RANK and WORLD_SIZE are set) this process is one of them already. `worker` must
    be a function of a package, because a function defined in a notebook cannot be spawned.

    Raises:
        UserError: the first one that a process raised.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        world = World(
            int(os.environ["RANK"]),
            int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
            int(os.environ["WORLD_SIZE"]),
        )
        worker(world, job)
    elif devices == 1:
        worker(World(), job)
    else:
        faults = mp.get_context("spawn").SimpleQueue()
        arguments = worker, job, devices, _free_port(), faults
        try:
            mp.spawn(_spawned, args=arguments, nprocs=devices)
        except mp.ProcessExitedException:
            if faults.empty():
                raise
            raise UserError(faults.get()) from None


@contextlib.contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the processes for the time of the block; nothing to do for a single one."""
    if world.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", rank=world.rank, world_size=world.size
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def mean_over_processes(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Mean of each named number over all processes; all must hold the same names."""
    if not dist.is_initialized():
        return values
    names = sorted(values)
    numbers = torch.tensor([values[n] for n in names], dtype=torch.float64, device=device)
    dist.all_reduce(numbers)
    return dict(zip(names, (numbers / dist.get_world_size()).tolist()))


def _spawned(
    rank: int, worker: Callable, job: object, size: int, port: int, faults: mp.SimpleQueue
) -> None:
    """One of `size` processes; what a person is to read of a fault goes through `faults`."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(max(1, torch.get_num_threads() // size))
    try:
        worker(World(rank, rank, size), job)
    except UserError as error:
        faults.put(str(error))
        sys.exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
