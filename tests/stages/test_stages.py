"""All stages on the toy folder, through the functions that notebooks and the command line call."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy_profile import PARAMS, write_params
from toys import make_folder

from wsssbench.data import layout
from wsssbench.data.folder import Folder
from wsssbench.data.palette import read_mask, write_mask
from wsssbench.errors import UserError
from wsssbench.evaluation import ConfusionMatrix, cf1_sweep
from wsssbench.files import write_json
from wsssbench.params import load
from wsssbench.reporting.records import load_runs
from wsssbench.stages.evaluate import evaluate, score_folder
from wsssbench.stages.plan import plan
from wsssbench.stages.prepare import prepare
from wsssbench.stages.pseudo_masks import pseudo_masks
from wsssbench.stages.report import report
from wsssbench.stages.train import train


def run_all(folder, monkeypatch, **sections):
    monkeypatch.chdir(folder)
    make_folder(folder / "data" / "toy")
    profile = load(write_params(folder, **sections))
    prepare(profile)
    plan(profile)
    train(profile, "cam", 0)
    pseudo_masks(profile, "cam", 0)
    evaluate(profile, "cam", 0)
    return profile


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("repo")
        profile = run_all(folder, monkeypatch)
        report(profile)
        yield folder


def test_a_holdout_that_is_scored_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data" / "toy"
    make_folder(root)
    ids = layout.read_ids(root, "val")
    layout.write_ids(root, "few", ids[:1])
    profile = load(write_params(tmp_path, data={**PARAMS["data"], "holdout": "few"}))
    with pytest.raises(UserError, match=f"hold-out 'few' as well as in 'val', e.g. '{ids[0]}'"):
        prepare(profile)
    data = {**PARAMS["data"], "options": {"holdout_of_val": "four"}}
    profile = load(write_params(tmp_path, data=data))
    with pytest.raises(UserError, match="holdout_of_val: expected a int like 0, got 'four'"):
        prepare(profile)


def test_record_agrees_with_the_masks_on_disk(finished):
    run = finished / "runs" / "toy" / "cam-0"
    record = json.loads((run / "evaluate/cam/record.json").read_text())
    data = finished / "data" / "toy"
    for split in ("train", "val"):
        matrix = ConfusionMatrix(3)
        for name in (data / "ImageSets/Segmentation" / f"{split}.txt").read_text().split():
            truth = read_mask(data / "SegmentationClass" / f"{name}.png")
            mask = read_mask(run / "pseudo_masks/cam" / split / "masks" / f"{name}.png")
            matrix.update(mask, truth)
        found = record["splits"][split]
        assert found["miou"] == pytest.approx(matrix.miou())
        assert found["fp"] == pytest.approx(matrix.mfp())
        assert found["fn"] == pytest.approx(matrix.mfn())


def test_protocol_threshold_gives_the_same_score_in_the_sweep(finished):
    """Masks on disk and the one-pass sweep over maps are two roads to one number."""
    evaluate_dir = finished / "runs" / "toy" / "cam-0" / "evaluate" / "cam"
    record = json.loads((evaluate_dir / "record.json").read_text())
    for split, found in record["splits"].items():
        sweep = pd.read_csv(evaluate_dir / split / "sweep.csv")
        at = sweep.loc[(sweep.threshold - found["threshold"]).abs().idxmin()]
        assert at.miou == pytest.approx(found["miou"], abs=1e-6)
        assert sweep.miou.max() >= found["miou"] - 1e-6


def test_oracle_is_the_best_on_train_also_for_val(finished):
    record = json.loads((finished / "runs/toy/cam-0/evaluate/cam/record.json").read_text())
    sweep = pd.read_csv(finished / "runs/toy/cam-0/evaluate/cam/train/sweep.csv")
    best = sweep.loc[sweep.miou.idxmax()].threshold
    assert record["splits"]["train"]["oracle_threshold"] == pytest.approx(best)
    assert record["splits"]["val"]["oracle_threshold"] == pytest.approx(best)


def test_labels_are_used_on_train_only(finished):
    record = json.loads((finished / "runs/toy/cam-0/evaluate/cam/record.json").read_text())
    assert record["splits"]["train"]["labels_used"] is True
    assert record["splits"]["train"].get("with_labels") is None
    assert record["splits"]["val"]["labels_used"] is False
    assert set(record["splits"]["val"]["with_labels"]) == {"miou", "fp", "fn"}
    masks = finished / "runs/toy/cam-0/pseudo_masks"
    table = pd.read_csv(masks / "val.csv").set_index("id")
    for name, scores in table.iterrows():
        shown = set(np.unique(read_mask(masks / "cam/val/masks" / f"{name}.png"))) - {0}
        assert shown <= {i for i, p in enumerate(scores, 1) if p >= 0.5 - 1e-6}


def test_provenance_of_the_row(finished):
    record = json.loads((finished / "runs/toy/cam-0/evaluate/cam/record.json").read_text())
    facts = record["provenance"]
    needed = "dataset content_hash train_split seed backbone weights device git_revision git_dirty"
    assert set(needed.split()) <= set(facts)
    assert len(facts["content_hash"]) == 64
    assert facts["epochs"] == 2
    assert facts["wall_s"] > 0


def test_report_is_written(finished):
    folder = finished / "reports" / "toy"
    assert "CAM" in (folder / "index.html").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cam"]["train"]["miou"] > 0


def test_a_page_is_not_replaced_by_one_without_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = load(write_params(tmp_path))
    page = report(profile)
    assert "0 of 1 runs are done" in page.read_text()
    with pytest.raises(UserError, match=r"holds no scored run, so reports/toy/index\.html is kept"):
        report(profile)


def test_plan_names_the_code_behind_a_method(finished):
    planned = json.loads((finished / "runs/toy/plan/cam/train.json").read_text())
    assert {"methods/cam.py", "engine/train.py", "models/tiny.py"} <= set(planned["files"])
    assert not any(name.startswith(("reporting", "published")) for name in planned["files"])
    maps = json.loads((finished / "runs/toy/plan/cam/pseudo_masks.json").read_text())
    assert "engine/inference.py" in maps["files"]


def test_plan_has_the_whole_recipe_and_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def planned(stage, **sections):
        plan(load(write_params(tmp_path, **sections)))
        return json.loads(Path(f"runs/toy/plan/cam/{stage}.json").read_text())["recipe"]

    usual = planned("train")
    assert usual["train"]["momentum"] == 0.9  # a default that params.yaml does not name
    own = {"cam": {"method": "cam", "title": "New", "train": {"lr": 0.003}}}
    assert planned("train", experiments=own) == usual
    assert planned("train", experiments=own, train={"lr": 1}) == usual  # overridden
    grid, other = {"evaluate": {"thresholds": [0.2, 0.8, 0.1]}}, {"evaluate": {"bootstrap": 9}}
    for stage, section in (
        ("train", {"train": {"watch": 4}}),
        ("pseudo_masks", {"pseudo_masks": {"threshold_rule": "holdout"}, "data": {"holdout": "h"}}),
    ):
        assert planned(stage, **grid) == planned(stage)
        assert planned(stage, **grid, **section) != planned(stage, **section)
        assert planned(stage, **other, **section) == planned(stage, **section)


def test_score_folder_of_somebody(finished, tmp_path):
    text = score_folder(
        finished / "runs/toy/cam-0/pseudo_masks/cam/val/masks",
        finished / "data/toy/SegmentationClass",
        ids=finished / "data/toy/ImageSets/Segmentation/val.txt",
        classes=finished / "data/toy/classes.txt",
        out=tmp_path / "scores",
    )
    record = json.loads((finished / "runs/toy/cam-0/evaluate/cam/record.json").read_text())
    assert f"mIoU {100 * record['splits']['val']['miou']:.1f}" in text
    assert "red" in text
    assert (tmp_path / "scores" / "per_class.csv").exists()


def score(root, truth, predicted, **options):
    """`score_folder` of masks of one row each, {name: ids}."""
    for folder, masks in (("truth", truth), ("pred", predicted)):
        for name, ids in masks.items():
            write_mask(root / folder / f"{name}.png", np.array([ids]))
    return score_folder(root / "pred", root / "truth", **options)


def test_a_stray_value_without_names_of_classes_is_told(tmp_path):
    plain = {"a": [0, 1, 1, 0], "b": [0, 2, 0, 255]}
    assert "Warning" not in score(tmp_path, plain, plain)
    text = score(tmp_path, plain | {"b": [0, 2, 7, 255], "c": [0, 7, 7, 0]}, plain | {"c": [0] * 4})
    told = r"Warning: 4 of the ids 1\.\.7 .* ends at 7, first in \S*truth/b\.png.*--classes"
    assert re.search(told, text)
    text = score(tmp_path / "2", {"a": [0, 1, 6, 0]}, {"a": [0, 4, 6, 0]})
    assert re.search(r"Warning: 3 .* ends at 4, first in \S*pred/a\.png", text)
    classes = tmp_path / "classes.txt"
    classes.write_text("background\n" + "".join(f"c{label}\n" for label in range(1, 8)))
    assert "Warning" not in score(tmp_path, {}, {}, classes=classes)


def test_a_class_that_the_truth_lacks_needs_the_names(tmp_path):
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    masks = {"a": [0, 1, 0]}, {"a": [0, 1, 2]}
    with pytest.raises(UserError, match=r"pred/a\.png holds value 2, .*--classes classes\.txt"):
        score(tmp_path, *masks)
    assert "dog" in score(tmp_path, *masks, classes=tmp_path / "classes.txt")


def test_a_place_for_scores_is_tried_before_the_work(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/a.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be written"):  # not: damaged
        score(tmp_path, {}, {"a": [0, 1]}, out=tmp_path / "mine")


def test_holdout_threshold_is_chosen_on_the_holdout(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data" / "toy", images=16)
    lists = root / "ImageSets/Segmentation"
    names = (lists / "train.txt").read_text().split()
    (lists / "hold.txt").write_text("\n".join(names[:3]))
    (lists / "train.txt").write_text("\n".join(names[3:]))
    monkeypatch.chdir(tmp_path)
    profile = load(
        write_params(tmp_path, data={"holdout": "hold"}, pseudo_masks={"threshold_rule": "holdout"})
    )
    prepare(profile)
    train(profile, "cam", 0)
    out = pseudo_masks(profile, "cam", 0)
    protocol = json.loads((out / "cam/protocol.json").read_text())
    assert protocol["threshold_rule"] == "holdout"
    assert protocol["holdout"] == "hold"
    assert protocol["threshold"] in profile.evaluate.grid
    record = json.loads((evaluate(profile, "cam", 0) / "cam/record.json").read_text())
    assert record["splits"]["train"]["threshold"] == protocol["threshold"]
    assert set(record["splits"]) == {"train", "val"}


def test_own_data_without_any_training_mask(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data" / "toy")
    for name in (root / "ImageSets/Segmentation/train.txt").read_text().split():
        (root / "SegmentationClass" / f"{name}.png").unlink()
    monkeypatch.chdir(tmp_path)
    profile = load(write_params(tmp_path))
    prepare(profile)
    train(profile, "cam", 0)
    pseudo_masks(profile, "cam", 0)
    record = json.loads((evaluate(profile, "cam", 0) / "cam/record.json").read_text())
    assert "miou" not in record["splits"]["train"]
    assert record["splits"]["train"]["map"] > 0
    assert record["splits"]["val"]["miou"] > 0
    assert report(profile).exists()


def test_several_kinds_of_maps_and_a_watch(tmp_path, monkeypatch):
    experiments = {"cam": {"method": "cam", "maps": ["cam", "scg+pamr"]}}
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "data" / "toy")
    sections = {"train": {"watch": 3}, "pseudo_masks": {"conf_threshold": None}}
    profile = load(write_params(tmp_path, experiments=experiments, **sections))
    prepare(profile)
    plan(profile)
    watched = pd.read_csv(train(profile, "cam", 0) / "watch.csv")
    assert watched.epoch.tolist() == [1, 1, 2, 2]
    assert watched.maps.tolist() == ["cam", "scg+pamr"] * 2
    assert (watched.oracle_miou >= watched.miou - 1e-9).all()
    assert (watched.images == 3).all()
    pseudo_masks(profile, "cam", 0)
    out = evaluate(profile, "cam", 0)
    records = {k: json.loads((out / k / "record.json").read_text()) for k in ("cam", "scg+pamr")}
    assert records["scg+pamr"]["maps"] == "scg+pamr"
    assert records["scg+pamr"]["protocol"]["refinement"] == ["scg", "pamr"]
    protocol = records["cam"]["protocol"]
    assert protocol["conf_rule"] == "best CF1 on train"
    # chosen with image labels alone: by hand from the stored probabilities
    table = pd.read_csv(tmp_path / "runs/toy/cam-0/pseudo_masks/train.csv").set_index("id")
    truth = np.stack([Folder(root).label(name) for name in table.index])
    steps = [s / 100 for s in range(1, 100)]
    f1 = [cf1_sweep(table.to_numpy(np.float32), truth, [s]).best()[3] for s in steps]
    assert protocol["conf_threshold"] == pytest.approx(steps[int(np.argmax(f1))])
    assert report(profile).exists()


def test_a_watch_changes_no_weight_and_needs_no_mask(tmp_path, monkeypatch):
    weights = []
    for name, watch, masks in (("a", 0, True), ("b", 4, True), ("c", 4, False)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        root = make_folder(folder / "data" / "toy")
        if not masks:
            shutil.rmtree(root / "SegmentationClass")
        profile = load(write_params(folder, train={"watch": watch}))
        prepare(profile)
        out = train(profile, "cam", 0)
        weights.append(torch.load(out / "model.pt", weights_only=True))
        assert (out / "watch.csv").exists() == (watch > 0 and masks)
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key])
        assert torch.equal(value, weights[2][key])


def test_true_masks_reach_an_upper_bound_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "data" / "toy")
    settings = {"warmup": 0.0, "decoder_width": 8, "pooling": "mean"}
    arms = {name: {"method": "cosa", "settings": {**settings, "csc": name}}
            for name in ("truth", "aux")}  # fmt: skip
    profile = load(
        write_params(tmp_path, experiments=arms, grid={"experiments": list(arms)},
                     train={"epochs": 1})
    )  # fmt: skip
    prepare(profile)
    facts = json.loads((train(profile, "truth", 0) / "provenance.json").read_text())
    assert facts["supervision"] == "true masks"
    shutil.rmtree(root / "SegmentationClass")
    facts = json.loads((train(profile, "aux", 0) / "provenance.json").read_text())
    assert "supervision" not in facts
    with pytest.raises(UserError, match="masks"):
        train(profile, "truth", 0)


def test_power_background(tmp_path, monkeypatch):
    run_all(tmp_path, monkeypatch, pseudo_masks={"alpha": 4.0})
    record = json.loads((tmp_path / "runs/toy/cam-0/evaluate/cam/record.json").read_text())
    assert record["protocol"]["background"] == "power 4"
    assert record["splits"]["train"]["threshold"] == pytest.approx(0.2755, abs=1e-4)


def test_maps_of_an_earlier_training_are_not_scored(tmp_path, monkeypatch):
    profile = run_all(tmp_path, monkeypatch)
    run = profile.run_dir("cam", 0)
    (first,) = load_runs("runs/toy", {"cam": ("cam",)}, [0])
    assert first.status == "done"
    longer = load(write_params(tmp_path, train={**PARAMS["train"], "epochs": 3}))
    train(longer, "cam", 0)
    provenance = json.loads((run / "train/provenance.json").read_text())
    write_json(run / "train/provenance.json", {**provenance, "finished": "later"})
    (stale,) = load_runs("runs/toy", {"cam": ("cam",)}, [0])
    assert (stale.status, stale.reason.split(";")[0]) == (
        "failed", "was trained again after it was scored")  # fmt: skip
    with pytest.raises(UserError, match=r"earlier training of this run\. Run: .* pseudo-masks"):
        evaluate(longer, "cam", 0)

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsssbench.stages.pseudo_masks.write_masks", stop)
    with pytest.raises(KeyboardInterrupt):
        pseudo_masks(longer, "cam", 0)
    with pytest.raises(UserError, match=r"protocol\.json does not exist"):
        evaluate(longer, "cam", 0)  # half made anew


def test_changed_data_is_noticed(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data" / "toy")
    monkeypatch.chdir(tmp_path)
    profile = load(write_params(tmp_path))
    with pytest.raises(UserError, match="data prepare"):
        train(profile, "cam", 0)
    prepare(profile)
    (root / "labels.csv").write_text("id,labels\nim000,red\n")
    with pytest.raises(UserError, match="changed since prepare"):
        train(profile, "cam", 0)


def test_gpu_asked_for_where_there_is_none(tmp_path, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "data" / "toy")
    profile = load(write_params(tmp_path, machine={"device": "cuda"}))
    with pytest.raises(UserError, match="asks for a GPU, but torch sees none"):
        train(profile, "cam", 0)


def test_stages_out_of_order_say_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "data" / "toy")
    profile = load(write_params(tmp_path))
    prepare(profile)
    with pytest.raises(UserError, match="wsssbench train"):
        pseudo_masks(profile, "cam", 0)
    with pytest.raises(UserError, match="wsssbench pseudo-masks"):
        evaluate(profile, "cam", 0)


def test_mistakes_with_a_run_are_said_in_words(tmp_path, monkeypatch):
    profile = run_all(tmp_path, monkeypatch)
    for stage in (train, pseudo_masks, evaluate):
        with pytest.raises(UserError, match=r"Unknown experiment 'cma'\. Did you mean 'cam'"):
            stage(profile, "cma", 0)
    weights = profile.run_dir("cam", 0) / "train/model.pt"
    for damage in (b"", b"no weights", b"PK" + bytes(200)):
        weights.write_bytes(damage)
        with pytest.raises(UserError, match=r"is damaged, or holds no weights\. Train it: "):
            pseudo_masks(profile, "cam", 0)
    torch.save({"other": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match=r"does not fit the experiment.*Train it: "):
        pseudo_masks(profile, "cam", 0)


def test_maps_with_a_background_of_their_own_take_no_fixed_threshold(tmp_path, monkeypatch):
    sipe = {"method": "sipe", "maps": ["is_cam", "cam"], "settings": {"side_widths": [4, 4, 4, 4]}}
    run_all(tmp_path, monkeypatch, experiments={"cam": sipe}, train={"watch": 2})
    run = tmp_path / "runs" / "toy" / "cam-0"
    thresholds = [
        json.loads((run / "pseudo_masks" / kind / "protocol.json").read_text())["threshold"]
        for kind in ("is_cam", "cam")
    ]
    assert thresholds == [0.5, 0.3]
    watched = pd.read_csv(run / "train" / "watch.csv").set_index("maps")["threshold"]
    assert set(watched["is_cam"]) == {0.5}
    assert set(watched["cam"]) == {0.3}
    assert json.loads((run / "evaluate" / "is_cam" / "record.json").read_text())["splits"]


def test_protocol_names_the_windows_of_a_kind_that_has_its_own(tmp_path, monkeypatch):
    crops = {"scales": [1.0, 1.5], "size": 24, "stride": 16}
    pmm = {"method": "pmm", "maps": ["pcm", "crops+cvs"], "settings": {"crops": crops}}
    run = run_all(tmp_path, monkeypatch, experiments={"cam": pmm}).run_dir("cam", 0)
    protocol = json.loads((run / "pseudo_masks/crops+cvs/protocol.json").read_text())
    assert protocol["refinement"] == ["windows of 24 px at scales 1, 1.5", "cvs"]
    record = json.loads((run / "evaluate/crops+cvs/record.json").read_text())
    assert record["protocol"]["refinement"] == protocol["refinement"]
