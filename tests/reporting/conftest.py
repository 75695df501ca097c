"""A fake data set with the runs of some experiments, written once; tests that change it copy it."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from make_data import write_data
from make_runs import write_run


@pytest.fixture(scope="session")
def fake(tmp_path_factory):
    """{data, runs}: folders; experiments cam (seeds 0, 1) and cam-sharp (seed 0)."""
    top = tmp_path_factory.mktemp("fake")
    truth = write_data(top / "data")
    write_run(top / "runs", truth, "cam", 0)
    write_run(top / "runs", truth, "cam", 1)
    write_run(top / "runs", truth, "cam-sharp", 0, blur=1.5)
    return {"data": top / "data", "runs": top / "runs", "truth": truth}


KINDS = {
    "cam": ("cam", "scg", "pamr", "scg+pamr"),
    "rs": ("decoder", "cam", "scg+pamr"),
    "rs_epm": ("decoder", "cam"),
}


@pytest.fixture(scope="session")
def grid(tmp_path_factory):
    """{data, runs, kinds}: CAM read out in four kinds, RecurSeed with and without a mixer."""
    top = tmp_path_factory.mktemp("grid")
    truth = write_data(top / "data")
    for seed in (0, 1, 2):
        write_run(top / "runs", truth, "cam", seed, kinds=KINDS["cam"])
        rs = {"kinds": KINDS["rs"], "method": "recurseed", "recurseed": {"mixing": False}}
        write_run(top / "runs", truth, "rs", seed, blur=2.5, **rs)
    for seed in (0, 1):
        epm = {"kinds": KINDS["rs_epm"], "method": "recurseed", "recurseed": {"shrink": 0.02}}
        write_run(top / "runs", truth, "rs_epm", seed, blur=2.0, **epm)
    return {"data": top / "data", "runs": top / "runs", "truth": truth, "kinds": KINDS}


@pytest.fixture
def own(fake, tmp_path):
    """A copy of `fake` that a test may change."""
    for name in ("data", "runs"):
        shutil.copytree(fake[name], tmp_path / name)
    return {"data": tmp_path / "data", "runs": tmp_path / "runs", "truth": fake["truth"]}
