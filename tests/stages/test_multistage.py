"""The stages after the pseudo-masks on the toy folder, through the functions."""

import json
import shutil

import numpy as np
import pytest
import torch
from toy_profile import write_params
from toys import make_folder
from typer.testing import CliRunner

from wsssbench import cli
from wsssbench.data.folder import Folder
from wsssbench.data.layout import write_ids, write_labels
from wsssbench.data.palette import read_mask, write_mask
from wsssbench.engine.inference import to_mask
from wsssbench.engine.train import train as run_training
from wsssbench.errors import UserError
from wsssbench.evaluation import ConfusionMatrix
from wsssbench.evaluation.reading import read_maps
from wsssbench.methods.affinity import Affinity
from wsssbench.methods.segmentation import Segmentation
from wsssbench.multistage import LATER, PUBLISHED, masks_dir, scores_dir
from wsssbench.params import UPPER_BOUND, load
from wsssbench.stages.common import later_kinds_of
from wsssbench.stages.evaluate import evaluate
from wsssbench.stages.plan import check_later, plan
from wsssbench.stages.prepare import prepare
from wsssbench.stages.pseudo_masks import pseudo_masks
from wsssbench.stages.random_walk import random_walk
from wsssbench.stages.report import report
from wsssbench.stages.segment import segment
from wsssbench.stages.train import train

CAM = {"title": "CAM", "method": "cam", "maps": ["cam", "scg"]}
SCHEDULE = {"epochs": 8, "resize": [36, 48]}  # some images are larger than the crop of 32
GRID = {"multi_stage": ["cam"], "upper_bound": [0]}
WITH_PPMG = {"random_walk": {"ppmg_alpha": 11}}


def write(folder, experiment=None, **sections):
    experiments = {"cam": {**CAM, **(experiment or {})}}
    sections = {"train": SCHEDULE, "grid": GRID} | sections
    return load(write_params(folder, experiments=experiments, **sections))


def lists(profile):
    folder = Folder(profile.data.root)
    return {split: folder.ids(split) for split in ("train", "val")}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """A folder with pseudo-masks: odd sizes, one image without labels, some of one class."""
    folder = tmp_path_factory.mktemp("seeded")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        root = make_folder(folder / "data" / "toy", size=(41, 35))
        labels = {name: [] for name in ("im002",)}
        own = Folder(root)
        for name in own.images:
            named = [own.classes[place] for place in np.flatnonzero(own.label(name))]
            labels.setdefault(name, named)
        write_labels(root, labels)
        profile = write(folder)
        prepare(profile)
        train(profile, "cam", 0)
        pseudo_masks(profile, "cam", 0)
    return folder


@pytest.fixture
def own(seeded, tmp_path, monkeypatch):
    """A copy of `seeded` that a test may change, as the working directory."""
    shutil.copytree(seeded, tmp_path / "repo")
    monkeypatch.chdir(tmp_path / "repo")
    return tmp_path / "repo"


NOTES = {"start.json", "origin.json"}
DRAWINGS = "wsssbench.reporting.page.drawings"  # all but those of the stages: they take long


@pytest.fixture(scope="module")
def finished(seeded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "repo"
    shutil.copytree(seeded, folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(DRAWINGS, lambda *_: [])
        monkeypatch.chdir(folder)
        profile = write(folder, WITH_PPMG)
        plan(profile)
        evaluate(profile, "cam", 0)
        random_walk(profile, "cam", 0)
        segment(profile, "cam", 0)
        evaluate(profile, "cam", 0, later=True)
        segment(profile, UPPER_BOUND, 0)
        evaluate(profile, UPPER_BOUND, 0, later=True)
        report(profile)
        yield folder


RUN, BOUND = "runs/toy/cam-0", "runs/toy/supervised-0"
MADE = [(RUN, kind) for kind in LATER] + [(BOUND, kind) for kind in ("segment", "segment+crf")]


def record_of(run, kind):
    return json.loads((scores_dir(run, kind) / "record.json").read_text())


def test_where_everything_lies(finished):
    run = finished / RUN

    def inside(*parts):
        return {path.name for path in run.joinpath(*parts).iterdir()}

    assert inside("random_walk") == {"crf", "ppmg", "labels", "network", "rw", "rw+crf", *NOTES}
    assert inside("segment") == {"network", "segment", "segment+crf", *NOTES}
    assert inside("random_walk", "crf") == {"train", "val", "protocol.json"}
    assert inside("random_walk", "rw") == {"train", "protocol.json"}  # val has no image labels
    assert inside("random_walk", "rw+crf") == {"train", "protocol.json"}
    assert inside("segment", "segment") == {"train", "val", "protocol.json"}
    for stage in ("random_walk", "segment"):
        assert inside(stage, "network") == {"model.pt", "history.csv", "provenance.json"}
    assert json.loads((run / "random_walk/start.json").read_text()) == {
        "kind": "cam",
        "network": "irn",
    }
    assert not (finished / BOUND / "random_walk").exists()
    assert not list((finished / ".ckpt").glob("*"))


@pytest.mark.parametrize(("run", "kind"), MADE)
def test_masks_of_every_image_and_size(finished, run, kind):
    profile = load(finished)
    folder, place = Folder(profile.data.root), masks_dir(finished / run, kind)
    splits = {path.name for path in place.iterdir() if path.is_dir()}
    assert splits == ({"train"} if kind in ("rw", "rw+crf") else {"train", "val"})
    for split in splits:
        files = {path.stem for path in (place / split / "masks").iterdir()}
        assert files == set(folder.ids(split))
        for name in files:
            mask = read_mask(place / split / "masks" / f"{name}.png")
            assert mask.shape == folder.mask(name).shape
            assert set(np.unique(mask)) <= {0, 1, 2}
            if "segment" not in kind and split == "train":
                assert set(np.unique(mask)) <= {0, *(np.flatnonzero(folder.label(name)) + 1)}


@pytest.mark.parametrize(("run", "kind"), MADE)
def test_record_agrees_with_the_masks_on_disk(finished, run, kind):
    profile, record = load(finished), record_of(finished / run, kind)
    folder, place = Folder(profile.data.root), masks_dir(finished / run, kind)
    assert record["maps"] == kind
    splits = ["train"] if kind in ("rw", "rw+crf") else ["train", "val"]
    assert list(record["splits"]) == splits
    for split, found in record["splits"].items():
        matrix = ConfusionMatrix(3)
        for name in folder.ids(split):
            mask = read_mask(place / split / "masks" / f"{name}.png")
            matrix.update(mask, folder.mask(name))
        assert found["images"] == len(folder.ids(split))
        assert found["miou"] == pytest.approx(matrix.miou())
        assert found["fp"] == pytest.approx(matrix.mfp())
        assert found["fn"] == pytest.approx(matrix.mfn())
        assert found["role"] == split


def test_protocols_say_how_the_masks_arose(finished):
    run = finished / RUN
    found = {kind: record_of(run, kind)["protocol"] for kind in LATER}
    assert {kind: p["stage"] for kind, p in found.items()} == {kind: kind for kind in LATER}
    assert {kind: p["crf"] for kind, p in found.items()} == {
        kind: kind.endswith("crf") or kind == "ppmg" for kind in LATER
    }
    rules = {kind: p["threshold_rule"] for kind, p in found.items()}
    assert rules == {k: "argmax" if "segment" in k else "fixed" for k in LATER}
    assert found["crf"]["threshold"] == 0.3  # the seed's
    assert found["rw"]["threshold"] == found["rw+crf"]["threshold"] == 0.25  # the walk's own
    assert found["crf"]["labels_used"] == {"train": True, "val": False}
    assert found["rw"]["labels_used"] == {"train": True}
    assert found["segment"]["labels_used"] == {"train": False, "val": False}
    assert found["crf"]["refinement"] == []
    assert found["ppmg"]["refinement"] == ["PPMG"]
    assert found["ppmg"]["background"] == "power 11"
    assert found["ppmg"]["threshold"] == pytest.approx(0.156, abs=1e-3)
    assert found["rw"]["refinement"] == ["random walk (irn)"]
    assert found["segment"]["refinement"] == ["random walk (irn)", "CRF", "deeplab_v3plus"]
    bound = record_of(finished / BOUND, "segment")
    assert bound["protocol"]["refinement"] == ["true masks", "deeplab_v3plus"]
    assert bound["title"] == "Full supervision"
    assert bound["provenance"]["method"] == "deeplab_v3plus"
    assert record_of(run, "rw")["provenance"]["method"] == "cam"


def test_only_kinds_with_maps_have_a_threshold_and_an_oracle(finished):
    for kind in LATER:
        found = record_of(finished / RUN, kind)["splits"]["train"]
        assert ("oracle_miou" in found) == (kind == "rw")
        assert (found["threshold"] is None) == ("segment" in kind)
    walked = record_of(finished / RUN, "rw")["splits"]["train"]
    assert walked["oracle_miou"] >= walked["miou"] - 1e-9


def test_masks_of_the_walk_are_its_maps_at_the_threshold(finished):
    place = finished / RUN / "random_walk" / "rw" / "train"
    for path in (place / "maps").iterdir():
        stored = read_maps(path)
        assert stored.gated.all()
        mask = read_mask(place / "masks" / f"{path.stem}.png")
        assert np.array_equal(mask, to_mask(stored, 0.25))


def test_an_image_without_labels_is_all_background(finished):
    walk = finished / RUN / "random_walk"
    for place in ("labels", "crf/train/masks", "rw/train/masks", "rw+crf/train/masks"):
        assert not read_mask(walk / place / "im002.png").any(), place
    assert len(read_maps(walk / "rw/train/maps/im002.npz").keys) == 0


def test_a_dense_crf_does_not_empty_images_of_one_class(finished):
    profile = load(finished)
    folder, checked = Folder(profile.data.root), 0
    for name in folder.ids("train"):
        for before, after in (("pseudo_masks/cam", "crf"), ("random_walk/rw", "rw+crf")):
            start = read_mask(finished / RUN / before / "train/masks" / f"{name}.png")
            if folder.label(name).sum() == 1 and (start > 0).mean() > 0.05:
                place = masks_dir(finished / RUN, after) / "train/masks"
                assert (read_mask(place / f"{name}.png") > 0).any(), (name, after)
                checked += 1
    assert checked >= 4


def test_labels_of_the_affinity_network_know_only_classes_of_the_image(finished):
    folder = Folder(load(finished).data.root)
    for name in folder.ids("train"):
        mask = read_mask(finished / RUN / "random_walk/labels" / f"{name}.png")
        assert set(np.unique(mask)) <= {0, 255, *(np.flatnonzero(folder.label(name)) + 1)}


def test_the_report_has_the_stages(finished):
    out = finished / "reports" / "toy"
    page = (out / "index.html").read_text()
    assert "Stage by stage" in page
    for split in ("train", "val"):
        assert (out / "tables" / f"stages_{split}.csv").exists()
        assert (out / "figures" / f"stages_{split}.png").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert {"cam", "cam/crf", "cam/rw", "cam/rw+crf", "cam/segment", "supervised"} <= set(summary)
    found = record_of(finished / BOUND, "segment")["splits"]["val"]["miou"]
    assert summary["supervised"]["val"]["miou"] == pytest.approx(found, abs=1e-6)


def test_the_plan_holds_each_stages_own_section(finished):
    place = finished / "runs" / "toy" / "plan"
    walk = json.loads((place / "cam/random_walk.json").read_text())
    assert walk["recipe"]["random_walk"]["radius"] == 3
    assert {"methods/affinity.py", "stages/crf.py"} <= set(walk["files"])
    bound = json.loads((place / "supervised/segment.json").read_text())
    assert bound["recipe"]["segment"]["masks"] == "truth"
    assert "models/deeplab.py" in bound["files"]
    trained = json.loads((place / "cam/train.json").read_text())
    assert "methods/affinity.py" not in trained["files"]


# What an experiment leaves out ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("walk", "kinds"),
    [
        ({"network": "none"}, {"crf"}),
        ({"crf": "none"}, {"rw", "labels", "network"}),
        ({"network": "none", "crf": "none"}, set()),
    ],
)
def test_what_is_switched_off_leaves_no_trace(own, monkeypatch, walk, kinds):
    profile = write(own, {"random_walk": walk, "segment": {"masks": "seed", "network": "none"}})
    out = random_walk(profile, "cam", 0)
    assert {path.name for path in out.iterdir()} == {*NOTES, *kinds}
    made = later_kinds_of(profile, "cam")
    assert set(made) == kinds - {"labels", "network"}
    out = segment(profile, "cam", 0)
    assert {path.name for path in out.iterdir()} == NOTES
    evaluate(profile, "cam", 0, later=True)
    scored = own / RUN / "evaluate_stages"
    assert {path.name for path in scored.glob("*")} == set(made)
    if not kinds:  # nothing to show: no section, though the grid names the experiment
        evaluate(profile, "cam", 0)
        monkeypatch.setattr(DRAWINGS, lambda *_: [])
        assert "Stage by stage" not in report(profile).read_text()


def test_a_segmentation_without_crf(own):
    settings = {"masks": "seed", "crf": "none", "flip": False}
    profile = write(own, {"random_walk": {"network": "none", "crf": "none"}, "segment": settings})
    random_walk(profile, "cam", 0)
    out = segment(profile, "cam", 0)
    assert {path.name for path in out.iterdir()} == {"network", "segment", *NOTES}
    assert later_kinds_of(profile, "cam") == ("segment",)
    found = json.loads((out / "segment/protocol.json").read_text())
    assert found["refinement"] == ["deeplab_v3plus"]
    assert found["flip"] is False


class Caught(Exception):
    """Raised in place of a training, with its job."""


@pytest.fixture
def caught(monkeypatch):
    def catch(job):
        raise Caught(job)

    for stage in ("segment", "random_walk"):
        monkeypatch.setattr(f"wsssbench.stages.{stage}.train", catch)


@pytest.mark.parametrize(
    ("masks", "place"),
    [
        ("seed", "pseudo_masks/cam"),
        ("crf", "random_walk/crf"),
        ("ppmg", "random_walk/ppmg"),
        ("rw", "random_walk/rw"),
        ("rw+crf", "random_walk/rw+crf"),
    ],
)
def test_segment_learns_from_the_masks_it_is_told(finished, own, caught, masks, place):
    shutil.copytree(finished / RUN / "random_walk", own / RUN / "random_walk")
    chosen = {"segment": {"masks": masks, "train": {"epochs": 5, "lr": 0.1}}}
    profile = write(own, chosen | (WITH_PPMG if masks == "ppmg" else {}))
    with pytest.raises(Caught) as info:
        segment(profile, "cam", 0)
    job = info.value.args[0]
    assert job.dataset.masks.as_posix() == f"{RUN}/{place}/train/masks"
    assert job.dataset.ids == lists(profile)["train"]
    assert (job.settings.epochs, job.settings.lr) == (5, 0.1)
    assert job.settings.batch_size == profile.train.batch_size


@pytest.mark.parametrize("name", ["cam", UPPER_BOUND])
def test_segment_learns_from_true_masks(own, caught, name):
    """The upper bound needs no run of anything before."""
    shutil.rmtree(own / RUN)
    profile = write(own, {"segment": {"masks": "truth"}})
    with pytest.raises(Caught) as info:
        segment(profile, name, 3)
    job = info.value.args[0]
    assert job.dataset.masks.as_posix() == "data/toy/SegmentationClass"
    assert job.out.as_posix() == f"runs/toy/{name}-3/segment/network"
    assert job.seed == 3


def test_the_walk_starts_from_the_kind_it_is_told(own, caught):
    walk = {"seed": "scg", "network": "none"}
    profile = write(own, {"random_walk": walk, "segment": {"masks": "seed"}})
    out = random_walk(profile, "cam", 0)
    assert json.loads((out / "start.json").read_text())["kind"] == "scg"
    assert json.loads((out / "crf/protocol.json").read_text())["refinement"] == ["scg"]
    with pytest.raises(Caught) as info:
        segment(profile, "cam", 0)
    assert info.value.args[0].dataset.masks.as_posix() == f"{RUN}/pseudo_masks/scg/train/masks"


def test_the_affinity_network_can_start_from_what_the_method_has_learnt(own):
    """The backbone is frozen, so it still holds those weights after its training."""
    profile = write(own, random_walk={"backbone": "method"})
    out = random_walk(profile, "cam", 0)
    learnt = torch.load(out.parent / "train" / "model.pt", weights_only=True)
    found = torch.load(out / "network" / "model.pt", weights_only=True)
    for name, value in found.items():
        if name.startswith("network.backbone."):
            assert torch.equal(value, learnt[name])


def test_labels_without_crf_are_certain_or_255(own, caught):
    """Above .6 a class, nowhere above .2 background, 255 between; a threshold itself is below."""
    walk = {"crf": "none", "certain": 0.6, "uncertain": 0.2}
    profile = write(own, {"random_walk": walk, "segment": {"masks": "rw"}})
    with pytest.raises(Caught):
        random_walk(profile, "cam", 0)
    seen = set()
    for name in lists(profile)["train"]:
        found = read_mask(own / RUN / "random_walk/labels" / f"{name}.png")
        stored = read_maps(own / RUN / "pseudo_masks/cam/train/maps" / f"{name}.npz")
        maps = np.concatenate([np.zeros((1, *stored.size)), stored.maps.astype(np.float32)])
        keys = np.array([0, *stored.keys])
        winner, best = keys[maps.argmax(0)], maps.max(0)
        expected = np.where(best > 0.6, winner, np.where(best <= np.float32(0.2), 0, 255))
        assert np.array_equal(found, expected)
        seen |= set(np.unique(found))
    assert {0, 255} < seen


def test_overrides_reach_the_networks(own, caught):
    model = {"output_stride": 16}
    profile = write(
        own,
        {"random_walk": {"radius": 4, "train": {"batch_size": 3}}, "segment": {"model": model}},
        random_walk={"network": "affinitynet", "radius": 2},
        segment={"network": "deeplab_v2", "masks": "truth"},
        train={**SCHEDULE, "crop": 56},
    )
    with pytest.raises(Caught) as info:
        random_walk(profile, "cam", 0)
    job = info.value.args[0]
    assert (job.settings.batch_size, job.settings.epochs) == (3, 2)
    affinity = job.build()
    assert (type(affinity.network).__name__, affinity.radius) == ("AffinityNet", 4)
    with pytest.raises(Caught) as info:
        segment(profile, "cam", 0)
    job = info.value.args[0]
    assert type(job.build().network).__name__ == "DeepLabV2"
    assert job.build().network.backbone.output_stride == 16
    assert job.provenance["output_stride"] == 16


def test_pretended_underfitting_reaches_the_loss(own, caught):
    profile = write(own, {"segment": {"masks": "truth", "puf": {"mode": "pow", "k": 0.8}}})
    with pytest.raises(Caught) as info:
        segment(profile, "cam", 0)
    job = info.value.args[0]
    assert job.build().form["puf"] == {"mode": "pow", "beta": 0.5, "k": 0.8}
    with pytest.raises(Caught) as info:
        segment(write(own, segment={"puf": {}, "cycles": 1}), UPPER_BOUND, 0)
    assert info.value.args[0].build().form["puf"] is None  # true masks have no noise
    assert info.value.args[0].out.as_posix() == f"{BOUND}/segment/network"
    with pytest.raises(UserError, match="puf: mode: Unknown value 'clam'"):
        write(own, {"segment": {"puf": {"mode": "clam"}}})


# The cyclic pseudo-mask -----------------------------------------------------------------------

CYCLE = {"masks": "truth", "cycles": 1, "crf": "none", "puf": {}}


def test_a_second_network_learns_from_the_first(own, monkeypatch):
    """Its masks are the first one's predictions, not gated by labels; the loss is plain."""
    profile, jobs = write(own, {"segment": {**CYCLE, "crf": "deeplab"}}), []

    def noted(job):
        jobs.append(job)
        return run_training(job)

    monkeypatch.setattr("wsssbench.stages.segment.train", noted)
    out = segment(profile, "cam", 0)
    first, second = jobs
    assert first.out == out / "first/network"
    assert second.out == out / "network"
    assert first.build().form["puf"] == {"mode": "clamp", "beta": 0.5, "k": 0.5}
    assert second.build().form["puf"] is None
    assert second.dataset.masks == out / "first/segment+crf/train/masks"
    assert first.seed == second.seed
    ids = lists(profile)["train"]
    assert sorted(path.stem for path in second.dataset.masks.iterdir()) == sorted(ids)
    assert {path.name for path in (out / "first/segment").iterdir()} == {"train"}
    made = {"first", "network", "segment", "segment+crf", *NOTES}
    assert {path.name for path in out.iterdir()} == made
    refinement = json.loads((out / "segment/protocol.json").read_text())["refinement"]
    assert refinement == ["true masks", "deeplab_v3plus", "cycle", "deeplab_v3plus"]
    weights = [
        torch.load(place / "model.pt", weights_only=True) for place in (first.out, second.out)
    ]
    assert any(not torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not list((own / ".ckpt").glob("*"))


def test_an_interrupted_cycle_goes_on_in_either_network(own, monkeypatch, capsys):
    profile, losses = write(own, {"segment": CYCLE}), Segmentation.losses
    out = own / RUN / "segment"

    def interrupt(second):
        def stop(self, batch, progress):
            if progress.epoch == 2 and second == (self.form["puf"] is None):
                raise KeyboardInterrupt
            return losses(self, batch, progress)

        with monkeypatch.context() as patch:
            patch.setattr(Segmentation, "losses", stop)
            with pytest.raises(KeyboardInterrupt):
                segment(profile, "cam", 0)
        shutil.rmtree(out, ignore_errors=True)  # as DVC does
        return "".join(capsys.readouterr())

    interrupt(second=False)
    assert "Going on after epoch 1 of 2" in interrupt(second=True)
    segment(profile, "cam", 0)
    text = "".join(capsys.readouterr())
    assert "Going on with the second network" in text
    assert "Going on after epoch 1 of 2" in text
    found = {place: torch.load(out / place / "model.pt", weights_only=True)
             for place in ("first/network", "network")}  # fmt: skip
    assert (out / "first/network/history.csv").exists()
    assert {path.name for path in (out / "first").iterdir()} == {"network", "segment"}
    shutil.rmtree(out)
    segment(profile, "cam", 0)
    for place, weights in found.items():
        again = torch.load(out / place / "model.pt", weights_only=True)
        assert all(torch.equal(value, again[key]) for key, value in weights.items()), place
    assert "Going on" not in "".join(capsys.readouterr())


# Other sizes, rules and networks ---------------------------------------------------------------


def test_affinitynet_deeplabv2_holdout_and_strided_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "data/toy", images=16, size=(38, 45))
    names = Folder(root).ids("train")
    write_ids(root, "hold", names[:3])
    write_ids(root, "train", names[3:])
    profile = write(
        tmp_path,
        data={"holdout": "hold"},
        pseudo_masks={"threshold_rule": "holdout", "map_stride": 4},
        random_walk={"network": "affinitynet", "radius": 2, "walk_radius": 2},
        segment={"network": "deeplab_v2", "balanced": True, "scales": [1.0, 0.5]},
    )
    prepare(profile)
    train(profile, "cam", 0)
    pseudo_masks(profile, "cam", 0)
    out = random_walk(profile, "cam", 0)
    protocol = json.loads((out / "rw/protocol.json").read_text())
    assert protocol["labels_used"] == {"train": True, "hold": True}
    assert protocol["holdout"] == "hold"
    assert protocol["threshold"] in profile.evaluate.grid
    stored = read_maps(out / "rw/train/maps" / f"{names[5]}.npz")
    assert stored.maps.shape[1:] == (10, 12)  # the protocol's stride
    assert stored.size == (38, 45)
    assert {path.name for path in (out / "crf").iterdir()} == {
        *("train", "val", "hold"),
        "protocol.json",
    }
    segment(profile, "cam", 0)
    evaluate(profile, "cam", 0, later=True)
    found = record_of(tmp_path / RUN, "rw")
    assert list(found["splits"]) == ["train"]
    assert found["splits"]["train"]["threshold"] == protocol["threshold"]
    assert found["protocol"]["map_stride"] == 4
    assert set(record_of(tmp_path / RUN, "segment+crf")["splits"]) == {"train", "val"}


def test_affinitynets_threshold_is_a_half(own):
    profile = write(own, random_walk={"network": "affinitynet", "radius": 2, "crf": "none"},
                    segment={"masks": "rw"})  # fmt: skip
    out = random_walk(profile, "cam", 0)
    assert json.loads((out / "rw/protocol.json").read_text())["threshold"] == 0.5


def test_own_data_without_training_masks(own, monkeypatch):
    """The segmentation is scored on val; kinds that live on train alone have an empty record."""
    profile = write(own, grid={"multi_stage": ["cam"], "upper_bound": []})
    for name in lists(profile)["train"]:
        (own / "data/toy/SegmentationClass" / f"{name}.png").unlink()
    prepare(profile)
    random_walk(profile, "cam", 0)
    segment(profile, "cam", 0)
    evaluate(profile, "cam", 0)
    evaluate(profile, "cam", 0, later=True)
    assert record_of(own / RUN, "rw")["splits"] == {
        "train": {"role": "train", "labels_used": True, "threshold": 0.25, "images": 9}
    }
    assert record_of(own / RUN, "segment")["splits"]["val"]["miou"] > 0
    monkeypatch.setattr(DRAWINGS, lambda *_: [])
    page = report(profile).read_text()
    assert "Predictions without image labels per stage on val" in page
    with pytest.raises(UserError, match=r"9 of 9 masks are missing in .*SegmentationClass"):
        segment(profile, UPPER_BOUND, 0)


def test_nothing_to_score_at_all(own):
    shutil.rmtree(own / "data/toy/SegmentationClass")
    with pytest.raises(UserError, match="images of train have no mask"):
        prepare(write(own))  # full supervision needs them
    profile = write(own, grid={"upper_bound": []})
    prepare(profile)
    with pytest.raises(UserError, match="No image of train, val has a mask"):
        evaluate(profile, "cam", 0, later=True)


# Interrupted trainings ---------------------------------------------------------------------------


def interrupted(profile, monkeypatch, epoch=2):
    """The stage, stopped by Ctrl-C in an epoch of the affinity network."""
    losses = Affinity.losses

    def stop(self, batch, progress):
        if progress.epoch == epoch:
            raise KeyboardInterrupt
        return losses(self, batch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Affinity, "losses", stop)
        with pytest.raises(KeyboardInterrupt):
            random_walk(profile, "cam", 0)


def test_an_interrupted_affinity_training_goes_on(finished, own, monkeypatch, capsys):
    profile = write(own)
    interrupted(profile, monkeypatch)
    assert not (own / RUN / "random_walk/start.json").exists()
    capsys.readouterr()
    random_walk(profile, "cam", 0)
    assert "Going on after epoch 1 of 2" in "".join(capsys.readouterr())
    weights = [
        torch.load(top / RUN / "random_walk/network/model.pt", weights_only=True)
        for top in (own, finished)
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    for name in lists(profile)["train"]:
        found = [
            read_maps(top / RUN / f"random_walk/rw/train/maps/{name}.npz")
            for top in (own, finished)
        ]
        assert np.array_equal(found[0].maps, found[1].maps)


def test_other_settings_or_other_seeds_start_anew(own, monkeypatch, capsys):
    interrupted(write(own), monkeypatch)
    changed = write(own, random_walk={"radius": 2})
    interrupted(changed, monkeypatch)
    assert "Going on" not in "".join(capsys.readouterr())
    # same settings, but the seeds behind the labels are others now
    for path in (own / RUN / "pseudo_masks/cam/train/maps").glob("*.npz"):
        with np.load(path) as old:
            arrays = dict(old)
        np.savez(path, **{**arrays, "maps": arrays["maps"] / 2})
    random_walk(changed, "cam", 0)
    text = "".join(capsys.readouterr())
    assert "Going on" not in text
    assert "training starts anew" in text


def test_other_masks_start_a_segmentation_anew(own, monkeypatch, capsys):
    profile, losses = write(own), Segmentation.losses

    def stop(self, batch, progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt
        return losses(self, batch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "losses", stop)
        with pytest.raises(KeyboardInterrupt):
            segment(profile, UPPER_BOUND, 0)
    path = own / "data/toy/SegmentationClass" / f"{lists(profile)['train'][0]}.png"
    write_mask(path, np.zeros_like(read_mask(path)))
    prepare(profile)
    segment(profile, UPPER_BOUND, 0)
    assert "Going on" not in "".join(capsys.readouterr())


# What a person is told ------------------------------------------------------------------------


def test_stages_out_of_order_say_what_to_run(own):
    profile = write(own)
    with pytest.raises(UserError, match=r"start\.json.*wsssbench random-walk .*-e cam"):
        segment(profile, "cam", 0)
    with pytest.raises(UserError, match=r"wsssbench random-walk .*-e cam"):
        evaluate(profile, "cam", 0, later=True)
    with pytest.raises(UserError, match=r"wsssbench segment .*-e supervised"):
        evaluate(profile, UPPER_BOUND, 0, later=True)
    shutil.rmtree(own / RUN / "pseudo_masks")
    with pytest.raises(UserError, match=r"wsssbench pseudo-masks .*-e cam"):
        random_walk(profile, "cam", 0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"segment": {"masks": "rw"}, "random_walk": {"network": "none"}}, "segment.masks is rw, "),
        ({"random_walk": {"crf": "none"}}, "segment.masks is rw+crf, which the settings"),
        ({"segment": {"masks": "ppmg"}}, "segment.masks is ppmg, which the settings"),
        ({"maps": ["cvs"], **WITH_PPMG}, "those of the kind cvs are smoothed already"),
        ({"random_walk": {"crf": "irm"}}, "random_walk.crf: Unknown dense CRF parameter set 'irm'"),
        ({"segment": {"crf": "deplab"}}, "segment.crf: Unknown dense CRF parameter set 'deplab'"),
        ({"random_walk": {"seed": "scgg"}}, "random_walk.seed: Unknown kind of maps 'scgg'. Did"),
        ({"random_walk": {"seed": "pamr"}}, "Unknown kind of maps 'pamr'"),  # not read out
        ({"random_walk": {"train": {"epoch": 3}}}, "random_walk.train: Unknown key 'epoch'"),
        ({"segment": {"train": {"lr": "x"}}}, "segment.train: lr: expected a number"),
        ({"segment": {"model": {"dilatd": 1}}}, "segment.model: Unknown key 'dilatd'"),
        ({"segment": {"model": {"backbone": "tini"}}}, "Unknown backbone 'tini'. Did you mean"),
        ({"segment": {"model": {"batch_norm": "frozen"}}}, "batch_norm is frozen"),
        ({"random_walk": {"radius": 10}}, "radius 10 do not fit into a crop of 32 px"),
        ({"random_walk": {"radius": 3, "network": "affinitynet"}}, "Set train.crop to at least 33"),
        ({"random_walk": {"certain": 0.1, "uncertain": 0.2}}, "The background's limit may not"),
    ],
)
def test_mistakes_are_found_before_anything_runs(own, changes, text):
    profile = write(own, changes)
    for stage in (plan, lambda p: random_walk(p, "cam", 0), lambda p: segment(p, "cam", 0)):
        with pytest.raises(UserError) as info:
            stage(profile)
        assert text in str(info.value)
        assert "\n" not in str(info.value)
    assert not (own / RUN / "random_walk").exists()
    assert not (own / RUN / "segment").exists()


def test_a_crop_of_the_size_that_the_text_names_is_enough(own):
    walk = {"radius": 3, "network": "affinitynet", "train": {"crop": 33}}
    check_later(write(own, {"random_walk": walk}), "cam")
    with pytest.raises(UserError, match="radius to at most 2"):
        check_later(write(own, {"random_walk": {**walk, "train": {"crop": 32}}}), "cam")


def test_mistakes_of_stages_that_nobody_asks_for_stop_nothing(own, monkeypatch):
    monkeypatch.setattr("wsssbench.stages.plan.code_files", lambda roots: [])
    monkeypatch.setattr("wsssbench.stages.plan.code_hash", lambda roots: "")
    wrong = {"random_walk": {"radius": 10}, "segment": {"crf": "none"}}
    plan(write(own, wrong, grid={"multi_stage": [], "upper_bound": []}))
    plan(write(own, grid={"multi_stage": [], "upper_bound": [0]}, **wrong))
    planned = {
        path.relative_to(own / "runs/toy/plan").as_posix() for path in own.rglob("*/plan/*/*")
    }
    cam = {"cam/train.json", "cam/pseudo_masks.json"}
    assert planned == cam | {"supervised/random_walk.json", "supervised/segment.json"}


def test_masks_that_a_run_of_other_settings_did_not_make(own):
    profile = write(own, {"random_walk": {"network": "none"}, "segment": {"masks": "crf"}})
    random_walk(profile, "cam", 0)
    with pytest.raises(UserError, match=r"cam segments from the masks 'rw', but its stage random"):
        segment(write(own, {"segment": {"masks": "rw"}}), "cam", 0)


def test_unknown_experiments_are_named(own):
    profile = write(own)
    for stage in (random_walk, segment, evaluate, lambda *run: evaluate(*run, later=True)):
        with pytest.raises(UserError, match="Unknown experiment 'cma'"):
            stage(profile, "cma", 0)
    for stage in (random_walk, evaluate):
        with pytest.raises(UserError, match="Unknown experiment 'supervised'"):
            stage(profile, UPPER_BOUND, 0)


# The commands --------------------------------------------------------------------------------


def test_commands_take_the_experiments_and_seeds_of_the_grid(own, monkeypatch):
    calls = []
    for name in ("random_walk", "segment", "evaluate"):
        module = f"wsssbench.stages.{name}.{name}"
        monkeypatch.setattr(module, lambda *run, n=name, **more: calls.append((n, *run[1:], more)))
    write(own, grid={"multi_stage": ["cam"], "seeds": [0, 1], "upper_bound": [5]})

    def call(*words):
        calls.clear()
        result = CliRunner().invoke(cli.app, [*words])
        assert result.exit_code == 0, result.output
        return list(calls)

    assert call("random-walk") == [("random_walk", "cam", seed, {}) for seed in (0, 1)]
    assert call("segment", "-e", "supervised") == [("segment", "supervised", 5, {})]
    assert call("segment", "-e", "supervised", "-s", "2") == [("segment", "supervised", 2, {})]
    later = [("evaluate", "cam", seed, {"later": True}) for seed in (0, 1)]
    assert call("evaluate", "--later") == later
    assert call("evaluate", "-s", "1") == [("evaluate", "cam", 1, {"later": False})]


def test_commands_that_have_nothing_to_do_say_so(own):
    write(own, grid={"multi_stage": [], "upper_bound": []})
    for command in (["random-walk"], ["segment"], ["evaluate", "--later"]):
        result = CliRunner().invoke(cli.app, command)
        assert isinstance(result.exception, UserError)
        assert "grid.multi_stage names no experiment" in str(result.exception)


def test_run_does_every_stage_in_order(own, monkeypatch):
    calls = []
    stages = "prepare plan train pseudo_masks evaluate random_walk segment report"
    for name in stages.split():
        module = f"wsssbench.stages.{name}.{name}"
        monkeypatch.setattr(
            module, lambda *run, n=name, **more: calls.append((n, *run[1:], *more.values()))
        )
    write(own)
    assert CliRunner().invoke(cli.app, ["run"]).exit_code == 0
    assert calls == [
        *[("prepare",), ("plan",), ("train", "cam", 0), ("pseudo_masks", "cam", 0)],
        *[("evaluate", "cam", 0), ("random_walk", "cam", 0), ("segment", "cam", 0)],
        *[("evaluate", "cam", 0, True), ("segment", "supervised", 0)],
        *[("evaluate", "supervised", 0, True), ("report",)],
    ]


def test_every_kind_has_a_word_in_the_published_vocabulary():
    from wsssbench.published.vocabulary import STAGES as KNOWN

    assert set(PUBLISHED) == set(LATER)
    assert set(PUBLISHED.values()) <= set(KNOWN)
