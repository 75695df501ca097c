"""Controlled experiments on a tiny set: what is drawn, kept, paired, left out and written."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from toy_profile import write_params

from wsssbench.data import scenes
from wsssbench.data.folder import Folder
from wsssbench.errors import UserError
from wsssbench.evaluation.mechanisms import MASKS, MEASURES
from wsssbench.evaluation.paired import LEAST_SEEDS
from wsssbench.files import write_text
from wsssbench.params import load
from wsssbench.reporting.claims import assess, curves, differences, passing
from wsssbench.stages import study as stage
from wsssbench.stages.studies import collect, pictures, report, summary
from wsssbench.study_params import Claim, StudySettings

KNOBS = {"size": 32, "classes": 4, "train": 8, "val": 6, "rho": 0.5, "q": 0.0, "max_objects": 1}
PROBLEM = {
    "name": "problem",
    "mechanism": "A smaller part leaves more of the body out.",
    "experiment": "cam",
    "measure": "body_recall@fixed",
    "expected": "-",
    "cells": ["small"],
    "reference": ["large"],
}
BIAS = {**PROBLEM, "name": "bias", "experiment": "biased", "control": "cam", "expected": "0"}
STUDY = {
    "question": "Is the body found?",
    "cells": {"large": {"part_ratio": 0.5}, "small": {"part_ratio": 0.1}},
    "tests": {"natural": {}, "pairs": {"contents": "pairs", "val": 4}},
    "figures": ["body_to_part", "partner_leak@fixed even on pairs"],
    "claims": [PROBLEM, {**BIAS, "roles": ["even"]}],
    "crf": {"cam": "irn"},
}


def params(folder, **study):
    data = {"source": "scenes", "root": "data/toy", "options": KNOBS}
    experiments = {
        "cam": {"title": "CAM", "method": "cam"},
        "biased": {"title": "CAM with bias", "method": "cam", "settings": {"bias": True}},
    }
    grid = {"experiments": ["cam", "biased"], "cells": ["large", "small"], "seeds": [0, 1]}
    sections = {"train": {"epochs": 1, "resize": [32, 32]}, "pseudo_masks": {"scales": [1.0]}}
    return write_params(folder, data=data, experiments=experiments, grid=grid,
                        study=STUDY | study, **sections)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of which all runs but one are there."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("repo")
        monkeypatch.chdir(folder)
        place = folder / "profiles" / "toy"
        place.mkdir(parents=True)
        path = params(place)
        path.write_text(path.read_text() + "params_file: profiles/toy/params.yaml\n")
        profile = load(path)
        for cell, experiment, seed in (
            ("large", "cam", 0), ("small", "cam", 0), ("large", "cam", 1), ("small", "cam", 1),
            ("small", "biased", 0), ("large", "biased", 0), ("small", "biased", 1),
        ):  # fmt: skip
            stage.run(profile, cell, experiment, seed)
        yield folder, profile


@pytest.fixture
def there(done, monkeypatch):
    monkeypatch.chdir(done[0])
    return done[1]


def test_cells_differ_in_their_knob_and_seeds_in_their_pictures(there):
    def settings(place):
        return json.loads(Path(f"data/toy/{place}/settings.json").read_text())

    large, small = settings("large/train-0"), settings("small/train-0")
    assert {key for key in large if large[key] != small[key]} == {"part_ratio"}
    assert settings("large/train-1")["seed"] == 1
    assert settings("small/test-pairs")["contents"] == "pairs"
    folder = Folder("data/toy/small/test-pairs")
    assert [np.flatnonzero(folder.label(name)).tolist() for name in folder.ids("val")[:2]] == [
        [0, 3],
        [1, 2],
    ]


def test_measures_of_a_run(there):
    path = stage.measure_dir(there, "small", "cam", 0)
    table = pd.read_csv(path / "measures.csv", keep_default_na=False, na_values=[""])
    assert set(table["measure"]) == set(MEASURES)
    assert set(table["kind"].dropna()) == {"cam", "cam+crf"}
    sharp = set(table.loc[table["kind"] == "cam+crf", "measure"])
    assert f"{next(iter(MASKS))}@best" in sharp
    assert "body_to_part" not in sharp
    assert set(table["role"].dropna()) == {"even"}
    assert not table.duplicated(["test", "kind", "label", "measure"]).any()
    record = json.loads((path / "record.json").read_text())
    assert record["provenance"]["git_revision"]
    assert record["kinds"] == ["cam", "cam+crf"]


def test_what_is_there_is_kept_and_a_measure_costs_no_training(there, monkeypatch):
    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(stage, "train", never)
    path = stage.run(there, "small", "cam", 0) / "measures.csv"
    before = path.stat().st_mtime_ns
    evaluate = dataclasses.replace(there.evaluate, boundary_px=1)
    stage.run(dataclasses.replace(there, evaluate=evaluate), "small", "cam", 0)
    assert path.stat().st_mtime_ns > before
    stage.run(there, "small", "cam", 0)
    longer = dataclasses.replace(there, train=dataclasses.replace(there.train, epochs=2))
    with pytest.raises(AssertionError, match="trained again"):
        stage.run(longer, "small", "cam", 0)


def test_report_counts_what_is_missing(there):
    page = report(there).read_text()
    assert "7 of 8 runs" in page
    assert "Is the body found?" in page
    found = pd.read_csv("reports/toy/claims.csv")
    assert found["verdict"].tolist() == ["too few seeds"] * 2
    assert found["seeds"].tolist() == [2, 1]  # the interaction lacks a run of the second seed
    assert "partner_leak@fixed, even on pairs" in page


def test_runs_of_other_settings_are_counted_and_not_used(there):
    longer = dataclasses.replace(there, train=dataclasses.replace(there.train, epochs=2))
    study = collect(longer)
    assert (len(study.records), study.others) == (0, 7)
    assert "7 more have other settings" in study.under
    other = dataclasses.replace(there.experiments["biased"], settings={"bias": False})
    changed = dataclasses.replace(there, experiments={**there.experiments, "biased": other})
    assert collect(changed).others == 3
    assert set(pictures(changed, "natural")["small"].maps) == {"CAM"}


def test_a_run_from_before_a_test_set_has_no_picture_of_it(there):
    """Its cells may have pictures by then; a file that is cut off is named."""
    study = dataclasses.replace(there.study, tests={**there.study.tests, "later": {}})
    later = dataclasses.replace(there, study=study)
    scenes.prepare(stage.test_root(later, "small", "later"),
                   **stage._test_options(later, "small", "later"))  # fmt: skip
    assert pictures(later, "later")["small"].maps == {}
    assert set(pictures(later, "natural")["small"].maps) == {"CAM", "CAM with bias"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("maps.npz", b"PK\x03\x04 cut off"), ("measures.csv", b""), ("measures.csv", b"a,b\n1,2\n")],
)
def test_a_damaged_file_is_named(there, name, content):
    path = stage.measure_dir(there, "small", "cam", 0) / name
    kept = path.read_bytes()
    path.write_bytes(content)
    try:
        with pytest.raises(UserError, match=rf"{name} is damaged .* Delete .*/measure and run"):
            collect(there)
    finally:
        path.write_bytes(kept)  # other tests read it, too


def test_summary_of_all_studies(there):
    page = summary().read_text()
    assert "A smaller part leaves more of the body out." in page
    assert len(pd.read_csv("reports/studies/claims.csv")) == 2


def test_without_runs_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = load(params(tmp_path))
    assert "0 of 8 runs" in report(profile).read_text()
    assert {one.verdict for one in collect(profile).found} == {"not run"}
    with pytest.raises(UserError, match="No study has a page"):
        summary()
    with pytest.raises(UserError, match=r"no measured run, so reports/toy/index\.html is kept"):
        report(profile)


def test_a_summary_needs_no_runs_of_a_study_that_has_a_page(there):
    report(there)
    content = Path("profiles/toy/params.yaml").read_text()
    place, page = Path("profiles/other/params.yaml"), Path("reports/other/claims.csv")
    write_text(place, content.replace("profile: toy", "profile: other").replace("/toy/", "/other/"))
    claims = pd.read_csv("reports/toy/claims.csv", keep_default_na=False)
    assert claims["differences"].str.split().str.len().tolist() == [2, 1]
    elsewhere = claims.assign(study="other", mechanism="Said elsewhere.").drop(
        columns="differences"
    )
    write_text(page, elsewhere.to_csv(index=False))
    assert "Said elsewhere." in summary().read_text()
    both = pd.read_csv("reports/studies/claims.csv")
    assert both["mean"].tolist() == pytest.approx(2 * claims["mean"].astype(float).tolist())
    numbers = claims.assign(study="other", expected="0", differences="0.5", seeds=1)
    write_text(page, numbers.to_csv(index=False))
    assert "expected 0" in summary().read_text()  # texts that look like numbers stay texts
    write_text(page, claims.to_csv(index=False))
    with pytest.raises(UserError, match=r"pages of other and toy are both titled 'toy'"):
        summary()
    write_text(page, elsewhere.drop(columns="verdict").to_csv(index=False))
    with pytest.raises(UserError, match=r"other/claims\.csv lacks verdict"):
        summary()
    write_text(page, "")
    with pytest.raises(UserError, match=r"other/claims\.csv cannot be read"):
        summary()
    page.unlink()
    place.unlink()


def test_initial_weights_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = {
        "cells": {"large": {}, "small": {}, "even": {"seed": 100}},
        "pretrain": {"cell": "even", "experiment": "biased"},
        "tests": {"natural": {}},
        "figures": [],
        "crf": {},
    }
    path = params(tmp_path, **study)
    content = yaml.safe_load(path.read_text())
    content["model"] |= {"weights": "pretrained", "batch_norm": "frozen", "frozen_stages": 2}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="starts from what it is to make"):
        load(path)
    own = {"weights": "none", "batch_norm": "train", "frozen_stages": 0}
    content["experiments"]["biased"]["model"] = own
    content["study"]["claims"] = []
    path.write_text(yaml.safe_dump(content))
    profile = load(path)
    out = stage.run(profile, "large", "cam", 1)
    record = json.loads((out / "record.json").read_text())["provenance"]
    assert record["weights"] == "1.pt"
    made = torch.load("runs/toy/pretrained/1.pt", weights_only=True)
    last = torch.load(out.parent / "train" / "model.pt", weights_only=True)
    frozen = "stage1.0.weight"
    assert torch.equal(made[frozen], last[f"network.backbone.{frozen}"])
    assert json.loads(Path("data/toy/even/train-1/settings.json").read_text())["seed"] == 101
    before = Path("runs/toy/pretrained/1.pt").stat().st_mtime_ns
    stage.run(profile, "large", "cam", 1)
    assert Path("runs/toy/pretrained/1.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pretrain": {"cell": "small", "experiment": "cam"}}, "go together"),
        ({"cells": {"large": {"part_rato": 1}, "small": {}}}, "Did you mean 'part_ratio'"),
        ({"claims": [{**PROBLEM, "measure": "body_recal@best"}]}, "Did you mean 'body_recall@"),
        ({"claims": [{**PROBLEM, "experiment": "cam/scgg"}]}, "(problem): Unknown kind 'scgg'"),
        ({"claims": [{**PROBLEM, "cells": ["smal"]}]}, "Did you mean 'small'"),
        ({"claims": [{**PROBLEM, "reference": []}]}, "give a control or reference cells"),
        ({"claims": [PROBLEM, PROBLEM]}, "two claims have this name"),
        ({"claims": [{**PROBLEM, "test": "x"}]}, "Unknown test set 'x'"),
        ({"crf": {"cam": "inr"}}, "Did you mean 'irn'"),
        ({"figures": ["body_auc on x"]}, "Unknown test set 'x'"),
        ({"tests": {}}, "tests names no test set"),
        ({"points": {"both": ["large", "smal"]}}, "points.both: Unknown cell 'smal'"),
        ({"claims": [{**PROBLEM, "roles": ["tial"]}]}, "claims (problem): Unknown role 'tial'"),
        ({"figures": ["body_auc evn on pairs"]}, "figures: Unknown role 'evn'"),
        ({"gate": 0.8, "gate_roles": ["tial"]}, "gate_roles: Unknown role 'tial'"),
        ({"gate": 0.8}, "gate_roles go together"),
        ({"gate": 7, "gate_roles": ["even"]}, "up to 1"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, change, text):
    with pytest.raises(UserError) as caught:
        stage.check(load(params(tmp_path, **change)))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


STUDIES = sorted((Path(__file__).parents[2] / "profiles").glob("study_*/params.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_studies_of_the_repository_are_sound(path):
    profile = load(path)
    stage.check(profile)
    assert len(profile.grid.seeds) >= LEAST_SEEDS
    assert {claim.experiment.partition("/")[0] for claim in profile.study.claims} <= {
        *profile.grid.experiments
    }
    assert {cell for claim in profile.study.claims for cell in claim.cells + claim.reference} <= {
        *profile.grid.cells
    }


def lines(rows):
    """Measures of class 1 and 2 in one test set; rows of cell, experiment, seed, label, value."""
    columns = ["cell", "experiment", "seed", "label", "value"]
    table = pd.DataFrame(rows, columns=columns)
    fixed = {"kind": "cam", "main": True, "test": "t", "measure": "iou@best"}
    roles = np.where((table["label"] == 1) & (table["cell"] != "even"), "tail", "even")
    return table.assign(**fixed, role=roles)


CLAIM = Claim("a", "b", "new", "iou@best", "+", ("odd",), control="old", reference=("even",))


def test_interaction_by_hand():
    table = lines([
        ("odd", "new", 0, 1, 0.9), ("odd", "old", 0, 1, 0.5),
        ("even", "new", 0, 1, 0.8), ("even", "old", 0, 1, 0.7),
        ("odd", "new", 0, 2, 0.4), ("odd", "old", 0, 2, 0.4),
        ("even", "new", 0, 2, 0.2), ("even", "old", 0, 2, 0.3),
        ("odd", "new", 1, 1, 0.9),
    ])  # fmt: skip
    gaps = differences(table, CLAIM, "t")
    assert gaps.to_dict() == pytest.approx({(0, 1): 0.3, (0, 2): 0.1})
    tail = dataclasses.replace(CLAIM, roles=("tail",))
    assert differences(table, tail, "t").to_dict() == pytest.approx({(0, 1): 0.3})
    found = assess(table, [CLAIM], ["t"])[0]
    assert found.effect.mean == pytest.approx(0.2)
    assert (found.verdict, found.classes) == ("too few seeds", "2 of 2")
    assert found.contrast == "(new − old) in odd, minus the same in even"


def test_roles_are_averaged_over_the_cells_that_have_them():
    """Class 1 is the tail of cell a, class 2 that of cell b; the reference has both."""
    claim = dataclasses.replace(CLAIM, control="", cells=("a", "b"), roles=("tail",))
    table = lines([("a", "new", 0, 1, 0.1), ("a", "new", 0, 2, 0.9), ("b", "new", 0, 2, 0.2),
                   ("b", "new", 0, 1, 0.8), ("even", "new", 0, 1, 0.5),
                   ("even", "new", 0, 2, 0.7)])  # fmt: skip
    table.loc[(table["cell"] == "b"), "role"] = ["tail", "head"]
    gaps = differences(table, claim, "t")
    assert gaps.to_dict() == pytest.approx({(0, 1): -0.4, (0, 2): -0.5})
    # a reference that has these roles counts where a class has them
    other = table[table["cell"] != "even"].replace({"cell": {"a": "c", "b": "d"}})
    both = pd.concat([table, other.assign(value=other["value"] + 0.1)])
    gaps = differences(both, dataclasses.replace(claim, reference=("c", "d")), "t")
    assert gaps.to_dict() == pytest.approx({(0, 1): -0.1, (0, 2): -0.1})


def test_rows_are_subtracted_within_a_cell():
    """Cell b is easy; without `old` there, the ease of b must not count as the effect of `new`."""
    claim = dataclasses.replace(CLAIM, cells=("a", "b"), reference=())
    whole = [("a", "new", 0, 1, 0.3), ("a", "old", 0, 1, 0.2),
             ("b", "new", 0, 1, 0.9), ("b", "old", 0, 1, 0.8)]  # fmt: skip
    short = [(cell, row, 1, label, value) for cell, row, _, label, value in whole[:3]]
    gaps = differences(lines(whole + short), claim, "t")
    assert gaps.to_dict() == pytest.approx({(0, 1): 0.1})


def test_gate_leaves_out_whole_runs():
    table = lines([("odd", "new", 0, 1, 0.9), ("odd", "new", 1, 1, 0.9)])
    f1 = table.assign(measure="tag_f1", kind="", main=False, value=[0.79, 0.8])
    kept, out = passing(pd.concat([table, f1]), 0.8, ("tail",), "t")
    assert set(kept["seed"]) == {1}
    assert out[["cell", "experiment", "seed", "worst"]].values.tolist() == [["odd", "new", 0, 0.79]]


def test_curves_average_classes_then_seeds():
    table = lines([("odd", "new", 0, 1, 0.9), ("odd", "new", 0, 2, 0.5), ("odd", "new", 1, 1, 0.3)])
    line = curves(table, "iou@best", "t", points={"odd": ["odd"]}).iloc[0]
    assert (line["row"], line["seeds"]) == ("new", 2)
    assert line["mean"] == pytest.approx((0.7 + 0.3) / 2)


def test_cells_of_a_point_are_averaged_and_seeds_that_lack_one_are_out():
    """Class 1 is the tail of cell a, class 2 that of cell b; the even cell has both."""
    table = lines([("a", "new", 0, 1, 0.2), ("b", "new", 0, 2, 0.6), ("a", "new", 1, 1, 0.9),
                   ("even", "new", 0, 1, 0.3), ("even", "new", 0, 2, 0.7)])  # fmt: skip
    table.loc[table["cell"] == "b", "role"] = "tail"
    points = StudySettings("?", cells={}, tests={}, points={"both": ("a", "b")})
    points = points.points_of(["a", "b", "even"])
    assert points == {"both": ["a", "b"], "even": ["even"]}
    found = curves(table, "iou@best", "t", ("tail", "even"), points=points)
    assert found[["cell", "mean", "seeds"]].values.tolist() == [["both", 0.4, 1], ["even", 0.5, 1]]
