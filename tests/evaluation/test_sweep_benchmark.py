import pytest
import threshold_sweep as benchmark

TINY = ["--images=5", "--height=48", "--width=64", "--classes=6", "--thresholds=4"]
TINY += ["--loop-images=3", "--repeats=1"]


def test_prints_times_beside_decoding_and_the_loop(capsys):
    table = benchmark.main(TINY)
    assert (table["ms_per_image"] > 0).all()
    assert table["times_decoding"].iloc[0] == 1
    assert table["faster_than_loop"]["decode, read the maps and loop"] == 1
    printed = capsys.readouterr().out
    assert "decode, read the maps and sweep" in printed
    assert "Loop on 3 of 5 images: same counts" in printed


def test_a_difference_between_sweep_and_loop_stops_it(monkeypatch):
    real = benchmark.straightforward
    monkeypatch.setattr(benchmark, "straightforward", lambda *args: real(*args) + 1)
    with pytest.raises(SystemExit, match="differ"):
        benchmark.main(TINY)
