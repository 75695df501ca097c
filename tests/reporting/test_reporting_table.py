import math

import pandas as pd
import pytest

from wsssbench.reporting.table import Column, Table, write, write_spread

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.50649, "percent", "50.6"),
        (1.0, "percent", "100.0"),
        (0.20149, "fraction", "0.201"),
        (0.0, "fraction", "0.000"),
        (0.35000000000000003, "threshold", "0.35"),
        (-0.0123, "points", "−1.2"),
        (-0.0001, "points", "0.0"),
        (90.0, "minutes", "1.5"),
        (512, "gib", "0.50"),
        (1382.4, "count", "1\u202f382"),
        (NAN, "percent", "–"),
        (None, "text", "–"),
        ("", "text", "–"),
        ("cam", "text", "cam"),
        ("58.8 … 64.8", "range", "58.8 … 64.8"),
    ],
)
def test_numbers_are_written_in_their_unit(value, kind, text):
    assert write(value, kind) == text


def test_spread_follows_the_unit_and_is_absent_for_one_seed():
    assert write_spread(0.01237, "percent") == "± 1.2"
    assert write_spread(0.01237, "fraction") == "± 0.012"
    assert write_spread(0.0, "percent") == "± 0.0"
    assert write_spread(NAN, "percent") == write_spread(None, "percent") == ""
    assert write_spread(0.0, "threshold") == ""  # a setting does not spread


def table(frame, **options):
    columns = (
        Column("name", "name"),
        Column("miou", "mIoU %", "percent", "train", "max"),
        Column("fp", "FP", "fraction", "train", "min"),
    )
    return Table("t", "A caption.", pd.DataFrame(frame), columns, **options)


def marked(shown):
    return [[cell.best for cell in line] for line in shown.lines()]


def test_best_is_per_column_and_what_prints_alike_is_alike():
    shown = table({"name": list("abc"), "miou": [0.5001, 0.5004, 0.4], "fp": [0.2, 0.3, 0.1]})
    assert marked(shown) == [[False, True, False], [False, True, False], [False, False, True]]


def test_nothing_is_best_without_a_rival_or_a_difference():
    assert not any(map(any, marked(table({"name": ["a"], "miou": [0.5], "fp": [0.1]}))))
    same = table({"name": ["a", "b"], "miou": [0.5, NAN], "fp": [0.1, 0.1]})
    assert not any(map(any, marked(same)))


def test_rows_apart_do_not_compete():
    frame = {"name": list("abc"), "miou": [0.5, 0.4, 0.9], "fp": [0.2, 0.3, 0.1]}
    shown = table(frame, apart=("c",))
    assert marked(shown) == [[False, True, True], [False] * 3, [False] * 3]


def test_a_single_seed_does_not_compete_with_means():
    frame = {"name": list("abc"), "miou": [0.5, 0.4, 0.9], "fp": [0.2, 0.3, 0.1]}
    shown = table({**frame, "seeds": ["3", "2 of 3", "1 of 3"]})
    assert marked(shown) == [[False, True, True], [False] * 3, [False] * 3]
    assert "A row of one seed gets no ★ beside rows of several." in shown.to_markdown()
    assert "A row of one seed" in shown.to_html()
    alike = table({**frame, "seeds": ["1", "1 of 3", "1"]})
    assert marked(alike)[2] == [False, True, True]
    assert "one seed" not in alike.to_markdown()


def test_best_across_compares_the_columns_of_a_row():
    columns = (
        Column("class", "class"),
        Column("a", "IoU %", "percent", "cam", "max"),
        Column("b", "IoU %", "percent", "seam", "max"),
    )
    frame = pd.DataFrame({"class": ["cat", "dog"], "a": [0.5, 0.1], "b": [0.4, 0.3]})
    shown = Table("t", "c", frame, columns, across=True)
    assert marked(shown) == [[False, True, False], [False, False, True]]


def test_a_gap_replaces_the_numbers():
    frame = {"name": ["a", "b"], "miou": [0.5, NAN], "fp": [0.1, NAN], "gap": ["", "not run: why"]}
    shown = table(frame)
    first, last = shown.lines()
    assert [cell.text for cell in first] == ["a", "50.0", "0.100"]
    assert [(cell.text, cell.span) for cell in last] == [("b", 1), ("not run: why", 2)]
    assert "|    not run: why |             |" in shown.to_markdown()
    assert '<td class="gap" colspan="2">not run: why</td>' in shown.to_html()


def test_markdown():
    frame = {"name": ["a|b", "c"], "miou": [0.5, 0.6], "miou_sd": [0.01, NAN], "fp": [0.1, 0.2]}
    lines = table(frame, notes=("A note.",)).to_markdown().splitlines()
    assert lines[0] == "**A caption.**"
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "name", "train: mIoU %", "train: FP"]  # fmt: skip
    assert "a\\|b" in lines[4]
    assert "50.0 ± 1.0" in lines[4]
    assert "**60.0** ★" in lines[5]
    assert lines[-1] == "A note."
    under = table(frame, under="Protocol: scenes.").to_markdown()
    assert under.startswith("**A caption.** Protocol: scenes.")


def test_an_empty_table_is_still_a_table():
    empty = table({"name": [], "miou": [], "fp": []})
    assert "mIoU" in empty.to_markdown()
    assert "<tbody>" in empty.to_html()


def test_html_escapes_names_and_groups_heads():
    frame = {"name": ["<b>", "c"], "miou": [0.5, 0.6], "fp": [0.1, 0.2]}
    html = table(frame).to_html()
    assert "&lt;b&gt;" in html
    assert '<th scope="colgroup" colspan="2">train</th>' in html
    assert '<th scope="row">c</th>' in html
    assert "<caption><div>A caption.</div></caption>" in html


def test_csv_holds_the_raw_numbers(tmp_path):
    frame = {"name": ["a"], "miou": [0.123456789], "miou_sd": [0.01], "fp": [math.pi]}
    paths = table(frame).write(tmp_path)
    assert [path.name for path in paths] == ["t.csv", "t.md", "t.html"]
    read = pd.read_csv(paths[0])
    assert read["miou"][0] == 0.123456789
    assert read["miou_sd"][0] == 0.01
