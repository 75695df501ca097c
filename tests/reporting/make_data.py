"""Writes a small data set in VOC layout, seeded: noisy images of ellipses, with exact masks."""

import cv2
import numpy as np
import pandas as pd
from PIL import Image

CLASSES = ["background", "disc", "bar", "tall_tree", "kite"]
COLOURS = np.array([[70, 80, 60], [200, 60, 60], [60, 110, 200], [50, 160, 70], [220, 190, 60]])
ASPECTS = {1: (1.0, 1.0), 2: (1.5, 0.6), 3: (0.5, 1.4), 4: (0.9, 0.5)}
SPLITS = {"train": 8, "val": 6}
HEIGHT, WIDTH = 72, 96


def write_palette_png(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([c for k in range(256) for c in (k, (37 * k) % 256, (91 * k) % 256)])
    picture.save(path)


def draw(rng):
    """One image (uint8 RGB) with one or two objects, and its mask with an ignored rim."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label in rng.choice(4, rng.integers(1, 3), replace=False) + 1:
        centre, radius = rng.integers((18, 18), (78, 54)), int(rng.integers(6, 17))
        axes = [int(radius * a) + 1 for a in ASPECTS[int(label)]]
        cv2.ellipse(mask, centre.tolist(), axes, 0, 0, 360, int(label), -1)
    image = COLOURS[mask] + rng.normal(0, 18, (HEIGHT, WIDTH, 3))
    rim = cv2.morphologyEx((mask > 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    return np.clip(image, 0, 255).astype(np.uint8), np.where(rim > 0, 255, mask).astype(np.uint8)


def write_data(root, seed=0):
    """Write the folder `root`; returns {split: {id: mask uint8 [H, W]}}."""
    rng, truth, labels = np.random.default_rng(seed), {}, []
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in SPLITS.items():
        truth[split] = {}
        for name in (f"{split}_{i:02d}" for i in range(count)):
            image, mask = draw(rng)
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=90)
            write_palette_png(root / "SegmentationClass" / f"{name}.png", mask)
            truth[split][name] = mask
            labels.append((name, " ".join(CLASSES[c] for c in np.unique(mask) if 0 < c < 255)))
        listing = "\n".join(truth[split]) + "\n"
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(listing)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    pd.DataFrame(labels, columns=["id", "labels"]).to_csv(root / "labels.csv", index=False)
    return truth
