import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
from make_runs import of, write_run

from wsssbench.reporting import build

VOID = {"meta", "img", "br", "link", "hr", "input"}
SELF_CLOSED = {"path", "use", "rect", "line", "circle", "image", "stop"}


class Checker(HTMLParser):
    """Collects what a valid, self-contained, accessible page must have."""

    def __init__(self):
        super().__init__()
        self.open, self.problems, self.ids, self.links, self.tables = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, dict(attrs))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1:]} at {self.getpos()}")
        else:
            self.open.pop()

    def note(self, tag, attrs):
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.links += [v for k, v in attrs.items() if k in ("src", "href", "xlink:href")]
        if tag == "script":
            self.problems.append("script")
        if tag == "img" and not attrs.get("alt"):
            self.problems.append("image without alternative text")
        if tag == "table":
            self.tables.append({"caption": False})
        if tag == "caption":
            self.tables[-1]["caption"] = True
        if tag == "th" and attrs.get("scope") not in ("col", "row", "colgroup"):
            self.problems.append(f"th without scope at {self.getpos()}")


def check(path):
    checker = Checker()
    text = path.read_text()
    checker.feed(text)
    assert checker.problems == []
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(table["caption"] for table in checker.tables)
    assert checker.tables
    outside = [link for link in checker.links if not link.startswith(("#", "data:image/"))]
    assert outside == []
    anchors = {link[1:] for link in checker.links if link.startswith("#")}
    assert anchors <= set(checker.ids)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text) < 3_000_000
    return text


def report(folders, out, experiments=("cam", "cam-sharp"), seeds=(0, 1), **options):
    options = {"profile": "fake", "data_root": folders["data"], "gallery": 2} | options
    return build(folders["runs"], out, kinds=of(*experiments), seeds=seeds, **options)


@pytest.fixture(scope="module")
def page(fake, tmp_path_factory):
    return report(fake, tmp_path_factory.mktemp("reports"), title="A <title>", note="A note & more")


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time; tests that do not look at them go without."""
    monkeypatch.setattr("wsssbench.reporting.page.drawings", lambda *_: [])


def test_the_page_is_valid_and_self_contained(page):
    text = check(page)
    assert "<h1>A &lt;title&gt;</h1>" in text
    assert "A note &amp; more" in text
    assert text.count("data:image/jpeg") == 2 * 2 * 4 * 5  # experiments, splits, images, pictures


def test_the_protocol_and_the_sections_are_there(page):
    text = page.read_text()
    for words in ("Fixed threshold 0.40", "no image labels", "each also mirrored", "CRF",
                  "Ignored pixels", "Initial weights", "oracle", "Published beside ours",
                  "Verified against publications or not", "Where each number comes from",
                  "Failed or not run", "cam-sharp-1"):  # fmt: skip
        assert words in text, words


def test_every_table_and_figure_is_also_a_file(page):
    top = page.parent
    stems = {path.stem for path in (top / "tables").glob("*.csv")}
    assert {"main", "scores_train", "per_class_val", "provenance", "status", "not_run"} <= stems
    for stem in stems:
        assert (top / "tables" / f"{stem}.md").exists()
        assert (top / "tables" / f"{stem}.html").exists()
    pictures = {path.name for path in (top / "figures").iterdir()}
    assert {"thresholds_train.svg", "thresholds_train.png", "history.svg"} <= pictures


def test_summary_and_sweep_hold_the_records_numbers(page, fake):
    summary = json.loads((page.parent / "summary.json").read_text())
    parts = [json.loads((fake["runs"] / f"cam-{s}/evaluate/cam/record.json").read_text())["splits"]
             for s in (0, 1)]  # fmt: skip
    for split in ("train", "val"):
        for name in ("miou", "fp", "fn", "oracle_miou"):
            mean = (parts[0][split][name] + parts[1][split][name]) / 2
            assert summary["cam"][split][name] == pytest.approx(mean, abs=1e-6)
    values = [part["val"]["miou"] for part in parts]
    deviation = abs(values[0] - values[1]) / 2**0.5
    assert summary["cam"]["val"]["miou_sd"] == pytest.approx(deviation, abs=1e-6)
    assert summary["cam-sharp"]["seeds"] == 1
    sweep = pd.read_csv(page.parent / "sweep.csv")
    assert list(sweep.columns) == ["experiment", "split", "threshold", "miou", "fp", "fn"]
    assert len(sweep) == 2 * 2 * 19


def test_the_same_runs_give_the_same_files(page, fake, tmp_path):
    again = report(fake, tmp_path, title="A <title>", note="A note & more")
    assert len(list(again.parent.rglob("*"))) == len(list(page.parent.rglob("*"))) > 60
    for path in sorted(p for p in page.parent.rglob("*") if p.is_file()):
        other = again.parent / path.relative_to(page.parent)
        assert path.read_bytes() == other.read_bytes(), path.name


def test_figures_of_chosen_experiments(fake, tmp_path):
    page = report(fake, tmp_path, shown=["cam"], gallery=0)
    assert "All other figures are drawn for cam." in check(page)
    drawn = {path.stem for path in (page.parent / "figures").iterdir()}
    assert {"thresholds_train", "classes_cam_train"} <= drawn
    assert "classes_cam-sharp_train" not in drawn
    assert {"cam", "cam-sharp"} <= set(pd.read_csv(page.parent / "tables/main.csv").experiment)


def test_a_report_of_nothing(tmp_path):
    page = report({"runs": tmp_path / "no", "data": tmp_path / "no"}, tmp_path / "out")
    text = check(page)
    assert "0 of 4 runs are done." in text
    assert "not run: no files" in text
    assert json.loads((page.parent / "summary.json").read_text())["cam"] == {
        "seeds": 0, "planned": 2}  # fmt: skip
    assert (page.parent / "sweep.csv").read_text().startswith("experiment,split,threshold")


def test_a_report_of_half_finished_runs(own, tmp_path):
    shutil.rmtree(own["runs"] / "cam-0" / "train")
    shutil.rmtree(own["runs"] / "cam-0" / "pseudo_masks")
    for name in ("per_class", "objects", "per_image"):
        (own["runs"] / "cam-1" / "evaluate" / "cam" / "val" / f"{name}.csv").unlink()
    (own["runs"] / "cam-sharp-0" / "evaluate" / "cam" / "record.json").write_text("{")
    text = check(report(own, tmp_path / "out"))
    assert "2 of 4 runs are done" in text
    assert "failed: evaluate/cam/record.json holds no scores" in text
    assert "pseudo_masks/cam/train/masks does not exist" in text


def test_a_split_without_masks_is_shown_without_scores(own, tmp_path):
    path = own["runs"] / "cam-0" / "evaluate" / "cam" / "record.json"
    record = json.loads(path.read_text())
    record["splits"]["train"] = {"role": "train", "images": 8, "labels_used": True, "map": 0.9}
    path.write_text(json.dumps(record))
    shutil.rmtree(own["runs"] / "cam-0" / "evaluate" / "cam" / "train")
    text = check(report(own, tmp_path / "out", ["cam"], [0]))
    assert "val, protocol threshold" in text
    assert "train, protocol threshold" not in text


def test_without_a_data_set_there_is_no_gallery(fake, tmp_path, no_figures):
    assert "data:image/jpeg" not in check(report(fake, tmp_path / "a", data_root=None))
    text = check(report(fake, tmp_path / "b", data_root=tmp_path / "gone"))
    assert "gone does not exist" in text


def test_two_protocols_are_said_to_be_two(own, tmp_path):
    write_run(own["runs"], own["truth"], "other", 0, protocol={"threshold": 0.5})
    text = check(report(own, tmp_path / "out", ["cam", "other"], [0], gallery=0))
    assert "They differ in: threshold." in text
    assert "Protocol A: scenes · fixed threshold 0.40" in text
    assert "Protocol B: scenes · fixed threshold 0.50" in text
    assert "Best on" not in text
    assert (tmp_path / "out" / "figures" / "thresholds_val_b.png").exists()


def test_the_best_row_of_the_opening_is_one_of_several_seeds_where_there_are_any(own, tmp_path):
    for seed in (0, 1):
        write_run(own["runs"], own["truth"], "other", seed)
    write_run(own["runs"], own["truth"], "perfect", 0, blur=0.5)
    text = check(report(own, tmp_path / "out", ["other", "perfect"], [0, 1], gallery=0))
    assert "Best on val of the rows with several seeds, OTHER (other):" in text


def test_files_of_an_earlier_report_do_not_stay(fake, tmp_path):
    for name in ("figures/old.svg", "figures/old.png", "figures/mine.txt", "tables/old.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    report(fake, tmp_path, ["cam"], [0], gallery=0)
    names = {path.name for path in tmp_path.rglob("*")}
    assert {"classes_cam_val.svg", "main.csv", "mine.txt"} <= names
    assert not {"old.svg", "old.png", "old.csv"} & names


def test_the_page_stays_small_however_many_images_are_wanted(
    fake, tmp_path, monkeypatch, no_figures
):
    full = report(fake, tmp_path / "full", gallery=100).stat().st_size
    limit = full * 2 // 3
    monkeypatch.setattr("wsssbench.reporting.page.PAGE_BYTES", limit)
    page = report(fake, tmp_path / "small", gallery=100)
    assert limit / 2 < page.stat().st_size < limit + 40_000  # text and style come on top
    assert "data:image/jpeg" in page.read_text()
