"""Settings of all tests, and the toy data set as a fixture."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["WSSSBENCH_PROGRESS"] = "off"

import pytest
from toys import make_folder


@pytest.fixture
def toy_root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "toy")
