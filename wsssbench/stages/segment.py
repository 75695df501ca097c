"""Stage segment: masks of the training images -> a segmentation network -> predictions.

runs/<profile>/<experiment>-<seed>/segment/
network/                    its training: model.pt, history.csv, provenance.json
segment/<split>/masks       predictions without image labels
segment+crf/<split>/masks   the same after a dense CRF
first/                      with `cycles` the same of the network that makes the masks for this one,
                            of the training images only
"""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from wsssbench.data.folder import Folder, LabelledImages
from wsssbench.data.layout import MASKS
from wsssbench.data.masked import MaskedImages, digest
from wsssbench.data.palette import write_mask
from wsssbench.engine import checkpoint, devices
from wsssbench.engine.inference import normalised, same_size_batches
from wsssbench.engine.speed import for_inference
from wsssbench.engine.train import Job, train
from wsssbench.errors import UserError
from wsssbench.evaluation import Protocol
from wsssbench.files import atomic, read_json, write_json, write_text
from wsssbench.methods.segmentation import Segmentation
from wsssbench.models import weights_hash
from wsssbench.multistage import CRF, SEED, SEGMENT, TRUTH, masks_dir
from wsssbench.multistage_params import PufSettings
from wsssbench.parallel import cpus, in_threads, silent
from wsssbench.params import ModelSettings, Profile
from wsssbench.plan import code_hash, roots_of
from wsssbench.progress import note, progress
from wsssbench.refinement.pamr import one_thread
from wsssbench.schema import override
from wsssbench.stages import origin
from wsssbench.stages.common import (
    build_backbone,
    open_folder,
    training_facts,
    training_transform,
)
from wsssbench.stages.crf import sharpen_scores
from wsssbench.stages.plan import check_later

FIRST = "first"


def segment(profile: Profile, experiment: str, seed: int) -> Path:
    """Train the segmentation network of one run on its pseudo-masks, and predict.

    Args:
        profile: of the run.
        experiment: one of the profile, or `supervised` for the upper bound on true masks.
        seed: of the run, and of this training.

    Returns:
        The stage's directory; empty but for notes where the experiment skips the stage.

    Raises:
        UserError: the masks to learn from are missing, or a setting that makes no sense.
    """
    recipe = check_later(profile, experiment)
    settings, out = recipe.segment, profile.run_dir(experiment, seed) / "segment"
    origin.begin(out)
    if settings.network != "none":
        folder, _ = open_folder(profile, masks=settings.masks == TRUTH)
        masks, start = _source(recipe, experiment, seed, folder)
        job = _job(recipe, folder, masks, out, experiment, seed, settings.puf)
        if settings.cycles:
            first = dataclasses.replace(job, out=out / FIRST / "network")
            masks, start = _cycle(recipe, folder, first), (*start, settings.network, "cycle")
            job = _job(recipe, folder, masks, out, experiment, seed, None)
        _predict(recipe, folder, train(job), out, recipe.data.scored)
        checkpoint.path_for(out / FIRST).unlink(missing_ok=True)
        _write_protocols(recipe, out, start)
    write_json(out / "start.json", {"masks": settings.masks, "network": settings.network})
    origin.finish(out, profile.run_dir(experiment, seed))
    return out


def _source(recipe: Profile, experiment: str, seed: int, folder: Folder) -> tuple[Path, tuple]:
    """The folder of training masks, and the steps that led to them."""
    run, chosen, split = recipe.run_dir(experiment, seed), recipe.segment.masks, recipe.data.train
    if chosen == TRUTH:
        return folder.root / MASKS, ("true masks",)
    again = f"Run: python -m wsssbench random-walk -p {recipe.params_file} -e {experiment}"
    start = read_json(run / "random_walk" / "start.json", again)
    origin.check(run / "random_walk", run, again)
    kind = start["kind"] if chosen == SEED else chosen
    place = masks_dir(run, kind)
    if not (place / "protocol.json").exists():
        raise UserError(
            f"{recipe.params_file}: {experiment} segments from the masks {chosen!r}, but its stage "
            f"random_walk made none. Set segment.masks to {SEED}, or switch the step on."
        )
    protocol = Protocol.from_dict(read_json(place / "protocol.json", ""))
    return place / split / "masks", (*protocol.refinement, *(["CRF"] if protocol.crf else []))


def _cycle(recipe: Profile, folder: Folder, job: Job) -> Path:
    """Masks of the training images by a network that learns from those there are; their folder.

    The network is kept beside the checkpoints until the stage is done, as DVC deletes the outputs
    of an interrupted stage.
    """
    out, weights = job.out.parent, job.out / "model.pt"
    kept, parts = checkpoint.path_for(out), (job.identity, vars(job.settings), job.seed)
    mark = checkpoint.fingerprint(*parts, torch.__version__)
    if state := checkpoint.load(kept, mark):
        note("Going on with the second network.")
        for name, content in state["texts"].items():
            write_text(job.out / name, content)
        with atomic(weights) as stream:
            torch.save(state["model"], stream)
    else:
        train(job)
        texts = {name: (job.out / name).read_text() for name in ("history.csv", "provenance.json")}
        state = {"model": torch.load(weights, weights_only=True), "texts": texts}
        checkpoint.save(kept, state, mark)
    split = recipe.data.train
    _predict(recipe, folder, weights, out, [split])
    kind = SEGMENT if recipe.segment.crf == "none" else f"{SEGMENT}+{CRF}"
    return out / kind / split / "masks"


def _job(
    recipe: Profile,
    folder: Folder,
    masks: Path,
    out: Path,
    experiment: str,
    seed: int,
    puf: PufSettings | None,
) -> Job:
    """The training of a network from the initial weights on a folder of masks."""
    settings, split = recipe.segment, recipe.data.train
    where = f"{recipe.params_file}: segment"
    schedule = override(recipe.train, settings.train, f"{where}.train")
    model = _model(recipe)
    facts = training_facts(
        recipe, experiment, seed, settings.network, model, schedule, dataclasses.asdict(settings)
    )
    ids = folder.ids(split)
    data = MaskedImages(folder, ids, masks, training_transform(schedule))
    identity = {
        "code": code_hash(roots_of("segment", [])),
        "facts": [facts["content_hash"], facts["weights_hash"], facts["settings"]],
        "masks": digest(masks, ids),
    }
    build = partial(_network, recipe, folder.num_classes, model.weights, puf)
    return Job(build, data, schedule, recipe.machine, seed, out / "network", identity, facts)


def _model(recipe: Profile) -> ModelSettings:
    return override(recipe.model, recipe.segment.model, f"{recipe.params_file}: segment.model")


def _network(
    recipe: Profile, num_classes: int, weights: str, puf: PufSettings | None = None
) -> Segmentation:
    settings, backbone = recipe.segment, build_backbone(_model(recipe), weights)
    return Segmentation(
        backbone,
        num_classes,
        network=settings.network,
        width=settings.width,
        balanced=settings.balanced,
        puf=puf and dataclasses.asdict(puf),
    )


def _predict(
    recipe: Profile, folder: Folder, weights: Path, out: Path, splits: Iterable[str]
) -> None:
    """Masks of the splits, without image labels."""
    settings, device = recipe.segment, devices.choose(recipe.machine)
    dtype = devices.precision(recipe.machine, device)
    learner = _network(recipe, folder.num_classes, "none")
    learner.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    learner = learner.to(device, memory_format=torch.channels_last).eval()
    learner = for_inference(learner, dtype)
    for split in splits:
        ids = folder.ids(split)
        batches = same_size_batches(folder, ids, recipe.pseudo_masks.batch_size)
        data = DataLoader(
            LabelledImages(folder, ids, normalised),
            batch_sampler=batches,
            num_workers=recipe.machine.workers,
        )
        for batch in progress(data, f"predictions on {split}", len(batches)):
            images = batch["image"].to(device, memory_format=torch.channels_last)
            with devices.autocast(device, dtype):
                scores = learner.predict(images, settings.scales, settings.flip).float().cpu()
            for name, mask in zip(batch["id"], scores.argmax(1)):
                path = out / SEGMENT / split / "masks" / f"{name}.png"
                write_mask(path, mask.numpy().astype(np.uint8))
            if settings.crf != "none":
                place = out / f"{SEGMENT}+{CRF}" / split / "masks"
                _sharpen(folder, batch["id"], scores, place, settings.crf)


def _sharpen(folder: Folder, ids: Sequence[str], scores: torch.Tensor, out: Path, crf: str) -> None:
    def one(row: int) -> None:
        mask = sharpen_scores(folder.image(ids[row]), scores[row], crf, None)
        write_mask(out / f"{ids[row]}.png", mask)

    with one_thread(torch.device("cpu")):
        for _ in in_threads(one, range(len(ids)), "dense CRF", cpus(), show=silent):
            pass


def _write_protocols(recipe: Profile, out: Path, start: tuple[str, ...]) -> None:
    settings = recipe.segment
    schedule = override(recipe.train, settings.train, f"{recipe.params_file}: segment.train")
    model = _model(recipe)
    plain = Protocol(
        "argmax",
        0.0,
        scales=settings.scales,
        flip=settings.flip,
        labels_used=dict.fromkeys(recipe.data.scored, False),
        stage=SEGMENT,
        refinement=(*start, settings.network),
        ema=schedule.ema > 0,
        initial_weights=weights_hash(model.backbone, model.weights),
    )
    write_json(out / SEGMENT / "protocol.json", plain.to_dict())
    if settings.crf != "none":
        sharp = dataclasses.replace(plain, crf=True, stage=f"{SEGMENT}+{CRF}")
        write_json(out / f"{SEGMENT}+{CRF}" / "protocol.json", sharp.to_dict())
