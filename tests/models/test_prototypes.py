"""Prototypes and re-activation: by hand, against a materialising transcription, memory."""

import os
import subprocess
import sys

import prototypes as benchmark
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.models.prototypes import SideFeatures, prototypes, reactivate, winner


def test_three_pixels_by_hand():
    features = torch.tensor([[1.0, 1, 0], [0, 0, 1]]).reshape(1, 2, 1, 3)
    maps = torch.tensor([[0.2, 0.9, 1.0], [0.8, 0.3, 0]]).reshape(1, 2, 1, 3)
    maps[:, 0] *= 0.3
    seeds = winner(maps, torch.ones(1, 2, 1, 1))
    assert seeds[0, :, 0].tolist() == [[0, 0, 1], [1, 1, 0]]
    found = reactivate(features, prototypes(features, seeds))
    assert found[0, :, 0].tolist() == [[0, 0, 1], [1, 1, 0]]


def test_a_tie_goes_to_the_background_and_what_is_not_allowed_to_nobody():
    scores = torch.tensor([[0.5, 0.1], [0.5, 0.9]]).reshape(1, 2, 1, 2)
    assert winner(scores, torch.ones(1, 2, 1, 1))[0, :, 0].tolist() == [[1, 0], [0, 1]]
    assert winner(scores, torch.tensor([1, 0]).reshape(1, 2, 1, 1)).sum() == 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 5))
def test_length_of_features_and_prototypes_does_not_matter(seed, images, classes):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 4, 3, 5, generator=generator)
    centres = torch.randn(images, classes, 4, generator=generator)
    centres[0, 0] = 0
    found = reactivate(features, centres)
    scale = 0.1 + torch.rand(images, 1, 3, 5, generator=generator)
    longer = reactivate(features * scale, 7 * centres)
    torch.testing.assert_close(found, longer, rtol=0, atol=1e-5)
    assert (found[0, 0] == 0).all()
    assert 0 <= found.min() <= found.max() <= 1 + 1e-6


def test_zero_vectors_have_finite_gradients():
    features = torch.randn(2, 4, 3, 3)
    features[0, :, 0, 0] = 0
    features.requires_grad_()
    seeds = winner(torch.rand(2, 3, 3, 3), torch.tensor([1.0, 1, 0]).reshape(1, 3, 1, 1))
    reactivate(features, prototypes(features, seeds)).sum().backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("images", [1, 2])
def test_side_features(images):
    channels = dict(zip(("C2", "C3", "C4", "C5"), (5, 6, 7, 8)))
    sizes = ((16, 13), (8, 7), (4, 4), (2, 2))
    stages = {name: torch.randn(images, c, *size).requires_grad_()
              for (name, c), size in zip(channels.items(), sizes)}  # fmt: skip
    side = SideFeatures(channels, (2, 3, 4, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = side(stages)
    assert (found.shape, found.dtype) == ((images, 14, 4, 4), torch.float32)
    length = found[:, 5:9].norm(dim=1)  # of the third part: 1, up to the 1e-5 in the divisor
    torch.testing.assert_close(length, torch.ones(images, 4, 4), atol=1e-3, rtol=0)
    found.sum().backward()
    assert all(stage.grad is None for stage in stages.values())
    assert all(layer.weight.grad.abs().sum() > 0 for layer in side.layers)
    side.zero_grad()
    side({name: torch.zeros_like(stage) for name, stage in stages.items()}).sum().backward()
    assert all((layer.weight.grad == 0).all() for layer in side.layers)


MEASURE = """
import prototypes, torch
from measuring import with_peak_memory
drawn = prototypes.draw(16, 21, 32, 768, torch.Generator().manual_seed(0))
print(with_peak_memory(lambda: prototypes.ours(*drawn), torch.device("cpu"))[1])
"""


def test_peak_memory_at_the_size_of_voc():
    """16 images, 21 channels, 32×32 positions, 768 features, forward and backward: 200 MiB.

    In a process of its own, for what other tests leave in memory counts as well.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", MEASURE]
    told = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert not float(told.stdout) > 200 * 2**20 / 1e6  # NaN where the system does not tell


def test_benchmark_compares_equal_results(capsys):
    table = benchmark.main(["--images=2", "--classes=3", "--grid=6", "--channels=8", "--repeats=1"])
    assert (table["largest_difference"] < 1e-5).all()
    assert "prototypes" in capsys.readouterr().out


def test_cosine_is_torch_s():
    features, centres = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 5)
    expected = F.cosine_similarity(features[:, None], centres[..., None, None], dim=2).relu()
    torch.testing.assert_close(reactivate(features, centres), expected)
