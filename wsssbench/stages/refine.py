"""Refinements of anybody's output: a folder of score maps or masks -> better ones.

OUT/maps/<id>.npz    PAMR and random walk of maps
OUT/masks/<id>.png   dense CRF, PPMG; PAMR of masks; of maps all others, if a threshold is given
OUT/refine.json      how they were made

All input is checked first. Files are written whole, and one that is younger than what it is made
of is kept, so that an interrupted run goes on.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsssbench.data.palette import BACKGROUND, IGNORE, write_mask
from wsssbench.engine.inference import store_maps, to_mask
from wsssbench.errors import UserError, unknown
from wsssbench.evaluation.reading import StoredMaps, read_maps
from wsssbench.files import read_json, write_json
from wsssbench.parallel import cpus, in_threads
from wsssbench.params import Profile, RandomWalkSettings
from wsssbench.refinement.dense_crf import PARAMETER_SETS
from wsssbench.refinement.pairs import directions
from wsssbench.refinement.pamr import one_thread, pamr
from wsssbench.stages.crf import ON_LABELS, ppmg_mask, sharpen_maps, sharpen_mask
from wsssbench.stages.refine_source import (
    ENDINGS,
    MAPS,
    MASKS,
    Source,
    find,
    full_maps,
    gated_only,
)
from wsssbench.stages.refine_walk import AlongBoundaries, AlongNetwork

NOTE = "refine.json"
WALK = ("walk_radius", "beta", "log2_steps", "per_class")


@dataclass
class _Job:
    """What one command does.

    Attributes:
        command: its name.
        source: input.
        out: output folder.
        products: of MAPS and MASKS, what is written.
        settings: all that decides over the result, as JSON.
        step: refines an id and writes its files.
        along: what a walk goes along.
    """

    command: str
    source: Source
    out: Path
    products: Sequence[str]
    settings: dict[str, Any]
    step: Callable[[str], None]
    along: AlongBoundaries | AlongNetwork | None = None


def refine_crf(
    folder: Path,
    out: Path,
    images: Path,
    *,
    parameter_set: str = "",
    iterations: int | None = None,
    threshold: float | None = None,
    overwrite: bool = False,
) -> str:
    """Maps or masks -> masks after a dense CRF.

    Of maps the gated ones take part. A pixel of value 255 in a mask has no opinion and stays 255.

    Args:
        folder: input, see `refine_source.find`.
        out: output.
        images: folder of the images.
        parameter_set: of the CRF; by default psa for maps, irn for masks. `irn` sharpens the mask
            that maps give at the threshold, the others sharpen the scores themselves.
        iterations: by default those of the set.
        threshold: score of the background; maps need one.
        overwrite: make everything anew.

    Returns:
        A line for people: how many, and where.

    Raises:
        UserError: whatever is wrong with input, output or settings.
    """
    source = find(folder, images)
    name = parameter_set or ("psa" if source.kind == MAPS else ON_LABELS[0])
    if name not in PARAMETER_SETS:
        raise unknown("parameter set of the dense CRF", name, PARAMETER_SETS)
    _check_threshold(source, threshold)
    if source.kind == MAPS and threshold is None:
        raise UserError("Maps become masks at a score of the background: give it as --threshold.")

    def step(task: str) -> None:
        if source.kind == MAPS:
            maps = source.maps(task)
            mask = sharpen_maps(source.image(task), maps, threshold, name, iterations)
        else:
            mask = sharpen_mask(source.image(task), source.mask(task), name, iterations)
        write_mask(out / MASKS / f"{task}.png", mask)

    settings = {"set": name, "iterations": iterations, "threshold": threshold}
    return _run(_Job("crf", source, out, (MASKS,), settings, step), overwrite)


def refine_ppmg(
    folder: Path,
    out: Path,
    images: Path,
    *,
    alpha: float = 11.0,
    smoothing: float = 0.3,
    overwrite: bool = False,
) -> str:
    """Maps -> masks by PPMG, see `refinement.ppmg`; the gated maps take part.

    Args:
        folder: input, see `refine_source.find`.
        out: output.
        images: folder of the images.
        alpha: power of the background, above 0.
        smoothing: scale of CVS; 0 for maps that are smoothed already.
        overwrite: make everything anew.

    Returns:
        A line for people: how many, and where.

    Raises:
        UserError: whatever is wrong with input, output or settings.
    """
    source = find(folder, images)
    if source.kind != MAPS:
        raise UserError(f"{folder} holds masks. PPMG needs score maps (.npz).")
    if alpha <= 0 or smoothing < 0:
        raise UserError("PPMG needs alpha above 0 and a smoothing of at least 0.")

    def step(task: str) -> None:
        mask = ppmg_mask(source.image(task), source.maps(task), alpha=alpha, scale=smoothing)
        write_mask(out / MASKS / f"{task}.png", mask)

    settings = {"alpha": alpha, "smoothing": smoothing}
    return _run(_Job("ppmg", source, out, (MASKS,), settings, step), overwrite)


def refine_pamr(
    folder: Path,
    out: Path,
    images: Path,
    *,
    iterations: int = 10,
    threshold: float | None = None,
    overwrite: bool = False,
) -> str:
    """Maps -> maps of full size after PAMR, gated or not; masks -> masks.

    A mask becomes one map of zeros and ones per class, background included; the strongest one wins
    afterwards. A pixel of value 255 is zero in all of them and stays 255.

    Args:
        folder: input, see `refine_source.find`.
        out: output.
        images: folder of the images.
        iterations: of PAMR.
        threshold: score of the background, to have masks of maps as well.
        overwrite: make everything anew.

    Returns:
        A line for people: how many, and where.

    Raises:
        UserError: whatever is wrong with input, output or settings.
    """
    source = find(folder, images)
    _check_threshold(source, threshold)

    def refine(task: str, maps: Tensor) -> Tensor:
        image = torch.from_numpy(source.image(task)).permute(2, 0, 1)
        return pamr(image[None] / 255, maps[None], iterations=iterations)[0]

    def step(task: str) -> None:
        if source.kind == MAPS:
            stored = source.maps(task)
            _write(out, task, stored, refine(task, full_maps(stored)), threshold)
            return
        mask = source.mask(task)
        ids = np.union1d(mask[mask != IGNORE], [BACKGROUND]).astype(np.uint8)
        refined = refine(task, torch.from_numpy(mask == ids[:, None, None]).float())
        best = ids[refined.argmax(0).numpy()]
        write_mask(out / MASKS / f"{task}.png", np.where(mask == IGNORE, mask, best))

    settings = {"iterations": iterations, "threshold": threshold}
    return _run(_Job("pamr", source, out, _products(source, threshold), settings, step), overwrite)


def refine_rw(
    folder: Path,
    out: Path,
    images: Path,
    *,
    boundaries: Path | None = None,
    network: Path | None = None,
    profile: Profile | None = None,
    experiment: str = "",
    threshold: float | None = None,
    overwrite: bool = False,
    **changes: Any,
) -> str:
    """Maps -> maps after a random walk of the gated ones; the others are left out.

    Args:
        folder: input, see `refine_source.find`.
        out: output.
        images: folder of the images.
        boundaries: folder of boundary maps, see `refine_source.read_boundary`.
        network: instead of boundaries, the weights of a trained affinity network.
        profile: of the network.
        experiment: of the network.
        threshold: score of the background, to have masks as well.
        overwrite: make everything anew.
        **changes: `walk_radius`, `beta`, `log2_steps`, `per_class` where they differ from those of
            the network's experiment, or else of IRNet's release; None changes nothing.

    Returns:
        A line for people: how many, and where.

    Raises:
        UserError: whatever is wrong with input, output or settings.
    """
    source = find(folder, images)
    if source.kind != MAPS:
        raise UserError(f"{folder} holds masks. A random walk needs score maps (.npz).")
    if (boundaries is None) == (network is None):
        raise UserError("A random walk follows --boundaries or a --network: name one of the two.")
    if network and not experiment:
        raise UserError("The network's settings are those of its experiment: name it with -e NAME.")
    _check_threshold(source, threshold)
    usual = profile.experiment(experiment).random_walk if network else RandomWalkSettings()
    given = {name: value for name, value in changes.items() if value is not None}
    walk = dataclasses.replace(usual, **given)
    directions(walk.walk_radius)  # refuses a bad radius before the work begins
    if network:
        along = AlongNetwork(source, network, profile, experiment, walk)
    else:
        along = AlongBoundaries(source, boundaries, walk)

    def step(task: str) -> None:
        stored = gated_only(source.maps(task))
        _write(out, task, stored, along.walk(task, full_maps(stored)), threshold)

    settings = {name: getattr(walk, name) for name in WALK} | {"threshold": threshold}
    settings["along"] = str(Path(network or boundaries).resolve())
    products = _products(source, threshold)
    return _run(_Job("rw", source, out, products, settings, step, along), overwrite)


def _run(job: _Job, overwrite: bool) -> str:
    """Check, then refine what is not there yet; returns a line for people."""
    source = job.source
    _keep_inputs(job)
    written = _written(job, overwrite)
    ids = list(source.files)
    todo = [name for name in ids if overwrite or not _is_done(job, name)]
    check = job.along.check if job.along else source.check
    workers = job.along.workers if job.along else cpus()
    # one image per core: a single image's many short steps gain little from several
    with one_thread(torch.device("cpu")):
        for _ in in_threads(check, todo, "checking the input", cpus()):
            pass
        for path in (path for name in todo for path in _paths(job, written, name)):
            path.unlink(missing_ok=True)  # or an interrupted run would go on from old files
        write_json(job.out / NOTE, _note(job))
        for _ in in_threads(job.step, todo, f"refine {job.command}", workers):
            pass
    places = " and ".join(str(job.out / kind) for kind in job.products)
    return f"{len(todo)} images refined, {len(ids) - len(todo)} were done before: {places}"


def _keep_inputs(job: _Job) -> None:
    """Refuse an input that the output, also that of an earlier command there, would replace."""
    kinds, note = set(job.products), job.out / NOTE
    if note.exists():
        kinds |= set(read_json(note, f"Choose another output folder than {job.out}.")["writes"])
    replaced = {(job.out / kind).resolve() for kind in kinds}
    for name, path in job.source.files.items():
        for used in (path, *(job.along.needs(name) if job.along else ())):
            if used.parent.resolve() in replaced:
                raise UserError(
                    f"{used.parent} would be overwritten. Choose another folder than {job.out}."
                )


def _note(job: _Job) -> dict[str, Any]:
    source = str(job.source.folder.resolve())
    return {"command": job.command, "from": source, "writes": [*job.products], **job.settings}


def _written(job: _Job, overwrite: bool) -> Sequence[str]:
    """The kinds of files that an earlier run wrote; refuses a folder that holds other results."""
    path, now = job.out / NOTE, _note(job)
    if not path.exists():
        if any((job.out / kind).exists() for kind in job.products):
            raise UserError(
                f"{job.out} holds {' or '.join(job.products)} that this command did not write. "
                "Choose another output folder."
            )
        return ()
    then = read_json(path, f"Choose another output folder than {job.out}.")
    changes = [
        f"{key} {then.get(key)} then, {now.get(key)} now"
        for key in {**then, **now}
        if then.get(key) != now.get(key)
    ]
    if changes and not overwrite:
        raise UserError(
            f"{job.out} holds results of other settings: {'; '.join(changes)}. Choose another "
            "output folder, or replace them with --overwrite."
        )
    return then["writes"]


def _is_done(job: _Job, name: str) -> bool:
    """Whether all files of an id are there and not older than what they are made of."""
    made = _paths(job, job.products, name)
    needs = [job.source.files[name], job.source.images[name]]
    needs += job.along.needs(name) if job.along else []
    if not all(path.exists() for path in made):
        return False
    oldest = min(path.stat().st_mtime_ns for path in made)
    return all(path.stat().st_mtime_ns <= oldest for path in needs)


def _paths(job: _Job, kinds: Sequence[str], name: str) -> list[Path]:
    return [job.out / kind / f"{name}{ENDINGS[kind]}" for kind in kinds]


def _products(source: Source, threshold: float | None) -> tuple[str, ...]:
    if source.kind == MASKS:
        return (MASKS,)
    return (MAPS,) if threshold is None else (MAPS, MASKS)


def _check_threshold(source: Source, threshold: float | None) -> None:
    if threshold is None:
        return
    if source.kind == MASKS:
        raise UserError(f"{source.folder} holds masks: they need no threshold. Leave it out.")
    if not 0 <= threshold < 1:
        raise UserError(f"The threshold is {threshold:g}; give a score of at least 0 and below 1.")


def _write(out: Path, name: str, stored: StoredMaps, maps: Tensor, threshold: float | None) -> None:
    """The refined maps in place of the stored ones, and on request their mask."""
    path = out / MAPS / f"{name}.npz"
    store_maps(path, stored.keys, maps, stored.size, stored.gated)
    if threshold is not None:
        write_mask(out / MASKS / f"{name}.png", to_mask(read_maps(path), threshold))
