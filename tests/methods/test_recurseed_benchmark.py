import importlib.util
from pathlib import Path

TINY = ["--backbone=tiny", "--crop=32", "--batch=2", "--decoder-width=8", "--repeats=1",
        "--classes=3", "--output-stride=8"]  # fmt: skip


def test_prints_a_row_per_step(capsys):
    path = Path(__file__).parents[2] / "benchmarks" / "recurseed_step.py"
    spec = importlib.util.spec_from_file_location("recurseed_step", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = module.main(TINY)
    assert (table["ms"] > 0).all()
    assert len(table) == 4
    assert "RecurSeed + EdgePredictMix" in capsys.readouterr().out
