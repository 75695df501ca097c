"""CDA, context decoupling augmentation (Su et al., ICCV 2021): objects where they never stand.

Each image gets an object of a class it lacks, cut out of another image, turned and put anywhere, so
that its scene no longer tells the class.

Departs from the release (suyukun666/CDA): pastes into the network's crop, not into the photograph
before it is resized and cropped; two-valued masks instead of resampled class numbers (`resample`:
"legacy" for the release's); an `online` bank for single-stage training besides the folder of a
finished run; scale and blur, which the release defines but does not use, are settings. Expected:
CAM seed on VOC train 48.8 -> 50.8 mIoU (IRN, ResNet-50), 55.4 -> 58.4 (SEAM) in its README; on
RecurSeed 69.0 mIoU and 96.0 F1 against 70.7 and 94.7 without (RS+EPM's slides).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wsssbench.errors import UserError
from wsssbench.mixing.base import Mixer, move, uniform
from wsssbench.mixing.batch import MixBatch, MixPlan
from wsssbench.mixing.instance_bank import RATIO, Instance, InstanceBank, cut_instance
from wsssbench.mixing.paste import instance_layer, legacy_warp, place, warp
from wsssbench.mixing.pixels import from_bytes, to_bytes

ONLINE = "online"


class CDA(Mixer):
    """One instance of an absent class on each image, from a bank.

    Args:
        bank: "online": filled by `observe` from the current masks; else the folder that
            `write_bank` wrote (the release's two stages). From Python also a bank.
        per_class_cap: instances kept per class, 0 for all.
        ratio: the object's share of the image it is cut from, online.
        rotate: angles are whole degrees in [-rotate, rotate].
        max_frac: largest part of the image's height and width.
        scale: range of a further factor; its end times `max_frac` is at most 1.
        blur: side of the Gaussian that softens the paste, odd px; 0 for hard borders.
        resample: how the object's mask is warped; `legacy` for the release's way.
    """

    mode = "label"
    refiner = "decoder"

    def __init__(
        self,
        *,
        bank: str | Path | InstanceBank = ONLINE,
        per_class_cap: int = 64,
        ratio: tuple[float, float] = RATIO,
        rotate: int = 90,
        max_frac: float = 0.7,
        scale: tuple[float, float] = (1.0, 1.0),
        blur: int = 0,
        resample: Literal["binary_linear", "nearest", "legacy"] = "binary_linear",
    ):
        super().__init__()
        if not 0 < scale[0] <= scale[1] or not 0 < max_frac * scale[1] <= 1:
            raise UserError(
                f"cda: max_frac {max_frac!r} and scale {scale!r}: expected numbers above 0 whose "
                "product is at most 1, so that the instances fit the image."
            )
        if not 0 <= ratio[0] <= ratio[1] <= 1:
            raise UserError(f"cda: ratio: expected a range in 0 to 1, got {ratio!r}.")
        if min(rotate, per_class_cap, blur) < 0 or (blur and blur % 2 == 0):
            raise UserError(
                "cda: rotate and per_class_cap must be at least 0, blur 0 or odd; got "
                f"{rotate!r}, {per_class_cap!r}, {blur!r}."
            )
        self.online = bank == ONLINE
        if self.online:
            self.needs = ("mask",)  # for `observe`
            bank = InstanceBank(per_class_cap or None)
        elif not isinstance(bank, InstanceBank):
            bank = InstanceBank.load(bank, capacity=per_class_cap or None)
        self.bank, self.ratio, self.rotate = bank, tuple(ratio), rotate
        self.max_frac, self.scale, self.blur, self.resample = max_frac, tuple(scale), blur, resample

    def observe(self, batch: MixBatch) -> None:
        """Online: keep the objects of the batch's single-label images, by `batch.mask`.

        Pixels of other classes than the image's and padding count as background.
        """
        if not self.online:
            return
        masks = batch.need("mask", "CDA (online bank)")
        rows = ((batch.labels > 0).sum(1) == 1).nonzero()[:, 0]
        klass = batch.labels[rows].argmax(1)[:, None, None] + 1
        own = masks[rows] == klass
        own = own if batch.valid is None else own & batch.valid[rows]
        gated = (own * klass).cpu().numpy()
        images = to_bytes(batch.images[rows]).permute(0, 2, 3, 1).cpu().numpy()
        for image, mask in zip(images, gated):
            cut = cut_instance(image, mask, ratio=self.ratio)
            if cut is not None:
                self.bank.add(*cut)

    def memory(self) -> dict[str, Any]:
        """The online bank, (class, colours, segment) each, as uint8 and bool tensors."""
        items = self.bank.items() if self.online else []
        return {
            "instances": [
                (klass, torch.from_numpy(one.image), torch.from_numpy(one.segment))
                for klass, one in items
            ]
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take back what `memory` gave."""
        if self.online:
            self.bank = InstanceBank(self.bank.capacity)
            for klass, image, segment in memory.get("instances", ()):
                self.bank.add(int(klass), Instance(image.numpy(), segment.numpy()))

    def draw(self, batch: MixBatch, generator: torch.Generator) -> dict[str, Any]:
        """What is pasted where, (B,) each: `klass` in 1..K, or 0 where every class is present or
        absent from the bank, `instance` of the class, `angle`, `scale`; `place` (B, 2) in [0, 1).
        """
        count, classes = batch.labels.shape
        stock = torch.tensor(self.bank.counts(classes))
        available = (batch.labels.cpu() <= 0) & (stock > 0)
        chance = torch.rand(count, classes, generator=generator).masked_fill(~available, -1)
        klass = torch.where(available.any(1), chance.argmax(1) + 1, 0)
        number = uniform(0, 1, (count,), generator) * torch.nn.functional.pad(stock, (1, 0))[klass]
        rows = torch.arange(count)
        return {
            "base": rows,
            "src": rows,
            "klass": klass,
            "instance": number.long(),
            "angle": torch.randint(-self.rotate, self.rotate + 1, (count,), generator=generator),
            "scale": uniform(*self.scale, (count,), generator),
            "place": uniform(0, 1, (count, 2), generator),
        }

    def plan_from(self, batch: MixBatch, draws: Mapping[str, Any]) -> MixPlan:
        """See Mixer. The source is a view that shows the instance on an empty canvas; `info` adds
        `box` (B, 4) int64, its top, left, height and width (0 without an instance).
        """
        count, device, size = len(batch.images), batch.images.device, tuple(batch.images.shape[2:])
        canvas = np.zeros((count, *size, 3), np.uint8)
        weight = np.zeros((count, 1, *size), np.float32)
        box = torch.zeros(count, 4, dtype=torch.int64)
        for row, klass in enumerate(draws["klass"].tolist()):
            if klass:
                image, alpha = self._warped(klass, draws, row, size)
                height, width = alpha.shape
                top, left = place(draws["place"][row].tolist(), (height, width), size)
                inside = (slice(top, top + height), slice(left, left + width))
                canvas[row][inside], weight[row, 0][inside] = image, alpha
                box[row] = torch.tensor([top, left, height, width])
        weight = move(torch.from_numpy(weight), device)
        images = from_bytes(move(torch.from_numpy(canvas), device).permute(0, 3, 1, 2))
        klass = move(draws["klass"], device)
        src_view = instance_layer(batch, images.contiguous(), weight[:, 0] > 0, klass)
        return MixPlan(
            base=move(draws["base"], device),
            src=move(draws["src"], device),
            weight=weight,
            src_view=src_view,
            src_classes=src_view.labels > 0,
            label_rule="union",
            info={**draws, "box": box},
        )

    def _warped(
        self, klass: int, draws: Mapping[str, Any], row: int, size: tuple[int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The instance's (h, w, 3) colours and (h, w) weights, as they are pasted."""
        instance = self.bank.pool[klass][int(draws["instance"][row])]
        angle = int(draws["angle"][row])
        how = {"max_frac": self.max_frac, "scale": float(draws["scale"][row])}
        if self.resample == "legacy":
            instance = legacy_warp(instance, klass, angle, size, **how)
        else:
            instance = warp(instance, angle, size, nearest=self.resample == "nearest", **how)
        alpha = instance.segment.astype(np.float32)
        if self.blur:
            alpha = cv2.GaussianBlur(alpha, (self.blur, self.blur), 0)
        return instance.image, alpha
