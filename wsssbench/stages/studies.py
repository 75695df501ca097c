"""Pages of controlled experiments from what their runs left; nothing is trained."""

from pathlib import Path

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
        UserError: no study has a page, or its claims cannot be read.
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
    return studies.write_summary(told, Path("reports") / "studies")


def collect(profile: Profile) -> Study:
    """The measures of a study's finished runs and what they say of its claims."""
    check(profile)
    study, grid = profile.study, profile.grid
    parts, records = [], []
    for cell in grid.cells:
        for experiment in grid.experiments:
            for seed in grid.seeds:
                path = measure_dir(profile, cell, experiment, seed)
                if not (path / "record.json").exists():
                    continue
                record = read_json(path / "record.json", "Run it again.")
                part = pd.read_csv(path / "measures.csv", keep_default_na=False, na_values=[""])
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
        found=assess(table, study.claims, tests),
        pictures={test: pictures(profile, test) for test in tests} if records else {},
    )


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
            path = measure_dir(profile, cell, experiment, profile.grid.seeds[0]) / "maps.npz"
            if path.exists():
                with np.load(path) as stored:
                    heat = stored[f"{test} {name} {label}"] / 255
                maps[profile.experiments[experiment].title or experiment] = heat
        shown[cell] = Shown(folder.image(name), layers, maps)
    return shown


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
