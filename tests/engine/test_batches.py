import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsssbench.engine.batches import GlobalBatches, Seeded, derive, split
from wsssbench.errors import UserError


class Draws(torch.utils.data.Dataset):
    """Gives the index and a draw from torch's global generator."""

    def __getitem__(self, index):
        return index, float(torch.rand(()))

    def __len__(self):
        return 10


@given(st.integers(8, 60), st.sampled_from([1, 2, 4]), st.integers(0, 5), st.integers(1, 3))
def test_shares_of_processes_make_up_the_global_batches(images, world, seed, epoch):
    whole = GlobalBatches(images, 8, seed)
    whole.epoch = epoch
    shares = []
    for rank in range(world):
        part = GlobalBatches(images, 8, seed, rank, world)
        part.epoch = epoch
        shares.append(list(part))
    for step, batch in enumerate(whole):
        together = sorted(key for share in shares for key in share[step])
        assert together == sorted(batch)
    seen = [index for batch in whole for index, _ in batch]
    assert len(seen) == len(set(seen)) == images // 8 * 8


def test_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        batches = GlobalBatches(40, 8, seed)
        batches.epoch = epoch
        return [index for batch in batches for index, _ in batch]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_a_sample_depends_on_its_seed_alone_and_leaves_the_generator_alone():
    data = Seeded(Draws())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert data[(3, 11)] == data[(3, 11)]
    assert data[(3, 11)][1] != data[(3, 12)][1]
    assert torch.equal(before, torch.get_rng_state())


def test_derived_seeds_do_not_collide_by_sums():
    seeds = {
        derive(seed, epoch, index) for seed in range(6) for epoch in range(6) for index in range(20)
    }
    assert len(seeds) == 6 * 6 * 20


def test_batch_that_does_not_divide_names_both_numbers():
    with pytest.raises(UserError, match="batch_size 8 is global and does not divide by 3"):
        GlobalBatches(40, 8, 0, 0, 3)


def test_split_keeps_order_and_all_entries():
    batch = {"id": list("abcdef"), "image": torch.arange(6)}
    parts = list(split(batch, 3))
    assert [part["id"] for part in parts] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert torch.equal(torch.cat([part["image"] for part in parts]), batch["image"])
