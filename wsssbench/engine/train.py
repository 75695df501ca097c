"""The training loop, once, for every method and every network of a later stage.

    train(Job(build, dataset, settings, machine, seed=0, out=Path("runs/x/cam-0/train"), ...))

runs in this process on one device, in spawned processes on several (machine.devices), and as one
of many under `torchrun --nproc-per-node N -m wsssbench train …`. An interrupted call goes on from
its last epoch when it is called again.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset

from wsssbench import provenance
from wsssbench.engine import checkpoint, devices, optimiser
from wsssbench.engine.batches import GlobalBatches, derive, loader, split
from wsssbench.engine.distributed import (
    World,
    is_first,
    launch,
    mean_over_processes,
    process_group,
)
from wsssbench.engine.speed import pointwise_on_onednn
from wsssbench.errors import UserError
from wsssbench.files import atomic, check_writable, read_json, write_json, write_text
from wsssbench.methods.base import Learner, Progress
from wsssbench.params import MachineSettings, TrainSettings
from wsssbench.progress import note, progress


@dataclass(frozen=True)
class Job:
    """Everything one training needs; can be pickled for spawned processes.

    Attributes:
        build: makes the method or another learner (with its initial weights).
        dataset: gives dicts with `id`, `image`, `label`, `valid`; a method's has no masks, but for
            upper bounds. Its attribute `labels` is the (N, K) array of all labels.
        settings, machine: sections of params.yaml.
        seed: decides initial weights, order, augmentation and the method's draws.
        out: directory for model.pt, history.csv and provenance.json.
        identity: what else must be equal for a checkpoint to be continued.
        provenance: facts written to provenance.json beside what is measured here.
        watch: looks at the method after each epoch, unchanged, and gives rows for watch.csv.
    """

    build: Callable[[], Learner]
    dataset: Dataset
    settings: TrainSettings
    machine: MachineSettings
    seed: int
    out: Path
    identity: Any = None
    provenance: dict = field(default_factory=dict)
    watch: Callable[[Learner], list[dict]] | None = None


def train(job: Job) -> Path:
    """Train to the end and return the path of the weights; what is trained already is kept.

    Raises:
        UserError: settings that cannot work, a run directory in use, a loss that is not finite, a
            full disk. After an interruption the checkpoint of the last whole epoch is kept.
    """
    mark = checkpoint.fingerprint(job.identity, vars(job.settings), job.seed, torch.__version__)
    kept, weights = checkpoint.path_for(job.out), job.out / "model.pt"
    if weights.exists() and _trained(job.out).get("fingerprint") == mark:
        note(f"{weights} is trained with these settings, data and code; delete it to train anew.")
        return weights
    check_writable(job.out)
    with checkpoint.in_use(job.out) if is_first() else contextlib.nullcontext():
        try:
            launch(_worker, (job, mark), job.machine.devices)
        except KeyboardInterrupt:
            if kept.exists():
                note(f"Interrupted. {kept} holds the last whole epoch; the same command goes on.")
            raise
        if is_first():
            kept.unlink(missing_ok=True)
    return weights


def _trained(out: Path) -> dict:
    """What a finished training noted; empty where there is none."""
    path = out / "provenance.json"
    return read_json(path, f"Delete it to train into {out} anew.") if path.exists() else {}


def _worker(world: World, packed: tuple[Job, str]) -> None:
    device = devices.choose(packed[0].machine, world.local_rank)
    with process_group(world, device):
        _train(world, device, *packed)


def _train(world: World, device: torch.device, job: Job, mark: str) -> None:
    devices.deterministic()
    settings, dtype = job.settings, devices.precision(job.machine, device)
    torch.manual_seed(derive(job.seed))
    method = job.build()
    method.begin(torch.from_numpy(job.dataset.labels))
    method = method.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        pointwise_on_onednn(method)
    optimizer = optimiser.make(method.parameter_groups(), settings)
    ema = _average(method, settings.ema) if settings.ema else None
    batches = GlobalBatches(len(job.dataset), settings.batch_size, job.seed, world.rank, world.size)
    data = loader(job.dataset, batches, job.machine.workers, pin=device.type == "cuda")
    steps = len(batches) * settings.epochs

    path, done, history, watched = checkpoint.path_for(job.out), 0, [], []
    if state := checkpoint.load(path, mark):
        done, history, watched = state["epoch"], state["history"], state["watched"]
        method.load_state_dict(state["method"])
        method.remember(state["memory"])
        optimizer.load_state_dict(state["optimizer"])
        if ema:
            ema.load_state_dict(state["ema"])
        if world.first:
            note(f"Going on after epoch {done} of {settings.epochs}.")

    wrapped = torch.compile(method) if job.machine.compile else method
    if world.size > 1:
        wrapped = DistributedDataParallel(wrapped, find_unused_parameters=True)
    generator = torch.Generator(device)
    stream = _epochs(data, batches, done, settings.epochs)
    total = steps - done * len(batches)
    bar = progress(stream, f"training {job.out.parent.name}", total) if world.first else stream
    seen: dict[str, list[float]] = {}
    for epoch, index, batch in bar:
        if index == 0:
            started = time.monotonic()
            seen.clear()
            seed = derive(job.seed, epoch, world.rank)
            torch.manual_seed(seed)
            generator.manual_seed(seed)
            method.train()
        step = (epoch - 1) * len(batches) + index
        optimiser.set_rate(optimizer, step, steps, epoch, settings)
        optimizer.zero_grad(set_to_none=True)
        for part in split(batch, settings.accumulate):
            at = Progress(epoch, settings.epochs, step, steps, generator)
            with devices.autocast(device, dtype):
                losses = wrapped(_move(part, device), at)
            loss = torch.stack([value.float() for value in losses.values()]).sum()
            _guard(loss, losses, part, at, job.out)
            (loss / settings.accumulate).backward()
            named = {"loss": loss, **{f"loss_{k}": v for k, v in losses.items()}, **at.logged}
            for name, value in named.items():
                seen.setdefault(name, []).append(_number(value))
        optimizer.step()
        method.after_step()
        if ema:
            ema.update_parameters(method)
        if index + 1 < len(batches):
            continue

        means = {name: sum(values) / len(values) for name, values in seen.items()}
        row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
        row |= mean_over_processes(means, device) | {"seconds": time.monotonic() - started}
        history.append(row)
        if world.first:
            watched += _watch(job, ema.module if ema else method, epoch)
            state = {"epoch": epoch, "history": history, "watched": watched}
            state |= {"method": method.state_dict(), "memory": method.memory()}
            state |= {"optimizer": optimizer.state_dict(), "ema": ema and ema.state_dict()}
            checkpoint.save(path, state, mark)
            _write_rows(job.out / "history.csv", history)
            _write_rows(job.out / "watch.csv", watched)
            note(f"epoch {epoch}/{settings.epochs}: loss {row['loss']:.4f}, {row['seconds']:.1f} s")
            if warning := method.warning(row):
                note(f"Warning: {warning}")
    if world.first:
        _finish(job, mark, world, ema.module if ema else method, history, device, dtype)


def _epochs(data, batches: GlobalBatches, done: int, last: int) -> Iterator[tuple[int, int, dict]]:
    for epoch in range(done + 1, last + 1):
        batches.epoch = epoch
        for index, batch in enumerate(data):
            yield epoch, index, batch


def _average(method: Learner, decay: float) -> AveragedModel:
    """Exponential moving average of all floating tensors, batch-norm statistics included."""
    return AveragedModel(method, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _move(batch: dict, device: torch.device) -> dict:
    moved = {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
    return moved


def _number(value: Tensor | float) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else value


def _guard(loss: Tensor, losses: dict, batch: dict, at: Progress, out: Path) -> None:
    """Stop at the first loss that is not finite and say where it came from."""
    if torch.isfinite(loss):
        return
    values = {name: repr(_number(value)) for name, value in losses.items()}
    path = out / "not_finite.json"
    write_json(path, {"epoch": at.epoch, "step": at.step, "losses": values, "ids": batch["id"]})
    raise UserError(
        f"The loss is not finite in epoch {at.epoch}, step {at.step}: "
        f"{', '.join(f'{k} = {v}' for k, v in values.items())}. The images of this batch are in "
        f"{path}. Lower train.lr and train.lr_new, or look at these images."
    )


def _watch(job: Job, method: Learner, epoch: int) -> list[dict]:
    if job.watch is None:
        return []
    with torch.inference_mode():
        return [{"epoch": epoch, **row} for row in job.watch(method.eval())]


def _write_rows(path: Path, rows: list[dict]) -> None:
    if rows:
        write_text(path, pd.DataFrame(rows).to_csv(index=False))


def _finish(
    job: Job,
    mark: str,
    world: World,
    method: Learner,
    history: list[dict],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    _write_rows(job.out / "history.csv", history)
    with atomic(job.out / "model.pt") as stream:
        torch.save({name: value.cpu() for name, value in method.state_dict().items()}, stream)
    measured = {
        "device": provenance.device_name(device),
        "devices": world.size,
        "precision": str(dtype).removeprefix("torch."),
        "wall_s": round(sum(row["seconds"] for row in history), 2),
        "peak_memory_mib": round(provenance.peak_memory_mib(device), 1),
    }
    record = {**job.provenance, **measured, **provenance.versions(), "fingerprint": mark}
    write_json(job.out / "provenance.json", record)
