"""One run of a controlled experiment: draw a cell's pictures, train, measure what was dialled in.

All steps of a run belong together here, for they take seconds: `run` leaves
runs/<study>/<cell>/<seed>/<experiment>-<seed>/ with train/ and measure/. Test pictures are drawn
once per cell and are the same for all runs; training pictures are drawn anew for each seed.
"""

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from wsssbench import provenance
from wsssbench.data import scenes
from wsssbench.data.folder import Folder, LabelledImages
from wsssbench.data.scenes.looks import partner
from wsssbench.data.scenes.settings import SceneSettings, make_settings
from wsssbench.engine import devices
from wsssbench.engine.inference import normalised, same_size_batches
from wsssbench.errors import UserError, unknown
from wsssbench.evaluation import mechanisms
from wsssbench.evaluation.mechanisms import ALL, Case, Value
from wsssbench.evaluation.reading import StoredMaps
from wsssbench.files import atomic, read_json, write_json, write_text
from wsssbench.methods import code_of
from wsssbench.methods.base import Method
from wsssbench.models import weights_hash
from wsssbench.params import Profile
from wsssbench.plan import code_hash, roots_of
from wsssbench.progress import note, progress
from wsssbench.refinement.dense_crf import PARAMETER_SETS
from wsssbench.refinement.pamr import one_thread
from wsssbench.stages import plan
from wsssbench.stages.common import kinds_of, load_trained
from wsssbench.stages.crf import sharpen_maps
from wsssbench.stages.prepare import prepare
from wsssbench.stages.train import train

SHOWN = 8  # pictures of a test set whose maps are kept for the page
COLUMNS = ["test", "kind", "label", "class", "role", "measure", "value", "n"]


def check(profile: Profile) -> None:
    """Check a study: its experiments, knobs, measures and refined rows.

    Raises:
        UserError: what is wrong and where.
    """
    study, where = profile.study, f"{profile.params_file}: study"
    if study is None:
        raise UserError(f"{profile.params_file} is no study: it has no section 'study'.")
    for name in profile.grid.experiments:
        plan.check(profile, name)
    for cell in study.cells:
        for test in study.tests:
            try:
                options = dict(_test_options(profile, cell, test))
                options.pop("contents", None)
                make_settings(options)
            except UserError as error:
                raise UserError(f"{where}.cells.{cell}, tests.{test}: {error}") from error
    figures = [study.figure(figure) for figure in study.figures]
    claims = {f"claims ({claim.name})": claim.roles for claim in study.claims}
    named = {"gate_roles": study.gate_roles, "figures": [r for *_, roles in figures for r in roles]}
    known = {role for cell in study.cells for role in cell_settings(profile, cell).roles().values()}
    for place, roles in (named | claims).items():
        for role in roles:
            if role not in known:
                raise UserError(f"{where}.{place}: {unknown('role', role, sorted(known))}")
    for row, parameters in study.crf.items():
        if parameters not in PARAMETER_SETS:
            what = unknown("dense CRF parameter set", parameters, PARAMETER_SETS)
            raise UserError(f"{where}.crf: {what}")
        experiment, _, kind = row.partition("/")
        if kind and kind not in kinds_of(profile, experiment):
            raise UserError(
                f"{where}.crf: {unknown('kind of maps', kind, kinds_of(profile, experiment))}"
            )
    for claim in study.claims:
        known = mechanisms.MEASURES
        if claim.measure not in known:
            raise UserError(f"{where}.claims ({claim.name}): "
                            f"{unknown('measure', claim.measure, known)}")  # fmt: skip
        for row in filter(None, (claim.experiment, claim.control)):
            experiment, _, kind = row.partition("/")
            shown = study_kinds(profile, experiment)
            if kind and kind not in shown:
                raise UserError(f"{where}.claims ({claim.name}): {unknown('kind', kind, shown)}")
    for measure, test, _ in figures:
        for kind, name, valid in (("measure", measure, mechanisms.MEASURES),
                                  ("test set", test, study.tests)):  # fmt: skip
            if name not in valid:
                raise UserError(f"{where}.figures: {unknown(kind, name, valid)}")


def study_kinds(profile: Profile, experiment: str) -> tuple[str, ...]:
    """The kinds in which the study measures an experiment, those after a dense CRF included."""
    kinds = kinds_of(profile, experiment)
    return (*kinds, *(f"{kind}+crf" for kind in kinds if _crf_of(profile, experiment, kind)))


def _crf_of(profile: Profile, experiment: str, kind: str) -> str:
    """The parameter set of the dense CRF that a row is refined by, empty for none."""
    crf, main = profile.study.crf, kinds_of(profile, experiment)[0]
    return crf.get(f"{experiment}/{kind}") or (crf.get(experiment, "") if kind == main else "")


def measure_dir(profile: Profile, cell: str, experiment: str, seed: int) -> Path:
    """Where the measures of a run lie."""
    return profile.cell(cell, seed).run_dir(experiment, seed) / "measure"


def run(profile: Profile, cell: str, experiment: str, seed: int) -> Path:
    """Draw, train and measure one run, as far as it is not there with these settings already.

    Returns:
        The directory of its measures.

    Raises:
        UserError: anything that start-up checks find, or see the stage train.
    """
    check(profile)
    profile.experiment(experiment)  # names the valid ones
    inner, out = profile.cell(cell, seed), measure_dir(profile, cell, experiment, seed)
    if profile.study.pretrain:
        with _alone(profile.pretrained(seed)):
            _pretrain(profile, seed)
    marks = {"training": _training_mark(inner, experiment)}
    marks["measures"] = _mark(marks["training"], _measuring(profile, cell, experiment))
    kept = _kept(out / "record.json")
    if kept.get("marks") == marks:
        note(f"{out} is there.")
        return out
    for test in profile.study.tests:
        root = test_root(profile, cell, test)
        with _alone(root):
            scenes.prepare(root, **_test_options(profile, cell, test))
    trained = _train(inner, experiment, seed)
    rows, maps = measure(profile, cell, experiment, seed)
    with atomic(out / "maps.npz") as stream:
        np.savez_compressed(stream, **maps)
    write_text(out / "measures.csv", rows.to_csv(index=False, float_format="%.6f"))
    record = {
        "study": profile.profile,
        "cell": cell,
        "experiment": experiment,
        "title": profile.experiments[experiment].title or experiment,
        "seed": seed,
        "kinds": study_kinds(profile, experiment),
        "provenance": read_json(trained / "provenance.json", "Train the run again."),
        "measured": provenance.git_state() | provenance.versions(),
        "marks": marks,
    }
    write_json(out / "record.json", record)
    return out


def _train(inner: Profile, experiment: str, seed: int) -> Path:
    """Draw the training pictures and train, unless both are there; the directory of the weights."""
    out, mark = inner.run_dir(experiment, seed) / "train", _training_mark(inner, experiment)
    with _alone(Path(inner.data.root)):
        prepare(inner)
    if _kept(out / "mark.json").get("training") != mark or not (out / "model.pt").exists():
        (out / "mark.json").unlink(missing_ok=True)
        train(inner, experiment, seed)
        write_json(out / "mark.json", {"training": mark})
    return out


def _pretrain(profile: Profile, seed: int) -> None:
    """Make the initial weights of a seed: the backbone of a method trained in a cell of its own."""
    wanted, path = profile.study.pretrain, profile.pretrained(seed)
    inner = profile.cell(wanted.cell, seed)
    mark, kept = _training_mark(inner, wanted.experiment), path.with_suffix(".json")
    if _kept(kept).get("training") == mark and path.exists():
        return
    trained = _train(inner, wanted.experiment, seed)
    folder = Folder(inner.data.root)
    method = load_trained(inner, wanted.experiment, folder, trained / "model.pt")
    with atomic(path) as stream:
        torch.save(method.network.backbone.state_dict(), stream)
    write_json(kept, {"training": mark})


def test_root(profile: Profile, cell: str, test: str) -> Path:
    """Folder of the test pictures of a cell."""
    return Path(profile.data.root) / cell / f"test-{test}"


def _test_options(profile: Profile, cell: str, test: str) -> dict:
    """Knobs of a test set: the cell's, then its own; one training picture, as there must be."""
    knobs = {**profile.data.options, **profile.study.cells[cell], **profile.study.tests[test]}
    return {**knobs, "train": 1, "holdout": 0}


def cell_settings(profile: Profile, cell: str) -> SceneSettings:
    """The knobs of a cell's pictures."""
    return make_settings({**profile.data.options, **profile.study.cells[cell]})


def measure(
    profile: Profile, cell: str, experiment: str, seed: int
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The measures of a trained run on all test sets of its cell.

    Returns:
        COLUMNS; `label` 0 and empty `class` for all classes together, `role` that of the class in
        the cell's training pictures. And the main maps of the first SHOWN pictures of each test
        set, {"<test> <id> <label>": (H, W) uint8, 255 for 1}.
    """
    inner, settings = profile.cell(cell, seed), cell_settings(profile, cell)
    roles, rows, maps = settings.roles(), [], {}
    partners = {label: partner(settings, label) for label in roles}
    for test in profile.study.tests:
        folder = Folder(test_root(profile, cell, test))
        method = load_trained(inner, experiment, folder,
                              inner.run_dir(experiment, seed) / "train" / "model.pt")  # fmt: skip
        method = method.to(devices.choose(profile.machine), memory_format=torch.channels_last)
        method.maps = kinds_of(profile, experiment)
        cases, probabilities = _cases(method, folder, profile)
        ids = folder.ids("val")
        present = np.stack([folder.label(name) > 0 for name in ids])
        companions = np.zeros_like(present)
        for row, case in enumerate(next(iter(cases.values()))):
            companions[row, np.unique(case.companion[case.companion > 0]) - 1] = True
        for name, case in zip(ids[:SHOWN], next(iter(cases.values()))):
            for key, scores in zip(case.keys, case.maps):
                maps[f"{test} {name} {key}"] = np.rint(255 * scores).astype(np.uint8)
        found = {"": mechanisms.of_tags(probabilities, present, companions)}
        for kind, shown in cases.items():
            found |= _measured(profile, experiment, kind, shown, folder, partners)
        for kind, values in found.items():
            for value in values:
                name = folder.classes[value.label - 1] if value.label else ""
                row = [test, kind, value.label, name, roles.get(value.label, "")]
                rows.append([*row, value.measure, value.value, value.n])
    return pd.DataFrame(rows, columns=COLUMNS), maps


def _cases(
    method: Method, folder: Folder, profile: Profile
) -> tuple[dict[str, list[Case]], np.ndarray]:
    """{kind: cases} of the val list with the maps of the labelled classes; (N, K) probabilities."""
    settings, device = profile.pseudo_masks, next(method.parameters()).device
    method.scales, method.flip = settings.scales, settings.flip
    ids = folder.ids("val")
    batches = same_size_batches(folder, ids, settings.batch_size)
    data = DataLoader(LabelledImages(folder, ids, normalised), batch_sampler=batches)
    cases: dict[str, list[Case]] = {kind: [] for kind in method.wanted}
    probabilities = []
    dtype = devices.precision(profile.machine, device)
    for batch in progress(data, f"maps of {folder.root}", len(batches)):
        images = batch["image"].to(device, memory_format=torch.channels_last)
        labels = batch["label"].to(device) > 0
        with torch.inference_mode(), devices.autocast(device, dtype):
            found = method.infer(images, lambda _, labels=labels: labels)
        probabilities.append(found.probabilities.float().cpu().numpy())
        for row, name in enumerate(batch["id"]):
            keys = labels[row].nonzero()[:, 0].cpu().numpy()
            hidden = scenes.read_hidden(folder.root, name)
            layers = folder.mask(name), hidden["part"] > 0, hidden["companion"]
            for kind, maps in found.maps.items():
                cases[kind].append(Case(keys + 1, maps[row, keys].float().cpu().numpy(), *layers))
    return cases, np.concatenate(probabilities)


def _measured(
    profile: Profile,
    experiment: str,
    kind: str,
    cases: list[Case],
    folder: Folder,
    partners: dict[int, int],
) -> dict[str, list[Value]]:
    """{kind: values}, and those of `<kind>+crf` where the study asks for it."""
    parameters = _crf_of(profile, experiment, kind)
    at = {"best": mechanisms.best_threshold(cases, len(partners) + 1)}
    at["fixed"] = profile.pseudo_masks.threshold
    found = {kind: mechanisms.of_maps(cases, partners)}
    if parameters:
        found[f"{kind}+crf"] = []
    for name, threshold in at.items():
        masks = {kind: [mechanisms.mask_at(case, threshold) for case in cases]}
        if parameters:
            masks[f"{kind}+crf"] = _sharpened(folder, cases, threshold, parameters)
        for one, predicted in masks.items():
            values = mechanisms.of_masks(cases, predicted, partners, profile.evaluate.boundary_px)
            values.append(Value(ALL, "threshold", threshold, len(cases)))
            found[one] += [
                dataclasses.replace(value, measure=f"{value.measure}@{name}") for value in values
            ]
    return found


def _sharpened(
    folder: Folder, cases: list[Case], threshold: float, parameters: str
) -> list[np.ndarray]:
    """Masks after a dense CRF."""
    masks = []
    with one_thread(torch.device("cpu")):
        for name, case in zip(folder.ids("val"), cases, strict=True):
            every = np.ones(len(case.keys), bool)
            stored = StoredMaps(case.keys, case.maps, every, case.truth.shape)
            masks.append(sharpen_maps(folder.image(name), stored, threshold, parameters, None))
    return masks


def _training_mark(inner: Profile, experiment: str) -> str:
    """What must be equal for a training to be kept: code, pictures, recipe."""
    chosen, recipe = inner.experiments[experiment], inner.experiment(experiment)
    roots = roots_of("train", code_of(chosen.method, chosen.settings))
    code = _code((*roots, "data/scenes/prepare.py"))
    initial = weights_hash(recipe.model.backbone, recipe.model.weights)
    parts = [chosen.method, chosen.settings, dataclasses.asdict(recipe.model), initial]
    parts += [dataclasses.asdict(recipe.train), dataclasses.asdict(inner.data)]
    return _mark(code, parts)


def _measuring(profile: Profile, cell: str, experiment: str) -> list:
    """What must be equal for measures to be kept, beside the training."""
    chosen = profile.experiments[experiment]
    code = _code(tuple(roots_of("study", code_of(chosen.method, chosen.settings))))
    tests = {test: _test_options(profile, cell, test) for test in profile.study.tests}
    sections = dataclasses.asdict(profile.pseudo_masks), profile.evaluate.boundary_px
    return [code, tests, study_kinds(profile, experiment), profile.study.crf, *sections]


@cache
def _code(roots: tuple[str, ...]) -> str:
    """Hash of the code behind `roots`; a process asks for few of them, but for each run."""
    return code_hash(roots)


def _mark(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kept(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let one process at a time draw into `root`; others wait."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(f".{root.name}.lock"), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
