"""The `wsssbench` command: every step without notebooks. Each command calls one stage function."""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from wsssbench.cli_profile import DEFAULT, ProfileOption, read_profile
from wsssbench.cli_refine import refine_app
from wsssbench.command import run_command
from wsssbench.errors import UserError, unknown

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Weakly supervised semantic segmentation under one protocol: train from image-level "
    "labels, make pseudo-masks, score them, report. `dvc repro` runs the same steps as notebooks.",
)
data_app = typer.Typer(no_args_is_help=True, help="Make, check and describe data sets.")
app.add_typer(data_app, name="data")
app.add_typer(refine_app, name="refine")

ExperimentOption = Annotated[
    list[str], typer.Option("--experiment", "-e", help="Default: all of the profile's grid.")
]
SeedOption = Annotated[
    list[int], typer.Option("--seed", "-s", help="Default: all seeds of the profile's grid.")
]


@data_app.command("prepare")
def data_prepare(profile: ProfileOption = DEFAULT) -> None:
    """Make or check a profile's data set folder, verify every file, write its manifest."""
    from wsssbench.stages.prepare import prepare

    typer.echo(prepare(_no_study(read_profile(profile))))


@data_app.command("verify")
def data_verify(
    root: Annotated[Path, typer.Argument(help="Data set folder in VOC layout.")],
    split: Annotated[list[str], typer.Option(help="Lists to check; default: all.")] = (),
    masks_for: Annotated[list[str], typer.Option(help="Lists whose masks must exist.")] = (),
) -> None:
    """Look for everything that would stop a run later: missing or broken files, wrong ids."""
    from wsssbench.data.verify import verify

    report = verify(root, list(split) or None, masks_for=masks_for)
    typer.echo(report)
    if report.errors:
        raise typer.Exit(1)


@data_app.command("describe")
def data_describe(
    root: Annotated[Path, typer.Argument(help="Data set folder in VOC layout.")],
) -> None:
    """Images per split, labels per image, class frequencies, image sizes."""
    from wsssbench.data.verify import describe

    for title, table in describe(root).items():
        typer.echo(f"\n{title}\n{table.to_markdown()}")


@data_app.command("labels")
def data_labels(
    root: Annotated[Path, typer.Argument(help="Data set folder with masks.")],
    split: Annotated[list[str], typer.Option(help="Lists to label; default: all.")] = (),
) -> None:
    """Write labels.csv from the masks of a folder that has none (an explicit act)."""
    from wsssbench.data import layout
    from wsssbench.data.labels import labels_from_masks

    lists = split or layout.splits(root)
    if not lists:
        raise UserError(
            f"{root / layout.LISTS} holds no list of the images to label. Write one there, such as "
            "train.txt: one image id (file name without ending) per line."
        )
    ids = layout.union(layout.read_ids(root, name) for name in lists)
    typer.echo(f"{len(labels_from_masks(root, ids))} rows written to {root / layout.LABELS}.")


@data_app.command("convert-masks")
def data_convert_masks(source: Path, target: Path, num_classes: int) -> None:
    """Turn RGB masks in VOC colours into palette PNGs. NUM_CLASSES counts the background."""
    from wsssbench.data.palette import convert_masks

    written = convert_masks(source, target, num_classes)
    if not written:
        raise UserError(f"Folder {source} holds no mask (.png, .bmp). Check the path.")
    typer.echo(f"{written} masks written to {target}.")


@app.command()
def plan(profile: ProfileOption = DEFAULT) -> None:
    """Check every experiment's recipe and hash the code behind it (a stage of dvc.yaml)."""
    from wsssbench.stages.plan import plan as stage

    typer.echo(stage(read_profile(profile)))


@app.command()
def train(
    profile: ProfileOption = DEFAULT, experiment: ExperimentOption = (), seed: SeedOption = ()
) -> None:
    """Train from image-level labels; an interrupted training goes on from its last epoch."""
    from wsssbench.stages.train import train as stage

    _each(stage, profile, experiment, seed)


@app.command("pseudo-masks")
def pseudo_masks(
    profile: ProfileOption = DEFAULT, experiment: ExperimentOption = (), seed: SeedOption = ()
) -> None:
    """Score maps and masks of the profile's lists, from trained weights."""
    from wsssbench.stages.pseudo_masks import pseudo_masks as stage

    _each(stage, profile, experiment, seed)


@app.command("random-walk")
def random_walk(
    profile: ProfileOption = DEFAULT, experiment: ExperimentOption = (), seed: SeedOption = ()
) -> None:
    """Pseudo-masks after a dense CRF and after a random walk along learnt affinities."""
    from wsssbench.stages.random_walk import random_walk as stage

    _each(stage, profile, experiment, seed, later=True)


@app.command()
def segment(
    profile: ProfileOption = DEFAULT, experiment: ExperimentOption = (), seed: SeedOption = ()
) -> None:
    """Train a segmentation network on pseudo-masks and predict; -e supervised: on true masks."""
    from wsssbench.stages.segment import segment as stage

    _each(stage, profile, experiment, seed, later=True)


@app.command()
def evaluate(
    pred_dir: Annotated[Path | None, typer.Argument(help="Folder of predicted PNG masks.")] = None,
    gt_dir: Annotated[Path | None, typer.Argument(help="Folder of ground-truth masks.")] = None,
    ids: Annotated[Path | None, typer.Option(help="List of ids; default: all GT_DIR.")] = None,
    classes: Annotated[Path | None, typer.Option(help="classes.txt of GT_DIR.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the tables into this folder.")] = None,
    profile: ProfileOption = DEFAULT,
    experiment: ExperimentOption = (),
    seed: SeedOption = (),
    later: Annotated[
        bool, typer.Option("--later", help="Score what random-walk and segment left.")
    ] = False,
) -> None:
    """Score anybody's masks (PRED_DIR GT_DIR), or the runs of a profile (no arguments).

    Example: wsssbench evaluate my_masks VOC2012/SegmentationClass --ids val.txt
    """
    from wsssbench.stages import evaluate as stage

    if pred_dir is None:
        _each(partial(stage.evaluate, later=later), profile, experiment, seed, later=later)
        return
    if gt_dir is None:
        raise UserError("GT_DIR is missing: wsssbench evaluate PRED_DIR GT_DIR.")
    typer.echo(stage.score_folder(pred_dir, gt_dir, ids=ids, classes=classes, out=out))


@app.command()
def report(profile: ProfileOption = DEFAULT) -> None:
    """Tables, figures and reports/<profile>/index.html from the runs that exist."""
    from wsssbench.stages.report import report as stage

    typer.echo(stage(_no_study(read_profile(profile))))


@app.command()
def run(
    profile: ProfileOption = DEFAULT, experiment: ExperimentOption = (), seed: SeedOption = ()
) -> None:
    """All stages of a profile in this process, without DVC and notebooks."""
    from wsssbench.params import UPPER_BOUND
    from wsssbench.stages import (
        evaluate,
        plan,
        prepare,
        pseudo_masks,
        random_walk,
        report,
        segment,
        train,
    )

    chosen = _no_study(read_profile(profile))
    _check_names("experiment", experiment, chosen.experiments)
    typer.echo(prepare.prepare(chosen))
    plan.plan(chosen)
    scored = evaluate.scorable(chosen)
    for stage in (train.train, pseudo_masks.pseudo_masks, *([evaluate.evaluate] if scored else [])):
        _each(stage, profile, experiment, seed)
    grid, score = chosen.grid, [partial(evaluate.evaluate, later=True)] if scored else []
    wanted = [name for name in grid.multi_stage if not experiment or name in experiment]
    if wanted:
        for stage in (random_walk.random_walk, segment.segment, *score):
            _each(stage, profile, wanted, seed, later=True)
    if grid.upper_bound and not experiment:
        for stage in (segment.segment, *score):
            _each(stage, profile, [UPPER_BOUND], seed or list(grid.upper_bound), later=True)
    if scored:
        typer.echo(report.report(chosen))
    else:
        typer.echo(f"Not scored: no image of {', '.join(chosen.data.scored)} has a mask.")


@app.command()
def study(
    profile: ProfileOption,
    experiment: ExperimentOption = (),
    cell: Annotated[
        list[str], typer.Option("--cell", "-c", help="Default: all of the profile's grid.")
    ] = (),
    seed: SeedOption = (),
    pages: Annotated[bool, typer.Option("--report/--no-report", help="Write the page.")] = True,
) -> None:
    """Runs of a controlled experiment, then its page; what is there with its settings is kept.

    Several processes may share the list, e.g. one per seed: -s 0, -s 1, …
    """
    from wsssbench.stages import study as stage

    chosen = read_profile(profile)
    stage.check(chosen)
    _check_names("experiment", experiment, chosen.experiments)
    _check_names("cell", cell, chosen.study.cells)
    if strange := [one for one in seed if one not in chosen.grid.seeds]:
        raise UserError(
            f"Seed {strange[0]} is not in grid.seeds of {chosen.params_file}, so its run would be "
            f"on no page. Add it there, or choose from {', '.join(map(str, chosen.grid.seeds))}."
        )
    for one in seed or chosen.grid.seeds:  # seed by seed: a study cut short is whole for some
        for name in cell or chosen.grid.cells:
            for method in experiment or chosen.grid.experiments:
                typer.echo(stage.run(chosen, name, method, one))
    if pages:
        from wsssbench.stages.studies import report

        typer.echo(report(chosen))


@app.command()
def studies() -> None:
    """reports/studies/: all claims of all studies in profiles/ in one table."""
    from wsssbench.stages.studies import summary

    typer.echo(summary())


@app.command()
def methods() -> None:
    """Methods, their settings and defaults."""
    from wsssbench.methods import METHODS, settings_of

    for name, method in METHODS.items():
        settings = ", ".join(f"{key}={value!r}" for key, value in settings_of(name).items())
        typer.echo(f"{name}: {(method.__doc__ or '').splitlines()[0]}\n    settings: {settings}")


@app.command()
def doctor(profile: ProfileOption = DEFAULT) -> None:
    """What is installed and found (devices, data, weights), and what to do about the rest."""
    from wsssbench.doctor import examine

    findings = examine(read_profile(profile))
    for finding in findings:
        typer.echo(finding)
    raise typer.Exit(any(finding.state == "missing" for finding in findings))


def _no_study(profile):
    """The profile, if its runs are those of a grid.

    Raises:
        UserError: it is a study, whose runs and page another command makes.
    """
    if profile.study:
        raise UserError(
            f"{profile.params_file} is a study. Run: python -m wsssbench study -p {profile.profile}"
        )
    return profile


def _check_names(kind: str, names: list[str], valid: Collection[str]) -> None:
    """Refuse a name that means nothing before the work for the first one begins."""
    for name in names:
        if name not in valid:
            raise unknown(kind, name, valid)


def _each(
    stage, profile_name: str, experiments: list[str], seeds: list[int], later: bool = False
) -> None:
    """Run a stage for every chosen experiment and seed of a profile.

    By default for all of the grid; with `later` for those that go on after the pseudo-masks.
    """
    from wsssbench.params import UPPER_BOUND

    profile = _no_study(read_profile(profile_name))
    grid = profile.grid
    usual = grid.multi_stage if later else grid.experiments
    if not (experiments or usual):
        raise UserError(
            f"{profile.params_file}: grid.multi_stage names no experiment. Add some, or name one: "
            "-e NAME."
        )
    known = [*profile.experiments, UPPER_BOUND] if later else profile.experiments
    _check_names("experiment", experiments, known)
    for experiment in experiments or usual:
        own = grid.upper_bound if experiment == UPPER_BOUND else grid.seeds
        for seed in seeds or own or grid.seeds:
            typer.echo(stage(profile, experiment, seed))


def main() -> None:
    """Entry point, see `run_command`."""
    run_command(app)
