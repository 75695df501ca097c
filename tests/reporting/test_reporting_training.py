"""Figures about training: seed quality per epoch, shares of pixels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from make_runs import of
from make_training import MIX_START, RS_START, rs_history, watch

from wsssbench.reporting.counterparts import published_name
from wsssbench.reporting.records import Run, load_run, load_runs
from wsssbench.reporting.training_drawings import starts, training_drawings
from wsssbench.reporting.training_figures import pixel_shares, watch_curves


@pytest.fixture
def runs(grid):
    return load_runs(grid["runs"], grid["kinds"], [0, 1, 2])


def test_starts_come_from_the_history(runs):
    first = {run.experiment: run for run in reversed(runs) if run.status == "done"}
    assert starts(first["cam"]) == {}
    assert starts(first["rs"]) == {"self-training begins": RS_START}
    both = {"self-training begins": RS_START, "mixing begins": MIX_START}
    assert starts(first["rs_epm"]) == both


def test_starts_without_a_history_come_from_the_settings(runs, tmp_path):
    run = load_runs(tmp_path, of("rs"), [0])[0]
    run.provenance["settings"] = {"method": {"rs_start": 3, "mix_start": 1}}
    assert starts(run) == {"self-training begins": 3.0}


def test_decoders_of_other_methods_start_with_their_loss(runs, tmp_path, monkeypatch):
    run = load_runs(tmp_path, of("cosa"), [0])[0]
    column = pd.DataFrame({"epoch": [1, 2, 3], "loss_c2s": [np.nan, np.nan, 0.4]})
    monkeypatch.setattr(Run, "history", lambda run: column)
    assert starts(run) == {"self-training begins": 3.0}


def test_watched_runs_give_one_figure_of_all_and_one_per_experiment(runs):
    drawn = {drawing.name: drawing for drawing in training_drawings(runs)}
    assert list(drawn) == ["watch", "watch_rs", "watch_rs_epm", "pixel_shares"]
    for name in ("watch", "watch_rs"):
        assert drawn[name].title.startswith("Oracle curve: ")
        assert "8 training images, threshold 0.40" in drawn[name].title
    assert "rs mIoU" in drawn["watch"].description
    last = [run.watch() for run in runs if run.experiment == "rs" and run.main]
    value = np.mean([table[(table.epoch == 12) & (table.maps == "cam")].fp for table in last])
    assert f"FP {value:.3f}" in drawn["watch_rs"].description.split("cam mIoU")[1]


def test_without_watch_and_shares_there_is_nothing(fake):
    assert training_drawings(load_runs(fake["runs"], of("cam"), [0, 1])) == []


def test_the_thick_line_is_the_mean_over_seeds():
    watch = pd.DataFrame({"seed": [0, 0, 1, 1], "epoch": [1, 2, 1, 2],
                          "miou": [0.4, 0.5, 0.6, 0.5]})  # fmt: skip
    watch = watch.assign(experiment="rs", maps="cam", fp=0.2, fn=0.3)
    axes = watch_curves(watch, {"self-training begins": 2}, "t").axes[0]
    thin_one, thin_two, thick, begin = axes.lines
    assert thin_one.get_ydata() == pytest.approx([40, 50])
    assert thin_two.get_ydata() == pytest.approx([60, 50])
    assert thick.get_ydata() == pytest.approx([50, 50])
    assert thick.get_linewidth() > 2 * thin_one.get_linewidth()
    assert set(begin.get_xdata()) == {1.5}


def test_shares_are_stacked_to_the_whole():
    history = rs_history(np.random.default_rng(0)).assign(experiment="rs")
    axes = pixel_shares(history, {}, "t").axes[0]
    foreground, ignored, background = axes.patches
    row = history.iloc[-1]
    assert foreground.get_data().values[-1] == pytest.approx(100 * row["certain_foreground"])
    both = 100 * (row["certain_foreground"] + row["ignored"])
    assert ignored.get_data().values[-1] == pytest.approx(both)
    assert background.get_data().values == pytest.approx(np.full(12 - RS_START + 1, 100.0))
    assert foreground.get_data().edges[0] == RS_START - 0.5
    assert axes.get_title(loc="left").startswith("rs\nforeground 2")


def test_one_epoch_of_shares_can_be_drawn():
    history = rs_history(np.random.default_rng(0)).iloc[:RS_START].assign(experiment="rs")
    assert len(pixel_shares(history, {}, "t").axes[0].patches) == 3


def test_an_untrained_decoder_has_no_curve(tmp_path):
    folder = tmp_path / "rs-0"
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rs_history(rng).to_csv(folder / "train" / "history.csv", index=False)
    both = watch(rng, ("decoder", "cam"))
    both.to_csv(folder / "train" / "watch.csv", index=False)
    (folder / "train" / "provenance.json").write_text('{"method": "recurseed"}')
    (figure,) = (d.figure for d in training_drawings([load_run(folder, "rs", 0, "decoder")])
                 if d.name.startswith("watch"))  # fmt: skip
    first = sorted(
        line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) > 2
    )
    assert first == [1, RS_START]


def test_a_recipe_that_nobody_published_has_no_counterpart():
    run = Run("rs_identity", 0, Path("nowhere"), "done", provenance={"method": "recurseed"})
    assert published_name(run, {"rs_identity": "none"}, ["recurseed"]) == ""
    assert published_name(run, {}, ["recurseed"]) == "recurseed"
