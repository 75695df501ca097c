"""What several stages need: the data set checked against its manifest, a method built or loaded."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from wsssbench import methods, models, provenance
from wsssbench.data.folder import Folder
from wsssbench.data.manifest import check
from wsssbench.data.transforms import TrainTransform
from wsssbench.errors import UserError, unknown
from wsssbench.files import read_json
from wsssbench.methods.base import Method
from wsssbench.models.base import Backbone
from wsssbench.multistage import CRF, PPMG, SEGMENT, TRUTH, WALK
from wsssbench.params import UPPER_BOUND, ModelSettings, Profile, TrainSettings


def manifest_of(profile: Profile) -> dict:
    """The manifest that `prepare` wrote.

    Raises:
        UserError: `prepare` has not run.
    """
    path = prepare_dir(profile) / "manifest.json"
    return read_json(path, f"Run: python -m wsssbench data prepare -p {profile.params_file}")


def prepare_dir(profile: Profile) -> Path:
    """Where the stage `prepare` writes."""
    return Path("runs") / profile.profile / "prepare"


def kinds_of(profile: Profile, experiment: str) -> tuple[str, ...]:
    """The kinds of maps that an experiment is read out in, the main one first.

    Raises:
        UserError: no such experiment, or its method does not know one of them.
    """
    if experiment not in profile.experiments:
        raise unknown("experiment", experiment, profile.experiments)
    chosen = profile.experiments[experiment]
    known = methods.METHODS[chosen.method].kinds
    for kind in chosen.maps:
        if kind not in known:
            where = f"{profile.params_file}: experiments.{experiment}.maps"
            raise UserError(f"{where}: {unknown('kind of maps', kind, known)}")
    return chosen.maps or known[:1]


def later_kinds_of(profile: Profile, experiment: str) -> tuple[str, ...]:
    """The kinds of masks that the stages after the pseudo-masks leave of an experiment.

    Whether the grid sends it there is not asked.

    Raises:
        UserError: no such experiment.
    """
    recipe, kinds = segment_recipe(profile, experiment), []
    if experiment != UPPER_BOUND:
        sharp = recipe.random_walk.crf != "none"
        kinds += [CRF] if sharp else []
        kinds += [PPMG] if recipe.random_walk.ppmg_alpha is not None else []
        if recipe.random_walk.network != "none":
            kinds += [WALK, f"{WALK}+{CRF}"] if sharp else [WALK]
    if recipe.segment.network != "none":
        kinds += [SEGMENT] if recipe.segment.crf == "none" else [SEGMENT, f"{SEGMENT}+{CRF}"]
    return tuple(kinds)


def segment_recipe(profile: Profile, experiment: str) -> Profile:
    """The profile with the experiment's sections.

    The upper bound's are the profile's own, without what is meant for faulty masks.
    """
    if experiment != UPPER_BOUND:
        return profile.experiment(experiment)
    segment = dataclasses.replace(profile.segment, masks=TRUTH, puf=None, cycles=0)
    return dataclasses.replace(profile, segment=segment)


def open_folder(profile: Profile, *, masks: bool) -> tuple[Folder, dict]:
    """The data set folder and its manifest, checked quickly against each other.

    Args:
        profile: of the run.
        masks: also check the masks; a training never looks at them.

    Raises:
        UserError: the data set is missing or is not what `prepare` saw.
    """
    manifest = manifest_of(profile)
    folder = Folder(profile.data.root)
    check(folder.root, manifest, masks=masks)
    return folder, manifest


def build_backbone(model: ModelSettings, weights: str) -> Backbone:
    """The backbone of a section `model`, with initial weights from `weights`."""
    return models.build(
        model.backbone,
        weights=weights,
        output_stride=model.output_stride,
        dilate=model.dilate,
        batch_norm=model.batch_norm,
        frozen_stages=model.frozen_stages,
    )


def build_method(profile: Profile, experiment: str, num_classes: int, weights: str) -> Method:
    """Build an experiment's method with initial weights from `weights`."""
    model, chosen = profile.experiment(experiment).model, profile.experiments[experiment]
    backbone = build_backbone(model, weights)
    return methods.build(chosen.method, backbone, num_classes, chosen.settings)


def training_transform(train: TrainSettings) -> TrainTransform:
    """The augmentation of a section `train`."""
    return TrainTransform(train.crop, train.resize, train.flip, train.jitter, train.jpeg)


def training_facts(
    profile: Profile,
    experiment: str,
    seed: int,
    method: str,
    model: ModelSettings,
    train: TrainSettings,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What is known of a training before it starts, for its provenance.json.

    Args:
        profile: of the run.
        experiment: its name.
        seed: of the training.
        method: what is trained.
        model: its section, with all overrides.
        train: its section, with all overrides.
        settings: those of the method or stage.
    """
    manifest, split = manifest_of(profile), profile.data.train
    return {
        "dataset": manifest["name"],
        "content_hash": manifest["content_hash"],
        "train_split": split,
        "train_images": len(Folder(profile.data.root).ids(split)),
        "experiment": experiment,
        "method": method,
        "seed": seed,
        "backbone": model.backbone,
        "output_stride": model.output_stride,
        "weights": Path(model.weights).name,
        "weights_hash": models.weights_hash(model.backbone, model.weights),
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "crop": train.crop,
        "ema": train.ema,
        "settings": {
            "model": dataclasses.asdict(model),
            "train": dataclasses.asdict(train),
            "method": dict(settings),
        },
        **provenance.git_state(),
    }


def load_trained(profile: Profile, experiment: str, folder: Folder, path: Path) -> Method:
    """The trained method of a run, in eval mode, on the CPU.

    Raises:
        UserError: no weights, or weights of another recipe.
    """
    method = build_method(profile, experiment, folder.num_classes, "none")
    remedy = f"Train it: python -m wsssbench train -p {profile.params_file} -e {experiment}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        method.load_state_dict(state)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. {remedy}") from error
    except (EOFError, UnpicklingError) as error:
        raise UserError(f"{path} is damaged, or holds no weights. {remedy}") from error
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the experiment ({reason}). {remedy}") from error
    return method.eval()
