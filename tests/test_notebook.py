import json
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from wsssbench import notebook
from wsssbench.errors import UserError


def write_notebook(path, parameters, *cells, tag=True):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    first = nbformat.v4.new_code_cell(parameters)
    if tag:
        first.metadata["tags"] = ["parameters"]
    book.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    nbformat.write(book, path)
    return path


DEFAULTS = {"name": "a", "epochs": 1, "lr": 0.1, "flag": False, "scales": [1.0], "nothing": None}


def test_values_take_the_type_of_the_default():
    pairs = [
        "name=08",
        "epochs=3",
        "lr=1e-4",
        "flag=True",
        "scales=[1, 2]",
        "nothing=abc",
        "name=x=y",
    ]
    values = notebook.parse(DEFAULTS, pairs, "n.ipynb")
    assert values == {
        "name": "x=y",
        "epochs": 3,
        "lr": 1e-4,
        "flag": True,
        "scales": [1, 2],
        "nothing": "abc",
    }
    assert notebook.parse(DEFAULTS, ["lr=1"], "n") == {"lr": 1.0}


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ("epoch=3", "Did you mean 'epochs'"),
        ("epochs=x", "epochs: expected a int like 1, got 'x'"),
        ("epochs=1.5", "expected a int"),
        ("flag=1", "expected a bool"),
        ("epochs", "not of the form key=value"),
    ],
)
def test_wrong_parameters_are_refused(pair, text):
    with pytest.raises(UserError, match=text):
        notebook.parse(DEFAULTS, [pair], "n.ipynb")


def test_notebook_without_parameters_cell(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "x = 1", tag=False)
    with pytest.raises(UserError, match="no cell tagged"):
        notebook.parameters(path)
    with pytest.raises(UserError, match="does not exist"):
        notebook.parameters(tmp_path / "other.ipynb")


@pytest.mark.slow
def test_equal_runs_give_equal_files(tmp_path):
    source = write_notebook(tmp_path / "n.ipynb", "x = 1", "print(x * 2)")
    for name in ("a", "b"):
        notebook.run(source, tmp_path / name / "out.ipynb", ["x=21"])
    first, second = ((tmp_path / name / "out.ipynb").read_text() for name in ("a", "b"))
    assert first == second
    cells = json.loads(first)["cells"]
    assert cells[2]["outputs"][0]["text"] == ["42\n"]
    assert [cell["id"] for cell in cells] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_users_error_is_one_line_and_the_partial_copy_stays(tmp_path):
    raising = "from wsssbench.errors import UserError\nraise UserError('no such thing. Do that.')"
    source = write_notebook(tmp_path / "n.ipynb", "x = 1", raising, "print('never')")
    target = tmp_path / "out" / "n.ipynb"
    command = [sys.executable, "-m", "wsssbench.notebook", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "Error: no such thing. Do that."
    assert "Traceback" not in done.stderr.split("Error: no such thing")[-1]
    assert target.exists()


@pytest.mark.slow
def test_sigterm_stops_the_kernel_too(tmp_path):
    alive = tmp_path / "alive"
    loop = (
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        f"while True:\n    open({str(alive)!r}, 'w').write('x')\n    time.sleep(0.1)"
    )
    source = write_notebook(tmp_path / "n.ipynb", "x = 1", loop)
    command = [sys.executable, "-m", "wsssbench.notebook", str(source), str(tmp_path / "o.ipynb")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not alive.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    time.sleep(1)
    alive.unlink(missing_ok=True)
    time.sleep(1)
    assert not alive.exists()
