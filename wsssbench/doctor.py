"""`wsssbench doctor`: what is there, what is missing, and what to do about it. Changes nothing."""

import importlib.metadata
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from wsssbench.data.folder import Folder
from wsssbench.errors import UserError
from wsssbench.models import imagenet_file
from wsssbench.models.weights import BY_HAND, by_hand
from wsssbench.params import Profile, load

NEEDED = ("torch", "torchvision", "numpy", "pandas", "opencv-python", "matplotlib", "seaborn")
PIPELINE = ("dvc", "papermill", "ipykernel")
OPTIONAL = ("jupyterlab", "pycocotools", "nbstripout")
MARKS = {"ok": "ok     ", "missing": "MISSING", "note": "note   "}


@dataclass(frozen=True)
class Finding:
    """One line of the report: state `ok`, `missing` or `note`."""

    state: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{MARKS[self.state]} {self.what}" + (
            f"\n        -> {self.remedy}" if self.remedy else ""
        )


def examine(profile: Profile) -> list[Finding]:
    """Findings on packages, devices, data sets and weights of all profiles, and disk space.

    Only what `profile` needs counts as missing; what other profiles need is a note.
    """
    profiles = {profile.profile: profile}
    for path in [Path("params.yaml"), *sorted(Path("profiles").glob("*/params.yaml"))]:
        if path.is_file():
            other = load(path)
            profiles.setdefault(other.profile, other)
    return [
        Finding("ok", f"Python {sys.version.split()[0]}, {os.cpu_count()} processors"),
        *_packages(),
        *_devices(profile),
        *(_data(other, needed=other is profile) for other in profiles.values()),
        *(_weights(other, needed=other is profile) for other in profiles.values()),
        _disk(),
    ]


def _packages() -> list[Finding]:
    install = "python -m pip install -r requirements.lock"
    found = []
    for names, state in ((NEEDED, "missing"), (PIPELINE, "missing"), (OPTIONAL, "note")):
        for name in names:
            try:
                found.append(Finding("ok", f"{name} {importlib.metadata.version(name)}"))
            except importlib.metadata.PackageNotFoundError:
                found.append(Finding(state, f"{name} is not installed", install))
    return found


def _devices(profile: Profile) -> list[Finding]:
    if torch.cuda.is_available():
        return [
            Finding("ok", f"GPU {index}: {torch.cuda.get_device_name(index)}")
            for index in range(torch.cuda.device_count())
        ]
    asked = profile.machine.device.startswith("cuda")
    remedy = "Set machine.device: auto, or install a torch that fits the driver."
    text = f"no GPU seen by torch; the CPU ({torch.get_num_threads()} threads) is used"
    return [Finding("missing" if asked else "note", text, remedy if asked else "")]


def _data(profile: Profile, *, needed: bool) -> Finding:
    place = f"data set of profile {profile.profile} ({profile.data.root})"
    if profile.study:
        return Finding("note", f"{place} is drawn run by run")
    if profile.data.source == "scenes" and not Path(profile.data.root).exists():
        return Finding("note", f"{place} is drawn by the stage prepare")
    options = profile.data.options
    # what prepare will make need not be there
    lists = (profile.data.train, "val" if options.get("holdout_of_val") else profile.data.val)
    try:
        folder = Folder(profile.data.root)
        counts = {split: len(folder.ids(split)) for split in lists}
        if not options.get("labels_from_masks"):
            folder.labels  # noqa: B018 (reads the file)
    except UserError as error:
        return Finding("missing" if needed else "note", place, str(error))
    return Finding("ok", f"{place}: " + ", ".join(f"{k} {v} images" for k, v in counts.items()))


def _weights(profile: Profile, *, needed: bool) -> Finding:
    model = profile.model
    name = f"initial weights of profile {profile.profile} ({model.backbone}, {model.weights})"
    if model.weights == "none":
        return Finding("ok", f"{name}: trained from scratch")
    if model.weights == "imagenet":
        try:
            url, path = imagenet_file(model.backbone)
        except UserError as error:
            return Finding("missing" if needed else "note", name, str(error))
        remedy = f"downloaded at the first run; without a network put {url} at {path}"
        if model.backbone in BY_HAND:
            remedy = by_hand(model.backbone)
    else:
        path = Path(model.weights).expanduser()
        remedy = f"put a state dict of {model.backbone} at {path}"
    if path.is_file():
        return Finding("ok", name)
    fetched = model.weights == "imagenet" and model.backbone not in BY_HAND
    return Finding("missing" if needed and not fetched else "note", name, remedy)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    remedy = "" if free > 2 else "Runs and DVC's cache need a few GiB: free some space."
    return Finding("ok" if free > 2 else "missing", f"{free:.1f} GiB of disk space free", remedy)
