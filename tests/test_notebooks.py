"""Committed notebooks are thin, stripped, and have fixed ids."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped_and_thin(path):
    cells = json.loads(path.read_text())["cells"]
    assert [cell["id"] for cell in cells] == [str(number) for number in range(len(cells))]
    assert len(cells) <= 20
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            source = "".join(cell["source"])
            assert "def " not in source
            lines = [line for line in source.splitlines() if line.strip()]
            imports = [line for line in lines if line.startswith(("import", "from", "%"))]
            assert len(lines) - len(imports) <= 6


def test_all_stages_have_their_notebook():
    assert {
        "prepare",
        "train",
        "pseudo_masks",
        "evaluate",
        "random_walk",
        "segment",
        "evaluate_stages",
        "report",
        "explore_errors",
        "explore_recurseed",
        "explore_refinement",
    } <= {path.stem for path in NOTEBOOKS}
