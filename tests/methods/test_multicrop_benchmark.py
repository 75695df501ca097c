import multicrop as benchmark
import pytest

TINY = ["--backbone=tiny", "--height=24", "--width=32", "--size=24", "--stride=16", "--repeats=1",
        "--classes=3"]  # fmt: skip


def test_prints_both_ways(capsys):
    table = benchmark.main(TINY)
    assert list(table["way"]) == ["one by one", "batches", "fewer"]
    assert (table["s per image"] > 0).all()
    assert "windows of 24, mirrored too" in capsys.readouterr().out


def test_a_difference_stops_it(monkeypatch):
    real = benchmark.one_by_one
    monkeypatch.setattr(benchmark, "one_by_one", lambda *args: real(*args) + 1)
    with pytest.raises(SystemExit, match="differ"):
        benchmark.main(TINY)
