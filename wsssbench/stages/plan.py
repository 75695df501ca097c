"""Stage plan: check every experiment's recipe before anything is trained, and hash its code."""

import dataclasses
from pathlib import Path

from wsssbench.errors import UserError, unknown
from wsssbench.files import write_json
from wsssbench.methods import check_settings, code_of
from wsssbench.models import BACKBONES
from wsssbench.multistage import SEED, TRUTH
from wsssbench.params import UPPER_BOUND, ModelSettings, Profile, RandomWalkSettings
from wsssbench.plan import PACKAGE, code_files, code_hash, roots_of
from wsssbench.refinement.dense_crf import PARAMETER_SETS
from wsssbench.schema import override
from wsssbench.stages.common import kinds_of, later_kinds_of, segment_recipe

PLANNED = ("train", "pseudo_masks")
LATER = ("random_walk", "segment")
STUDY = ("study",)  # of a controlled experiment, in which a run is one stage
# Of the networks of methods.affinity; their import would tie the code of every training to theirs.
STRIDES = {"irn": 4, "affinitynet": 8}


def plan(profile: Profile) -> Path:
    """Write runs/<profile>/plan/<experiment>/<stage>.json: hash of the code, recipe in full.

    Also for the stages after the pseudo-masks, where the experiment goes on with them.

    Raises:
        UserError: an unknown method, backbone or setting.
    """
    out = Path("runs") / profile.profile / "plan"
    bound = [UPPER_BOUND] if profile.grid.upper_bound else []
    for name in profile.experiments:
        check(profile, name)
    recipes = {name: check_later(profile, name) for name in (*profile.grid.multi_stage, *bound)}
    for name, experiment in profile.experiments.items():
        for stage in STUDY if profile.study else PLANNED:
            roots = roots_of(stage, code_of(experiment.method, experiment.settings))
            files = [str(path.relative_to(PACKAGE)) for path in code_files(roots)]
            recipe = _recipe(profile, name, stage)
            planned = {"code": code_hash(roots), "files": files, "recipe": recipe}
            if stage != "train":
                planned["maps"] = kinds_of(profile, name)
            write_json(out / name / f"{stage}.json", planned)
    for name, recipe in recipes.items():
        for stage in LATER:
            roots = roots_of(stage, [])
            files = [str(path.relative_to(PACKAGE)) for path in code_files(roots)]
            wanted = dict.fromkeys((stage, "model", "train"))
            if stage == "random_walk":
                wanted |= _thresholds(profile)
            planned = {"code": code_hash(roots), "files": files, "recipe": _filled(recipe, wanted)}
            write_json(out / name / f"{stage}.json", planned)
    return out


def check_later(profile: Profile, name: str) -> Profile:
    """Check the sections random_walk and segment of an experiment, or of the upper bound.

    Returns:
        The profile with the experiment's sections.

    Raises:
        UserError: what is wrong and where.
    """
    recipe = segment_recipe(profile, name)
    walk, segment, where = recipe.random_walk, recipe.segment, f"{recipe.params_file}: {name}"
    schedule = override(recipe.train, walk.train, f"{where}: random_walk.train")
    override(recipe.train, segment.train, f"{where}: segment.train")
    _check_model(override(recipe.model, segment.model, f"{where}: segment.model"), where)
    for section, crf in (("random_walk", walk.crf), ("segment", segment.crf)):
        if crf not in ("none", *PARAMETER_SETS):
            wrong = unknown("dense CRF parameter set", crf, ["none", *PARAMETER_SETS])
            raise UserError(f"{where}: {section}.crf: {wrong}")
    if name == UPPER_BOUND:
        return recipe
    _check_walk(walk, schedule.crop, where)
    if walk.seed and walk.seed not in kinds_of(profile, name):
        wrong = unknown("kind of maps", walk.seed, kinds_of(profile, name))
        raise UserError(f"{where}: random_walk.seed: {wrong}")
    _check_ppmg(walk, kinds_of(profile, name)[0], where)
    made = {SEED, TRUTH, *later_kinds_of(profile, name)}
    if segment.network != "none" and segment.masks not in made:
        raise UserError(
            f"{where}: segment.masks is {segment.masks}, which the settings of random_walk do not "
            f"make. Set it to {SEED}, or switch the step on."
        )
    return recipe


def _check_ppmg(walk: RandomWalkSettings, usual: str, where: str) -> None:
    """Check `ppmg_alpha`; `usual` is the experiment's first kind of maps."""
    if walk.ppmg_alpha is not None and (walk.seed or usual).endswith("cvs"):
        raise UserError(
            f"{where}: random_walk.ppmg_alpha: PPMG smooths its maps by CVS, and those of the kind "
            f"{walk.seed or usual} are smoothed already. Name another as random_walk.seed."
        )


def _check_walk(walk: RandomWalkSettings, crop: int, where: str) -> None:
    """Check the numbers of a section random_walk; `crop` is that of its training."""
    if walk.uncertain > walk.certain:
        raise UserError(
            f"{where}: random_walk.certain is {walk.certain:g}, uncertain {walk.uncertain:g}. The "
            "background's limit may not be the higher one."
        )
    if walk.network == "none":
        return
    stride = STRIDES[walk.network]
    cells, needed = -(-crop // stride), 2 * walk.radius - 1
    if cells < needed:
        raise UserError(
            f"{where}: pairs of random_walk.radius {walk.radius} do not fit into a crop of {crop} "
            f"px, {cells} positions at stride {stride}. Set train.crop to at least "
            f"{stride * (needed - 1) + 1}, or the radius to at most {(cells + 1) // 2}."
        )


def _recipe(profile: Profile, name: str, stage: str) -> dict:
    """What of the profile can change a stage's result, defaults included; a new title does not.

    `data` is missing: stages depend on that section, and on the manifest of what it led to.
    """
    own, chosen = profile.experiment(name), profile.experiments[name]
    recipe = {"method": chosen.method, "settings": chosen.settings}
    wanted = {"model": None, "train": None}
    if stage != "train":
        wanted |= {"pseudo_masks": None} | _thresholds(profile)
    elif own.train.watch:
        wanted |= {"pseudo_masks": ("threshold",), "evaluate": ("thresholds",)}
    if stage == "study":
        wanted |= {"evaluate": ("thresholds", "boundary_px")}
    if profile.study and (pretrain := profile.study.pretrain):
        knobs = profile.study.cells[pretrain.cell]
        before = _filled(profile.experiment(pretrain.experiment), {"model": None, "train": None})
        recipe["pretrain"] = [dataclasses.asdict(pretrain), knobs, before]
    return recipe | _filled(own, wanted)


def _thresholds(profile: Profile) -> dict:
    """The sweep's thresholds, where one of them is chosen on a hold-out."""
    chosen = profile.pseudo_masks.threshold_rule == "holdout"
    return {"evaluate": ("thresholds",)} if chosen else {}


def _filled(profile: Profile, wanted: dict) -> dict:
    """Sections of a profile, of some the named keys alone, with the defaults filled in."""
    sections = {name: dataclasses.asdict(getattr(profile, name)) for name in wanted}
    return {
        name: {key: section[key] for key in wanted[name] or section}
        for name, section in sections.items()
    }


def check(profile: Profile, name: str) -> None:
    """Check one experiment: its method, the method's settings, its backbone.

    Raises:
        UserError: what is wrong and where.
    """
    model, chosen = profile.experiment(name).model, profile.experiments[name]
    where = f"{profile.params_file}: experiments.{name}.settings"
    check_settings(chosen.method, chosen.settings, where)
    kinds_of(profile, name)
    _check_model(model, f"{profile.params_file}: experiment {name}")


def _check_model(model: ModelSettings, where: str) -> None:
    """Check a section model."""
    if model.backbone not in BACKBONES:
        raise unknown("backbone", model.backbone, BACKBONES)
    if model.batch_norm == "frozen" and model.weights == "none":
        raise UserError(
            f"{where}: batch_norm is frozen, which keeps the statistics of the initial weights, "
            "but weights is none. Use batch_norm: train."
        )
