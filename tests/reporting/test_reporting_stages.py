"""Tables and figures from stage to stage, against numbers worked out by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest
from make_runs import PROTOCOL, PROVENANCE, write_run
from test_reporting_page import check

from wsssbench.multistage import LATER, masks_dir, scores_dir
from wsssbench.params import UPPER_BOUND
from wsssbench.reporting import build
from wsssbench.reporting.counterparts import counterpart, printed
from wsssbench.reporting.masks import masks_of_run
from wsssbench.reporting.protocols import in_short, in_words
from wsssbench.reporting.records import Run, load_run, load_runs
from wsssbench.reporting.stages import stage_drawings, stage_tables

FIGURES = pd.DataFrame(
    [
        ("cam", "train", "seed", "yes", 48.3),
        ("cam", "train", "seed+rw", "yes", 59.3),
        ("puzzlecam", "train", "seed+rw", "yes", 69.6),
        ("puzzlecam", "val", "multi-stage", "no", 66.9),
        ("puzzlecam", "val", "multi-stage", "unknown", 1.0),
        ("deeplabv3", "val", "fully supervised", "no", 80.6),
        ("deeplabv2", "val", "fully supervised (no crf)", "no", 76.4),
    ],
    columns=["method", "split", "stage", "labels_at_test", "value"],
).assign(dataset="VOC2012", metric="miou", backbone="ResNet-50", source="somewhere", unit="percent")
DATA = {"content_hash": "0f", "dataset": "voc12"}


def run(experiment, seed, kind, splits, path=Path("nowhere"), method="cam", protocol=None):
    """A finished run; `splits` is {split: (miou, fp, fn)}."""
    used = {split: split == "train" and "segment" not in kind for split in splits}
    record = {
        "title": experiment.upper(),
        "protocol": {"stage": kind if kind in LATER else "seed", **(protocol or {})},
        "splits": {
            split: {"role": split, "labels_used": used[split], "images": 3}
            | dict(zip(("miou", "fp", "fn"), scores))
            for split, scores in splits.items()
        },
    }
    main = kind in ("cam", "decoder") or (experiment == UPPER_BOUND and kind == "segment")
    known = {**DATA, "method": method}
    return Run(experiment, seed, path, "done", "", record, known, kind, main)


def missing(experiment, seed, kind):
    return Run(
        experiment, seed, Path("nowhere"), "not run", "why", {}, {"method": "cam"}, kind, False
    )


def rows_of(number):
    """A run's scores from its mIoU: FP and FN that are easy to tell."""
    return (number, round((1 - number) / 2, 6), round((1 - number) / 4, 6))


def both(train, val):
    return {"train": rows_of(train), "val": rows_of(val)}


@pytest.fixture
def runs():
    """Cam with two seeds, pz without random walk, rs planned only, the upper bound once."""
    deeplab = {"method": "deeplab_v3plus"}
    return [
        run("cam", 0, "cam", both(0.50, 0.40)),
        run("cam", 1, "cam", both(0.54, 0.44)),
        run("cam", 0, "crf", both(0.55, 0.45)),
        run("cam", 1, "crf", both(0.57, 0.45)),
        run("cam", 0, "rw", {"train": rows_of(0.60)}),
        missing("cam", 1, "rw"),
        run("cam", 0, "segment", both(0.70, 0.58), **deeplab),
        run("cam", 1, "segment", both(0.72, 0.62), **deeplab),
        run("cam", 0, "segment+crf", both(0.71, 0.60), **deeplab),
        run("pz", 0, "cam", both(0.52, 0.42), method="cam"),
        run("pz", 0, "crf", both(0.53, 0.41), method="cam"),
        run("pz", 0, "segment+crf", both(0.66, 0.45), **deeplab),
        run("plain", 0, "cam", both(0.9, 0.9)),
        run("rs", 0, "decoder", both(0.65, 0.55)),
        missing("rs", 0, "rw"),
        run(UPPER_BOUND, 0, "segment", both(0.90, 0.75), **deeplab),
        run(UPPER_BOUND, 0, "segment+crf", both(0.91, 0.80), **deeplab),
    ]


def tables(runs, names=None):
    return {table.name: table for table in stage_tables(runs, FIGURES, names or {})}


def test_pseudo_masks_stage_by_stage(runs):
    table = tables(runs)["stages_train"]
    frame = table.frame.set_index("experiment")
    assert list(frame.index) == [
        "cam",
        "pz",
        "rs",
    ]  # neither one that ends here nor the upper bound
    cam = frame.loc["cam"]
    assert cam[".miou"] == pytest.approx(0.52)
    assert cam[".miou_sd"] == pytest.approx(0.04 / 2**0.5)
    assert cam[".fp"] == pytest.approx(0.24)
    assert cam[".fn"] == pytest.approx(0.12)
    assert cam["crf.miou"] == pytest.approx(0.56)
    assert cam["rw.miou"] == pytest.approx(0.60)
    assert pd.isna(cam["rw.miou_sd"])
    assert cam["seeds"] == "1 to 2"
    assert frame.loc["pz", "seeds"] == "1"
    assert pd.isna(frame.loc["pz", "rw.miou"])
    assert table.caption == "Pseudo-masks per stage on train."


def test_columns_are_the_stages_that_there_are(runs):
    found = tables(runs)
    train = [(c.group, c.head) for c in found["stages_train"].columns if c.kind != "range"]
    three = ("mIoU %", "FP", "FN")
    heads = ("seed", "+ CRF", "+ random walk")  # nobody has rw+crf
    texts = [("", "experiment"), ("", "title"), ("", "seeds")]
    assert train == [*texts, *((head, name) for head in heads for name in three)]
    val = [(c.group, c.head) for c in found["stages_val"].columns if c.kind != "range"]
    own = [(h, name) for h in ("own network", "own network + CRF") for name in three]
    later = ("segmentation network", "segmentation network + CRF")
    assert val == [*texts, *own, *((h, name) for h in later for name in (*three, "share %"))]


def test_share_of_the_upper_bound_is_that_of_the_same_stage(runs):
    table = tables(runs)["stages_val"]
    frame = table.frame.set_index("experiment")
    assert list(frame.index) == ["cam", "pz", "rs", "supervised"]
    assert frame.loc["cam", "segment.share"] == pytest.approx(0.60 / 0.75)
    assert frame.loc["cam", "segment+crf.share"] == pytest.approx(0.60 / 0.80)
    assert frame.loc["pz", "segment+crf.share"] == pytest.approx(0.45 / 0.80)
    top = frame.loc["supervised"]
    assert (top["segment.miou"], top["segment+crf.miou"]) == (0.75, 0.80)
    assert pd.isna(top[".miou"])  # it has no own network beside
    assert pd.isna(top["segment.share"])
    assert ".share" not in frame
    assert any("same network trained on true masks (supervised)" in note for note in table.notes)
    assert not any("true masks" in note for note in tables(runs)["stages_train"].notes)


def test_without_an_upper_bound_there_is_no_share(runs):
    table = tables([run for run in runs if run.experiment != UPPER_BOUND])["stages_val"]
    assert not any(column.head == "share %" for column in table.columns)
    assert len(table.notes) == 1


def published(table):
    return {
        row["experiment"]: {
            column.head: row[column.key]
            for column in table.columns
            if column.kind == "range" and row[column.key]
        }
        for _, row in table.frame.iterrows()
    }


def test_published_figures_stand_in_columns_of_their_own(runs):
    found = tables(runs, {"pz": "puzzlecam", "cam": "cam", "rs": "none"})
    assert published(found["stages_train"]) == {
        "cam": {"seed": "48.3", "+ random walk": "59.3"},
        "pz": {},
        "rs": {},
    }
    assert published(found["stages_val"]) == {
        "cam": {},
        "pz": {"segmentation network + CRF": "66.9"},
        "rs": {},
        "supervised": {"segmentation network + CRF": "80.6"},
    }
    groups = [c.group for c in found["stages_train"].columns if c.kind == "range"]
    assert groups == ["published, VOC2012 train"] * 2
    for run in runs:
        run.provenance["dataset"] = "scenes"
    other = tables(runs, {"pz": "puzzlecam"})["stages_val"]
    assert other.columns[-1].group == "published, VOC2012 val: another data set"


def test_the_upper_bound_stands_beside_full_supervision():
    crf, plain = (run(UPPER_BOUND, 0, kind, both(0.9, 0.8), method="deeplab_v2")
                  for kind in ("segment+crf", "segment"))  # fmt: skip
    assert counterpart(crf, FIGURES) == ("deeplabv2", "fully supervised")
    assert counterpart(plain, FIGURES) == ("deeplabv2", "fully supervised (no crf)")
    assert printed(plain, FIGURES, {}, "miou", "val", "val").text == "76.4"
    assert printed(plain, FIGURES, {}, "miou", "train", "train").text == ""
    own = run("cam", 0, "rw+crf", {"train": rows_of(0.5)})
    assert counterpart(own, FIGURES) == ("cam", "seed+rw+crf")


def test_prototype_maps_stand_beside_those_of_papers():
    found = {
        kind: counterpart(run("sfc", 0, kind, {"train": rows_of(0.5)}, method="sfc"), FIGURES)
        for kind in ("fused", "proto", "cam")
    }
    assert found["fused"] == found["cam"] == ("sfc", "seed")
    assert found["proto"] == ("sfc", "prototype seed")


def test_markdown_and_html_show_what_is_missing(runs):
    table = tables(runs)["stages_train"]
    lines = {line[0].text: [cell.text for cell in line] for line in table.lines()}
    assert lines["cam"][2:6] == ["1 to 2", "52.0", "0.240", "0.120"]
    assert lines["pz"][9:12] == ["–", "–", "–"]
    assert "± 2.8" in table.to_markdown()
    assert "<table" in table.to_html()


def test_nothing_later_gives_nothing(runs):
    first = [run for run in runs if not run.later]
    assert stage_tables(first, FIGURES) == []
    assert stage_drawings(first) == []
    planned = [*first, missing("plain", 0, "rw"), missing("plain", 0, "segment")]
    assert stage_tables(planned, FIGURES) == []
    assert stage_drawings(planned) == []
    assert stage_tables([], FIGURES) == []


def test_an_upper_bound_alone_is_shown(runs):
    alone = [run for run in runs if not run.later or run.experiment == UPPER_BOUND]
    found = tables(alone)
    assert list(found) == ["stages_val"]
    assert list(found["stages_val"].frame["experiment"]) == ["supervised"]
    assert [drawing.name for drawing in stage_drawings(alone)] == ["stages_val"]


def test_seeds_of_different_protocols_share_no_mean(runs):
    other = run("cam", 2, "rw", {"train": rows_of(0.10)}, protocol={"threshold": 0.5})
    more = run("cam", 3, "rw", {"train": rows_of(0.62)})
    table = tables([*runs, other, more])["stages_train"]
    frame = table.frame.set_index("experiment")
    assert frame.loc["cam", "rw.miou"] == pytest.approx(0.61)
    assert "Seeds of one row follow different protocols" in table.notes[-1]
    assert len(stage_drawings([*runs, other, more])) == 2


def test_a_walk_from_another_kind_is_said(tmp_path):
    place = tmp_path / "cam-0" / "random_walk"
    place.mkdir(parents=True)
    (place / "start.json").write_text('{"kind": "scg", "network": "none"}')
    path = tmp_path / "cam-0"
    runs = [run("cam", 0, "cam", both(0.5, 0.4), path), run("cam", 0, "crf", both(0.6, 0.5), path)]
    assert "The later stages of cam start from its kind scg." in tables(runs)["stages_train"].notes
    (place / "start.json").write_text('{"kind": "cam", "network": "none"}')
    assert len(tables(runs)["stages_train"].notes) == 1


def test_the_figure_shows_the_means_in_the_order_of_the_stages(runs):
    train, val = stage_drawings(runs)
    assert (train.name, val.name) == ("stages_train", "stages_val")
    assert train.section == "stages"
    (axes,) = train.figure.axes
    labels = [" ".join(text.get_text().split()) for text in axes.get_xticklabels()]
    assert labels == ["seed", "+ CRF", "+ random walk"]
    drawn = {c.get_label(): c.lines[0].get_xydata() for c in axes.containers}
    assert list(drawn) == ["cam", "pz"]  # one stage alone makes no line
    assert drawn["cam"][:, 1] == pytest.approx([52, 56, 60])
    assert drawn["pz"][:, 1] == pytest.approx([52, 53])
    assert drawn["cam"][:, 0].round().tolist() == [0, 1, 2]
    assert "cam 52.0 to 60.0 %" in train.description
    (axes,) = val.figure.axes
    drawn = {c.get_label(): c.lines[0].get_xydata() for c in axes.containers}
    assert drawn["cam"][:, 1] == pytest.approx([42, 45, 60, 60])
    assert drawn["pz"][:, 1] == pytest.approx([42, 41, 45])
    assert drawn["pz"][:, 0].round().tolist() == [0, 1, 3]  # the stage it lacks is skipped
    assert drawn["supervised"][:, 1] == pytest.approx([75, 80])
    assert drawn["supervised"][:, 0].round().tolist() == [2, 3]


# From files ---------------------------------------------------------------------------------

KINDS = {"cam": ("cam", "crf", "rw", "rw+crf", "segment", "segment+crf")}
BOUND = ("segment", "segment+crf")


def write_later(path, kind, scores, method="cam"):
    """A record of a later kind: {split: mIoU}."""
    protocol = PROTOCOL | {"stage": kind, "crf": kind.endswith("crf")}
    if "segment" in kind:
        protocol |= {"threshold_rule": "argmax", "threshold": 0.0, "conf_threshold": None}
        protocol |= {"labels_used": dict.fromkeys(scores, False), "scales": [1.0]}
    elif "rw" in kind:
        protocol |= {"labels_used": {"train": True}, "threshold": 0.25}
    splits = {
        split: {"role": split, "labels_used": protocol["labels_used"][split], "images": 8}
        | dict(zip(("miou", "fp", "fn"), rows_of(miou)))
        for split, miou in scores.items()
    }
    name, _, seed = path.name.rpartition("-")
    known = PROVENANCE | {"experiment": name, "seed": int(seed), "method": method}
    record = {"title": name.upper(), "maps": kind, "provenance": known, "protocol": protocol}
    place = scores_dir(path, kind) / "record.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(record | {"splits": splits}))


@pytest.fixture(scope="module")
def staged(fake, tmp_path_factory):
    """Cam with all stages but rw+crf, of which the masks lie there unscored; an upper bound."""
    top = tmp_path_factory.mktemp("staged")
    run = write_run(top / "runs", fake["truth"], "cam", 0)
    for kind, scores in (
        ("crf", {"train": 0.61, "val": 0.52}),
        ("rw", {"train": 0.66}),
        ("segment", {"train": 0.71, "val": 0.63}),
        ("segment+crf", {"train": 0.72, "val": 0.64}),
    ):
        write_later(run, kind, scores, "deeplab_v2" if "segment" in kind else "cam")
    unscored = masks_dir(run, "rw+crf")
    unscored.mkdir(parents=True)
    (unscored / "protocol.json").write_text("{}")
    bound = top / "runs" / "supervised-0"
    write_later(bound, "segment", {"train": 0.9, "val": 0.84}, "deeplab_v2")
    return {"runs": top / "runs", "data": fake["data"]}


def test_later_runs_are_read_from_their_own_places(staged):
    runs = {run.name: run for run in load_runs(staged["runs"], KINDS, [0, 1])}
    assert list(runs)[:4] == ["cam-0", "cam-1", "cam-0/crf", "cam-1/crf"]
    assert not runs["cam-0"].later
    walked = runs["cam-0/rw"]
    assert (walked.status, walked.later, walked.main, walked.row) == ("done", True, False, "cam/rw")
    assert walked.splits["train"]["miou"] == 0.66
    assert runs["cam-0/segment"].provenance["method"] == "deeplab_v2"
    assert runs["cam-0/rw+crf"].status == "failed"
    assert runs["cam-0/rw+crf"].reason == "has masks of the kind rw+crf, but no scores"
    assert runs["cam-1/rw"].status == "not run"
    assert "stages after the pseudo-masks were not run" in runs["cam-1/rw"].reason


def test_a_later_stage_that_stopped_says_where(tmp_path):
    stage = tmp_path / "cam-0" / "segment"
    stage.mkdir(parents=True)
    error = {"output_type": "error", "ename": "UserError", "evalue": "no masks"}
    (stage / "segment.ipynb").write_text(json.dumps({"cells": [{"outputs": [error]}]}))
    run = load_run(tmp_path / "cam-0", "cam", 0, "segment", main=False)
    assert (run.status, run.reason) == ("failed", "stopped in segment: UserError: no masks")


@pytest.fixture(scope="module")
def page(staged, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("wsssbench.reporting.page.drawings", lambda *_: [])
        return build(
            staged["runs"],
            tmp_path_factory.mktemp("report"),
            profile="fake",
            kinds=KINDS,
            seeds=[0],
            data_root=staged["data"],
            gallery=0,
            upper_bound=[0],
            upper_bound_kinds=BOUND,
            published={"cam": "cam"},
        )


def test_the_page_has_a_section_of_stages(page):
    text = check(page)
    for words in ("Stage by stage", "Pseudo-masks per stage on train.", "Stage rw",
                  "Stage segment", "From stage to stage on val", "1 of 1 runs are done",
                  "predictions of a segmentation network trained on pseudo-masks",
                  "no image labels are used, and nothing rules a class out"):  # fmt: skip
        assert words in text, words
    assert text.count("Ignored pixels") == 1  # later stages name what is different
    frame = pd.read_csv(page.parent / "tables/stages_val.csv").set_index("experiment")
    assert frame.loc["cam", "segment.share"] == pytest.approx(0.63 / 0.84)
    summary = json.loads((page.parent / "summary.json").read_text())
    assert summary["cam/rw"]["train"]["miou"] == 0.66
    assert summary["supervised"]["val"]["miou"] == 0.84


def test_the_page_names_later_runs_without_scores(page):
    frame = pd.read_csv(page.parent / "tables/not_run.csv").set_index("run")
    assert list(frame.index) == ["cam-0/rw+crf", "supervised-0/segment+crf"]
    assert frame["state"].tolist() == ["failed", "not run"]


def test_later_rows_stay_out_of_the_tables_of_pseudo_masks(page):
    main = pd.read_csv(page.parent / "tables/main.csv")
    assert main["experiment"].tolist() == ["cam"]


def test_the_page_of_a_profile_without_later_stages_has_no_such_section(
    staged, tmp_path, monkeypatch
):
    monkeypatch.setattr("wsssbench.reporting.page.drawings", lambda *_: [])
    kinds = {"cam": ("cam",)}
    page = build(staged["runs"], tmp_path, profile="fake", kinds=kinds, seeds=[0], gallery=0)
    assert "Stage by stage" not in check(page)
    assert not list(tmp_path.glob("*/stages_*"))


def test_a_profiles_table_may_hold_later_rows(staged, tmp_path, monkeypatch):
    monkeypatch.setattr("wsssbench.reporting.page.drawings", lambda *_: [])
    wish = {"name": "steps", "title": "Steps", "rows": ["cam", "cam/crf", "cam/rw", "supervised"]}
    build(staged["runs"], tmp_path, profile="fake", kinds=KINDS, seeds=[0], gallery=0,
          tables=[wish], upper_bound=[0], upper_bound_kinds=BOUND)  # fmt: skip
    frame = pd.read_csv(tmp_path / "tables/ablation_steps.csv")
    assert frame.iloc[:, 0].tolist() == ["cam", "cam/crf", "cam/rw", "supervised"]


def test_protocols_of_predictions_in_words(staged):
    runs = {run.maps: run for run in load_runs(staged["runs"], KINDS, [0])}
    segment = dict(in_words([runs["segment"]]))
    assert segment["Threshold rule"].startswith("None: the background is a class")
    assert segment["Background"] == "A pixel is of the class with the highest score."
    assert segment["Views"] == "Scales 1, each also mirrored."
    assert segment["Classes at test"].startswith("All: no image labels are used")
    assert segment["CRF"] == "None."
    walk = dict(in_words([runs["rw"]]))
    assert walk["Stage"] == "pseudo-masks after a random walk along learnt affinities."
    assert walk["Classes at test"] == "train: those of the image-level labels."
    assert "maps stored at stride 4" in walk["Views"]
    assert "none: the background is a class" in in_short(runs["segment"].record["protocol"])


def test_pictures_of_later_kinds(staged, tmp_path):
    run = tmp_path / "cam-0"
    for kind in ("rw", "segment"):
        (masks_dir(run, kind) / "train" / "masks").mkdir(parents=True)
    (masks_dir(run, "rw") / "train" / "maps").mkdir()
    walk = masks_of_run(run, "train", staged["data"], "rw")
    assert walk.predictions == run / "random_walk/rw/train/masks"
    assert walk.maps == run / "random_walk/rw/train/maps"
    assert walk.word == "pseudo-mask"
    predicted = masks_of_run(run, "train", staged["data"], "segment")
    assert (predicted.word, predicted.maps) == ("prediction", None)
