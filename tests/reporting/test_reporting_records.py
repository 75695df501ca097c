import json
import subprocess
import sys

from make_runs import of

from wsssbench.reporting.records import (
    load_run,
    load_runs,
    mean_table,
    read_table,
    split_roles,
    titles_of,
)


def test_runs_are_those_of_the_grid_not_those_on_disk(fake):
    runs = load_runs(fake["runs"], of("cam", "absent"), [0, 7])
    assert [run.name for run in runs] == ["cam-0", "cam-7", "absent-0", "absent-7"]
    assert [run.status for run in runs] == ["done", "not run", "not run", "not run"]


def test_a_missing_directory_gives_runs_that_are_not_run(tmp_path):
    (run,) = load_runs(tmp_path / "nowhere", of("cam"), [0])
    assert (run.status, run.splits, run.provenance, run.timing) == ("not run", {}, {}, {})
    assert run.history().empty
    assert run.table("train", "sweep").empty


def test_a_run_that_stopped_says_where(tmp_path):
    stage = tmp_path / "cam-0" / "pseudo_masks"
    stage.mkdir(parents=True)
    error = {"output_type": "error", "ename": "UserError", "evalue": "no\nweights"}
    cells = [{"outputs": [{"output_type": "stream"}]}, {"outputs": [error]}, {"source": ""}]
    (stage / "pseudo_masks.ipynb").write_text(json.dumps({"cells": cells}))
    run = load_run(tmp_path / "cam-0", "cam", 0)
    assert run.status == "failed"
    assert run.reason == "stopped in pseudo_masks: UserError: no weights"


def test_a_run_with_half_its_stages_is_failed_but_keeps_its_provenance(own):
    (own["runs"] / "cam-0" / "evaluate" / "cam" / "record.json").unlink()
    for path in (own["runs"] / "cam-0" / "evaluate" / "cam").glob("*/*"):
        path.unlink()
    for split in ("train", "val"):
        (own["runs"] / "cam-0" / "evaluate" / "cam" / split).rmdir()
    run = load_run(own["runs"] / "cam-0", "cam", 0)
    assert (run.status, run.reason) == (
        "failed",
        "has no scores; the last stage with files is pseudo_masks",
    )
    assert run.provenance["backbone"] == "tiny"


def test_a_broken_record_is_a_failed_run(own):
    place = own["runs"] / "cam-0" / "evaluate" / "cam" / "record.json"
    place.write_text(place.read_text()[:200])
    run = load_run(own["runs"] / "cam-0", "cam", 0)
    assert (run.status, run.reason) == ("failed", "evaluate/cam/record.json holds no scores")


def test_training_splits_come_first(fake):
    (run,) = load_runs(fake["runs"], of("cam"), [0])
    record = run.record["splits"]
    run.record["splits"] = {name: record[name] for name in ("val", "train")}
    assert list(run.splits) == ["train", "val"]
    assert split_roles([run]) == {"train": "train", "val": "val"}


def test_ids_and_names_stay_text(tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text("id,miou,truth_classes\n001,0.5,NA\n2007_000032,,\n")
    table = read_table(path)
    assert list(table["id"]) == ["001", "2007_000032"]
    assert table["truth_classes"][0] == "NA"
    assert table["miou"].isna().tolist() == [False, True]


def test_mean_table_averages_over_seeds_and_keeps_the_order(tmp_path):
    for seed, (first, second) in enumerate([(0.2, ""), (0.4, 0.6)]):
        place = tmp_path / f"cam-{seed}" / "evaluate" / "cam" / "val"
        place.mkdir(parents=True)
        (place / "per_class.csv").write_text(f"class,iou\nzebra,{first}\napple,{second}\n")
    runs = load_runs(tmp_path, of("cam"), [0, 1, 2])
    table = mean_table(runs, "val", "per_class", ("class",))
    assert list(table["class"]) == ["zebra", "apple"]
    assert table["iou"].round(9).tolist() == [0.3, 0.6]
    assert mean_table(runs, "val", "sweep", ("threshold",)).empty


def test_reporting_loads_no_torch():
    code = "import sys, wsssbench.reporting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_row_has_its_title_from_the_profile_a_record_or_its_name(fake):
    runs = load_runs(fake["runs"], of("cam", "cam-sharp", "absent"), [7, 0], {"absent": "Not yet"})
    known = runs[1].title
    assert known != "cam"  # from the record of seed 0
    assert titles_of(runs) == {"cam": known, "cam-sharp": runs[3].title, "absent": "Not yet"}
    assert titles_of(load_runs("nowhere", {"cam": ("cam", "scg")}, [0])) == {
        "cam": "cam", "cam/scg": "cam/scg"}  # fmt: skip
