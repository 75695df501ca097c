import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from make_runs import of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from wsssbench.reporting import class_figures, figures
from wsssbench.reporting.drawings import drawings
from wsssbench.reporting.records import load_runs
from wsssbench.reporting.style import legend_columns, svg, write_figure


@pytest.fixture(scope="module")
def drawn(fake):
    return {d.name: d for d in drawings(load_runs(fake["runs"], of("cam", "cam-sharp"), [0, 1]))}


def words(figure):
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    texts += [axes.get_xlabel() for axes in figure.axes]
    texts += [axes.get_ylabel() for axes in figure.axes]
    return texts + [axes.get_title(loc="left") for axes in figure.axes]


def test_there_is_a_figure_of_each_kind_per_split(drawn):
    kinds = ["intervals", "fp_fn", "thresholds", "sizes", "classes_cam", "confusion_cam-sharp"]
    assert {f"{kind}_{split}" for kind in kinds for split in ("train", "val")} <= set(drawn)
    assert "history" in drawn
    sections = {drawing.section for drawing in drawn.values()}
    assert sections == {"results", "thresholds", "sizes", "classes", "training"}


def test_descriptions_say_what_can_be_seen(drawn, fake):
    best = load_runs(fake["runs"], of("cam-sharp"), [0])[0].table("val", "sweep")
    row = best.loc[best["miou"].idxmax()]
    text = f"cam-sharp at {row['threshold']:.2f} with {100 * row['miou']:.1f} %"
    assert text in drawn["thresholds_val"].description


def test_svg_is_the_same_twice(fake):
    texts = []
    for _ in range(2):
        every = drawings(load_runs(fake["runs"], of("cam"), [0, 1]))
        texts.append([svg(d.figure, d.name, d.title, d.description) for d in every])
    assert texts[0] == texts[1]


def test_svg_is_valid_named_and_has_ids_of_its_own(drawn):
    every = list(drawn.values())
    texts = [svg(d.figure, f"f{i}", d.title, d.description) for i, d in enumerate(every)]
    ids = [name for text in texts for name in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))
    for index, text in enumerate(texts):
        root = ElementTree.fromstring(text)
        assert root[0].tag.endswith("title")
        assert root[1].text == every[index].description
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
        assert set(used) <= set(ids)
        assert "<metadata" not in text


def test_titles_are_escaped_in_svg(drawn):
    text = svg(drawn["fp_fn_val"].figure, "x", "FP < FN & more", "a <b>")
    assert ElementTree.fromstring(text)[0].text == "FP < FN & more"


def test_photographs_are_embedded_as_small_jpegs():
    figure, noise = Figure(), np.random.default_rng(0).random((96, 96, 3))
    figure.subplots().imshow(0.1 * noise + np.linspace(0, 0.9, 96)[:, None])
    plain, small = (svg(figure, "x", "t", "d", photographs=wish) for wish in (False, True))
    assert "data:image/jpeg;base64" in small
    assert "image/png" not in small
    assert len(small) < 0.6 * len(plain)
    assert [e.tag for e in ElementTree.fromstring(small).iter()] == [
        e.tag for e in ElementTree.fromstring(plain).iter()
    ]


def test_every_axis_says_what_it_shows(drawn):
    for drawing in drawn.values():
        for axes in drawing.figure.axes:
            labelled = axes.get_xlabel() or axes.get_ylabel()
            assert labelled or axes.get_title(loc="left"), drawing.name


def test_drawing_leaves_the_settings_alone(fake):
    before = dict(matplotlib.rcParams)
    drawings(load_runs(fake["runs"], of("cam"), [0]))
    assert dict(matplotlib.rcParams) == before


def test_files_are_written_and_equal(drawn, tmp_path):
    figure = drawn["intervals_val"].figure
    first = write_figure(figure, tmp_path / "a", "x", "<svg/>")
    second = write_figure(figure, tmp_path / "b", "x", "<svg/>")
    assert [path.name for path in first] == ["x.svg", "x.png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_protocol_and_oracle_are_marked_on_the_curve():
    sweep = pd.DataFrame({"experiment": "cam", "threshold": [0.2, 0.4, 0.6],
                          "miou": [0.4, 0.6, 0.5], "fp": 0.2, "fn": 0.1})  # fmt: skip
    marks = pd.DataFrame({"experiment": ["cam"], "threshold": [0.5], "oracle_threshold": [0.4]})
    upper = figures.threshold_curves(sweep, marks, "t").axes[0]
    points = [line.get_xydata()[0].tolist() for line in upper.lines if line.get_marker() in "oD"]
    assert points == [[0.5, pytest.approx(55.0)], [0.4, pytest.approx(60.0)]]
    figures.threshold_curves(sweep, marks[["experiment", "threshold"]], "t")


def test_a_long_title_goes_on_in_a_second_line():
    sweep = pd.DataFrame({"experiment": "cam", "threshold": [0.2, 0.4], "miou": [0.4, 0.6],
                          "fp": 0.2, "fn": 0.1})  # fmt: skip
    title = "Maps of rs_saliency_grafting: scores over the threshold on train_balanced"
    figure = figures.threshold_curves(sweep, sweep[["experiment"]].iloc[:1], title)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (text,) = (text for text in figure.findobj(Text) if text.get_text() == title)
    box = text.get_window_extent(renderer)
    assert box.x1 <= figure.bbox.x1
    assert box.height > 2 * text.get_fontsize()


def test_bars_add_up_and_absent_classes_say_so():
    table = pd.DataFrame({"class": ["a", "b"], "iou": [0.5, np.nan], "fp": [0.2, np.nan],
                          "fn": [0.3, np.nan]})  # fmt: skip
    figure = class_figures.per_class_bars(table, "t")
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(100)
    assert {"50.0", "absent"} <= set(words(figure))


def test_confusion_rows_are_shares_of_the_true_class():
    table = pd.DataFrame({"truth": ["a", "b", "c"], "a": [3, 0, 0], "b": [1, 0, 1], "c": [0, 0, 1]})
    figure = class_figures.confusion_heatmap(table, "t")
    share = figure.axes[0].images[0].get_array()
    assert share[0].tolist() == [75, 25, 0]
    assert np.isnan(share.data[1]).all()  # no such pixels: no share either
    assert {"75", "25", "50"} <= set(words(figure))


@pytest.mark.parametrize("count", [2, 21, 81])
def test_many_classes_grow_the_figure_not_the_crowd(count):
    names = [f"class_{i}" for i in range(count)]
    table = pd.DataFrame(np.eye(count, dtype=int) * 5, columns=names)
    table.insert(0, "truth", names)
    figure = class_figures.confusion_heatmap(table, "t")
    annotated = any("100" in text for text in words(figure))
    assert annotated == (count <= class_figures.ANNOTATED_CLASSES)
    assert figure.get_figwidth() >= 0.15 * count


def test_foreground_iou_lines_are_those_of_fp_and_fn():
    rows = pd.DataFrame({"experiment": ["a", "b"], "fp": [0.1, 0.2], "fn": [0.3, 0.25]})
    axes = figures.fp_against_fn(rows, "t").axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
    labels = [text.get_text() for text in axes.texts]
    assert len(lines) == len(labels) > 2
    for line, label in zip(lines, labels):
        for fn, fp in line.get_xydata():
            assert 100 * (1 - fp - fn) == pytest.approx(float(label.removesuffix(" %")))


def test_one_epoch_and_one_seed_can_be_drawn():
    one = {"experiment": ["a"], "seed": [0]}
    history = pd.DataFrame(one | {"epoch": [1], "loss": [0.4], "lr": [0.1]})
    assert figures.history_curves(history, "t").axes[0].lines[0].get_marker() == "o"
    row = pd.DataFrame(one | {"miou": [0.5], "miou_low": [np.nan], "miou_high": [np.nan]})
    figures.interval_plot(row, "t")
    figures.fp_against_fn(pd.DataFrame(one | {"fp": [0.0], "fn": [0.0]}), "t")


def test_legends_with_long_names_have_fewer_columns():
    assert legend_columns(["cam", "rs"]) == 4
    assert legend_columns(["recurseed+edgepredictmix+scg+pamr"]) == 1
