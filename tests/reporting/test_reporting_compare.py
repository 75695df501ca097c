import pandas as pd
import pytest
from make_runs import of, write_run

from wsssbench import published
from wsssbench.reporting import compare
from wsssbench.reporting.records import load_runs

FIELDS = ["method", "label", "backbone", "supervision", "dataset", "split", "stage", "metric"]
FIELDS += ["value", "unit", "source", "labels_at_test", "note"]


def figures(*changes):
    base = dict(zip(FIELDS, ["cam", "CAM", "ResNet-50", "I", "VOC2012", "train", "seed", "miou",
                             48.3, "percent", "a paper", "yes", ""]))  # fmt: skip
    return pd.DataFrame([base | change for change in changes or ({},)])


@pytest.fixture
def voc(own):
    """Runs whose data set is called voc12 and has the published number of training images."""
    for seed in (0, 1):
        write_run(own["runs"], own["truth"], "plain", seed, dataset="voc12")
    runs = load_runs(own["runs"], of("plain"), [0, 1])
    for run in runs:
        run.record["splits"]["train"]["images"] = 1464
        run.record["splits"]["val"]["images"] = 1449
    return runs


@pytest.mark.parametrize("name", ["voc12", "VOC2012", "voc_2012"])
def test_names_of_data_sets(name):
    assert compare.data_set(name) == "VOC2012"
    assert compare.data_set("voc12_half") == "voc12_half"


def test_same_data_set_stands_side_by_side(voc):
    (table,) = compare.published_tables(voc, figures())
    row = table.frame.iloc[0]
    best = sum(run.record["splits"]["train"]["oracle_miou"] for run in voc) / 2
    assert row["published"] == "48.3"
    assert row["best"] == pytest.approx(best)
    assert row["difference"] == pytest.approx(best - 0.483)
    assert row["our_backbone"] == "tiny"
    assert table.name == "published_percent"


def test_what_we_did_not_run_reads_not_run(voc):
    (table,) = compare.published_tables(voc, figures({"method": "seam", "label": "SEAM"}, {}))
    assert list(table.frame["experiment"]) == ["plain", "not run"]
    assert table.frame["best"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"split": "test"},
        {"stage": "multi-stage"},
        {"labels_at_test": "no"},
        {"metric": "f1"},
    ],
)
def test_another_kind_of_figure_does_not(voc, change):
    assert compare.published_tables(voc, figures(change)) == []


def test_figures_with_labels_at_test_meet_ours_with_labels(voc):
    (table,) = compare.published_tables(voc, figures({"split": "val", "labels_at_test": "yes"}))
    row = table.frame.iloc[0]
    given = sum(run.record["splits"]["val"]["with_labels"]["miou"] for run in voc) / 2
    assert row["value"] == pytest.approx(given)
    assert row["difference"] == pytest.approx(given - 0.483)


def test_a_part_of_the_data_set_is_not_the_data_set(voc):
    for run in voc:
        run.record["splits"]["train"]["images"] = 300
    (table,) = compare.published_tables(voc, figures({}, {"split": "val"}))
    assert table.frame[["split", "experiment"]].values.tolist() == [
        ["val", "plain"], ["train", "not run"]]  # fmt: skip
    assert table.notes[-1] == "A run on a part of a split is not compared."


def test_fractions_get_a_table_of_their_own(voc):
    both = figures({"metric": "fp", "value": 0.25, "unit": "fraction"}, {})
    percent, fraction = compare.published_tables(voc, both)
    assert (percent.name, fraction.name) == ("published_percent", "published_fraction")
    ours = sum(run.record["splits"]["train"]["oracle_fp"] for run in voc) / 2
    assert fraction.frame["difference"][0] == pytest.approx(ours - 0.25)


def test_another_data_set_stands_apart_and_is_not_compared(fake):
    runs = load_runs(fake["runs"], of("cam"), [0, 1])
    others = {"backbone": "VGG-16", "value": 48.9}, {"value": 50.1, "source": "a talk"}
    table, sources = compare.published_tables(runs, figures({}, *others))
    assert "difference" not in table.frame
    heads = [column.head for column in table.columns]
    assert "published (VOC2012)" in heads
    assert {column.group for column in table.columns} == {"", "ours (scenes)"}
    assert table.frame["published"][0] == "ResNet-50 48.3, 50.1; VGG-16 48.9"
    assert sources.frame[["published", "source"]].values.tolist() == [
        ["48.3", "a paper"], ["48.9", "a paper"], ["50.1", "a talk"]]  # fmt: skip
    assert "belong to another data set" in table.caption
    assert "must not be compared" in table.notes[0]


def test_an_experiment_named_like_a_published_method_is_that_method(fake):
    runs = load_runs(fake["runs"], of("cam-sharp"), [0])
    both = figures({"method": "cam-sharp", "value": 60.0}, {})
    table, _ = compare.published_tables(runs, both)
    assert table.frame["published"][0] == "ResNet-50 60"


def test_nothing_done_or_nothing_published_gives_no_table(tmp_path, fake):
    assert compare.published_tables(load_runs(tmp_path, of("cam"), [0]), figures()) == []
    runs = load_runs(fake["runs"], of("cam"), [0])
    assert compare.published_tables(runs, figures().iloc[:0]) == []


def test_status_is_never_raised_by_a_run_elsewhere(fake):
    columns = ["method", "dataset", "status", "why"]
    status = pd.DataFrame(
        [["seam", "VOC2012", "not run", "no"], ["cam", "VOC2012", "not run", "here"],
         ["cam", "COCO2014", "verified", "agrees"]], columns=columns)  # fmt: skip
    table = compare.status_table(load_runs(fake["runs"], of("cam"), [0, 1]), status)
    rows = table.frame.fillna("").set_index("method").to_dict("index")
    assert rows["cam"] == {"VOC2012": "not run", "COCO2014": "verified", "why": "here; agrees",
                           "here": "2 runs on scenes"}  # fmt: skip
    assert rows["seam"]["here"] == "not run"


def test_with_the_packages_own_figures(fake):
    runs = load_runs(fake["runs"], of("cam"), [0])
    table, sources = compare.published_tables(runs, published.load())
    assert "ResNet-50 48.3" in table.frame["published"][0]
    assert len(sources.frame) > 5
    assert len(compare.status_table(runs, published.status()).frame) > 10


def test_what_must_be_known_of_a_methods_figures_is_said(voc, fake):
    """CoSA's figures never stand anywhere without how they came about."""
    cosa = figures({}, {"method": "cosa", "label": "CoSA"})
    (table,) = compare.published_tables(voc, cosa)
    assert "released configuration" in table.notes[-1]
    runs = load_runs(fake["runs"], of("cam"), [0])
    table, _ = compare.published_tables(runs, cosa, {"cam": "cosa"})
    assert "true image labels at test" in table.notes[-1]
    table, _ = compare.published_tables(runs, cosa)  # CAM's are shown, CoSA's are not
    assert len(table.notes) == 1
