"""Score maps of a split, computed in batches of equally sized images and stored per image.

A stored map file is an npz with `keys` (n,) int16 class ids 1..K, `maps` (n, h, w) float16 in
[0, 1], `gated` (n,) bool: true where the protocol keeps the class, `size` (2,) int32 = H, W. Where
the map of a class depends on the others, it may occur twice: as the protocol sees it, then, not
gated, as it looks where the image labels are known.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from wsssbench.data.folder import Folder, LabelledImages
from wsssbench.data.palette import BACKGROUND, write_mask
from wsssbench.data.transforms import normalise
from wsssbench.engine import devices
from wsssbench.engine.speed import for_inference
from wsssbench.evaluation.maps import full_size
from wsssbench.evaluation.reading import StoredMaps, read_maps
from wsssbench.files import atomic, write_text
from wsssbench.methods.base import Method
from wsssbench.params import MachineSettings, PseudoMaskSettings
from wsssbench.progress import progress


def write_maps(
    method: Method,
    folder: Folder,
    split: str,
    out: Path,
    settings: PseudoMaskSettings,
    machine: MachineSettings,
    *,
    labels_used: bool,
) -> None:
    """Write out/<kind>/<split>/maps/<id>.npz for the method's kinds and out/<split>.csv.

    Args:
        method: trained; on its device, in eval mode; `maps` and `conf_threshold` are set.
        folder: the data set.
        split: list of its images to do.
        out: directory of the stage. out/<split>.csv holds the class probabilities.
        settings: views, map stride, batch size.
        machine: precision and workers.
        labels_used: True: the image labels gate the classes (training images). False: the model's
            own probability ≥ conf_threshold does; maps of labelled classes are stored as well, so
            that the gain of knowing the labels can be shown, but they are marked as not gated.
            They never touch the gated ones: kinds whose classes compete are made twice.
    """
    device = next(method.parameters()).device
    dtype = devices.precision(machine, device)
    method.scales, method.flip = settings.scales, settings.flip
    twice = not labels_used and not set(method.competing).isdisjoint(method.wanted)
    method = for_inference(method, dtype)
    ids = folder.ids(split)
    probabilities = {}
    batches = same_size_batches(folder, ids, settings.batch_size)
    data = DataLoader(
        LabelledImages(folder, ids, normalised), batch_sampler=batches, num_workers=machine.workers
    )
    for batch in progress(data, f"maps of {split}", len(batches)):
        images = batch["image"].to(device, memory_format=torch.channels_last)
        labels = batch["label"].to(device) > 0

        def known(own: Tensor, labels: Tensor = labels) -> Tensor:
            return labels

        def either(own: Tensor, labels: Tensor = labels) -> Tensor:
            return method.own_gate(own) | labels

        with torch.inference_mode(), devices.autocast(device, dtype):
            gates = (known,) if labels_used else (method.own_gate, known) if twice else (either,)
            found = [method.infer(images, gate, settings.map_stride) for gate in gates]
        own = method.own_gate(found[0].probabilities)
        protocol = [labels if labels_used else own, torch.zeros_like(own)]
        size = batch["image"].shape[-2:]
        for row, name in enumerate(batch["id"]):
            keys = [one.gate[row].nonzero()[:, 0] for one in found]
            gated = torch.cat([part[row, k] for part, k in zip(protocol, keys)]).cpu().numpy()
            ids_found = (torch.cat(keys) + 1).cpu().numpy()
            for kind in found[0].maps:
                maps = torch.cat([one.maps[kind][row, k] for one, k in zip(found, keys)])
                path = out / kind / split / "maps" / f"{name}.npz"
                store_maps(path, ids_found, maps, size, gated)
            probabilities[name] = found[0].probabilities[row].float().cpu().tolist()
    table = pd.DataFrame.from_dict(probabilities, orient="index", columns=folder.classes)
    table = table.loc[ids].rename_axis("id")
    write_text(out / f"{split}.csv", table.to_csv(float_format="%.6f"))


def to_mask(stored: StoredMaps, threshold: float) -> np.ndarray:
    """Threshold and argmax of the gated maps, at the size of the image.

    Args:
        stored: maps of one image.
        threshold: constant background score; the background wins at equality.

    Returns:
        (H, W) uint8 of class ids; all background where no class is gated.
    """
    kept = stored.gated
    if not kept.any():
        return np.zeros(stored.size, np.uint8)
    maps = full_size(stored.maps[kept], stored.size).astype(np.float32)
    winner = stored.keys[kept].astype(np.uint8)[maps.argmax(0)]
    return np.where(maps.max(0) > np.float32(threshold), winner, np.uint8(BACKGROUND))


def write_masks(out: Path, ids: Sequence[str], threshold: float) -> None:
    """Write out/masks/<id>.png from out/maps/<id>.npz with the protocol's class gate.

    Args:
        out: directory of a kind and split.
        ids: images.
        threshold: constant background score.
    """
    for name in progress(ids, f"masks of {out.parent.name}, {out.name}"):
        stored = read_maps(out / "maps" / f"{name}.npz")
        write_mask(out / "masks" / f"{name}.png", to_mask(stored, threshold))


def normalised(item: dict) -> dict:
    """An item of `LabelledImages` as the networks see it at test time."""
    return {**item, "image": normalise(item["image"]).as_subclass(Tensor)}


def same_size_batches(folder: Folder, ids: Sequence[str], batch_size: int) -> list[list[int]]:
    """Indices of `ids` grouped by image size, in batches of at most `batch_size`."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, name in enumerate(ids):
        with Image.open(folder.image_path(name)) as image:  # the header is enough
            groups.setdefault(image.size, []).append(index)

    def cut(group: list[int]) -> Iterator[list[int]]:
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]

    return [batch for group in groups.values() for batch in cut(group)]


def store_maps(
    path: Path,
    keys: np.ndarray,
    maps: Tensor,
    size: Sequence[int],
    gated: np.ndarray | None = None,
) -> None:
    """Write one map file, whole or not at all.

    Args:
        path: of the file.
        keys: (n,) class ids 1..K.
        maps: (n, h, w) float in [0, 1].
        size: (H, W) of the image.
        gated: (n,) bool, maps in use; all by default.
    """
    with atomic(path) as stream:
        np.savez(
            stream,
            keys=keys.astype(np.int16),
            maps=maps.half().cpu().numpy(),
            gated=np.ones(len(keys), bool) if gated is None else gated,
            size=np.asarray(size, np.int32),
        )
