import math

import pytest
from make_runs import of

from wsssbench.reporting.averages import aggregate, rows, summary, sweeps, wide
from wsssbench.reporting.records import Run, load_runs


def done(experiment, seed, miou, **part):
    split = {"role": "train", "miou": miou, "fp": 0.1, "fn": 0.2, "labels_used": True} | part
    record = {"splits": {"train": split}, "protocol": {"threshold_rule": "fixed"}}
    return Run(experiment, seed, "", "done", record=record)


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr(Run, "timing", {})


def absent(experiment, seed):
    return Run(experiment, seed, "", "not run", "no files")


def test_mean_and_sample_deviation_by_hand():
    runs = [done("cam", 0, 0.50), done("cam", 1, 0.53), done("cam", 2, 0.56)]
    row = aggregate(rows(runs)).iloc[0]
    assert row["miou"] == pytest.approx(0.53)
    assert row["miou_sd"] == pytest.approx(0.03)  # sqrt((.03² + 0 + .03²) / 2)
    assert (row["seeds"], row["planned"]) == (3, 3)


def test_one_seed_has_no_deviation_and_missing_seeds_are_counted():
    row = aggregate(rows([done("cam", 0, 0.5), absent("cam", 1)])).iloc[0]
    assert row["miou"] == 0.5
    assert math.isnan(row["miou_sd"])
    assert (row["seeds"], row["planned"]) == (1, 2)


def test_runs_without_scores_keep_a_row_per_split():
    table = rows([done("cam", 0, 0.5), absent("seam", 0)])
    assert list(table["experiment"]) == ["cam", "seam"]
    lost = table.iloc[1]
    assert (lost["split"], lost["status"], lost["protocol"]) == ("train", "not run", "")
    assert math.isnan(lost["miou"])
    mean = aggregate(table).iloc[1]
    assert (mean["experiment"], mean["seeds"], mean["status"]) == ("seam", 0, "not run")


def test_nothing_done_at_all():
    means = aggregate(rows([absent("cam", 0), absent("cam", 1)]))
    assert means[["experiment", "split", "seeds", "planned"]].values.tolist() == [["cam", "", 0, 2]]
    assert summary(means) == {"cam": {"seeds": 0, "planned": 2}}
    assert aggregate(rows([])).empty


def test_null_scores_and_missing_parts_become_nan():
    table = rows([done("cam", 0, None, with_labels=None, boundary_band=None)])
    assert table["miou"].isna().all()
    assert table["labelled_miou"].isna().all()
    assert table["boundary_error"].isna().all()


def test_nested_parts_are_flattened():
    part = {
        "with_labels": {"miou": 0.6, "fp": 0.3, "fn": 0.1},
        "boundary_band": {"width_px": 5, "error": 0.4, "miou": 0.2},
        "miou_interval": [0.45, 0.55],
    }
    row = rows([done("cam", 0, 0.5, **part)]).iloc[0]
    assert (row["labelled_miou"], row["boundary_error"], row["miou_high"]) == (0.6, 0.4, 0.55)


def test_summary_by_hand():
    runs = [done("cam", 0, 0.5, map=0.9), done("cam", 1, 0.6, map=0.8)]
    assert summary(aggregate(rows(runs))) == {
        "cam": {
            "seeds": 2,
            "planned": 2,
            "train": {
                "miou": 0.55,
                "miou_sd": 0.070711,
                "fp": 0.1,
                "fp_sd": 0.0,
                "fn": 0.2,
                "fn_sd": 0.0,
                "map": 0.85,
            },
        }
    }


def test_wide_puts_the_splits_beside_each_other(fake):
    runs = load_runs(fake["runs"], of("cam", "cam-sharp"), [0])
    table = wide(aggregate(rows(runs)))
    assert list(table["experiment"]) == ["cam", "cam-sharp"]
    record = runs[1].record["splits"]
    assert table["val.miou"][1] == pytest.approx(record["val"]["miou"])
    assert table["train.fp"][1] == pytest.approx(record["train"]["fp"])


def test_sweeps_average_seeds_in_spite_of_float_noise(tmp_path):
    for seed, (threshold, miou) in enumerate([("0.15000000000000002", 0.2), ("0.15", 0.4)]):
        place = tmp_path / f"cam-{seed}" / "evaluate" / "cam" / "train"
        place.mkdir(parents=True)
        (place / "sweep.csv").write_text(f"threshold,miou,fp,fn\n{threshold},{miou},0.5,0.1\n")
    runs = [
        Run("cam", seed, tmp_path / f"cam-{seed}", "done", record={"splits": {"train": {}}})
        for seed in (0, 1)
    ]
    table = sweeps(runs)
    assert table[["experiment", "split", "threshold"]].values.tolist() == [["cam", "train", 0.15]]
    assert table["miou"].tolist() == pytest.approx([0.3])


def test_costs_come_from_training_and_inference(monkeypatch):
    monkeypatch.setattr(Run, "timing", {"inference_s": 12.0, "images": 4})
    run = Run("cam", 0, "", "done", record=done("cam", 0, 0.5).record, provenance={"wall_s": 60.0})
    row = rows([run, absent("cam", 1)]).set_index("seed")
    assert row.loc[0, "inference_s"] == 12.0
    assert row.loc[0, "wall_s"] == 60.0
    assert math.isnan(row.loc[1, "inference_s"])
