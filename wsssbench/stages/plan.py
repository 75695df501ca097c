"""Stage plan: check every experiment's recipe before anything is trained, and hash its code."""

from pathlib import Path

from wsssbench.errors import UserError, unknown
from wsssbench.files import write_json
from wsssbench.methods import check_settings, code_of
from wsssbench.models import BACKBONES
from wsssbench.params import Profile
from wsssbench.plan import PACKAGE, code_files, code_hash, roots_of
from wsssbench.stages.common import kinds_of

PLANNED = ("train", "pseudo_masks")


def plan(profile: Profile) -> Path:
    """Write runs/<profile>/plan/<experiment>/<stage>.json: hash of the code, recipe.

    Raises:
        UserError: an unknown method, backbone or setting.
    """
    out = Path("runs") / profile.profile / "plan"
    for name, experiment in profile.experiments.items():
        check(profile, name)
        for stage in PLANNED:
            roots = roots_of(stage, code_of(experiment.method, experiment.settings))
            files = [str(path.relative_to(PACKAGE)) for path in code_files(roots)]
            planned = {"code": code_hash(roots), "files": files, "recipe": _recipe(profile, name)}
            if stage == "pseudo_masks":
                planned["maps"] = kinds_of(profile, name)
            write_json(out / name / f"{stage}.json", planned)
    return out


def _recipe(profile: Profile, name: str) -> dict:
    """What of an experiment's section can change its weights; a new title does not."""
    chosen = profile.experiments[name]
    keys = ("method", "settings", "model", "train")
    return {key: getattr(chosen, key) for key in keys}


def check(profile: Profile, name: str) -> None:
    """Check one experiment: its method, the method's settings, its backbone.

    Raises:
        UserError: what is wrong and where.
    """
    chosen, model = profile.experiments[name], profile.experiment(name).model
    where = f"{profile.params_file}: experiments.{name}.settings"
    check_settings(chosen.method, chosen.settings, where)
    kinds_of(profile, name)
    if model.backbone not in BACKBONES:
        raise unknown("backbone", model.backbone, BACKBONES)
    if model.batch_norm == "frozen" and model.weights == "none":
        raise UserError(
            f"{profile.params_file}: experiment {name}: batch_norm is frozen, which keeps the "
            "statistics of the initial weights, but weights is none. Use batch_norm: train."
        )
