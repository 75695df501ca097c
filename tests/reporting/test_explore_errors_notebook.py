import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "explore_errors.ipynb"


def cells(kind):
    content = json.loads(NOTEBOOK.read_text())
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_it_is_short_clean_and_calls_the_package_only():
    content = json.loads(NOTEBOOK.read_text())
    assert [cell["id"] for cell in content["cells"]] == [
        str(i) for i in range(len(content["cells"]))
    ]
    assert len(content["cells"]) <= 20
    for cell in cells("code"):
        code = [line for line in cell["source"] if line.strip()]
        assert len(code) <= 6
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert not any(line.startswith(("def ", "class ")) for line in code)


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True])
def test_it_runs_on_a_run_and_on_a_bare_folder(fake, tmp_path, bare):
    papermill = pytest.importorskip("papermill")
    predictions = fake["runs"] / "cam-0" / "pseudo_masks" / "cam" / "val" / "masks"
    chosen = {"run": str(fake["runs"] / "cam-0"), "data_root": str(fake["data"])}
    if bare:
        truth = fake["data"] / "SegmentationClass"
        chosen = {"predictions": str(predictions), "truth": str(truth)}
    target = tmp_path / "explore.ipynb"
    papermill.execute_notebook(NOTEBOOK, target, chosen, kernel_name="python3", progress_bar=False)
    text = target.read_text()
    assert "mIoU" in text
    assert text.count("image/png") >= 3
    assert "data:image/jpeg" in text
