"""Training batches whose content depends on the seed alone, not on workers or processes."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from wsssbench.errors import UserError


def derive(*parts: int) -> int:
    """One seed from several numbers, well mixed: (seed, epoch, index) do not collide by sums.

    Zeros at the end do not count: (seed,) and (seed, 0) give the same.
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class Seeded(Dataset):
    """A data set indexed by (index, seed): the draws of its transform come from that seed."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)


class GlobalBatches(Sampler):
    """Global batches of an epoch, cut into the share of one process.

    The order depends on (seed, epoch); process r of n takes entries r, r+n, … of each batch. The
    last, incomplete batch of an epoch is left out; with fewer images than a batch there is none.

    Attributes:
        epoch: set it before iterating, 1-based.
    """

    def __init__(self, images: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise UserError(
                f"train.batch_size {batch_size} is global and does not divide by {world} processes."
            )
        if images < batch_size:
            raise UserError(
                f"train.batch_size is {batch_size}, but the list has only {images} images. "
                "Lower the batch size."
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng(derive(self.seed, self.epoch)).permutation(self.images)
        for step in range(len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            share = batch[self.rank :: self.world]
            yield [(int(i), derive(self.seed, self.epoch, int(i))) for i in share]

    def __len__(self) -> int:
        return self.images // self.batch_size


def loader(dataset: Dataset, batches: GlobalBatches, workers: int, pin: bool) -> DataLoader:
    """DataLoader over `batches`; workers live as long as the loader."""
    return DataLoader(
        Seeded(dataset),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
    )


def split(batch: dict, parts: int) -> Iterator[dict]:
    """Cut a batch into `parts` of equal size for gradient accumulation.

    Raises:
        UserError: the process's share of the batch does not divide; both numbers are named.
    """
    size = len(batch["id"])
    if size % parts:
        raise UserError(
            f"A process's share of {size} images does not divide into train.accumulate = {parts}."
        )
    step = math.ceil(size / parts)
    for start in range(0, size, step):
        yield {key: value[start : start + step] for key, value in batch.items()}
