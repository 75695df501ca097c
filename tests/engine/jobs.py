"""A tiny training job for the engine's tests; functions are importable by spawned processes."""

from functools import partial
from pathlib import Path

from torch import Tensor

from wsssbench import models
from wsssbench.data.folder import Folder, LabelledImages
from wsssbench.data.transforms import TrainTransform
from wsssbench.engine.train import Job
from wsssbench.methods import CAM
from wsssbench.methods.recurseed import RecurSeed
from wsssbench.methods.sfc import SFC
from wsssbench.params import MachineSettings, TrainSettings

MACHINE = MachineSettings(device="cpu", workers=0)


def settings(**changes) -> TrainSettings:
    given = {
        "epochs": 3,
        "batch_size": 4,
        "lr": 0.05,
        "lr_new": 0.1,
        "crop": 32,
        "resize": (28, 40),
    }
    return TrainSettings(**(given | changes))


def build(batch_norm: str = "train") -> CAM:
    backbone = models.build("tiny", output_stride=8, batch_norm=batch_norm)
    return CAM(backbone, 2)


class Interrupted(CAM):
    """Stops as Ctrl-C does when `stop_at` steps are done."""

    stop_at = 5

    def losses(self, batch, progress) -> dict[str, Tensor]:
        if progress.step == self.stop_at:
            raise KeyboardInterrupt
        return super().losses(batch, progress)


class WithBank(RecurSeed):
    """RecurSeed from the second epoch, with CDA, which remembers objects of earlier batches."""

    def __init__(self, backbone, num_classes):
        mix = {"mixer": "cda", "start": 2, "options": {"ratio": [0.0, 1.0]}}
        super().__init__(backbone, num_classes, decoder_width=8, rs_start=1, mix=mix)


class InterruptedWithBank(WithBank):
    """The same, stopped as by Ctrl-C in the third epoch."""

    def losses(self, batch, progress) -> dict[str, Tensor]:
        if progress.step == 7:  # 3 steps an epoch
            assert self.memory()["instances"]
            raise KeyboardInterrupt
        return super().losses(batch, progress)


class Counting(SFC):
    """SFC, which counts the images of each class and keeps one of each."""

    def __init__(self, backbone, num_classes):
        super().__init__(backbone, num_classes, side_widths=(4, 4, 4, 4), pcm_width=8)


class InterruptedCounting(Counting):
    """The same, stopped as by Ctrl-C in the second epoch."""

    def losses(self, batch, progress) -> dict[str, Tensor]:
        if progress.step == 3:  # 2 steps an epoch
            raise KeyboardInterrupt
        return super().losses(batch, progress)


class NotFinite(CAM):
    """Gives a NaN loss in step 3."""

    def losses(self, batch, progress) -> dict[str, Tensor]:
        losses = super().losses(batch, progress)
        return {"cls": losses["cls"] * float("nan")} if progress.step == 3 else losses


class Worried(CAM):
    """Warns after the second epoch and the third."""

    def warning(self, row) -> str:
        return f"too much after epoch {row['epoch']}." if row["epoch"] > 1 else ""


def build_as(kind: type, batch_norm: str = "train") -> CAM:
    return kind(models.build("tiny", output_stride=8, batch_norm=batch_norm), 2)


def job(root: Path, out: Path, *, kind: type = CAM, batch_norm: str = "train", **changes) -> Job:
    machine = changes.pop("machine", MACHINE)
    chosen = settings(**changes)
    transform = TrainTransform(chosen.crop, chosen.resize, chosen.flip, (0.2, 0.2, 0.2, 0.1))
    folder = Folder(root)
    dataset = LabelledImages(folder, folder.ids("train"), transform)
    facts = {"dataset": "toy"}
    return Job(partial(build_as, kind, batch_norm), dataset, chosen, machine, 0, out, "toy", facts)
