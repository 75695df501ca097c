"""One image through RecurSeed and EdgePredictMix, every product on the way kept for looking at.

Everything is computed by the functions that training calls, with the trained weights of a run. The
picture is scaled to the crop instead of cut at random, and the network is in eval mode.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from wsssbench.data.examples import choose_pair
from wsssbench.data.folder import Folder, LabelledImages
from wsssbench.data.transforms import TrainTransform, denormalise
from wsssbench.errors import UserError
from wsssbench.methods.mixed_pass import MixedPass
from wsssbench.methods.readout import PamrSettings
from wsssbench.methods.recurseed import RecurSeed
from wsssbench.mixing import MixBatch, apply_mix
from wsssbench.params import Profile
from wsssbench.refinement.certain_filter import certain_filter, strongest
from wsssbench.refinement.edge_prediction import edge_map
from wsssbench.stages.common import load_trained, open_folder

TARGET_STEPS = ("CAM", "SCG", "PAMR")  # the last one is M_rs, its certain part M_seg
DECODER_STEPS = ("softmax", "softmax + PAMR")
EDGE_PREDICTION = "edge prediction"


@dataclass(frozen=True)
class Edges:
    """How edge prediction divides the picture.

    Attributes:
        grey: (H, W) uint8, 255 times the decoder's largest refined score.
        canny: (H, W) bool, its edges.
        closed: (H, W) bool, the edges after their gaps were closed.
        regions: (H, W) int32, number of the region that the edges enclose; 0 on edges.
    """

    grey: np.ndarray
    canny: np.ndarray
    closed: np.ndarray
    regions: np.ndarray


@dataclass(frozen=True)
class Mix:
    """The picture with a partner's object.

    Attributes:
        partner: (H, W, 3) uint8 RGB.
        partner_truth: (H, W) uint8.
        partner_mask: (H, W) uint8, its edge-predicted pseudo-mask.
        chosen: mask ids of the classes that were drawn.
        pasted: (H, W) bool, pixels that come from the partner.
        image: (H, W, 3) uint8 RGB, mixed.
        mask: (H, W) uint8, mixed pseudo-mask.
        truth: (H, W) uint8, the true masks mixed alike.
        shown: n mask ids, classes that the mixed image counts as showing.
        maps: (n, H, W) float32 in [0, 1], theirs of the mixed M_rs.
    """

    partner: np.ndarray
    partner_truth: np.ndarray
    partner_mask: np.ndarray
    chosen: tuple[int, ...]
    pasted: np.ndarray
    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    shown: tuple[int, ...]
    maps: np.ndarray


@dataclass(frozen=True)
class Steps:
    """Everything on the way from one image to what it teaches.

    Attributes:
        image_id, partner_id: the two images.
        classes: names, background first.
        present: n mask ids of the image's classes.
        limits: of the certain filter on the CAM, {"certain": …, "uncertain": …}.
        decoder_limits: of the certain filter on the decoder's prediction.
        image: (H, W, 3) uint8 RGB, the network's input.
        truth: (H, W) uint8, 255 also outside the picture.
        valid: (H, W) bool, inside the picture.
        maps: per step of TARGET_STEPS and DECODER_STEPS (n, H, W) float32 in [0, 1].
        masks: per step (H, W) uint8, the certain part of its maps; also EDGE_PREDICTION.
        edges: how edge prediction divides the picture.
        mix: what the mixed pass sees.
    """

    image_id: str
    partner_id: str
    classes: tuple[str, ...]
    present: tuple[int, ...]
    limits: dict[str, float]
    decoder_limits: dict[str, float]
    image: np.ndarray
    truth: np.ndarray
    valid: np.ndarray
    maps: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    edges: Edges
    mix: Mix


def steps(
    profile: Profile, experiment: str, seed: int, image_id: str = "", partner_id: str = ""
) -> Steps:
    """Follow one image through a trained run.

    Args:
        profile: of the run.
        experiment: one that mixes by EdgePredictMix.
        seed: of the run; the classes that are pasted are drawn from it as well.
        image_id: the image; "" takes one that shows two classes well.
        partner_id: the image to be mixed in; "" takes one with a single object of another class.

    Raises:
        UserError: another kind of experiment, no trained weights, an unknown or unlabelled image.
    """
    _check(profile, experiment)
    folder, _ = open_folder(profile, masks=False)
    weights = profile.run_dir(experiment, seed) / "train" / "model.pt"
    method = load_trained(profile, experiment, folder, weights)
    pair = choose_pair(folder, next(iter(profile.data.scored)), image_id, partner_id)
    batch = _batch(folder, pair, profile.experiment(experiment).train.crop)
    with torch.inference_mode():
        return follow(method, batch, ("background", *folder.classes), seed)


def follow(method: RecurSeed, batch: dict, classes: Sequence[str], seed: int) -> Steps:
    """The first image of a batch of two, with the second as its partner.

    Args:
        method: trained, mixing by EdgePredictMix; it is left as it is.
        batch: `image` (2, 3, H, W), `label` (2, K), `valid` (2, H, W) bool, `id` two texts, as
            training gets them, and `truth` (2, H, W) uint8.
        classes: names, background first.
        seed: of the classes that are drawn.
    """
    images, labels, valid = batch["image"], batch["label"], batch["valid"]
    out = method.network(images)
    targets = {}
    for step, (use_scg, use_pamr) in zip(TARGET_STEPS, ((0, 0), (1, 0), (1, 1))):
        partly = copy.copy(method)  # the same network without the later refinements
        partly.use_scg, partly.use_pamr = method.use_scg and use_scg, method.use_pamr and use_pamr
        targets[step] = partly.target(out, images, labels, valid)
    target = targets[TARGET_STEPS[-1]]
    recorder = _Recorder(method.pamr)
    recording = copy.copy(method)
    recording.pamr = recorder
    before = method.mixed.batch(recording, batch, out, target)
    rows = labels[0].nonzero()[:, 0]
    maps = {step: _numpy(found.maps[0, rows]) for step, found in targets.items()}
    masks = {step: _ids(found.mask[0]) for step, found in targets.items()}
    limits = method.mixed.limits
    for step, found in zip(DECODER_STEPS, (recorder.given, recorder.made)):
        maps[step] = _numpy(found[0, rows])
        masks[step] = _ids(certain_filter(found, target.present, valid=valid, **limits)[0])
    masks[EDGE_PREDICTION] = _ids(before.mask[0])
    return Steps(
        *batch["id"],
        classes=tuple(classes),
        present=tuple((rows + 1).tolist()),
        limits=dict(method.limits),
        decoder_limits=dict(limits),
        image=_rgb(images[0]),
        truth=_ids(batch["truth"][0]),
        valid=_numpy(valid[0]),
        maps=maps,
        masks=masks,
        edges=_edges(recorder.made[:1], target.present[:1], _numpy(valid[0])),
        mix=_mix(method.mixed, before, batch["truth"], seed),
    )


class _Recorder:
    """Stands in for PAMR while the mixed pass prepares its batch; keeps what goes in and out.

    Attributes:
        given: (B, K, H, W) float32, the decoder's softmax.
        made: (B, K, H, W) float32, the same after PAMR.
    """

    def __init__(self, pamr: PamrSettings):
        self.pamr = pamr
        self.weights = pamr.weights

    def refine(self, weights: Tensor, maps: Tensor, kept: Tensor) -> Tensor:
        """As `PamrSettings.refine`."""
        self.given, self.made = maps, self.pamr.refine(weights, maps, kept)
        return self.made


def _edges(maps: Tensor, present: Tensor, valid: np.ndarray) -> Edges:
    """What `edge_predict` sees between (1, K, H, W) maps and the mask, cut to the picture's box."""
    score, _ = strongest(maps, present)
    grey = np.where(valid, _numpy((255 * score).clamp(0, 255).to(torch.uint8)[0]), np.uint8(0))
    rows, columns = (np.flatnonzero(valid.any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    canny, closed = np.zeros_like(valid), np.zeros_like(valid)
    canny[box] = edge_map(grey[box], closing=1) > 0
    closed[box] = edge_map(grey[box]) > 0
    free = (valid & ~closed).astype(np.uint8)
    return Edges(grey, canny, closed, cv2.connectedComponents(free, connectivity=4)[1])


def _mix(mixed: MixedPass, before: MixBatch, truth: Tensor, seed: int) -> Mix:
    plan = mixed.mixer.plan(before, torch.Generator().manual_seed(seed))
    rule = mixed.mixer.mask_rule if "cls" not in mixed.parts else None
    after = apply_mix(before, plan, label_rule=rule)
    pasted = after.weight[0, 0] > 0
    shown = after.gate[0].nonzero()[:, 0]
    return Mix(
        partner=_rgb(before.images[1]),
        partner_truth=_ids(truth[1]),
        partner_mask=_ids(before.mask[1]),
        chosen=tuple((plan.src_classes[0].nonzero()[:, 0] + 1).tolist()),
        pasted=_numpy(pasted),
        image=_rgb(after.images[0]),
        mask=_ids(after.mask[0]),
        truth=_ids(torch.where(pasted, truth[1], truth[0])),
        shown=tuple((shown + 1).tolist()),
        maps=_numpy(after.dense["rs"][0, shown]),
    )


def _batch(folder: Folder, ids: Sequence[str], crop: int) -> dict:
    """Both images as training gets them, their longer side scaled to the crop, and their truth."""
    transform = TrainTransform(crop, (crop, crop), flip=0.0)
    data, items = LabelledImages(folder, ids), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # decides where in the crop a picture lies that does not fill it
        for index, name in enumerate(ids):
            truth = tv_tensors.Mask(torch.from_numpy(folder.mask(name)))
            items.append(transform({**data[index], "truth": truth}))
    keys = ("image", "label", "valid", "truth")
    return {"id": list(ids), **{key: torch.stack([item[key] for item in items]) for key in keys}}


def _check(profile: Profile, experiment: str) -> None:
    profile.experiment(experiment)
    fitting = [name for name, one in profile.experiments.items() if _predicts_edges(one.settings)]
    if experiment not in fitting:
        raise UserError(
            f"{profile.params_file}: experiment {experiment} does not mix by EdgePredictMix. "
            f"Experiments that do: {', '.join(fitting) or '(none)'}."
        )


def _predicts_edges(settings: dict) -> bool:
    mix = settings.get("mix") or {}
    return mix.get("mixer") == "edgepredictmix" and mix.get("refiner", "own") in ("own", "ep")


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _ids(mask: Tensor) -> np.ndarray:
    return _numpy(mask.to(torch.uint8))


def _rgb(image: Tensor) -> np.ndarray:
    """(3, H, W) normalised -> (H, W, 3) uint8."""
    return _numpy((255 * denormalise(image)).round().to(torch.uint8).permute(1, 2, 0))
