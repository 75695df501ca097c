import training_cost as benchmark

TINY = ["--crop=32", "--batch=2", "--decoder-width=8", "--repeats=1", "--classes=3",
        "--output-stride=8"]  # fmt: skip


def test_prints_a_row_per_method_beside_cam(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "peak_elsewhere", lambda row, arguments: 2.0)
    rows = ["recurseed+classmix", "ssss"]
    table = benchmark.main([*TINY, "--methods", *rows])
    assert list(table.index) == ["cam", *rows]
    assert (table > 0).all(axis=None)
    assert (table.loc["cam"].filter(like="×") == 1).all()
    assert "recurseed+classmix" in capsys.readouterr().out


def test_every_loss_acts():
    """The progress that is given lies behind every start epoch."""
    options = benchmark.parse([*TINY])
    run = benchmark.make_run("recurseed+edgepredictmix", options)
    at = benchmark.Progress(benchmark.LAST, benchmark.LAST, 0, 1, run.generator)
    assert {"cls", "rec", "seg", "rec_mix"} <= set(run.method.losses(run.batch, at))


def test_memory_is_that_of_a_process_of_its_own():
    assert benchmark.peak_elsewhere("cam", TINY) > 0
