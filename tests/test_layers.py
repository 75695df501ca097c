"""The layers of the package: imports run downwards only."""

from pathlib import Path

import pytest

import wsssbench
from wsssbench.plan import imported

PACKAGE = Path(wsssbench.__file__).parent
BASE = {"errors", "files", "multistage", "parallel", "params", "plan", "progress", "provenance"}
BASE |= {"multistage_params", "report_params", "schema", "settings", "study_params"}
MAY_IMPORT = {
    "data": set(),
    "models": set(),
    "refinement": set(),
    "evaluation": set(),
    "mixing": {"models", "refinement"},
    "published": set(),
    "methods": {"models", "refinement", "mixing"},
    "engine": {"data", "models", "methods", "evaluation"},
    "reporting": {"data", "evaluation", "published"},
}


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_layer_imports_only_lower_ones(layer):
    for path in (PACKAGE / layer).rglob("*.py"):
        for name in imported(path):
            target = name.split(".")[1]
            allowed = MAY_IMPORT[layer] | BASE | {layer}
            assert target in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


def test_every_package_has_its_layer():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= {*MAY_IMPORT, "stages"}
