"""A small data set folder on disk, built with the package's own writers."""

from pathlib import Path

import numpy as np
from PIL import Image

from wsssbench.data import layout
from wsssbench.data.palette import write_mask


def make_folder(
    root: Path, images: int = 12, size: tuple[int, int] = (40, 32), seed: int = 0
) -> Path:
    """VOC-layout folder: class 1 is a red square, class 2 a green one; 3/4 of it train."""
    rng = np.random.default_rng(seed)
    height, width = size
    (root / layout.IMAGES).mkdir(parents=True)
    names, labels = [f"im{index:03d}" for index in range(images)], {}
    for index, name in enumerate(names):
        image = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        for kind in {1 + index % 2, 1 + (index // 3) % 2}:
            top, left = rng.integers(2, height - 14), rng.integers(2, width - 14)
            image[top : top + 12, left : left + 12, kind - 1] = 250
            mask[top : top + 12, left : left + 12] = kind
        Image.fromarray(image).save(root / layout.IMAGES / f"{name}.png")
        write_mask(root / layout.MASKS / f"{name}.png", mask)
        labels[name] = [c for i, c in enumerate(("red", "green"), 1) if (mask == i).any()]
    layout.write_classes(root, ["red", "green"])
    layout.write_labels(root, labels)
    cut = images * 3 // 4
    layout.write_ids(root, "train", names[:cut])
    layout.write_ids(root, "val", names[cut:])
    return root
