import json

import measuring
import pytest
import random_walk as benchmark

TINY = ["--size", "6x9", "3x12", "--classes=2", "--repeats=1", "--dense-pixels=40"]


def test_prints_and_writes_a_row_per_size(tmp_path, capsys):
    table = benchmark.main([*TINY, f"--json={tmp_path / 'figures.json'}"])
    assert list(table["map"][:2]) == ["6×9, 2 classes", "3×12, 2 classes"]
    assert (table["ours_ms"] > 0).all()
    assert table["dense_ms"].notna().tolist()[:2] == [False, True]  # 54 pixels are too many
    assert table["largest_difference"][1] <= 2e-4
    assert "| 3×12, 2 classes" in capsys.readouterr().out
    rows = json.loads((tmp_path / "figures.json").read_text())
    assert [row["map"] for row in rows] == list(table["map"])


def test_a_difference_stops_it(monkeypatch):
    real = benchmark.dense_walk
    monkeypatch.setattr(benchmark, "dense_walk", lambda *args, **steps: real(*args, **steps) + 1)
    with pytest.raises(SystemExit, match="differ"):
        benchmark.main(TINY)


def test_memory_is_unknown_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "RESET_PEAK", tmp_path / "none")
    assert benchmark.main(TINY)["ours_mb"][:2].isna().all()
