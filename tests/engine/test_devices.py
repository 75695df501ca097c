import pytest
import torch

from wsssbench.engine import devices
from wsssbench.errors import UserError
from wsssbench.params import MachineSettings


def test_auto_finds_a_device():
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert devices.choose(MachineSettings()).type == kind


def test_gpu_is_chosen_per_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose(MachineSettings(devices=2), rank=1) == torch.device("cuda", 1)
    assert devices.choose(MachineSettings(device="cuda:1")) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="4 GPUs are asked for, torch sees 2"):
        devices.choose(MachineSettings(devices=4))
    with pytest.raises(UserError, match="one GPU, cuda:0, but"):
        devices.choose(MachineSettings(device="cuda:0", devices=2))


@pytest.mark.parametrize(("name", "text"), [("gpu", "is no device"), ("xla", "not supported")])
def test_other_names(name, text):
    with pytest.raises(UserError, match=text):
        devices.choose(MachineSettings(device=name))


def test_precision():
    cpu = torch.device("cpu")
    assert devices.precision(MachineSettings(), cpu) is torch.float32
    assert devices.precision(MachineSettings(precision="bfloat16"), cpu) is torch.bfloat16
    with devices.autocast(cpu, torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    with devices.autocast(cpu, torch.float32):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32
