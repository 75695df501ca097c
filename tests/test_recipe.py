"""The recipe of CONTRIBUTING.md, followed to the letter in a copy of the package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_profile import PARAMS
from toys import make_folder

TOP = Path(__file__).parents[1]


def code_blocks(kind: str) -> list[str]:
    text = (TOP / "CONTRIBUTING.md").read_text()
    blocks = re.findall(rf"^( *)```{kind}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in blocks]


@pytest.mark.slow
def test_a_method_is_one_file_one_line_one_section(tmp_path):
    shutil.copytree(TOP / "wsssbench", tmp_path / "wsssbench")
    methods = tmp_path / "wsssbench" / "methods"
    (methods / "sure_cam.py").write_text(code_blocks("python")[0])
    table = (methods / "__init__.py").read_text()
    changed = table.replace(
        '    "cam": CAM,\n', '    "cam": CAM,\n    "sure_cam": SureCAM,\n', 1
    ).replace("import CAM\n", "import CAM\nfrom wsssbench.methods.sure_cam import SureCAM\n", 1)
    assert changed.count("SureCAM") == 2
    (methods / "__init__.py").write_text(changed)
    section = yaml.safe_load(code_blocks("yaml")[0])
    make_folder(tmp_path / "data" / "toy")
    grid = {"experiments": ["sure_cam"], "seeds": [0]}
    params = {**PARAMS, "experiments": PARAMS["experiments"] | section, "grid": grid}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = subprocess.run(
        [sys.executable, "-m", "wsssbench", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    history = (tmp_path / "runs/toy/sure_cam-0/train/history.csv").read_text()
    assert "loss_entropy" in history.splitlines()[0]
    assert "CAM + entropy" in (tmp_path / "reports/toy/index.html").read_text()
