"""The section `study` of a params.yaml: a controlled experiment on the drawn set."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from wsssbench.errors import UserError, unknown

if TYPE_CHECKING:  # a profile holds a study
    from wsssbench.params import Profile

PRETRAINED = "pretrained"  # weights that a study makes itself


@dataclass(frozen=True)
class Claim:
    """What a method or a knob is said to do, as a difference whose sign can be tested.

    The effect is what `experiment` measures minus what `control` does, in the same `cells`; minus
    the same in the cells `reference`, where there are some. Without a control it is `cells` minus
    `reference`: what the knob does to one method.

    Attributes:
        name: short, unique.
        mechanism: what should happen, in words.
        experiment, control: an experiment, or `experiment/kind of maps`.
        measure: one of `evaluation.mechanisms`.
        expected: sign of the effect; "0": none.
        cells, reference: of the study; more than one are averaged, each class over those that
            measure it.
        test: test set, by default the study's first.
        roles: only classes with one of these roles in `cells`, see `SceneSettings.roles`; in a
            reference cell too, unless no class has one there.
    """

    name: str
    mechanism: str
    experiment: str
    measure: str
    expected: Literal["+", "-", "0"]
    cells: tuple[str, ...]
    control: str = ""
    reference: tuple[str, ...] = ()
    test: str = ""
    roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pretraining:
    """Initial weights that a study trains itself, in place of ImageNet's.

    Attributes:
        cell: on whose pictures; one of the study's, outside the grid.
        experiment: whose backbone; outside the grid, with `weights: none` of its own. All others
            take the backbone where `model.weights` is `pretrained`.
    """

    cell: str
    experiment: str


@dataclass(frozen=True)
class StudySettings:
    """A controlled experiment on `scenes`: one failure is dialled in, cell by cell.

    Attributes:
        question: in a sentence, for people.
        cells: {name: knobs of the drawn set that differ from `data.options`}. Each seed of the
            grid draws training pictures of its own; a knob `seed` is added to it.
        tests: {name: knobs of a test set that differ from the cell's}; scored on its val list.
            `contents` (random, singles, pairs) says what is in the pictures.
        figures: measures to draw over the cells, `measure`, `measure role, role` (only classes
            with one of these roles), either followed by ` on test`.
        points: {name: cells that figures and their tables average and show by this name}; where
            roles change places between cells, only these together have the same classes in them.
        claims: what is tested.
        crf: {row: parameter set}: rows that are also shown after a dense CRF, as kind `<kind>+crf`.
        pretrain: where initial weights come from, if from here.
        gate: F1 that the classifier must reach for each class with one of `gate_roles`, on the
            first test set; runs below it are left out, and counted.
        gate_roles: see `gate`.
    """

    question: str
    cells: dict[str, dict]
    tests: dict[str, dict]
    figures: tuple[str, ...] = ()
    points: dict[str, tuple[str, ...]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    crf: dict[str, str] = field(default_factory=dict)
    pretrain: Pretraining | None = None
    gate: float = 0.0
    gate_roles: tuple[str, ...] = ()

    def points_of(self, cells: Sequence[str]) -> dict[str, list[str]]:
        """{name in figures: its cells}, in the order of `cells`: points, and cells of none."""
        point = {cell: name for name, members in self.points.items() for cell in members}
        found: dict[str, list[str]] = {}
        for cell in cells:
            found.setdefault(point.get(cell, cell), []).append(cell)
        return found

    def figure(self, words: str) -> tuple[str, str, tuple[str, ...]]:
        """Measure, test set and roles of an entry of `figures`."""
        head, _, test = words.partition(" on ")
        measure, _, roles = head.partition(" ")
        named = tuple(role.strip() for role in roles.split(",")) if roles else ()
        return measure, test or next(iter(self.tests)), named


def check_study(profile: "Profile", where: str) -> None:
    """Check that the study's names are names of something.

    Raises:
        UserError: names the place and the valid names.
    """
    study, cells = profile.study, profile.grid.cells
    if (study is None) != (not cells):
        there, lacking = ("study", "grid.cells") if study else ("grid.cells", "study")
        raise UserError(f"{where}: {there} needs {lacking}. A study has both.")
    if study is None:
        return
    if profile.data.source != "scenes":
        raise UserError(f"{where}: data.source is {profile.data.source}; a study needs scenes.")
    if not study.tests:
        raise UserError(f"{where}: tests names no test set.")
    for name in cells:
        if name not in study.cells:
            raise UserError(f"{where}: grid.cells: {unknown('cell', name, study.cells)}")
    if (study.pretrain is None) != (profile.model.weights != PRETRAINED):
        raise UserError(f"{where}: pretrain and model.weights: {PRETRAINED} go together.")
    if study.pretrain:
        _check_row(profile, study.pretrain.experiment, f"{where}.pretrain")
        if study.pretrain.cell not in study.cells:
            raise UserError(
                f"{where}.pretrain: {unknown('cell', study.pretrain.cell, study.cells)}"
            )
        if profile.experiment(study.pretrain.experiment).model.weights != "none":
            raise UserError(
                f"{where}.pretrain: the experiment starts from what it is to make. Give it "
                "model: {weights: none}."
            )
    for point, members in study.points.items():
        for name in members:
            if name not in cells:
                raise UserError(f"{where}.points.{point}: {unknown('cell', name, cells)}")
    if not 0 <= study.gate <= 1 or bool(study.gate) != bool(study.gate_roles):
        raise UserError(f"{where}: gate, an F1 above 0 and up to 1, and gate_roles go together.")
    for row in study.crf:
        _check_row(profile, row, f"{where}.crf")
    for place, claim in enumerate(study.claims):
        here = f"{where}.claims[{place}] ({claim.name})"
        if sum(other.name == claim.name for other in study.claims) > 1:
            raise UserError(f"{here}: two claims have this name; rename one.")
        for row in filter(None, (claim.experiment, claim.control)):
            _check_row(profile, row, here)
        for name in (*claim.cells, *claim.reference):
            if name not in study.cells:
                raise UserError(f"{here}: {unknown('cell', name, study.cells)}")
        if claim.test and claim.test not in study.tests:
            raise UserError(f"{here}: {unknown('test set', claim.test, study.tests)}")
        if not (claim.control or claim.reference):
            raise UserError(f"{here}: give a control or reference cells to take a difference.")


def _check_row(profile: "Profile", row: str, where: str) -> None:
    name = row.partition("/")[0]
    if name not in profile.experiments:
        raise UserError(f"{where}: {unknown('experiment', name, profile.experiments)}")
