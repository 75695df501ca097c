import pytest

from wsssbench import progress as module
from wsssbench.progress import clock, progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("mode", ["plain", "bar", "off"])
def test_passes_everything_on(monkeypatch, mode):
    monkeypatch.setenv("WSSSBENCH_PROGRESS", mode)
    assert list(progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert list(progress([], "nothing")) == []


def test_plain_lines_say_how_long_it_will_take(monkeypatch, capsys):
    monkeypatch.setenv("WSSSBENCH_PROGRESS", "plain")
    now = iter(range(0, 1000, 30))  # each item takes 30 s
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    assert list(progress(range(4), "steps")) == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "steps: 1/4, 1:30 left"
    assert lines[-1] == "steps: 4/4, 0:00 left"
