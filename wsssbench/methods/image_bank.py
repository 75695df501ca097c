"""Image bank re-sampling (IBR) of SFC (Zhao et al., AAAI 2024): the last image of every class is
kept, and some classes, drawn alike, add theirs to each batch. So rare classes are seen more often.

Departs from the release: the bank lies on the host, in half precision and with boxes for masks; the
batch is not shuffled again, as the loader's order is random already. With several processes each
has a bank of its own, and a training that was interrupted goes on with the first one's in all.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class ImageBank:
    """One image, its labels and the picture's box in it per class; empty slots are all zero.

    Args:
        classes: K.
    """

    def __init__(self, classes: int):
        self.images: Tensor | None = None  # (K, 3, H, W) float16
        self.labels = torch.zeros(classes, classes)
        self.boxes = torch.zeros(classes, 4, dtype=torch.int64)

    def update(self, images: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Put each image into the slots of its classes; later ones overwrite earlier ones.

        Args:
            images: (B, 3, H, W) float32, normalised; of one size in all calls.
            labels: (B, K) of zeros and ones.
            valid: (B, H, W) bool, a rectangle: inside the picture.
        """
        if self.images is None:
            shape = (len(self.labels), *images.shape[1:])
            self.images = torch.zeros(shape, dtype=torch.float16)
        place = torch.arange(1, len(labels) + 1, device=labels.device)
        last = ((labels > 0) * place[:, None]).amax(0).cpu()
        slots = last.nonzero()[:, 0]
        if not len(slots):
            return
        rows, of_slot = (last[slots] - 1).unique(return_inverse=True)  # moved once each
        on_device = rows.to(images.device)
        self.images[slots] = images[on_device].half().cpu()[of_slot]
        self.labels[slots] = labels[on_device].float().cpu()[of_slot]
        self.boxes[slots] = boxes_of(valid[on_device]).cpu()[of_slot]

    def draw(self, slots: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What lies in `slots` (n,): images, labels and `valid`, on the device of `like`."""
        slots = slots.cpu()
        size, device = self.images.shape[-2:], like.device
        images = self.images[slots].to(device).to(like.dtype)
        valid = inside_boxes(self.boxes[slots].to(device), size)
        return images, self.labels[slots].to(device), valid

    def memory(self) -> dict:
        """For the checkpoint; empty before the first update."""
        if self.images is None:
            return {}
        return {"images": self.images, "labels": self.labels, "boxes": self.boxes}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what `memory` gave."""
        for name, value in memory.items():
            setattr(self, name, value.clone())


def boxes_of(valid: Tensor) -> Tensor:
    """(B, H, W) bool -> (B, 4) int64 top, left, bottom, right (exclusive); 0 for an empty one."""
    ends = []
    for axis in (2, 1):
        line = valid.any(axis).int()
        first, behind = line.argmax(1), line.shape[1] - line.flip(1).argmax(1)
        ends.append(torch.stack([first, behind]) * line.any(1))
    (top, bottom), (left, right) = ends
    return torch.stack([top, left, bottom, right], 1)


def inside_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `boxes_of`: (B, 4) -> (B, *size) bool."""
    lines = []
    for axis, length in enumerate(size):
        place = torch.arange(length, device=boxes.device)
        lines.append((place >= boxes[:, axis, None]) & (place < boxes[:, axis + 2, None]))
    return lines[0][:, :, None] & lines[1][:, None]
