import json

import measuring
import pytest
import refinement as benchmark

TINY = ["--images=2", "--classes=3", "--grid=6", "--channels=8", "--size=30", "--repeats=1"]


def test_prints_and_writes_a_row_per_refinement(tmp_path, capsys):
    table = benchmark.main([*TINY, f"--json={tmp_path / 'figures.json'}"])
    assert [name.split(",")[0] for name in table["case"][:2]] == ["SCG", "PAMR"]
    assert (table[["plain_ms", "ours_ms"]] > 0).all(axis=None)
    assert (table["largest_difference"] <= 1e-4).all()
    assert "| PAMR, 2×3 maps, 30×30" in capsys.readouterr().out
    rows = json.loads((tmp_path / "figures.json").read_text())
    assert [row["case"] for row in rows] == list(table["case"])


@pytest.mark.parametrize("name", ["plain_scg", "plain_pamr"])
def test_a_difference_stops_it(monkeypatch, name):
    real = getattr(benchmark, name)
    monkeypatch.setattr(benchmark, name, lambda *args: real(*args) + 1)
    with pytest.raises(SystemExit, match="differ"):
        benchmark.main(TINY)


def test_memory_is_unknown_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "RESET_PEAK", tmp_path / "none")
    assert benchmark.main(TINY)["ours_mb"][:2].isna().all()
