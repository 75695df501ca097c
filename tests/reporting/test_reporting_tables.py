import pytest
from make_runs import of, write_run

from wsssbench.reporting import origins, side_by_side, tables
from wsssbench.reporting.records import load_runs
from wsssbench.reporting.table import write


def load(folders, experiments=("cam", "cam-sharp"), seeds=(0, 1)):
    return load_runs(folders["runs"], of(*experiments), seeds)


def cells(table, row):
    return {column.key: cell for column, cell in zip(table.columns, table.lines()[row])}


def test_the_main_table_holds_the_records_scores(fake):
    runs = load(fake)
    (table,) = tables.main_tables(runs)
    first, second = (run.record["splits"] for run in runs[:2])
    mean = (first["train"]["miou"] + second["train"]["miou"]) / 2
    row = cells(table, 0)
    assert row["train.miou"].text == write(mean, "percent")
    assert row["train.miou"].spread.startswith("± ")
    assert row["seeds"].text == "2"
    single = cells(table, 1)
    assert single["seeds"].text == "1 of 2"
    assert single["train.miou"].spread == ""
    assert single["val.fp"].text == write(runs[2].record["splits"]["val"]["fp"], "fraction")


def test_the_main_table_has_the_oracle_beside_the_protocol_and_marks_given_labels(fake):
    (table,) = tables.main_tables(load(fake))
    heads = {column.key: column.group for column in table.columns}
    assert heads["train.miou"] == "train, protocol threshold"
    assert heads["train.oracle_gap"] == "train, best threshold (oracle)"
    assert heads["val.labelled_miou"] == "val †"
    assert "val.oracle_miou" not in heads
    assert any(note.startswith("†") for note in table.notes)
    assert {"val.map", "val.cf1", "train.boundary_error", "wall_s", "peak_memory_mib"} <= set(heads)


def test_what_was_not_run_stays_as_a_row(fake):
    (table,) = tables.main_tables(load(fake, ["cam", "seam"]))
    name, seeds, gap = table.lines()[1]
    assert (name.text, seeds.text, gap.text) == ("seam", "0 of 2", "not run: no files")
    assert gap.span == len(table.columns) - 2
    for other in (*tables.split_tables(load(fake, ["cam", "seam"])),):
        assert other.lines()[1][-1].text == "not run: no files"
    (first, *_) = side_by_side.per_class_tables(load(fake, ["cam", "seam"]))
    assert first.notes == ("Not in it, for want of scores: seam-0, seam-1.",)


def test_without_any_run_there_is_a_table_of_gaps(tmp_path):
    (table,) = tables.main_tables(load_runs(tmp_path, of("cam"), [0]))
    assert [cell.text for cell in table.lines()[0]] == ["cam", "0 of 1", "not run: no files"]
    assert tables.split_tables(load_runs(tmp_path, of("cam"), [0])) == []


def test_protocols_do_not_share_a_table(own):
    write_run(own["runs"], own["truth"], "cam-single", 0, protocol={"scales": [1.0]})
    runs = load(own, ["cam", "cam-single", "lost"], [0])
    first, second = tables.main_tables(runs)
    assert list(first.frame["experiment"]) == ["cam", "lost"]
    assert list(second.frame["experiment"]) == ["cam-single"]
    assert (first.name, second.name) == ("main_a", "main_b")
    assert "8 views" in first.under
    assert "2 views" in second.under
    assert len(side_by_side.per_class_tables(runs)) == 4  # two protocols × two splits
    assert len(tables.split_tables(runs)) == 4


def test_seeds_of_one_experiment_under_two_protocols_are_not_averaged(own):
    write_run(own["runs"], own["truth"], "cam", 2, protocol={"flip": False})
    first, second = tables.main_tables(load(own, ["cam"], [0, 1, 2]))
    assert (first.frame["seeds"][0], second.frame["seeds"][0]) == ("2 of 3", "1 of 3")


def test_per_class_puts_experiments_side_by_side(fake):
    table = side_by_side.per_class_tables(load(fake))[0]
    assert list(table.frame["class"]) == ["background", "disc", "bar", "tall_tree", "kite"]
    expected = load(fake)[2].table("train", "per_class")["iou"][1]
    assert table.frame["cam-sharp.iou"][1] == pytest.approx(expected)
    assert {column.group for column in table.columns} == {"", "cam", "cam-sharp"}


def test_sizes_and_boundaries(fake):
    table = side_by_side.size_tables(load(fake))[1]
    assert table.name == "objects_val"
    assert list(table.frame["size"]) == ["tiny", "small", "medium", "large"]
    assert cells(table, 2)["cam.iou"].text == "60.0"
    (boundary,) = tables.boundary_tables(load(fake))
    assert boundary.caption.startswith("Within 5 px of an object's boundary.")
    assert cells(boundary, 0)["val.boundary_error"].text == "0.310"


def test_a_missing_table_file_is_left_out(own):
    for path in own["runs"].glob("*/evaluate/cam/train/per_class.csv"):
        path.unlink()
    assert [table.name for table in side_by_side.per_class_tables(load(own))] == ["per_class_val"]


def test_provenance_has_a_row_per_run(fake):
    table = origins.provenance_table(load(fake, ["cam", "lost"]))
    assert list(table.frame["run"]) == ["cam-0", "cam-1", "lost-0", "lost-1"]
    row = cells(table, 0)
    assert row["content_hash"].text == "0f" * 6
    assert row["git"].text == "abc1234def"
    assert row["wall_s"].text == "1.0"
    assert row["splits"].text == "train, val"
    assert cells(table, 2)["state"].text == "not run"
    assert cells(table, 2)["backbone"].text == "–"


def test_uncommitted_changes_and_several_devices_show(own):
    write_run(own["runs"], own["truth"], "new", 0, git_dirty=True, devices=4, device="H200")
    row = cells(origins.provenance_table(load(own, ["new"], [0])), 0)
    assert (row["git"].text, row["where"].text) == ("abc1234def +changes", "4 × H200")


def test_experiments_and_missing_runs(fake):
    runs = load(fake, ["cam-sharp", "lost"])
    table = origins.experiments_table(runs)
    row = cells(table, 0)
    assert (row["title"].text, row["done"].text, row["method"].text) == (
        "CAM-SHARP",
        "1 of 2",
        "cam",
    )
    assert cells(table, 1)["refinement"].text == "–"
    assert list(origins.missing_table(runs).frame["run"]) == ["cam-sharp-1", "lost-0", "lost-1"]
