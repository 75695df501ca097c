"""Images with a mask each: what the affinity network and the segmentation network are taught.

The masks come from a folder of the run (pseudo-masks, affinity labels); only the upper bound of
full supervision is pointed at the true ones.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision import tv_tensors

from wsssbench.data.folder import Folder, LabelledImages
from wsssbench.data.palette import IGNORE, read_mask
from wsssbench.errors import UserError


class MaskedImages(LabelledImages):
    """Items of `LabelledImages` with `mask`, a tv_tensors.Mask uint8 (H, W) of ids 0..K and 255.

    Args:
        folder: the data set; its own masks are not read.
        ids: the images, in this order.
        masks: folder of <id>.png.
        transform: as for `LabelledImages`; it sees image and mask together.

    Raises:
        UserError: a mask is missing; when it is read also: of another size, or with a class that
            the data set does not have.
    """

    def __init__(
        self,
        folder: Folder,
        ids: Sequence[str],
        masks: Path,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ):
        super().__init__(folder, ids)
        self.masks, self.joint, self.num_classes = Path(masks), transform, folder.num_classes
        missing = [name for name in self.ids if not (self.masks / f"{name}.png").exists()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self.ids)} masks are missing in {self.masks}, the first "
                f"is {missing[0]}.png. Run the stage that writes this folder again, or put them "
                "there."
            )

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        path = self.masks / f"{item['id']}.png"
        mask = read_mask(path)
        size = tuple(item["image"].shape[-2:])
        if mask.shape != size:
            raise UserError(
                f"{path} is {mask.shape[0]}×{mask.shape[1]} px (height, width), its image "
                f"{size[0]}×{size[1]}. Write the mask at the size of the image."
            )
        known = mask[mask != IGNORE]
        if known.size and known.max() > self.num_classes:
            raise UserError(
                f"{path} holds class {known.max()}, but the data set has {self.num_classes} "
                "classes. Correct the mask or classes.txt."
            )
        item["mask"] = tv_tensors.Mask(torch.from_numpy(mask.copy()))
        return self.joint(item) if self.joint else item


def digest(masks: Path, ids: Sequence[str]) -> str:
    """Hash of the mask files of `ids`, 16 hex digits: what a training learnt from.

    Raises:
        UserError: a mask is missing.
    """
    total = hashlib.sha256()
    for name in ids:
        path = Path(masks) / f"{name}.png"
        if not path.exists():
            raise UserError(f"{path} is missing. Run the stage that writes it again.")
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
