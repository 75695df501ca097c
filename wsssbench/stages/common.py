"""What several stages need: the data set checked against its manifest, a method built or loaded."""

from pathlib import Path

import torch

from wsssbench import methods, models
from wsssbench.data.folder import Folder
from wsssbench.data.manifest import check
from wsssbench.errors import UserError, unknown
from wsssbench.files import read_json
from wsssbench.methods.base import Method
from wsssbench.params import Profile


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
        UserError: its method does not know one of them.
    """
    chosen = profile.experiments[experiment]
    known = methods.METHODS[chosen.method].kinds
    for kind in chosen.maps:
        if kind not in known:
            where = f"{profile.params_file}: experiments.{experiment}.maps"
            raise UserError(f"{where}: {unknown('kind of maps', kind, known)}")
    return chosen.maps or known[:1]


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


def build_method(profile: Profile, experiment: str, num_classes: int, weights: str) -> Method:
    """Build an experiment's method with initial weights from `weights`."""
    chosen, model = profile.experiments[experiment], profile.experiment(experiment).model
    backbone = models.build(
        model.backbone,
        weights=weights,
        output_stride=model.output_stride,
        dilate=model.dilate,
        batch_norm=model.batch_norm,
        frozen_stages=model.frozen_stages,
    )
    return methods.build(chosen.method, backbone, num_classes, chosen.settings)


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
    except (RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the experiment ({reason}). {remedy}") from error
    return method.eval()
