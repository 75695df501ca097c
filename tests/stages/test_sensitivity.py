"""Sweeps over stored maps: numbers by hand, agreement with the stages, the notebook."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy_profile import write_params
from toys import make_folder

from wsssbench.data.palette import write_mask
from wsssbench.errors import UserError
from wsssbench.evaluation import Protocol, evaluate_folder
from wsssbench.params import load
from wsssbench.reporting import sensitivity_figures as figures
from wsssbench.reporting.steps import draw
from wsssbench.stages import sensitivity
from wsssbench.stages.crf import sharpen_all
from wsssbench.stages.prepare import prepare
from wsssbench.stages.pseudo_masks import pseudo_masks
from wsssbench.stages.random_walk import random_walk
from wsssbench.stages.train import train

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "explore_refinement.ipynb"
WALK = {"radius": 4, "walk_radius": 3, "log2_steps": 3, "certain": 0.6, "uncertain": 0.2}
SCORES = ["miou", "fp", "fn", "boundary_error"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, profile) of a run with an affinity network."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("repo")
        monkeypatch.chdir(folder)
        make_folder(folder / "data" / "toy")
        profile = load(write_params(folder, random_walk=WALK, pseudo_masks={"map_stride": 2}))
        prepare(profile)
        train(profile, "cam", 0)
        pseudo_masks(profile, "cam", 0)
        random_walk(profile, "cam", 0)
        yield folder, profile


@pytest.fixture
def sample(run, monkeypatch):
    folder, profile = run
    monkeypatch.chdir(folder)
    return sensitivity.open_sample(profile, "cam", 0)


@pytest.fixture
def by_hand(sample, tmp_path):
    """Two images of 2×4 pixels of class 1, each score known; truth has an ignored pixel."""
    run, root = tmp_path / "run", tmp_path / "data"
    place = run / "pseudo_masks" / "cam" / "train" / "maps"
    place.mkdir(parents=True)
    shutil.copytree(sample.folder.root, root)
    truths = [[[0, 0, 1, 1], [0, 1, 1, 255]], [[0, 0, 0, 0], [0, 0, 0, 2]]]
    values = [[[0.1, 0.5, 0.9, 0.9], [0.3, 0.3, 0.7, 0.9]], [[0.1, 0.1, 0.7, 0.1]] * 2]
    for name, truth, value in zip(("im000", "im001"), truths, values):
        Image.new("RGB", (4, 2)).save(root / "JPEGImages" / f"{name}.png")
        write_mask(root / "SegmentationClass" / f"{name}.png", np.array(truth, np.uint8))
        maps, size = np.array([value], np.float16), np.array([2, 4])
        np.savez(place / f"{name}.npz", keys=np.array([1]), maps=maps, size=size)
    folder = type(sample.folder)(root)
    ids, protocol = ["im000", "im001"], Protocol("fixed", 0.4)
    return dataclasses.replace(sample, run=run, folder=folder, ids=ids, protocol=protocol)


def test_seeds_by_hand(by_hand):
    table = sensitivity.seeds(by_hand, [0.2, 0.4, 0.8])
    assert table["threshold"].tolist() == [0.2, 0.4, 0.6, 0.8] * 2  # the stage's .6 and .2 are in
    rows = table.set_index(["part", "threshold"])
    # above .6: three of class 1 and rightly so, two of the second image and wrong; 15 pixels
    above = rows.loc[("foreground", 0.6)]
    assert above.tolist() == pytest.approx([5 / 15, 3 / 5, 3 / 5])
    # at most .2: one of the first image; six of the second, one of them class 2; 10 are background
    below = rows.loc[("background", 0.2)]
    assert below.tolist() == pytest.approx([7 / 15, 6 / 7, 6 / 10])
    text = sensitivity.seeds_in_words(by_hand, table)
    assert "certain foreground at 0.6: 33.3 % of the pixels, 60.0 % of them right" in text
    assert "ignored: 20.0 % of the pixels" in text


def test_before_the_crf_by_hand(by_hand):
    table = sensitivity.crfs(by_hand, ["psa"], [1])
    assert table["parameter_set"].tolist() == ["before", "psa"]
    assert table["iterations"].tolist() == [0, 1]
    before = table.iloc[0]
    # at .4 class 1 is called six times, three times rightly, of four; class 2 is missed; background
    # is called nine times, seven times rightly, of ten
    assert before.miou == pytest.approx((7 / 12 + 3 / 7 + 0) / 3)
    assert before.fp == pytest.approx((3 / 7 + 0) / 2)
    assert before.fn == pytest.approx((1 / 7 + 1) / 2)
    assert (before.gain, before.gain_low, before.gain_high) == (0, 0, 0)
    # all seven of the first image lie within 2 px of an outline, two of them wrong; of the second
    # the five around the single pixel of class 2, three of them wrong
    assert before.boundary_error == pytest.approx(5 / 12)


def test_crf_scores_are_those_of_masks_on_disk(sample, tmp_path):
    table = sensitivity.crfs(sample, ["irn", "deeplab"], [2]).set_index("parameter_set")
    place = (sample.folder, sample.ids, sample.maps, tmp_path / "masks")
    sharpen_all(*place, sample.protocol.threshold, "irn", 2)
    assert_same_scores(table.loc["irn"], sample, tmp_path / "masks")
    assert_same_scores(table.loc["before"], sample, sample.maps.parent / "masks")
    assert table.loc["irn"].gain == pytest.approx(table.miou["irn"] - table.miou["before"])
    for row in table.itertuples():
        assert row.gain_low <= row.gain_high
    draw(sensitivity.pictures(sample, ["irn", "deeplab"], 2))


def assert_same_scores(row, sample, masks):
    scores = evaluate_folder(
        masks, sample.folder.root / "SegmentationClass", sample.ids, 3, boundary_px=2
    )
    wanted = [*[scores.summary()[name] for name in SCORES[:3]], scores.boundary["error"]]
    assert [row[name] for name in SCORES] == pytest.approx(wanted)


def test_the_own_walk_is_the_stage_s(sample):
    table = sensitivity.walks(sample, betas=[0.0], log2_steps=[3, 5], radii=[3], per_class=[True])
    assert table["parameter"].tolist() == [
        "before",
        *["beta"] * 2,
        *["log2_steps"] * 2,
        "walk_radius",
        *["per_class"] * 2,
    ]
    assert table["value"].tolist()[1:] == [0, 10, 3, 5, 3, 0, 1]
    own = table[table["own"]]
    assert own["parameter"].tolist() == ["beta", "log2_steps", "walk_radius", "per_class"]
    assert own["miou"].nunique() == 1
    assert_same_scores(own.iloc[0], sample, sample.run / "random_walk" / "rw" / "train" / "masks")
    assert_same_scores(table.iloc[0], sample, sample.maps.parent / "masks")
    grid = sample.profile.evaluate.grid
    assert set(table["best_threshold"]) <= set(grid)
    assert table["miou"].nunique() > 2
    words = sensitivity.walks_in_words(sample, table)
    assert f"{100 * own.iloc[0].miou:.1f} % after the walk" in words
    assert "has learned" not in words


def test_without_a_network_the_walk_is_left_out(by_hand):
    table = sensitivity.walks(by_hand)
    assert list(table) == list(sensitivity.WALK_COLUMNS)
    assert not len(table)
    assert "no affinity network: this part is left out" in sensitivity.walks_in_words(
        by_hand, table
    )


def test_images_are_spread_over_the_list(run, monkeypatch):
    folder, profile = run
    monkeypatch.chdir(folder)
    chosen = sensitivity.open_sample(profile, "cam", 0, images=3)
    assert chosen.ids == ["im000", "im004", "im008"]
    assert "3 of the 9 images of train" in str(chosen)
    assert "oracle" in str(chosen)
    assert len(sensitivity.open_sample(profile, "cam", 0, kind="rw").ids) == 9


def test_what_is_missing_is_said(run, monkeypatch):
    folder, profile = run
    monkeypatch.chdir(folder)
    for arguments, text in (
        (("cam", 7), r"wsssbench pseudo-masks -p .* -e cam -s 7"),
        (("cma", 0), "cma"),
        (("cam", 0, "scg"), "Unknown kind of maps 'scg'.*rw"),
        (("cam", 0, "", 0), "images is 0"),
    ):
        with pytest.raises(UserError, match=text):
            sensitivity.open_sample(profile, *arguments)
    with pytest.raises(UserError, match="Did you mean 'irn'"):
        sensitivity.crfs(sensitivity.open_sample(profile, "cam", 0), ["isn"])


def test_figures_show_every_row(sample):
    seeds = sensitivity.seeds(sample)
    figure = figures.seed_curves(seeds, sample.seed_thresholds, "seeds")
    for axes, limit in zip(figure.axes, (0.6, 0.2)):
        *curves, line = axes.lines
        assert [len(curve.get_xdata()) for curve in curves] == [len(seeds) / 2] * 3
        assert line.get_xdata() == [limit, limit]
    crfs = pd.DataFrame(
        [["before", 0], ["psa", 1], ["psa", 10], ["irn", 1], ["irn", 10]],
        columns=["parameter_set", "iterations"],
    ).assign(miou=[0.4, 0.5, 0.6, 0.4, 0.3], fp=0.2, fn=0.3, boundary_error=0.4)
    first = figures.crf_curves(crfs, "crf").axes[0]
    _, psa, irn = (np.array(line.get_ydata()) for line in first.lines)
    assert psa.tolist() == pytest.approx([40, 50, 60])
    assert irn.tolist() == pytest.approx([40, 40, 30])
    rows = [
        ["before", np.nan, False],
        ["beta", 4, True],
        ["beta", 8, False],
        ["per_class", 1, True],
    ]
    walks = pd.DataFrame(rows, columns=["parameter", "value", "own"])
    walks = walks.assign(miou=[0.4, 0.5, 0.6, 0.5], best_miou=0.6)
    figure = figures.walk_curves(walks, "walk")
    assert len(figure.axes) == 2
    assert figure.axes[0].lines[1].get_ydata().tolist() == pytest.approx([50, 60])
    weights = [label.get_fontweight() for label in figure.axes[0].get_xticklabels()]
    assert weights == ["bold", "normal"]


@pytest.mark.slow
def test_the_notebook_runs(run, tmp_path):
    papermill = pytest.importorskip("papermill")
    folder, _ = run
    target = tmp_path / "explore.ipynb"
    papermill.execute_notebook(
        NOTEBOOK, target, {"images": 4}, kernel_name="python3", progress_bar=False, cwd=folder
    )
    text = target.read_text()
    assert text.count("image/png") == 4
    assert "certain foreground at 0.6" in text
    assert "after the walk" in text
