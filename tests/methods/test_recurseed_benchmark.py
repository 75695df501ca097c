import recurseed_step

TINY = ["--backbone=tiny", "--crop=32", "--batch=2", "--decoder-width=8", "--repeats=1",
        "--classes=3", "--output-stride=8"]  # fmt: skip


def test_prints_a_row_per_step(capsys):
    table = recurseed_step.main(TINY)
    assert (table["ms"] > 0).all()
    assert len(table) == 4
    assert "RecurSeed + EdgePredictMix" in capsys.readouterr().out
