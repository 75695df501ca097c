"""params.yaml as frozen dataclasses: types and keys are checked before anything runs.

A profile is one params.yaml: the default one at the top of the repository, others in
profiles/<name>/. An experiment may override single keys of the sections that concern it.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from wsssbench.errors import UserError, unknown
from wsssbench.multistage_params import RandomWalkSettings, SegmentSettings
from wsssbench.report_params import ReportSettings
from wsssbench.schema import Count, NotNegative, Positive, Share, Whole, build, override
from wsssbench.study_params import PRETRAINED, StudySettings, check_study

UPPER_BOUND = "supervised"  # stands for an experiment where true masks teach the segmentation


@dataclass(frozen=True)
class DataSettings:
    """Which data set, where it lies and which lists are used."""

    source: str
    root: str
    train: str = "train"
    seed_split: str | None = None
    val: str = "val"
    holdout: str | None = None
    options: dict = field(default_factory=dict)

    @property
    def scored(self) -> dict[str, str]:
        """Splits that are scored, {split: role}: seeds on `seed_split` (or train), then val."""
        return {self.seed_split or self.train: "train", self.val: "val"}


@dataclass(frozen=True)
class ModelSettings:
    """The backbone and how its batch normalisation and strides are treated."""

    backbone: str
    weights: str = "none"
    output_stride: Count = 16
    dilate: bool = True
    batch_norm: Literal["train", "frozen", "sync"] = "train"
    frozen_stages: Whole = 0


@dataclass(frozen=True)
class TrainSettings:
    """The schedule, the optimiser and the augmentation of training.

    Rates fall by the poly schedule: `lr` of the backbone, `lr_new` of new layers, `lr_decoder` of
    the decoder (None: lr_new). `drop` [epoch, factor] multiplies all of them from that epoch on.

    `watch` is the number of training images whose maps are scored against their masks after each
    epoch, for the oracle curves of the report; training itself never sees the outcome.
    """

    epochs: Count
    batch_size: Count
    lr: NotNegative
    lr_new: NotNegative
    crop: Count
    resize: tuple[Count, Count]
    accumulate: Count = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 1e-4
    power: NotNegative = 0.9
    lr_decoder: NotNegative | None = None
    drop: tuple[Whole, NotNegative] | None = None
    ema: Share = 0.0
    flip: Share = 0.5
    jitter: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (0.0, 0.0, 0.0, 0.0)
    jpeg: tuple[Count, Count] | None = None
    watch: Whole = 0


@dataclass(frozen=True)
class PseudoMaskSettings:
    """How score maps become masks: views, background rule, class gate.

    `conf_threshold` None: where CF1 is best on the training images, which takes image labels only.
    """

    scales: tuple[Positive, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    map_stride: Count = 1
    threshold_rule: Literal["fixed", "holdout"] = "fixed"
    threshold: Share = 0.3
    alpha: Positive | None = None
    conf_threshold: Share | None = 0.5
    batch_size: Count = 8


@dataclass(frozen=True)
class EvaluateSettings:
    """The sweep's thresholds (first, last, step), the boundary band and the bootstrap."""

    thresholds: tuple[Share, Share, Positive] = (0.05, 0.95, 0.05)
    boundary_px: Count = 5
    bootstrap: Count = 1000

    @property
    def grid(self) -> list[float]:
        """The sweep's thresholds, last one included, without float noise."""
        first, last, step = self.thresholds
        count = round((last - first) / step) + 1
        return [round(first + index * step, 6) for index in range(count)]


@dataclass(frozen=True)
class MachineSettings:
    """Where it runs. Not a dependency of any stage: the result must not hang on it."""

    device: str = "auto"
    devices: Count = 1
    workers: Whole = 2
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False


@dataclass(frozen=True)
class Experiment:
    """One training of the comparison: a method, its settings, what it changes in model and train.

    Attributes:
        method: name in `wsssbench.methods`.
        title: for people.
        maps: kinds of score maps to read out, each a row of its own; by default the method's usual.
        published: name of this recipe among the published figures, by default the method's;
            `none` where there is no such figure.
        settings: keyword arguments of the method.
        model, train, random_walk, segment: keys of these sections that differ here.
    """

    method: str
    title: str = ""
    maps: tuple[str, ...] = ()
    published: str = ""
    settings: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    random_walk: dict = field(default_factory=dict)
    segment: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Which experiments run with which seeds.

    Attributes:
        experiments: trained, read out and scored.
        seeds: of each.
        multi_stage: those of them that go on with the stages random_walk and segment.
        upper_bound: seeds with which the segmentation network is also trained on true masks.
        cells: of a study, the cells in which each of them runs.
    """

    experiments: tuple[str, ...]
    seeds: tuple[Whole, ...]
    multi_stage: tuple[str, ...] = ()
    upper_bound: tuple[Whole, ...] = ()
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """A whole params.yaml. `root` and `params_file` serve dvc.yaml's templates."""

    profile: str
    data: DataSettings
    model: ModelSettings
    train: TrainSettings
    grid: Grid
    experiments: dict[str, Experiment]
    pseudo_masks: PseudoMaskSettings = PseudoMaskSettings()
    random_walk: RandomWalkSettings = field(default_factory=RandomWalkSettings)
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    evaluate: EvaluateSettings = EvaluateSettings()
    machine: MachineSettings = MachineSettings()
    report: ReportSettings = field(default_factory=ReportSettings)
    study: StudySettings | None = None
    root: str = "."
    params_file: str = "params.yaml"

    def experiment(self, name: str) -> "Profile":
        """This profile with the sections that the experiment overrides replaced.

        Raises:
            UserError: no such experiment, or it overrides a key that does not exist.
        """
        if name not in self.experiments:
            raise unknown("experiment", name, self.experiments)
        chosen, where = self.experiments[name], f"{self.params_file}: experiments.{name}"
        return dataclasses.replace(
            self,
            model=override(self.model, chosen.model, f"{where}.model"),
            train=override(self.train, chosen.train, f"{where}.train"),
            random_walk=override(self.random_walk, chosen.random_walk, f"{where}.random_walk"),
            segment=override(self.segment, chosen.segment, f"{where}.segment"),
        )

    def cell(self, name: str, seed: int) -> "Profile":
        """The profile of one cell of the study and one seed, whose data are drawn for it.

        Raises:
            UserError: this profile is no study, or has no such cell.
        """
        if self.study is None:
            raise UserError(f"{self.params_file} is no study: it has no section 'study'.")
        if name not in self.study.cells:
            raise unknown("cell", name, self.study.cells)
        options = {"seed": 0, **self.data.options, **self.study.cells[name]}
        data = dataclasses.replace(
            self.data,
            root=f"{self.data.root}/{name}/train-{seed}",
            options={**options, "seed": options["seed"] + seed, "val": 1, "holdout": 0},
            holdout=None,
        )
        model = self.model
        if model.weights == PRETRAINED:
            model = dataclasses.replace(model, weights=str(self.pretrained(seed)))
        name = f"{self.profile}/{name}/{seed}"
        return dataclasses.replace(self, profile=name, data=data, model=model)

    def pretrained(self, seed: int) -> Path:
        """Where a study keeps the initial weights that it trains itself."""
        return Path("runs") / self.profile / PRETRAINED / f"{seed}.pt"

    def run_dir(self, experiment: str, seed: int) -> Path:
        """Directory of one run; every stage has a sub-directory in it."""
        return Path("runs") / self.profile / f"{experiment}-{seed}"


def load(path: str | Path = "params.yaml") -> Profile:
    """Read and check a params.yaml.

    Raises:
        UserError: missing file, broken YAML, unknown or missing key, wrong type; one line.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "params.yaml"
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    profile = build(Profile, content, str(path))
    _check_place(profile, path)
    for name in profile.experiments:
        profile.experiment(name)
    for name in profile.grid.experiments:
        if name not in profile.experiments:
            raise UserError(
                f"{path}: grid.experiments: {unknown('experiment', name, profile.experiments)}"
            )
    for name in profile.report.figures:
        if name not in profile.experiments:
            raise UserError(
                f"{path}: report.figures: {unknown('experiment', name, profile.experiments)}"
            )
    for name in profile.grid.multi_stage:
        if name not in profile.grid.experiments:
            raise UserError(
                f"{path}: grid.multi_stage: {unknown('experiment', name, profile.grid.experiments)}"
            )
    if UPPER_BOUND in profile.experiments:
        raise UserError(
            f"{path}: experiments: {UPPER_BOUND!r} is the name of the run on true masks "
            "(grid.upper_bound). Call your experiment something else."
        )
    if profile.pseudo_masks.threshold_rule == "holdout" and not profile.data.holdout:
        raise UserError(
            f"{path}: pseudo_masks.threshold_rule is holdout, but data.holdout names no list. "
            "Name a small labelled list that is neither train nor val."
        )
    _check_lists(profile, path)
    check_study(profile, f"{path}: study")
    return profile


def find(name: str) -> Path:
    """The params.yaml of a profile given by name, directory or file.

    Raises:
        UserError: there is no such profile.
    """
    default = Path("params.yaml")
    for candidate in (
        Path(name),
        Path(name) / "params.yaml",
        Path("profiles") / name / "params.yaml",
    ):
        if candidate.is_file():
            return candidate
    if default.is_file() and load(default).profile == name:
        return default
    known = _profiles()
    if not (known or default.is_file()):
        raise _missing(default)
    raise unknown("profile", name, [load(default).profile, *known] if default.is_file() else known)


def _profiles() -> list[str]:
    """Names of the profiles beside the default one."""
    return [path.parent.name for path in sorted(Path("profiles").glob("*/params.yaml"))]


def _missing(path: Path) -> UserError:
    """Error for a params.yaml that is not there."""
    named = f", or name a profile: {', '.join(_profiles())}" if _profiles() else ""
    return UserError(f"{path} does not exist. Run from the repository's top{named}.")


def _check_lists(profile: Profile, path: Path) -> None:
    """Refuse repetitions in the grid, ranges whose ends are exchanged, a hold-out of other use."""
    for key, names in dataclasses.asdict(profile.grid).items():
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UserError(f"{path}: grid.{key} names {twice[0]!r} more than once. Keep it once.")
    ends = {"evaluate.thresholds": profile.evaluate.thresholds[:2]}
    ends |= {"train.resize": profile.train.resize, "train.jpeg": profile.train.jpeg or (0, 0)}
    for key, (low, high) in ends.items():
        if low > high:
            raise UserError(f"{path}: {key} goes from {low:g} to {high:g}: exchange the two.")
    data = profile.data
    if data.holdout in (used := [data.train, *data.scored]):
        raise UserError(
            f"{path}: data.holdout is {data.holdout!r}, which is trained on or scored as well. "
            f"Name a list apart from {', '.join(dict.fromkeys(used))}."
        )


def _check_place(profile: Profile, path: Path) -> None:
    """A copied profile that keeps the names of the old one would overwrite its runs."""
    place, said = path.resolve(), Path(profile.params_file)
    if place.parts[-len(said.parts) :] != said.parts:
        raise UserError(f"{path}: params_file says {said}, which is another file. Correct it.")
    if place.parent.parent.name == "profiles" and place.parent.name != profile.profile:
        raise UserError(
            f"{path}: profile is {profile.profile!r}, but the directory is {place.parent.name!r}. "
            "Give both the same name: runs and reports are kept under it."
        )


class _Loader(yaml.SafeLoader):
    """PyYAML with the numbers of YAML 1.2: `1e-4` is a float, as DVC reads it, not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
