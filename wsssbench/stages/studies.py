"""Pages of controlled experiments from what their runs left; nothing is trained."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from wsssbench.data import scenes
from wsssbench.data.folder import Folder
from wsssbench.errors import UserError
from wsssbench.files import read_json
from wsssbench.params import Profile, load
from wsssbench.reporting import studies
from wsssbench.reporting.claims import Study, assess, passing
from wsssbench.reporting.studies import Told
from wsssbench.reporting.study_claims import read_claims
from wsssbench.reporting.study_figures import Shown
from wsssbench.stages.study import COLUMNS, SHOWN, check, measure_dir, test_root

TYPES = {"label": int, "value": float, "seed": int, "main": bool}


def report(profile: Profile) -> Path:
    """Write reports/<study>/ from the runs that exist; those that are missing are counted.

    Returns:
        The path of index.html.

    Raises:
        UserError: this profile is no study, or a name in it is wrong; there is a page already, and
            no run that could replace it.
    """
    study, out = collect(profile), Path("reports") / profile.profile
    if not study.records and (out / "index.html").exists():
        raise UserError(
            f"runs/{profile.profile} holds no measured run, so {out / 'index.html'} is kept as it "
            f"is. Make some: python -m wsssbench study -p {profile.profile}"
        )
    return studies.write_study(study, out)


def summary() -> Path:
    """Write reports/studies/ about all studies in profiles/ that have a page.

    It reads their claims.csv, so studies may have run on different machines.

    Returns:
        The path of index.html.

    Raises:
        UserError: no study has a page, claims that cannot be read, two pages of one title.
    """
    profiles = [load(path) for path in sorted(Path("profiles").glob("*/params.yaml"))]
    asked = [profile for profile in profiles if profile.study]
    told = []
    for profile in asked:
        path = Path("reports") / profile.profile / "claims.csv"
        if path.exists():
            title = profile.report.title or profile.profile
            claims = read_claims(path)
            told.append(Told(profile.profile, title, profile.study.question, claims))
    if not told:
        raise UserError(
            "No study has a page. Make one: python -m wsssbench study -p PROFILE, with one of "
            f"{', '.join(p.profile for p in asked) or '(no study in profiles/)'}."
        )
    owners: dict[str, str] = {}
    for one in told:
        for title in one.claims["study"].unique():
            if owners.setdefault(title, one.name) != one.name:
                raise UserError(
                    f"The pages of {owners[title]} and {one.name} are both titled {title!r}. Give "
                    "one of them another report.title and make its page again: python -m "
                    f"wsssbench study -p {one.name}"
                )
    return studies.write_summary(told, Path("reports") / "studies")


def collect(profile: Profile) -> Study:
    """The measures of a study's finished runs and what they say of its claims."""
    check(profile)
    study, grid = profile.study, profile.grid
    parts, records, others = [], [], 0
    for cell in grid.cells:
        for experiment in grid.experiments:
            for seed in grid.seeds:
                record = _record(profile, cell, experiment, seed)
                if not record or not _of_now(record, profile):
                    others += bool(record)
                    continue
                path = measure_dir(profile, cell, experiment, seed)
                part = _read_measures(path / "measures.csv")
                part[["cell", "experiment", "seed"]] = cell, experiment, seed
                part[["kind", "role"]] = part[["kind", "role"]].fillna("")
                part["main"] = part["kind"] == record["kinds"][0]
                parts.append(part)
                records.append(record)
    empty = pd.DataFrame(columns=[*COLUMNS, "cell", "experiment", "seed", "main"]).astype(TYPES)
    table = pd.concat(parts, ignore_index=True) if parts else empty
    tests = list(study.tests)
    table, left_out = passing(table, study.gate, study.gate_roles, tests[0])
    return Study(
        name=profile.profile,
        title=profile.report.title,
        note=profile.report.note,
        settings=study,
        cells=grid.cells,
        experiments={name: profile.experiments[name].title or name for name in grid.experiments},
        seeds=grid.seeds,
        table=table,
        records=records,
        left_out=left_out,
        others=others,
        found=assess(table, study.claims, tests),
        pictures={test: pictures(profile, test) for test in tests} if records else {},
    )


def _record(profile: Profile, cell: str, experiment: str, seed: int) -> dict[str, Any]:
    """What a finished run says of itself; nothing if it is not there."""
    path = measure_dir(profile, cell, experiment, seed) / "record.json"
    return read_json(path, "Run it again.") if path.exists() else {}


def _of_now(record: Mapping[str, Any], profile: Profile) -> bool:
    """Whether a run was made with the settings that the profile has now; code may differ."""
    name, known = record["experiment"], record["provenance"]
    recipe = profile.cell(record["cell"], record["seed"]).experiment(name)
    chosen, had = profile.experiments[name], known["settings"]
    sections = {
        "model": dataclasses.asdict(recipe.model),
        "train": dataclasses.asdict(recipe.train),
    }
    wanted = json.loads(json.dumps({**sections, "method": chosen.settings}))
    if known["method"] != chosen.method or had["method"] != wanted["method"]:
        return False
    return all(  # a setting that the package has got since has the value that was in the code
        had[section].get(key, value) == value
        for section in sections
        for key, value in wanted[section].items()
    )


def _read_measures(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])[COLUMNS]
    except (OSError, ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise _damaged(path, error) from error


def pictures(profile: Profile, test: str) -> dict[str, Shown]:
    """A test picture of each cell with its layers, and what the first seed's runs make of it.

    The same picture in all cells: of those whose maps are kept the first one with a companion, or
    else the first one with the last class, which is the tail of a pair; that class's maps.
    """
    shown, chosen = {}, None
    for cell in profile.grid.cells:
        root = test_root(profile, cell, test)
        if not root.is_dir():
            continue
        folder = Folder(root)
        chosen = chosen or _choose(folder)
        name, label = chosen
        truth, hidden = folder.mask(name), scenes.read_hidden(root, name)
        layers = (truth > 0).astype(np.uint8)
        layers[hidden["part"] > 0] = 2
        layers[(hidden["companion"] > 0) & (truth == 0)] = 3
        maps = {}
        for experiment in profile.grid.experiments:
            run = cell, experiment, profile.grid.seeds[0]
            record = _record(profile, *run)
            if not record or not _of_now(record, profile):
                continue
            heat = _stored(measure_dir(profile, *run) / "maps.npz", f"{test} {name} {label}")
            if heat is not None:
                maps[profile.experiments[experiment].title or experiment] = heat / 255
        shown[cell] = Shown(folder.image(name), layers, maps)
    return shown


def _stored(path: Path, key: str) -> np.ndarray | None:
    """A map that a run has kept; None if it lacks this one, as runs from before a test set do."""
    try:
        with np.load(path) as stored:
            return stored.get(key)
    except (OSError, ValueError, BadZipFile) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}). Delete {path.parent} and run it again.")


def _choose(folder: Folder) -> tuple[str, int]:
    """Id of the picture to show and the class whose maps are shown."""
    ids = folder.ids("val")[:SHOWN]
    best = (ids[0], 0, False)
    for name in ids:
        present = np.flatnonzero(folder.label(name)) + 1
        companion = scenes.read_hidden(folder.root, name)["companion"]
        beside = [label for label in present if (companion == label).any()]
        label = int(max(beside or present, default=0))
        if (bool(beside), label) > (best[2], best[1]):
            best = (name, label, bool(beside))
    return best[:2]
