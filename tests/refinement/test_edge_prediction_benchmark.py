import cv2
import edge_prediction as benchmark
import pytest

TINY = ["--images=3", "--size=40", "--loop-images=2", "--repeats=1"]


def test_prints_times_beside_those_of_the_loop(capsys):
    threads = cv2.getNumThreads()
    table = benchmark.main(TINY)
    assert list(table.index) == ["smooth", "little noise", "much noise", "only noise"]
    assert (table > 0).all(axis=None)
    printed = capsys.readouterr().out
    assert printed.startswith("| maps")
    assert "Same labels as the loop" in printed
    assert cv2.getNumThreads() == threads


def test_a_difference_from_the_loop_stops_it(monkeypatch):
    real = benchmark.straightforward
    monkeypatch.setattr(benchmark, "straightforward", lambda *args: real(*args) ^ 1)
    with pytest.raises(SystemExit, match="differ"):
        benchmark.main(TINY)
