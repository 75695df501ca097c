"""Stage plan: check every experiment's recipe before anything is trained, and hash its code."""

import dataclasses
from pathlib import Path

from wsssbench.errors import UserError, unknown
from wsssbench.files import write_json
from wsssbench.methods import check_settings, code_of
from wsssbench.models import BACKBONES
from wsssbench.multistage import SEED, TRUTH
from wsssbench.params import UPPER_BOUND, Profile, override
from wsssbench.plan import PACKAGE, code_files, code_hash, roots_of
from wsssbench.refinement.dense_crf import PARAMETER_SETS
from wsssbench.stages.common import kinds_of, later_kinds_of, segment_recipe

PLANNED = ("train", "pseudo_masks")
LATER = ("random_walk", "segment")


def plan(profile: Profile) -> Path:
    """Write runs/<profile>/plan/<experiment>/<stage>.json: hash of the code, recipe.

    Also for the stages after the pseudo-masks, where the experiment goes on with them.

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
    for name in (*profile.grid.multi_stage, UPPER_BOUND):
        recipe = segment_recipe(profile, name)
        _check_later(recipe, name)
        for stage in LATER:
            roots = roots_of(stage, [])
            files = [str(path.relative_to(PACKAGE)) for path in code_files(roots)]
            section = dataclasses.asdict(getattr(recipe, stage))
            planned = {"code": code_hash(roots), "files": files, "recipe": section}
            write_json(out / name / f"{stage}.json", planned)
    return out


def _check_later(recipe: Profile, name: str) -> None:
    """Check the sections random_walk and segment of an experiment, with their overrides."""
    walk, segment, where = recipe.random_walk, recipe.segment, recipe.params_file
    override(recipe.train, walk.train, f"{where}: {name}: random_walk.train")
    override(recipe.train, segment.train, f"{where}: {name}: segment.train")
    override(recipe.model, segment.model, f"{where}: {name}: segment.model")
    for chosen in (walk.crf, segment.crf):
        if chosen not in ("none", *PARAMETER_SETS):
            raise unknown("dense CRF parameter set", chosen, ["none", *PARAMETER_SETS])
    if name != UPPER_BOUND and walk.seed and walk.seed not in kinds_of(recipe, name):
        place = f"{where}: {name}: random_walk.seed"
        raise UserError(f"{place}: {unknown('kind of maps', walk.seed, kinds_of(recipe, name))}")
    made = {SEED, TRUTH, *later_kinds_of(recipe, name)}
    if name != UPPER_BOUND and segment.network != "none" and segment.masks not in made:
        raise UserError(
            f"{where}: {name}: segment.masks is {segment.masks}, which the settings of random_walk "
            f"do not make. Set it to {SEED}, or switch the step on."
        )


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
