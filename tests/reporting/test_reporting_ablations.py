import pandas as pd
import pytest
from make_runs import of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from wsssbench import published
from wsssbench.errors import UserError
from wsssbench.reporting.ablation_figures import step_figure, steps
from wsssbench.reporting.ablation_table import ablation_table
from wsssbench.reporting.ablations import ablations, differences, means
from wsssbench.reporting.records import Run, load_runs
from wsssbench.reporting.table import write

FIGURES = published.find()
NAMES = {"rs": "recurseed", "rs_epm": "recurseed+edgepredictmix"}
FACTS = {"dataset": "msrc17", "content_hash": "ab" * 32, "backbone": "resnet50", "device": "H200",
         "git_revision": "abc1234"}  # fmt: skip


def run(experiment, seed, miou, maps="cam", main=True, best=0.0, facts=None, **part):
    """A finished run; fp and fn halve what the mIoU leaves."""
    score = {"miou": miou, "fp": (1 - miou) / 2, "fn": (1 - miou) / 2}
    score |= {f"oracle_{name}": value for name, value in score.items()}
    score |= {"oracle_miou": miou + best, "oracle_threshold": 0.3, "threshold": 0.4}
    split = {"role": "train", "images": 8, "labels_used": True, "cf1": 0.9, **score, **part}
    record = {"title": experiment.upper(), "splits": {"train": split}, "protocol": {}}
    provenance = FACTS | {"method": "cam"} | (facts or {})
    return Run(experiment, seed, "", "done", "", record, provenance, maps, main)


def absent(experiment, seed, maps="cam", main=True):
    return Run(experiment, seed, "", "not run", "no files", maps=maps, main=main)


@pytest.fixture
def small(monkeypatch):
    """CAM at seeds 0 to 2, its SCG maps, RecurSeed at seeds 1 and 2, a mixer that was not run."""
    monkeypatch.setattr(Run, "timing", {})
    runs = [run("cam", seed, miou) for seed, miou in enumerate((0.40, 0.42, 0.47))]
    scg = enumerate((0.45, 0.49, 0.50))
    runs += [run("cam", seed, miou, "scg", main=False) for seed, miou in scg]
    runs += [run("rs", 1, 0.60, "decoder", best=0.02), run("rs", 2, 0.62, "decoder", best=0.03)]
    return [*runs, absent("rs", 0, "decoder"), absent("rs_epm", 0, "decoder")]


def wish(runs, **keys):
    table = {"name": "t", "title": "A title", "rows": ["cam", "cam/scg", "rs"]} | keys
    return ablations(runs, [table])[0]


def cells(table, row):
    """{key: cell} of a line, without what a gap replaced."""
    line = table.lines()[row]
    return {column.key: cell for column, cell in zip(table.columns, line)}


def test_paired_differences_by_hand(small):
    wished = wish(small, baseline="cam")
    found = differences(wished, small, "miou")
    # cam/scg: 5, 7 and 3 points; rs: seeds 1 and 2 only, 18 and 15 points.
    assert found.loc["cam/scg"].tolist() == pytest.approx([0.05, 0.02, 3])
    assert found.loc["rs"].tolist() == pytest.approx([0.165, 0.03 / 2**0.5, 2])
    assert list(found.index) == ["cam/scg", "rs"]
    # The means alone would say 61 − 43 = 18 points.
    assert means(wished, small).loc["rs", "miou"] - 0.43 == pytest.approx(0.18)


def test_the_table_by_hand(small):
    wished = wish(small, baseline="cam", columns=["f1", "miou", "fp", "fn"], note="Look here.")
    table = ablation_table(wished, small, FIGURES, NAMES)
    scg, rs = cells(table, 1), cells(table, 2)
    assert (scg["experiment"].text, scg["title"].text, scg["seeds"].text) == (
        "cam/scg", "CAM, scg", "3")  # fmt: skip
    assert (scg["miou"].text, scg["miou"].spread) == ("48.0", "± 2.6")
    assert (scg["difference"].text, scg["difference"].spread) == ("+5.0", "± 2.0")
    assert (rs["seeds"].text, rs["difference"].text, rs["cf1"].text) == ("2 of 3", "+16.5", "90.0")
    assert rs["oracle_miou"].text == "63.5"  # 62 and 65 %
    assert rs["oracle_difference"].text == "+19.0"  # 62 − 42 and 65 − 47
    assert cells(table, 0)["difference"].text == "–"
    groups = [head for head, _ in table.groups() if head]
    assert groups == ["best threshold (oracle)", "protocol threshold",
                      "published, VOC2012 train: another data set"]  # fmt: skip
    assert table.notes[0] == "Look here."
    assert table.caption == "A title"


def test_published_figures_stand_beside_by_recipe_and_kind(small):
    small += [run("rs", 1, 0.5, "scg+pamr", main=False), absent("cam", 0, "pamr", main=False)]
    rows = ["cam", "cam/scg", "cam/pamr", "rs", "rs/scg+pamr", "rs_epm"]
    wished = wish(small, rows=rows, columns=["f1", "miou", "fp"], baseline="rs")
    frame = ablation_table(wished, small, FIGURES, NAMES).frame.set_index("experiment")
    assert frame.loc["cam/scg", ["published_miou", "published_fp"]].tolist() == ["58.0", "0.268"]
    assert frame.loc["cam/pamr", "published_miou"] == ""  # not that of the plain CAM
    assert frame.loc["rs", ["published_f1", "published_miou"]].tolist() == ["94.7", "70.7"]
    assert frame.loc["rs/scg+pamr", "published_miou"] == "65.9"
    assert frame.loc["rs_epm", "published_miou"] == "75.2"
    assert frame.loc["rs_epm", "published_difference"] == "+4.5"
    assert " … " in frame.loc["cam", "published_miou"]
    assert "Novelty of EdgePredictMix" in frame.loc["rs_epm", "published_source"]
    assert "reproduction" not in frame.loc["cam", "published_source"]


def test_a_remark_on_a_methods_figures_stands_below(small):
    cosa = FIGURES[FIGURES["method"] == "cosa"].iloc[:1]
    cosa = cosa.assign(split="train", stage="decoder seed", labels_at_test="yes")
    table = ablation_table(wish(small, rows=["cam", "rs"]), small, cosa, {"rs": "cosa"})
    assert table.frame["published_miou"].tolist() == ["", "76.2"]
    assert "released configuration" in table.notes[-1]
    table = ablation_table(wish(small, rows=["cam"]), small, FIGURES, NAMES)
    assert not any("CoSA" in note for note in table.notes)


def test_rows_that_were_not_run_say_so_and_keep_what_is_published(small):
    wished = wish(small, rows=["cam", "rs_epm"], columns=["miou"])
    table = ablation_table(wished, small, FIGURES, NAMES)
    line = table.lines()[1]
    assert [cell.text for cell in line] == [
        "rs_epm", "0 of 1", "not run: no files", "75.2"]  # fmt: skip
    assert sum(cell.span for cell in line) == len(table.columns)


def test_on_voc_the_published_column_is_not_another_data_set(small):
    runs = [run("cam", 0, 0.4, facts={"dataset": "voc12"})]
    table = ablation_table(wish(runs, rows=["cam"]), runs, FIGURES, {})
    assert table.groups()[-1][0] == "published, VOC2012 train"


def test_where_the_numbers_come_from_stands_below(small):
    table = ablation_table(wish(small), small, FIGURES, NAMES)
    assert table.under == (
        "Data set msrc17 (abababababab) · split train (8 images, image labels used) · "
        "seeds 0, 1, 2 (cam, cam/scg); 1, 2 (rs) · backbone resnet50 · device H200 · git abc1234."
    )
    beside = ["split", "seed_list", "dataset", "backbone", "device", "git_revision"]
    assert table.frame.loc[2, beside].tolist() == [
        "train", "1 2", "msrc17", "resnet50", "H200", "abc1234"]  # fmt: skip


def test_rows_of_different_protocols_are_said_to_be_so(small):
    small[0].record["protocol"]["crf"] = True
    wished = wish(small, baseline="cam")
    table = ablation_table(wished, small, FIGURES, NAMES)
    assert any("they differ in: crf." in note for note in table.notes)
    # Seed 0 of cam is neither averaged with the others nor subtracted from cam/scg, nothing is best
    assert cells(table, 0)["seeds"].text == "2 of 3"
    assert means(wished, small).loc["cam", "miou"] == pytest.approx(0.445)
    assert differences(wished, small, "miou").loc["cam/scg", "seeds"] == 2
    assert not any(cell.best for line in table.lines() for cell in line)


def test_nothing_run_at_all_gives_a_table_of_gaps(tmp_path):
    runs = load_runs(tmp_path, {"cam": ("cam",), "rs": ("decoder",)}, [0])
    table = ablation_table(wish(runs, rows=["cam", "rs"], baseline="cam"), runs, FIGURES, NAMES)
    gaps = [cell.text for line in table.lines() for cell in line if cell.kind == "gap"]
    assert gaps == ["not run: no files"] * 2
    assert table.under == "No run of these rows has scores yet."


def test_the_main_kind_may_be_named(small):
    assert wish(small, rows=["rs/decoder", "cam/cam"]).rows == ("rs", "cam")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rows": ["cam/sgc"]}, "Table 't' of the report: Unknown row 'cam/sgc'. Did you mean"),
        ({"rows": ["seam"]}, "Valid: cam, cam/scg, rs, rs_epm."),
        ({"baseline": "cam/pamr"}, "Unknown row 'cam/pamr'"),
        ({"columns": ["iou"]}, "Unknown column 'iou'"),
        ({"split": "test"}, "Unknown split 'test'"),
        ({"arrow": True}, "Unknown key of a table of the report 'arrow'"),
        ({"rows": []}, "lacks rows"),
    ],
)
def test_wishes_that_cannot_be_met(small, keys, words):
    with pytest.raises(UserError) as error:
        wish(small, **keys)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_two_tables_of_one_name(small):
    table = {"name": "t", "title": "A", "rows": ["cam"]}
    with pytest.raises(UserError, match="called 't'"):
        ablations(small, [table, table])


def test_steps_go_from_what_was_refined():
    kinds = {"cam": ("cam", "scg", "pamr", "scg+pamr"), "rs": ("decoder", "cam", "scg+pamr")}
    runs = load_runs("nowhere", kinds, [0])
    rows = ["cam", "cam/scg", "cam/pamr", "cam/scg+pamr", "rs/cam", "rs/scg+pamr", "rs"]
    assert steps(wish(runs, rows=rows, baseline="cam"), runs) == [
        ("cam", "cam/scg"), ("cam", "cam/pamr"), ("cam/scg", "cam/scg+pamr"), ("cam", "rs/cam"),
        ("rs/cam", "rs/scg+pamr"), ("rs/scg+pamr", "rs")]  # fmt: skip
    assert steps(wish(runs, rows=["rs"], baseline="cam"), runs) == [("cam", "rs")]
    assert steps(wish(runs, rows=["cam", "rs"]), runs) == []


def points(**rows):
    names = ("fp", "fn", "oracle_fp", "oracle_fn")
    lines = [{"experiment": name, "maps": "cam", **dict(zip(names, values))}
             for name, values in rows.items()]  # fmt: skip
    table = pd.DataFrame(lines, index=list(rows))
    return table.assign(**{f"{name}_sd": 0.01 for name in names})


def test_the_figure_has_a_panel_per_threshold_a_name_per_row_and_an_arrow_per_step():
    table = points(a=(0.3, 0.2, 0.28, 0.22), b=(0.2, 0.3, 0.2, 0.25))
    figure = step_figure(table, [("a", "b")], "t", "best")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["best", "protocol threshold"]
    for axes in figure.axes:
        assert {"a", "b"} <= {text.get_text() for text in axes.texts}
        assert len(axes.patches) == 1
    one = step_figure(table.assign(oracle_fp=float("nan"), oracle_fn=float("nan")), [], "t", "best")
    assert [axes.get_title(loc="left") for axes in one.axes] == ["protocol threshold"]


def test_names_do_not_cover_each_other():
    near = {f"experiment_{i}": (0.3 + 0.003 * i, 0.2 - 0.002 * (i % 3)) for i in range(7)}
    axes = step_figure(points(**{name: two * 2 for name, two in near.items()}), [], "t", "b").axes[
        0
    ]
    names = [text for text in axes.texts if text.get_text() in near]
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    boxes = [Text.get_window_extent(name, renderer) for name in names]
    assert len(boxes) == 7
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert axes.bbox.contains(*box.min)
        assert axes.bbox.contains(*box.max)


def test_numbers_are_those_of_the_records(grid):
    runs = load_runs(grid["runs"], grid["kinds"], [0, 1, 2])
    wished = wish(runs, rows=["cam", "rs/cam"], columns=["miou", "gap"], baseline="cam")
    table = ablation_table(wished, runs, FIGURES, NAMES)
    parts = {seed: {row: next(r for r in runs if r.row == row and r.seed == seed)
                    .splits["train"]["oracle_miou"] for row in ("cam", "rs/cam")}
             for seed in (0, 1, 2)}  # fmt: skip
    gaps = [part["rs/cam"] - part["cam"] for part in parts.values()]
    assert cells(table, 1)["oracle_difference"].text == write(sum(gaps) / 3, "change")


def test_one_kind_and_no_baseline_need_no_extra_columns(fake):
    runs = load_runs(fake["runs"], of("cam"), [0, 1])
    table = ablation_table(wish(runs, rows=["cam"]), runs, FIGURES.iloc[:0], {})
    assert [column.key for column in table.columns] == [
        "experiment", "seeds", "oracle_threshold", "oracle_miou", "oracle_fp", "oracle_fn", "miou",
        "fp", "fn"]  # fmt: skip
