"""How much do thresholds, dense CRF and random walk matter? Sweeps over the stored maps of a run.

Nothing is trained and nothing is written. True masks are looked at: an oracle, for understanding.
No setting of any stage comes from here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from wsssbench.data.folder import Folder
from wsssbench.data.layout import MASKS
from wsssbench.engine import devices
from wsssbench.engine.inference import to_mask
from wsssbench.errors import UserError, unknown
from wsssbench.evaluation import ConfusionMatrix, Protocol, ThresholdSweep, evaluate_maps
from wsssbench.evaluation.boundaries import summary, within_band
from wsssbench.evaluation.intervals import resampled
from wsssbench.evaluation.maps import full_size
from wsssbench.evaluation.ratios import means, ratio
from wsssbench.evaluation.reading import StoredMaps, read_maps
from wsssbench.files import read_json
from wsssbench.models.decoder import resize
from wsssbench.multistage import WALK, masks_dir
from wsssbench.parallel import cpus, in_threads
from wsssbench.params import Profile, RandomWalkSettings
from wsssbench.progress import progress
from wsssbench.refinement.dense_crf import PARAMETER_SETS
from wsssbench.refinement.pamr import one_thread
from wsssbench.reporting import steps as drawn
from wsssbench.stages.common import kinds_of, open_folder
from wsssbench.stages.crf import sharpen_maps
from wsssbench.stages.refine_source import full_maps, gated_only
from wsssbench.stages.refine_walk import load_affinity, walk_by

BEFORE = "before"
RESAMPLINGS = 1000
SCORES = ["miou", "fp", "fn", "boundary_error", "gain", "gain_low", "gain_high"]
BEST = ["best_threshold", "best_miou"]
WALK_COLUMNS = ["parameter", "value", "own", *SCORES, *BEST]


@dataclass(frozen=True)
class Sample:
    """Images of a run whose maps are stored.

    Attributes:
        profile: of the run.
        experiment: of the run.
        run: its directory.
        folder: the data set.
        split: list the images are from.
        kind: of the maps.
        ids: N images at equal distances over the list.
        total: images with a mask on the list.
        protocol: under which the maps became masks.
    """

    profile: Profile
    experiment: str
    run: Path
    folder: Folder
    split: str
    kind: str
    ids: list[str]
    total: int
    protocol: Protocol

    @property
    def maps(self) -> Path:
        """Folder of the stored maps."""
        return masks_dir(self.run, self.kind) / self.split / "maps"

    @property
    def walk(self) -> RandomWalkSettings:
        """The experiment's own settings of the stage random_walk."""
        return self.profile.experiment(self.experiment).random_walk

    @property
    def seed_thresholds(self) -> dict[str, float]:
        """The two thresholds of the experiment's own seeds."""
        return {"foreground": self.walk.certain, "background": self.walk.uncertain}

    @property
    def network(self) -> Path:
        """Weights of the run's affinity network, whether they exist or not."""
        return self.run / "random_walk" / "network" / "model.pt"

    def stored(self, name: str) -> StoredMaps:
        """Maps of an image."""
        return read_maps(self.maps / f"{name}.npz")

    def __str__(self) -> str:
        """For print."""
        return (
            f"{len(self.ids)} of the {self.total} images of {self.split}, maps {self.kind} of "
            f"{self.run}, threshold of the background {self.protocol.threshold:g}. The true masks "
            "are used: an oracle, from which nothing is chosen."
        )


def open_sample(
    profile: Profile, experiment: str, seed: int, kind: str = "", images: int = 60
) -> Sample:
    """Choose images of the split on which seeds are scored.

    Args:
        profile: of the run.
        experiment: of the run.
        seed: of the run.
        kind: of its maps, or "rw"; "" takes the experiment's main one.
        images: how many, at most.

    Raises:
        UserError: no such maps, or no image has a mask.
    """
    kinds = (*kinds_of(profile, experiment), WALK)
    kind = kind or kinds[0]
    if kind not in kinds:
        raise unknown("kind of maps", kind, kinds)
    if images < 1:
        raise UserError(f"images is {images}; give at least 1.")
    run, stage = (
        profile.run_dir(experiment, seed),
        "random-walk" if kind == WALK else "pseudo-masks",
    )
    again = f"Run: python -m wsssbench {stage} -p {profile.params_file} -e {experiment} -s {seed}"
    place = masks_dir(run, kind) / "protocol.json"
    protocol = Protocol.from_dict(read_json(place, again))
    folder, _ = open_folder(profile, masks=True)
    split = next(iter(profile.data.scored))
    ids = [name for name in folder.ids(split) if folder.has_mask(name)]
    if not ids:
        raise UserError(
            f"No image of {split} has a mask in {folder.root}: nothing to compare with."
        )
    places = np.linspace(0, len(ids) - 1, min(images, len(ids))).round().astype(int)
    chosen = [ids[place] for place in places]
    return Sample(profile, experiment, run, folder, split, kind, chosen, len(ids), protocol)


def seeds(sample: Sample, thresholds: Sequence[float] | None = None) -> pd.DataFrame:
    """What certain pixels are worth, at each threshold: foreground above, background up to it.

    Without the CRF that the stage random_walk may apply to its seeds.

    Args:
        sample: the images.
        thresholds: by default the profile's grid. The stage's own two are added.

    Returns:
        part (foreground, background), threshold; coverage: share of the pixels that are called so;
        precision: share of these that are right, in their class; found: share of the true
        foreground (background) that is called so, and rightly. Fractions.
    """
    grid = thresholds or sample.profile.evaluate.grid
    grid = sorted({*grid, *sample.seed_thresholds.values()})
    truth, classes = sample.folder.root / MASKS, sample.folder.num_classes + 1
    counts = evaluate_maps(
        sample.maps, truth, sample.ids, classes, grid, progress=progress
    ).counts()
    pixels = counts[0, :, 1].sum()
    tables = []
    for part, chosen in (("foreground", np.s_[1:]), ("background", np.s_[:1])):
        called, labelled, right = np.moveaxis(counts[:, chosen].sum(axis=1), -1, 0)
        values = {
            "coverage": ratio(called, pixels),
            "precision": ratio(right, called),
            "found": ratio(right, labelled),
        }
        tables.append(pd.DataFrame({"part": part, "threshold": grid, **values}))
    return pd.concat(tables, ignore_index=True)


def seeds_in_words(sample: Sample, table: pd.DataFrame) -> str:
    """The table of `seeds` at the experiment's own thresholds, for print."""
    lines, ignored = [], 1.0
    for part, threshold in sample.seed_thresholds.items():
        row = table[(table["part"] == part) & (table["threshold"] == threshold)].iloc[0]
        ignored -= row.coverage
        lines.append(
            f"certain {part} at {threshold:g}: {100 * row.coverage:.1f} % of the pixels, "
            f"{100 * row.precision:.1f} % of them right; {100 * row.found:.1f} % of the true found"
        )
    return "\n".join([*lines, f"ignored: {100 * ignored:.1f} % of the pixels"])


def crfs(
    sample: Sample, sets: Sequence[str] = (*PARAMETER_SETS,), iterations: Sequence[int] = (1, 5, 10)
) -> pd.DataFrame:
    """Masks after a dense CRF with each parameter set, at the protocol's threshold.

    Args:
        sample: the images.
        sets: parameter sets.
        iterations: numbers of iterations, whatever the set's own is.

    Returns:
        parameter_set, iterations (0: before), miou, fp, fn, boundary_error (share of wrong pixels
        near outlines); gain: miou less that before, with the 95 % interval gain_low, gain_high of
        this difference over resampled images. Fractions.

    Raises:
        UserError: no such parameter set.
    """
    for name in sets:
        if name not in PARAMETER_SETS:
            raise unknown("parameter set of the dense CRF", name, PARAMETER_SETS)
    settings = [(name, number) for name in sets for number in iterations]
    threshold = sample.protocol.threshold

    def look(name: str) -> list[_Tally]:
        stored, image = sample.stored(name), sample.folder.image(name)
        masks = [to_mask(stored, threshold)]
        masks += [sharpen_maps(image, stored, threshold, *setting) for setting in settings]
        return [_tally(sample, mask, sample.folder.mask(name)) for mask in masks]

    table = _over_images(sample, look, "dense CRF")
    table.insert(0, "parameter_set", [BEFORE, *(name for name, _ in settings)])
    table.insert(1, "iterations", [0, *(number for _, number in settings)])
    return table


def walks(
    sample: Sample,
    *,
    betas: Sequence[float] = (0, 4, 10, 20),
    log2_steps: Sequence[int] = (2, 4, 6, 8),
    radii: Sequence[int] = (3, 5, 8),
    per_class: Sequence[bool] = (False, True),
) -> pd.DataFrame:
    """Maps after a walk along the run's affinity network; one setting differs, the others are own.

    Args:
        sample: the images.
        betas: exponents of the affinities.
        log2_steps: numbers of steps, as powers of 2.
        radii: of the walk's pairs.
        per_class: divide each map by its own maximum; IRNet's network only.

    Returns:
        parameter (or "before"), value, own (the experiment's setting); the scores of `crfs` at the
        threshold of the stage's masks; best_threshold, best_miou: where miou is largest. Empty if
        the run has no affinity network.
    """
    if not sample.network.is_file():
        return pd.DataFrame(columns=WALK_COLUMNS)
    own, device = sample.walk, devices.choose(sample.profile.machine)
    network = load_affinity(sample.profile, sample.experiment, sample.network).to(device)
    tried = {"beta": betas, "log2_steps": log2_steps, "walk_radius": radii, "per_class": per_class}
    if own.network != "irn":
        del tried["per_class"]
    rows = [
        (parameter, value)
        for parameter, values in tried.items()
        for value in sorted({*values, getattr(own, parameter)})
    ]
    is_own = [value == getattr(own, parameter) for parameter, value in rows]
    keys = [None if same else row for row, same in zip(rows, is_own)]  # the own one walks once
    settings = {key: dataclasses.replace(own, **dict([row])) for key, row in zip(keys, rows)}
    threshold, stride = walk_threshold(sample), sample.protocol.map_stride
    blank = ThresholdSweep(sample.folder.num_classes + 1, sample.profile.evaluate.grid)

    def look(name: str) -> list[_Tally]:
        image, truth = sample.folder.image(name), sample.folder.mask(name)
        stored, found = gated_only(sample.stored(name)), {}
        before = _tally(sample, to_mask(stored, sample.protocol.threshold), truth, stored, blank)
        for key, setting in settings.items():
            walked = walk_by(network, image, full_maps(stored), setting)
            if len(walked) and stride > 1:  # as the stage stores them
                walked = resize(walked[None], [-(-side // stride) for side in stored.size])[0]
            maps = stored._replace(maps=walked.half().cpu().numpy())
            found[key] = _tally(sample, to_mask(maps, threshold), truth, maps, blank)
        return [before, *(found[key] for key in keys)]

    workers = cpus() if device.type == "cpu" else 1
    table = _over_images(sample, look, "random walk", workers)
    table.insert(0, "parameter", [BEFORE, *(parameter for parameter, _ in rows)])
    table.insert(1, "value", [np.nan, *(float(value) for _, value in rows)])
    table.insert(2, "own", [False, *is_own])
    return table


def walks_in_words(sample: Sample, table: pd.DataFrame) -> str:
    """What the table of `walks` is about, for print."""
    if not len(table):
        return (
            f"{sample.run} has no affinity network: this part is left out. The stage random-walk "
            "trains one."
        )
    own = table[table["own"]].iloc[0]
    start = read_json(sample.run / "random_walk" / "start.json", "").get("kind")
    other = "" if start == sample.kind else f" The network has learned from the maps {start}."
    return (
        f"mIoU {100 * table.iloc[0].miou:.1f} % before, {100 * own.miou:.1f} % after the walk with "
        f"the experiment's settings at the stage's threshold {walk_threshold(sample):g}; "
        f"{100 * own.best_miou:.1f} % at the best one, {own.best_threshold:g}.{other}"
    )


def walk_threshold(sample: Sample) -> float:
    """The background's score at which the run's walked maps become masks.

    Raises:
        UserError: a walk without protocol.
    """
    again = "Run the stage random-walk again."
    return Protocol.from_dict(
        read_json(masks_dir(sample.run, WALK) / "protocol.json", again)
    ).threshold


def pictures(
    sample: Sample,
    sets: Sequence[str] = (*PARAMETER_SETS,),
    iterations: int = 10,
    image_id: str = "",
) -> list[list[drawn.Panel]]:
    """Image, truth and mask; below, the mask after each CRF.

    Args:
        sample: the images.
        sets: parameter sets.
        iterations: of all of them.
        image_id: "" takes the first of the sample's images with the most classes.
    """
    name = image_id or max(sample.ids, key=lambda name: sample.stored(name).gated.sum())
    stored, image = sample.stored(name), sample.folder.image(name)
    threshold, classes = sample.protocol.threshold, ["background", *sample.folder.classes]
    rows = [
        drawn.picture(name, image),
        drawn.mask("ground truth", sample.folder.mask(name), classes),
        drawn.mask(BEFORE, to_mask(stored, threshold), classes),
    ]
    for parameter_set in sets:
        mask = sharpen_maps(image, stored, threshold, parameter_set, iterations)
        rows.append(drawn.mask(f"{parameter_set}, {iterations} iterations", mask, classes))
    return [rows[start : start + 3] for start in range(0, len(rows), 3)]


class _Tally(NamedTuple):
    """Pixels of one image and one setting: counts (K+1, 3), those near outlines, the sweep's."""

    counts: np.ndarray
    band: ConfusionMatrix
    sweep: ThresholdSweep | None


def _tally(
    sample: Sample,
    mask: np.ndarray,
    truth: np.ndarray,
    maps: StoredMaps | None = None,
    blank: ThresholdSweep | None = None,
) -> _Tally:
    classes, width = sample.folder.num_classes + 1, sample.profile.evaluate.boundary_px
    whole, sweep = ConfusionMatrix(classes), blank and blank.empty()
    whole.update(mask, truth)
    if sweep:
        sweep.update_sparse(maps.keys, full_size(maps.maps, maps.size), truth)
    return _Tally(whole.counts(), within_band(mask, truth, classes, width), sweep)


def _over_images(
    sample: Sample, look: Callable[[str], list[_Tally]], desc: str, workers: int | None = None
) -> pd.DataFrame:
    """A row of scores per setting; the first setting is what others gain over."""
    with one_thread(torch.device("cpu")):
        images = list(in_threads(look, sample.ids, desc, workers or cpus()))
    rows, base = [], None
    for tallies in zip(*images):
        counts = np.stack([tally.counts for tally in tallies])
        drawn_again = resampled(counts, RESAMPLINGS, seed=0)[0]  # the same images for all settings
        base = drawn_again if base is None else base
        band = reduce(add, (tally.band for tally in tallies))
        scores = [float(score) for score in means(counts.sum(axis=0))]
        row = [*scores, summary(band, sample.profile.evaluate.boundary_px)["error"]]
        row += [scores[0] - (rows[0][0] if rows else scores[0])]
        row += np.nanpercentile(drawn_again - base, (2.5, 97.5)).tolist()
        if tallies[0].sweep:
            row += reduce(add, (tally.sweep for tally in tallies)).best()[:2]
        rows.append(row)
    return pd.DataFrame(rows, columns=[*SCORES, *BEST][: len(rows[0])])
