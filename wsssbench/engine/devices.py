"""Which device, which precision. Everything else follows the tensors' device."""

import torch

from wsssbench.errors import UserError
from wsssbench.params import MachineSettings


def choose(machine: MachineSettings, rank: int = 0) -> torch.device:
    """The device of process `rank`: `auto` takes a GPU where there is one.

    Raises:
        UserError: a GPU is asked for where there is none, or more devices than there are.
    """
    name = machine.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"machine.device: {name!r} is no device. Valid: auto, cpu, cuda, cuda:0 …"
        ) from error
    if device.type == "cuda":
        return _cuda(device, machine.devices, rank)
    if device.type not in ("cpu", "mps"):
        raise UserError(f"machine.device: {name!r} is not supported. Valid: auto, cpu, cuda, mps.")
    return device


def _cuda(device: torch.device, devices: int, rank: int) -> torch.device:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index if device.index is not None else rank
    if not there:
        raise UserError(
            "machine.device asks for a GPU, but torch sees none. Set machine.device: auto or cpu, "
            "or install a torch that fits the driver (`wsssbench doctor` shows what is there)."
        )
    if device.index is not None and devices > 1:
        raise UserError(
            f"machine.device names one GPU, {device}, but machine.devices is {devices}. Say cuda, "
            "and which GPUs there are with CUDA_VISIBLE_DEVICES."
        )
    if index >= there or devices > there:
        wanted = max(index + 1, devices)
        raise UserError(f"{wanted} GPUs are asked for, torch sees {there}. Lower machine.devices.")
    return torch.device("cuda", index)


def precision(machine: MachineSettings, device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that has it unless told otherwise; float32 elsewhere."""
    if machine.precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[machine.precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to `dtype`; does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def deterministic() -> None:
    """Same seed, same device, same result, as far as torch's kernels allow."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
