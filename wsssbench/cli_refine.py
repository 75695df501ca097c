"""The commands `wsssbench refine …`: refinements for anybody's score maps or masks."""

from pathlib import Path
from typing import Annotated

import typer

from wsssbench.cli_profile import DEFAULT, ProfileOption, read_profile

refine_app = typer.Typer(
    no_args_is_help=True,
    help="Refine anybody's score maps or masks. IN holds masks <id>.png, or maps <id>.npz with "
    "keys (n,): class ids 1, 2, …; maps (n, h, w): floats in [0, 1], of any size; size: height and "
    "width of the image; perhaps gated (n,): which maps count, all by default; or <id>.npy, the "
    "dictionaries that the code of IRNet, AffinityNet, SEAM and Puzzle-CAM saves. Results go to "
    "OUT/maps and OUT/masks; an interrupted run goes on.",
)
InArgument = Annotated[Path, typer.Argument(metavar="IN", help="Folder of <id>.npz, .npy or .png.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the results.")]
ImagesOption = Annotated[Path, typer.Option(help="Folder of the images, <id>.jpg or alike.")]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Score of the background: masks of maps as well.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Make everything anew.")]


@refine_app.command("crf")
def refine_crf(
    folder: InArgument,
    out: OutArgument,
    images: ImagesOption,
    parameter_set: Annotated[
        str, typer.Option("--set", help="psa, irn, deeplab, …; default: maps psa, masks irn.")
    ] = "",
    iterations: Annotated[int | None, typer.Option(min=0, help="Default: the set's.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Score of the background; maps need one.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Masks after a dense CRF, from maps or masks; 255 in a mask has no say and stays 255.

    Example: wsssbench refine crf my_masks sharp --images VOC2012/JPEGImages
    """
    from wsssbench.stages.refine import refine_crf as refine

    settings = {"parameter_set": parameter_set, "iterations": iterations, "threshold": threshold}
    typer.echo(refine(folder, out, images, **settings, overwrite=overwrite))


@refine_app.command("ppmg")
def refine_ppmg(
    folder: InArgument,
    out: OutArgument,
    images: ImagesOption,
    alpha: Annotated[float, typer.Option(help="Power of the background; less is stricter.")] = 11.0,
    smoothing: Annotated[float, typer.Option(help="Scale of CVS; 0 leaves it out.")] = 0.3,
    overwrite: OverwriteOption = False,
) -> None:
    """Masks from maps by PMM's PPMG: in overlaps the class wins with more of its mass there."""
    from wsssbench.stages.refine import refine_ppmg as refine

    settings = {"alpha": alpha, "smoothing": smoothing, "overwrite": overwrite}
    typer.echo(refine(folder, out, images, **settings))


@refine_app.command("pamr")
def refine_pamr(
    folder: InArgument,
    out: OutArgument,
    images: ImagesOption,
    iterations: Annotated[int, typer.Option(min=0, help="Of PAMR.")] = 10,
    threshold: ThresholdOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Maps after PAMR, from maps; masks, from masks; 255 in a mask has no say and stays 255."""
    from wsssbench.stages.refine import refine_pamr as refine

    settings = {"iterations": iterations, "threshold": threshold, "overwrite": overwrite}
    typer.echo(refine(folder, out, images, **settings))


@refine_app.command("rw")
def refine_rw(
    folder: InArgument,
    out: OutArgument,
    images: ImagesOption,
    boundaries: Annotated[
        Path | None,
        typer.Option(
            help="Folder of boundary maps: <id>.png, 8-bit grey, or <id>.npy, floats in [0, 1]; of "
            "full size (averaged) or of a fourth of it, rounded up."
        ),
    ] = None,
    network: Annotated[
        Path | None,
        typer.Option(help="Instead: runs/…/random_walk/network/model.pt, trained by -p and -e."),
    ] = None,
    profile: ProfileOption = DEFAULT,
    experiment: Annotated[str, typer.Option("--experiment", "-e", help="Of the network.")] = "",
    radius: Annotated[
        int | None, typer.Option(min=2, help="Default: as in the network's experiment, or 5.")
    ] = None,
    beta: Annotated[float | None, typer.Option(min=0, help="Likewise, or 10.")] = None,
    log2_steps: Annotated[int | None, typer.Option(min=0, help="Likewise, or 8.")] = None,
    per_class: Annotated[
        bool | None, typer.Option(help="Divide each map by its own maximum, not by that of all.")
    ] = None,
    threshold: ThresholdOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Maps after IRNet's random walk along boundary maps, or along an affinity network of ours."""
    from wsssbench.stages.refine import refine_rw as refine

    along = {"boundaries": boundaries, "network": network, "experiment": experiment}
    walk = {"walk_radius": radius, "beta": beta, "log2_steps": log2_steps, "per_class": per_class}
    along["profile"] = read_profile(profile) if network else None
    options = {"threshold": threshold, "overwrite": overwrite}
    typer.echo(refine(folder, out, images, **along, **walk, **options))
