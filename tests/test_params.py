import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from toy_profile import PARAMS, write_params

from wsssbench.errors import UserError
from wsssbench.params import (
    UPPER_BOUND,
    RandomWalkSettings,
    SegmentSettings,
    TrainSettings,
    build,
    find,
    load,
)
from wsssbench.schema import override


def load_with(tmp_path, **sections):
    return load(write_params(tmp_path, **sections))


def test_values_and_defaults(tmp_path):
    profile = load_with(tmp_path)
    assert profile.train.epochs == 2
    assert profile.train.resize == (32, 40)
    assert profile.pseudo_masks.scales == (1.0, 0.5)
    assert profile.pseudo_masks.conf_threshold == 0.5
    assert profile.experiments["cam"].method == "cam"
    assert profile.evaluate.grid == pytest.approx([i / 10 for i in range(1, 10)])
    assert str(profile.run_dir("cam", 3)) == "runs/toy/cam-3"


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"train": {"epoch": 3}}, "train: Unknown key 'epoch'. Did you mean 'epochs'"),
        ({"trian": {}}, "Unknown key 'trian'. Did you mean 'train'"),
        ({"train": {"epochs": "ten"}}, "epochs: expected a whole number, got 'ten'"),
        ({"train": {"epochs": 2.5}}, "epochs: expected a whole number, got 2.5"),
        ({"train": {"lr": True}}, "lr: expected a number, got True"),
        ({"train": {"resize": [32]}}, "resize: expected a list of 2"),
        ({"train": {"optimizer": "sgdd"}}, "Did you mean 'sgd'"),
        ({"pseudo_masks": {"flip": "yes"}}, "flip: expected true or false"),
        ({"grid": {"experiments": ["cma"]}}, "Did you mean 'cam'"),
        ({"grid": {"multi_stage": ["cma"]}}, "grid.multi_stage: Unknown experiment 'cma'. Did you"),
        ({"report": {"figures": ["cma"]}}, "report.figures: Unknown experiment 'cma'. Did you"),
        ({"grid": {"upper_bound": ["0"]}}, "upper_bound[0]: expected a whole number, got '0'"),
        ({"experiments": {"supervised": {"method": "cam"}}}, "'supervised' is the name of the run"),
        ({"segment": {"masks": "rw+crt"}}, "masks: Unknown value 'rw+crt'. Did you mean 'rw+crf'"),
        ({"segment": {"network": "deeplab"}}, "network: Unknown value 'deeplab'. Did you mean"),
        ({"random_walk": {"network": "psa"}}, "network: Unknown value 'psa'"),
        ({"random_walk": {"train": 3}}, "train: expected a mapping, got 3"),
        (
            {"experiments": {"cam": {"method": "cam", "segment": {"mask": "rw"}}}},
            "experiments.cam.segment: Unknown key 'mask'. Did you mean 'masks'",
        ),
        ({"train": {"batch_size": 0}}, "batch_size: expected at least 1, got 0"),
        ({"train": {"lr": -1}}, "lr: expected at least 0, got -1"),
        ({"train": {"lr_decoder": -1}}, "lr_decoder: expected at least 0, got -1"),
        ({"train": {"ema": 1.5}}, "ema: expected from 0 to 1, got 1.5"),
        ({"train": {"resize": [40, 32]}}, "train.resize goes from 40 to 32: exchange the two"),
        ({"pseudo_masks": {"scales": [1.0, 0]}}, "scales[1]: expected more than 0, got 0"),
        ({"evaluate": {"thresholds": [0.9, 0.1, 0.1]}}, "thresholds goes from 0.9 to 0.1"),
        ({"evaluate": {"thresholds": [0.1, 0.9, 0]}}, "thresholds[2]: expected more than 0"),
        ({"experiments": {"cam": {"method": "cam", "train": {"crop": 0}}}}, "crop: expected at l"),
        ({"random_walk": {"ppmg_alpha": 0}}, "ppmg_alpha: expected more than 0, got 0"),
        ({"random_walk": {"walk_radius": 1}}, "walk_radius: expected at least 2, got 1"),
        ({"segment": {"puf": {"beta": 0}}}, "puf: beta: expected more than 0, got 0"),
        ({"grid": {"seeds": [0, 1, 0]}}, "grid.seeds names 0 more than once"),
        ({"grid": {"experiments": ["cam", "cam"]}}, "grid.experiments names 'cam' more than once"),
        ({"data": {"holdout": "val"}}, "data.holdout is 'val', which is trained on or scored"),
        ({"pseudo_masks": {"threshold_rule": "holdout"}}, "data.holdout names no list"),
        ({"experiments": {"cam": {"method": "cam", "train": {"lrr": 1}}}}, "experiments.cam.train"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, sections, text):
    with pytest.raises(UserError) as caught:
        load_with(tmp_path, **sections)
    assert text in str(caught.value)
    assert "params.yaml: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_key_and_file(tmp_path):
    path = write_params(tmp_path)
    content = yaml.safe_load(path.read_text())
    del content["train"]["epochs"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="train: the key 'epochs' is missing"):
        load(path)
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "other.yaml")
    path.write_text("a: [1")
    with pytest.raises(UserError, match="not valid YAML"):
        load(path)


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    path = write_params(tmp_path)
    path.write_text(path.read_text().replace("lr: 0.003", "lr: 1e-4"))
    assert load(path).train.lr == 1e-4


def test_experiment_overrides_single_keys(tmp_path):
    experiments = {"cam": {"method": "cam", "train": {"epochs": 7}, "model": {"dilate": False}}}
    profile = load_with(tmp_path, experiments=experiments)
    changed = profile.experiment("cam")
    assert (changed.train.epochs, changed.model.dilate) == (7, False)
    assert changed.train.lr == profile.train.lr
    assert profile.train.epochs == 2


def test_later_stages_are_off_until_the_grid_names_them(tmp_path):
    path = write_params(tmp_path)
    content = yaml.safe_load(path.read_text())
    for section in ("random_walk", "segment"):
        del content[section]
    for key in ("multi_stage", "upper_bound"):
        del content["grid"][key]
    path.write_text(yaml.safe_dump(content))
    profile = load(path)
    assert (profile.grid.multi_stage, profile.grid.upper_bound) == ((), ())
    assert (profile.random_walk, profile.segment) == (RandomWalkSettings(), SegmentSettings())


def test_a_grid_may_send_some_experiments_on(tmp_path):
    grid = {"experiments": ["cam", "pz"], "multi_stage": ["pz"], "upper_bound": [0, 1]}
    experiments = {name: {"method": "cam"} for name in ("cam", "pz")}
    profile = load_with(tmp_path, grid=grid, experiments=experiments)
    assert profile.grid.multi_stage == ("pz",)
    assert profile.grid.upper_bound == (0, 1)
    assert UPPER_BOUND not in profile.experiments


def test_experiment_overrides_the_later_stages(tmp_path):
    base = {"epochs": 2, "lr": 0.1}
    changes = {"random_walk": {"radius": 4, "train": {"epochs": 5}}, "segment": {"masks": "crf"}}
    profile = load_with(
        tmp_path,
        random_walk={"train": base},
        experiments={"cam": {"method": "cam", **changes}},
    )
    own = profile.experiment("cam")
    assert (own.random_walk.radius, own.random_walk.walk_radius) == (4, 3)
    assert own.random_walk.train == {"epochs": 5, "lr": 0.1}  # what does not differ stays
    assert own.segment.masks == "crf"
    assert (profile.random_walk.radius, profile.random_walk.train) == (3, base)
    assert profile.segment.masks == "rw+crf"


def test_override_keeps_checks_and_nested_keys():
    section = RandomWalkSettings(train={"epochs": 3, "lr": 0.5})
    assert override(section, {}, "here") is section
    assert override(section, {"train": {"lr": 0.1}}, "here").train == {"epochs": 3, "lr": 0.1}
    assert override(section, {"beta": 8}, "here").train == section.train
    with pytest.raises(UserError, match="here: train: expected a mapping, got 3"):
        override(section, {"train": 3}, "here")
    with pytest.raises(UserError, match=r"here: Unknown key 'bta'\. Did you mean 'beta'"):
        override(section, {"bta": 8}, "here")


def test_find_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles" / "own").mkdir(parents=True)
    own = {"profile": "own", "params_file": "profiles/own/params.yaml"}
    write_params(tmp_path / "profiles" / "own", **own)
    write_params(tmp_path)
    assert load(find("own")).profile == "own"
    assert load(find("toy")).profile == "toy"
    with pytest.raises(UserError, match="Did you mean 'own'"):
        find("owm")
    with pytest.raises(UserError, match="Run from the repository's top, or name a profile: own"):
        load("nowhere.yaml")


def test_outside_the_repository_the_way_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "msrc17"):
        with pytest.raises(UserError, match=r"does not exist\. Run from the repository's top\.$"):
            find(name)


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=4), max_size=4))
def test_garbage_never_crashes_otherwise(content):
    with pytest.raises(UserError):
        build(TrainSettings, content, "train")


def test_profiles_of_the_repository_load(pytestconfig):
    top = pytestconfig.rootpath
    names = set()
    for path in [top / "params.yaml", *sorted((top / "profiles").glob("*/params.yaml"))]:
        profile = load(path)
        assert (top / profile.params_file) == path
        assert (path.parent / profile.root).resolve() == top
        stages = "profiles/study.dvc.yaml" if profile.study else "dvc.yaml"
        assert path.with_name("dvc.yaml").resolve() == top / stages
        names.add(profile.profile)
    assert {"scenes", "msrc17", "voc12", "coco14"} <= names
    assert set(PARAMS) <= {field for field in profile.__dataclass_fields__}


def test_profiles_of_the_repository_hold_what_their_stages_name(pytestconfig):
    top = pytestconfig.rootpath
    for path in [top / "params.yaml", *sorted((top / "profiles").glob("*/params.yaml"))]:
        template = path.with_name("dvc.yaml").read_text()
        stages = yaml.safe_load(template)["stages"].values()
        named = [group for stage in stages for entry in stage["params"] for group in entry.values()]
        sections = {section for group in named for section in group}
        content = yaml.safe_load(path.read_text())
        missing = {name for name in sections if name.split(".")[0] not in content}
        missing |= set(re.findall(r"\$\{grid\.(\w+)}", template)) - set(content["grid"])
        assert not missing, path


def test_copied_profile_must_change_its_names(tmp_path):
    place = tmp_path / "profiles" / "mine"
    place.mkdir(parents=True)
    write_params(place, profile="msrc17", params_file="profiles/msrc17/params.yaml")
    with pytest.raises(UserError, match="params_file says profiles/msrc17"):
        load(place)
    write_params(place, profile="msrc17", params_file="profiles/mine/params.yaml")
    with pytest.raises(UserError, match="the directory is 'mine'"):
        load(place)
