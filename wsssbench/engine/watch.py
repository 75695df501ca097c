"""Seed quality during training: maps of a few training images against their masks, per epoch.

An oracle for diagnosis: it needs masks, which training never sees, and nothing is chosen by it.
"""

from collections.abc import Sequence

import numpy as np
import torch

from wsssbench.data.folder import Folder
from wsssbench.data.transforms import normalise
from wsssbench.engine import devices
from wsssbench.evaluation import ThresholdSweep
from wsssbench.methods.base import Method
from wsssbench.methods.multiscale import OWN_BACKGROUND
from wsssbench.params import MachineSettings


class Watch:
    """Scores a method on fixed images, one view at scale 1, image labels used.

    Args:
        folder: the data set.
        ids: its images; those without a mask are left out.
        kinds: kinds of maps to score.
        thresholds: of the sweep for the best one.
        threshold: the fixed one, but for kinds with a background map of their own.
        machine: for the precision.
    """

    def __init__(
        self,
        folder: Folder,
        ids: Sequence[str],
        kinds: tuple[str, ...],
        thresholds: Sequence[float],
        threshold: float,
        machine: MachineSettings,
    ):
        self.folder, self.kinds, self.threshold, self.machine = folder, kinds, threshold, machine
        self.ids = [name for name in ids if folder.has_mask(name)]
        self.thresholds = sorted({*thresholds, threshold, OWN_BACKGROUND})

    def __call__(self, method: Method) -> list[dict]:
        """One row per kind: maps, images, threshold, miou, fp, fn, and the same at the best one."""
        usual = method.maps, method.scales, method.flip
        method.maps, method.scales, method.flip = self.kinds, (1.0,), False
        sweeps = {kind: ThresholdSweep(self.folder.num_classes + 1, self.thresholds)
                  for kind in self.kinds}  # fmt: skip
        device = next(method.parameters()).device
        for name in self.ids:
            image = torch.from_numpy(self.folder.image(name)).permute(2, 0, 1)
            labels = torch.from_numpy(self.folder.label(name) > 0)[None].to(device)
            images = normalise(image)[None].as_subclass(torch.Tensor).to(device)
            with devices.autocast(device, devices.precision(self.machine, device)):
                found = method.infer(
                    images.contiguous(memory_format=torch.channels_last), lambda _, y=labels: y
                )
            keys, truth = np.flatnonzero(self.folder.label(name)) + 1, self.folder.mask(name)
            for kind, sweep in sweeps.items():
                sweep.update_sparse(
                    keys, found.maps[kind][0, keys - 1].float().cpu().numpy(), truth
                )
        method.maps, method.scales, method.flip = usual
        own = method.own_background
        return [self._row(kind, sweep, kind in own) for kind, sweep in sweeps.items() if self.ids]

    def _row(self, kind: str, sweep: ThresholdSweep, own_background: bool) -> dict:
        threshold = OWN_BACKGROUND if own_background else self.threshold
        names = ("threshold", "miou", "fp", "fn")
        row = {"maps": kind, "images": len(self.ids)}
        row |= dict(zip(names, (float(value) for value in sweep.at(threshold)), strict=True))
        best = (float(value) for value in sweep.best())
        return row | {f"oracle_{name}": value for name, value in zip(names, best, strict=True)}
