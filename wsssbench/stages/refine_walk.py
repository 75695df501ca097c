"""A random walk of anybody's score maps: along boundary maps, or along a trained affinity network.

Both offer the same: `check` before the work, `walk`, `needs` (files beside the maps) and how many
`workers` it takes.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsssbench.data.transforms import normalise
from wsssbench.engine import devices
from wsssbench.errors import UserError
from wsssbench.methods.affinity import Affinity
from wsssbench.parallel import cpus
from wsssbench.params import Profile, RandomWalkSettings
from wsssbench.refinement.random_walk import random_walk, shrink_maps, walk_maps
from wsssbench.stages.common import build_backbone
from wsssbench.stages.refine_source import STRIDE, Source, boundary_files, read_boundary


class AlongBoundaries:
    """Walks along a folder of boundary maps, as IRNet's does.

    Args:
        source: the maps.
        folder: of the boundary maps, see `refine_source.read_boundary`.
        settings: of which `walk_radius`, `beta`, `log2_steps` and `per_class` count.
    """

    def __init__(self, source: Source, folder: Path, settings: RandomWalkSettings):
        self.source, self.settings = source, settings
        self.files, self.workers = boundary_files(source, folder), cpus()

    def check(self, name: str) -> None:
        """Read the files of an id."""
        self.source.check(name)
        read_boundary(self.files[name], self.source.maps(name).size)

    def needs(self, name: str) -> list[Path]:
        """Files that decide beside the maps."""
        return [self.files[name]]

    def walk(self, name: str, maps: Tensor) -> Tensor:
        """(n, H, W) float32 in [0, 1] -> the same."""
        return walk_along(read_boundary(self.files[name], maps.shape[1:]), maps, self.settings)


class AlongNetwork:
    """Walks along the affinities that a network of ours sees.

    Args:
        source: the maps.
        weights: of the network, model.pt.
        profile: of its training.
        experiment: of its training.
        settings: as for `AlongBoundaries`.
    """

    def __init__(
        self,
        source: Source,
        weights: Path,
        profile: Profile,
        experiment: str,
        settings: RandomWalkSettings,
    ):
        self.source, self.settings, self.weights = source, settings, weights
        device = devices.choose(profile.machine)
        self.network = load_affinity(profile, experiment, weights).to(device)
        self.check, self.workers = source.check, cpus() if device.type == "cpu" else 1

    def needs(self, name: str) -> list[Path]:
        """Files that decide beside the maps."""
        return [self.weights]

    def walk(self, name: str, maps: Tensor) -> Tensor:
        """(n, H, W) float32 in [0, 1] -> the same."""
        return walk_by(self.network, self.source.image(name), maps, self.settings)


def walk_along(boundary: Tensor, maps: Tensor, settings: RandomWalkSettings) -> Tensor:
    """IRNet's walk along a given boundary.

    Args:
        boundary: (1, h, w) float32 in [0, 1], h = ceil(H/4), w = ceil(W/4).
        maps: (n, H, W) float32 in [0, 1].
        settings: as for `AlongBoundaries`.

    Returns:
        (n, H, W) float32 in [0, 1].
    """
    if not len(maps):
        return maps
    small = shrink_maps(maps, STRIDE)
    steps = {"radius": settings.walk_radius, "beta": settings.beta}
    walked = random_walk(small, boundary, log2_steps=settings.log2_steps, **steps)
    divide = "class" if settings.per_class else "all"
    return walk_maps(walked, maps.shape[1:], stride=STRIDE, divide=divide)


def walk_by(
    network: Affinity, image: np.ndarray, maps: Tensor, settings: RandomWalkSettings
) -> Tensor:
    """The walk of the stage random_walk.

    Args:
        network: trained, on its device, in eval mode.
        image: (H, W, 3) uint8.
        maps: (n, H, W) float32 in [0, 1].
        settings: as for `AlongBoundaries`.

    Returns:
        (n, H, W) float32 in [0, 1].
    """
    pixels = normalise(torch.from_numpy(image).permute(2, 0, 1))[None]
    return network.refine(
        pixels.to(next(network.parameters()).device),
        maps,
        radius=settings.walk_radius,
        beta=settings.beta,
        log2_steps=settings.log2_steps,
        per_class=settings.per_class,
    )


def load_affinity(profile: Profile, experiment: str, weights: Path) -> Affinity:
    """A trained affinity network, in eval mode, on the CPU.

    Raises:
        UserError: the experiment has none, no weights, or weights of another recipe.
    """
    recipe = profile.experiment(experiment)
    where, settings = f"{profile.params_file}: {experiment}", recipe.random_walk
    if settings.network == "none":
        raise UserError(f"{where} has no affinity network: random_walk.network is none.")
    if not weights.is_file():
        remedy = f"python -m wsssbench random-walk -p {profile.params_file} -e {experiment}"
        raise UserError(f"{weights} does not exist. Train an affinity network: {remedy}")
    backbone, classes = build_backbone(recipe.model, "none"), 1  # K matters to its training only
    kind, radius = settings.network, settings.radius
    network = Affinity(backbone, classes, network=kind, radius=radius)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind; torch advises to run the code in it
        raise UserError(
            f"{weights} is no trained affinity network. Give a …/random_walk/network/model.pt."
        ) from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} is not the affinity network of {where} ({reason}).") from error
    return network.eval()
