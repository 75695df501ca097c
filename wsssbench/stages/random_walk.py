"""Stage random_walk: seeds -> affinity network -> better pseudo-masks, with and without dense CRF.

runs/<profile>/<experiment>-<seed>/random_walk/
crf/<split>/masks          the seed after a dense CRF, all splits
ppmg/<split>/masks         masks that PPMG makes of the seed's maps, all splits
labels/<id>.png            what the affinity network learns from
network/                   its training: model.pt, history.csv, provenance.json
rw/<split>/{maps,masks}    the walk, splits on which image labels are known
rw+crf/<split>/masks       the walk's masks after a dense CRF
"""

import dataclasses
import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsssbench.data.folder import Folder
from wsssbench.data.layout import MASKS
from wsssbench.data.masked import MaskedImages, digest
from wsssbench.data.palette import write_mask
from wsssbench.engine import devices
from wsssbench.engine.inference import store_maps, write_masks
from wsssbench.engine.train import Job, train
from wsssbench.evaluation import Protocol, evaluate_maps
from wsssbench.evaluation.reading import read_maps
from wsssbench.files import read_json, write_json
from wsssbench.methods.affinity import Affinity
from wsssbench.methods.multiscale import equivalent_threshold
from wsssbench.models.decoder import resize
from wsssbench.multistage import CRF, PPMG, WALK
from wsssbench.parallel import cpus, in_threads
from wsssbench.params import Profile, RandomWalkSettings
from wsssbench.plan import code_hash, roots_of
from wsssbench.progress import progress
from wsssbench.refinement.affinity_labels import irn_seeds
from wsssbench.refinement.dense_crf import crf_labels
from wsssbench.refinement.pamr import one_thread
from wsssbench.schema import override
from wsssbench.stages import origin
from wsssbench.stages.common import (
    build_backbone,
    kinds_of,
    open_folder,
    training_facts,
    training_transform,
)
from wsssbench.stages.crf import mask_all, ppmg_mask, sharpen_all
from wsssbench.stages.plan import check_later
from wsssbench.stages.refine_source import full_maps
from wsssbench.stages.refine_walk import load_affinity, walk_by


def random_walk(profile: Profile, experiment: str, seed: int) -> Path:
    """Refine the pseudo-masks of one run; what the experiment switches off is left out.

    Returns:
        The stage's directory.

    Raises:
        UserError: no pseudo-masks of the kind to start from, or a setting that makes no sense.
    """
    recipe = check_later(profile, experiment)
    settings, run = recipe.random_walk, profile.run_dir(experiment, seed)
    out, start = run / "random_walk", settings.seed or kinds_of(profile, experiment)[0]
    seeds = run / "pseudo_masks" / start
    again = f"Run: python -m wsssbench pseudo-masks -p {profile.params_file} -e {experiment}"
    protocol = Protocol.from_dict(read_json(seeds / "protocol.json", again))
    origin.check(seeds.parent, run, again)
    origin.begin(out)
    folder, _ = open_folder(profile, masks=False)
    if settings.crf != "none":
        _sharpen(folder, protocol, seeds, out / CRF, settings, protocol.refinement)
    if settings.ppmg_alpha is not None:
        _proportional(folder, protocol, seeds, out / PPMG, settings.ppmg_alpha)
    if settings.network != "none":
        weights = _learn(recipe, folder, seeds, out, experiment, seed)
        steps = (*protocol.refinement, f"random walk ({settings.network})")
        found = _walk(recipe, experiment, folder, protocol, seeds, out / WALK, weights, steps)
        if settings.crf != "none":
            _sharpen(folder, found, out / WALK, out / f"{WALK}+{CRF}", settings, steps)
    write_json(out / "start.json", {"kind": start, "network": settings.network})
    origin.finish(out, run)
    return out


def _sharpen(
    folder: Folder,
    protocol: Protocol,
    maps: Path,
    out: Path,
    settings: RandomWalkSettings,
    steps: tuple[str, ...],
) -> None:
    """Masks of all splits after a dense CRF, and their protocol."""
    for split in protocol.labels_used:
        sharpen_all(
            folder,
            folder.ids(split),
            maps / split / "maps",
            out / split / "masks",
            protocol.threshold,
            settings.crf,
            settings.crf_iterations,
        )
    said = dataclasses.replace(protocol, crf=True, stage=out.name, refinement=steps)
    write_json(out / "protocol.json", said.to_dict())


def _proportional(folder: Folder, protocol: Protocol, maps: Path, out: Path, alpha: float) -> None:
    """Masks of all splits by PPMG, and their protocol."""
    make = partial(ppmg_mask, alpha=alpha)
    for split in protocol.labels_used:
        place = maps / split / "maps", out / split / "masks"
        mask_all(folder, folder.ids(split), *place, make, "PPMG")
    said = dataclasses.replace(
        protocol,
        threshold_rule="fixed",
        threshold=equivalent_threshold(alpha),
        holdout=None,
        background=f"power {alpha:g}",
        crf=True,
        stage=PPMG,
        refinement=(*protocol.refinement, "PPMG"),
    )
    write_json(out / "protocol.json", said.to_dict())


def _learn(
    recipe: Profile, folder: Folder, seeds: Path, out: Path, experiment: str, seed: int
) -> Path:
    """Seeds of the training images, and an affinity network that learns from them."""
    settings, split = recipe.random_walk, recipe.data.train
    ids, labels = folder.ids(split), out / "labels"
    crf = None if settings.crf == "none" else partial(crf_labels, parameter_set="irn")

    def label(name: str) -> None:
        stored = read_maps(seeds / split / "maps" / f"{name}.npz")
        found = irn_seeds(
            full_maps(stored),
            stored.keys.tolist(),
            foreground=settings.certain,
            background=settings.uncertain,
            image=torch.from_numpy(folder.image(name)),
            crf=crf,
        )
        write_mask(labels / f"{name}.png", found.numpy().astype(np.uint8))

    with one_thread(torch.device("cpu")):
        for _ in in_threads(label, ids, "labels of the affinity network", cpus()):
            pass
    where = f"{recipe.params_file}: random_walk.train"
    schedule, model = override(recipe.train, settings.train, where), recipe.model
    kind = f"random walk ({settings.network})"
    facts = training_facts(
        recipe, experiment, seed, kind, model, schedule, dataclasses.asdict(settings)
    )
    data = MaskedImages(folder, ids, labels, training_transform(schedule))
    identity = {
        "code": code_hash(roots_of("random_walk", [])),
        "facts": [facts["content_hash"], facts["weights_hash"], facts["settings"]],
        "labels": digest(labels, ids),
    }
    build = partial(_network, recipe, folder.num_classes, model.weights)
    if settings.backbone == "method":
        learnt = seeds.parents[1] / "train" / "model.pt"
        identity["backbone"] = hashlib.sha256(learnt.read_bytes()).hexdigest()[:16]
        build = partial(_network, recipe, folder.num_classes, "none", learnt)
    job = Job(build, data, schedule, recipe.machine, seed, out / "network", identity, facts)
    return train(job)


def _network(
    recipe: Profile, num_classes: int, weights: str, learnt: Path | None = None
) -> Affinity:
    """An affinity network; with `learnt` on the backbone of a trained method."""
    settings, backbone = recipe.random_walk, build_backbone(recipe.model, weights)
    if learnt:
        state = torch.load(learnt, map_location="cpu", weights_only=True)
        place = "network.backbone."
        own = {key.removeprefix(place): state[key] for key in state if key.startswith(place)}
        backbone.load_state_dict(own)
    return Affinity(backbone, num_classes, network=settings.network, radius=settings.radius)


def _walk(
    recipe: Profile,
    experiment: str,
    folder: Folder,
    protocol: Protocol,
    seeds: Path,
    out: Path,
    weights: Path,
    steps: tuple[str, ...],
) -> Protocol:
    """Maps and masks of the splits with image labels; returns their protocol."""
    settings, device = recipe.random_walk, devices.choose(recipe.machine)
    network = load_affinity(recipe, experiment, weights)
    network = network.to(device, memory_format=torch.channels_last)
    splits = {split: used for split, used in protocol.labels_used.items() if used}
    for split in splits:
        for name in progress(folder.ids(split), f"random walk of {split}"):
            stored = read_maps(seeds / split / "maps" / f"{name}.npz")
            maps = walk_by(network, folder.image(name), full_maps(stored), settings)
            maps = _strided(maps, protocol.map_stride)
            store_maps(out / split / "maps" / f"{name}.npz", stored.keys, maps, stored.size)
    threshold = settings.threshold if settings.network == "irn" else 0.5  # see Affinity.refine
    if protocol.threshold_rule == "holdout":
        place, ids = out / protocol.holdout / "maps", folder.ids(protocol.holdout)
        classes, grid = folder.num_classes + 1, recipe.evaluate.grid
        threshold = evaluate_maps(place, folder.root / MASKS, ids, classes, grid).best()[0]
    for split in splits:
        write_masks(out / split, folder.ids(split), threshold)
    said = dataclasses.replace(
        protocol,
        threshold=threshold,
        background="threshold",
        labels_used=splits,
        stage=WALK,
        refinement=steps,
    )
    write_json(out / "protocol.json", said.to_dict())
    return said


def _strided(maps: Tensor, stride: int) -> Tensor:
    """(n, H, W) -> (n, ceil(H/stride), ceil(W/stride)), as the seed's maps are stored."""
    if not len(maps):
        return maps
    return resize(maps[None], [-(-side // stride) for side in maps.shape[1:]])[0]
