"""Stage train: image-level labels -> weights, history.csv, provenance.json.

An upper bound whose method asks for them (`wants_masks`) also sees the true masks; its
provenance.json says so.
"""

import dataclasses
from functools import partial
from pathlib import Path

from wsssbench.data.folder import Folder, LabelledImages
from wsssbench.data.layout import MASKS
from wsssbench.data.masked import MaskedImages, digest
from wsssbench.engine import devices
from wsssbench.engine.train import Job
from wsssbench.engine.train import train as run
from wsssbench.engine.watch import Watch
from wsssbench.methods import code_of, wants_masks
from wsssbench.models import weights_hash
from wsssbench.params import Profile
from wsssbench.plan import code_hash, roots_of
from wsssbench.stages import plan
from wsssbench.stages.common import (
    build_method,
    kinds_of,
    open_folder,
    training_facts,
    training_transform,
)


def train(profile: Profile, experiment: str, seed: int) -> Path:
    """Train one experiment with one seed; go on from a checkpoint of the same recipe.

    Returns:
        The stage's directory, runs/<profile>/<experiment>-<seed>/train.

    Raises:
        UserError: anything that start-up checks find, or see `engine.train`.
    """
    plan.check(profile, experiment)
    devices.choose(profile.machine)
    recipe, chosen = profile.experiment(experiment), profile.experiments[experiment]
    settings, model = recipe.train, recipe.model
    oracle = wants_masks(chosen.method, chosen.settings)
    folder, manifest = open_folder(profile, masks=oracle)
    ids = folder.ids(profile.data.train)
    build = partial(build_method, profile, experiment, folder.num_classes, model.weights)
    initial = weights_hash(model.backbone, model.weights)
    # what must be equal for a checkpoint to be continued; the schedule and the seed are added there
    identity = {
        "code": code_hash(roots_of("train", code_of(chosen.method, chosen.settings))),
        "content": manifest["content_hash"],
        "split": profile.data.train,
        "method": [chosen.method, chosen.settings],
        "model": [dataclasses.asdict(model), initial],
    }
    out = profile.run_dir(experiment, seed) / "train"
    facts = training_facts(
        profile, experiment, seed, chosen.method, model, settings, chosen.settings
    )
    transform = training_transform(settings)
    if oracle:
        dataset = MaskedImages(folder, ids, folder.root / MASKS, transform)
        identity["masks"] = digest(dataset.masks, ids)
        facts["supervision"] = "true masks"
    else:
        dataset = LabelledImages(folder, ids, transform)
    watch = _watch(profile, experiment, folder, settings.watch)
    run(Job(build, dataset, settings, profile.machine, seed, out, identity, facts, watch))
    return out


def _watch(profile: Profile, experiment: str, folder: Folder, count: int) -> Watch | None:
    """A watch over `count` images spread over the scored training list; None for 0."""
    if not count:
        return None
    ids = folder.ids(profile.data.seed_split or profile.data.train)
    chosen = ids[:: max(1, len(ids) // count)][:count]
    return Watch(
        folder,
        chosen,
        kinds_of(profile, experiment),
        profile.evaluate.grid,
        profile.pseudo_masks.threshold,
        profile.machine,
    )
