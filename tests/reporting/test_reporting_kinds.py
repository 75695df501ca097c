"""Several kinds of maps of one training: which are rows of their own, and what is not repeated."""

import json
import shutil

import pandas as pd
import pytest
from make_runs import write_run
from test_reporting_page import check

from wsssbench import published
from wsssbench.errors import UserError
from wsssbench.reporting import build, compare, open_masks, origins, side_by_side, tables
from wsssbench.reporting.ablations import ablations
from wsssbench.reporting.drawings import drawings, step_drawing
from wsssbench.reporting.records import Run, load_run, load_runs, trainings
from wsssbench.reporting.style import svg
from wsssbench.reporting.training_drawings import training_drawings

TABLES = [
    {"name": "refined", "title": "Refined once", "rows": ["cam", "cam/scg", "cam/scg+pamr", "rs"],
     "columns": ["f1", "miou", "fp", "fn"], "baseline": "cam", "arrows": True},
    {"name": "val", "title": "Unseen images", "rows": ["rs", "rs_epm"], "split": "val"},
]  # fmt: skip
NAMES = {"rs": "recurseed", "rs_epm": "recurseed+edgepredictmix"}


@pytest.fixture
def runs(grid):
    return load_runs(grid["runs"], grid["kinds"], [0, 1, 2])


@pytest.fixture(scope="module")
def page(grid, tmp_path_factory):
    options = {"profile": "fake", "data_root": grid["data"], "gallery": 1, "published": NAMES}
    out = tmp_path_factory.mktemp("kinds")
    return build(grid["runs"], out, kinds=grid["kinds"], seeds=[0, 1, 2], tables=TABLES, **options)


def test_names_of_runs_and_rows(runs):
    names = [run.name for run in runs if run.seed == 0]
    assert names == ["cam-0", "cam-0/scg", "cam-0/pamr", "cam-0/scg+pamr", "rs-0", "rs-0/cam",
                     "rs-0/scg+pamr", "rs_epm-0", "rs_epm-0/cam"]  # fmt: skip
    assert runs[3].row == "cam/scg"
    assert (runs[0].title, runs[3].title) == ("CAM", "CAM, scg")
    assert runs[3].table("val", "sweep")["miou"].max() > 0
    assert [kind.maps for kind in trainings(runs)["rs-1"]] == ["decoder", "cam", "scg+pamr"]


def test_titles_of_the_profile_replace_those_of_the_records(grid):
    runs = load_runs(grid["runs"], grid["kinds"], [0, 7], {"cam": "Plain CAM", "rs": ""})
    titles = {run.name: run.title for run in runs}
    assert titles["cam-0"] == "Plain CAM"
    assert titles["cam-0/scg"] == "Plain CAM, scg"
    assert titles["cam-7"] == "Plain CAM"  # not run, but named
    assert titles["rs-7"] == "rs"
    assert titles["rs-0"] == load_runs(grid["runs"], {"rs": ("decoder",)}, [0])[0].title


def test_each_kind_is_a_row_of_the_main_table_and_costs_stand_once(runs):
    (table,) = tables.main_tables(runs)
    frame = table.frame.set_index("experiment")
    assert list(frame.index)[:5] == ["cam", "cam/scg", "cam/pamr", "cam/scg+pamr", "rs"]
    assert frame["wall_s"].notna().tolist() == [
        True, False, False, False, True, False, False, True, False]  # fmt: skip
    assert frame.loc["cam/scg", "train.miou"] == pytest.approx(
        sum(run.splits["train"]["miou"] for run in runs if run.row == "cam/scg") / 3
    )


def test_experiments_and_trainings_have_one_line_each(runs):
    experiments = origins.experiments_table(runs).frame.set_index("experiment")
    assert experiments["maps"].tolist() == [
        "cam, scg, pamr, scg+pamr", "decoder, cam, scg+pamr", "decoder, cam"]  # fmt: skip
    assert experiments["done"].tolist() == ["3 of 3", "3 of 3", "2 of 3"]
    assert list(origins.provenance_table(runs).frame["run"]) == [
        f"{name}-{seed}" for name in ("cam", "rs", "rs_epm") for seed in (0, 1, 2)]  # fmt: skip
    missing = origins.missing_table(runs).frame
    assert list(missing["run"]) == ["rs_epm-2", "rs_epm-2/cam"]


def test_a_kind_that_was_not_made_is_told_from_a_failed_run(grid, tmp_path):
    shutil.copytree(grid["runs"] / "cam-0", tmp_path / "cam-0")
    shutil.rmtree(tmp_path / "cam-0" / "evaluate" / "pamr")
    shutil.rmtree(tmp_path / "cam-0" / "pseudo_masks" / "pamr")
    lost = load_run(tmp_path / "cam-0", "cam", 0, "pamr", main=False)
    assert lost.status == "failed"
    assert lost.reason == "has no pamr maps, only other kinds; make the pseudo-masks again"
    assert load_run(tmp_path / "cam-0", "cam", 0, "scg", main=False).status == "done"
    kinds = {"cam": ("cam", "pamr")}
    both = load_runs(tmp_path, kinds, [0])
    assert origins.experiments_table(both).frame["done"][0] == "0 of 1"
    assert origins.provenance_table(both).frame["state"][0] == "failed"


def test_classes_show_main_kinds_and_sizes_also_the_kinds_of_an_experiment(runs):
    heads = {column.group for column in side_by_side.per_class_tables(runs)[0].columns}
    assert heads == {"", "cam", "rs", "rs_epm"}
    sizes = {table.name: table for table in side_by_side.size_tables(runs)}
    assert {"objects_train", "objects_cam_train", "objects_rs_val"} <= set(sizes)
    groups = {column.group for column in sizes["objects_rs_train"].columns}
    assert groups == {"", "rs", "rs/cam", "rs/scg+pamr"}


def test_figures_show_main_kinds_and_kinds_meet_over_the_threshold(runs):
    drawn = {drawing.name: drawing for drawing in drawings(runs)}
    assert "rs/cam" not in drawn["fp_fn_train"].description
    assert "rs/cam" in drawn["thresholds_rs_train"].description
    assert not any("/" in name for name in drawn)


def test_published_figures_go_by_recipe_and_kind(runs):
    mine = compare.ours(runs, published.load(), NAMES)
    kinds = mine.drop_duplicates("experiment").set_index("experiment")[["method", "stage"]]
    assert kinds.T.to_dict("list") == {
        "cam": ["cam", "seed"],
        "cam/scg": ["cam+scg", "seed"],
        "cam/pamr": ["", "seed"],
        "cam/scg+pamr": ["cam+scg+pamr", "seed"],
        "rs": ["recurseed", "decoder seed"],
        "rs/cam": ["recurseed", "seed"],
        "rs/scg+pamr": ["recurseed", "seed"],
        "rs_epm": ["recurseed+edgepredictmix", "decoder seed"],
        "rs_epm/cam": ["recurseed+edgepredictmix", "seed"],
    }


def test_a_training_counts_once_in_the_status(runs):
    status = pd.DataFrame(
        [[name, "VOC2012", "not run", "no"]
         for name in ("recurseed", "edgepredictmix", "scg", "seam")],
        columns=["method", "dataset", "status", "why"],
    )  # fmt: skip
    rows = compare.status_table(runs, status, NAMES).frame.set_index("method")["here"]
    assert rows["recurseed"] == "3 runs on scenes"
    assert rows["recurseed+edgepredictmix"] == rows["edgepredictmix"] == "2 runs on scenes"
    assert rows["scg"] == "6 runs on scenes"  # maps refined by it, of all trainings
    assert rows["seam"] == "not run"


def test_the_page_holds_it_all(page, grid):
    text = check(page)
    assert "8 of 9 runs are done" in text
    assert "Ablation: Refined once" in text
    assert text.count("data:image/jpeg") == 3 * 2 * 2 * 5  # experiments, splits, images, pictures
    assert "oracle curve for diagnosis" in text
    names = {path.name for path in page.parent.rglob("*.*")}
    assert {"ablation_refined.csv", "ablation_refined.md", "ablation_refined.png", "watch.svg",
            "ablation_val.html", "pixel_shares.svg", "watch_rs.png"} <= names  # fmt: skip
    assert "ablation_val.png" not in names
    summary = json.loads((page.parent / "summary.json").read_text())
    assert {"cam", "cam/scg", "rs/cam"} <= set(summary)


def test_the_same_runs_give_the_same_figures(grid):
    texts = []
    for _ in range(2):
        runs = load_runs(grid["runs"], {"rs": grid["kinds"]["rs"]}, [0])
        wish = {"name": "t", "title": "A", "rows": ["rs", "rs/cam", "rs/scg+pamr"], "arrows": True}
        drawn = [step_drawing(ablations(runs, [wish])[0], runs), *training_drawings(runs)]
        texts.append([svg(d.figure, d.name, d.title, d.description) for d in drawn])
    assert len(texts[0]) == 3
    assert texts[0] == texts[1]


def test_a_wrong_wish_stops_the_report_before_anything_is_written(grid, tmp_path):
    wrong = [{"name": "t", "title": "A", "rows": ["rs/scg"]}]
    with pytest.raises(UserError, match="Unknown row 'rs/scg'"):
        build(grid["runs"], tmp_path / "out", profile="fake", kinds=grid["kinds"], seeds=[0],
              tables=wrong)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_masks_of_a_kind(grid):
    run = str(grid["runs"] / "rs-0")
    assert "pseudo_masks/decoder/val" in str(open_masks(run, "val", grid["data"]).predictions)
    chosen = open_masks(run, "val", grid["data"], kind="scg+pamr")
    assert "pseudo_masks/scg+pamr/val" in str(chosen.predictions)
    with pytest.raises(UserError, match="kind of maps"):
        open_masks(run, "val", grid["data"], kind="pamr")


def test_masks_without_a_usual_kind_must_be_named(fake, tmp_path):
    run = write_run(tmp_path, fake["truth"], "odd", 0, kinds=("scg", "pamr"))
    with pytest.raises(UserError, match=r"kinds of maps pamr, scg: name one"):
        open_masks(str(run), "val", fake["data"])


def test_refinements_are_named_where_the_kind_does_not(tmp_path):
    def run(maps, steps):
        record = {"protocol": {"refinement": steps}}
        return Run("pmm", 0, tmp_path, "done", record=record, maps=maps, main=maps == "cam")

    def shown(*runs):
        return origins.experiments_table(list(runs)).frame["refinement"].item()

    windows = run("crops+cvs", ["windows of 64 px at scales 1, 2", "cvs"])
    named = [run("cam", []), run("scg+pamr", ["scg", "pamr"])]
    assert shown(*named, windows) == "crops+cvs: windows of 64 px at scales 1, 2 + cvs"
    assert shown(*named) == "as named"
    assert shown(windows) == "windows of 64 px at scales 1, 2 + cvs"
