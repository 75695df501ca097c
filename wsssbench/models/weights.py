"""Initial weights of a backbone: an ImageNet file, a state dict on disk, or none. Torchvision's
files are downloaded; MiT's lie in a folder that only a person can open, and are put in by hand.

Everything that can be wrong with a weights file is found here, before training.
"""

import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor

from wsssbench.errors import UserError
from wsssbench.models.base import Backbone

IMAGENET, NONE = "imagenet", "none"
# page that leads to the files <name>.pth, which have no address of their own
BY_HAND = dict.fromkeys(("mit_b0", "mit_b1"), "https://github.com/NVlabs/SegFormer")
CONTAINERS = ("state_dict", "model", "model_state_dict")
PARALLEL = "module."  # what nn.DataParallel and DDP put in front of every name
OPTIONAL = "num_batches_tracked"  # absent from files written before PyTorch 0.4.1
SAME_ARCHITECTURE = 0.9  # share of fitting entries from which a guess is worth printing
# what torch.load raises on files that are cut short, damaged or something else altogether
BROKEN = (OSError, RuntimeError, EOFError, LookupError, ValueError, struct.error, UnpicklingError)
Shapes = dict[str, tuple[int, ...]]


def load(
    backbone: Backbone, name: str, source: str | Path, others: Callable[[], dict[str, Shapes]]
) -> None:
    """Fill `backbone` with initial weights, in place; float16 files are cast.

    Args:
        backbone: the network.
        name: its architecture, e.g. "resnet50".
        source: "imagenet" (torchvision's IMAGENET1K_V1, SegFormer's), "none" (left as it is), or
            the path of a state dict with torchvision's (SegFormer's) names.
        others: gives the shapes of all architectures; asked only to name the right one in an error.

    Raises:
        UserError: no such file, not a state dict, another architecture, or a failed download.
    """
    if source == NONE:
        return
    path = _download(name) if source == IMAGENET else Path(source).expanduser()
    state = read_state(path, name)
    state = {key: value for key, value in state.items() if not key.startswith(backbone.head)}
    expected = shapes(backbone)
    problem = _misfit(state, expected)
    if problem:
        raise UserError(f"{path} does not fit {name}: {problem}. {_advice(state, name, others())}")
    backbone.load_state_dict(state, strict=False)  # _misfit was strict


def weights_hash(name: str, source: str | Path) -> str:
    """What identifies the initial weights in a provenance record.

    Returns:
        The first 12 hex digits of the file's SHA-256; for torchvision's "imagenet" the name of the
        enumeration, e.g. "ResNet50_Weights.IMAGENET1K_V1"; for "none" the word itself.

    Raises:
        UserError: no such file.
    """
    if source == NONE:
        return NONE
    if source == IMAGENET and name not in BY_HAND:
        return str(_imagenet(name))
    path = _download(name) if source == IMAGENET else Path(source).expanduser()
    return hashlib.sha256(_existing(path, name).read_bytes()).hexdigest()[:12]


def imagenet_file(name: str) -> tuple[str, Path]:
    """Address of the ImageNet file of a backbone (of `BY_HAND`: of a page that leads to it), and
    where torch.hub keeps it.

    Raises:
        UserError: there are no weights for this backbone.
    """
    if name in BY_HAND:
        return BY_HAND[name], Path(torch.hub.get_dir(), "checkpoints", f"{name}.pth")
    url = _imagenet(name).url
    return url, Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1])


def by_hand(name: str) -> str:
    """How a person gets the weights of a backbone of `BY_HAND`, in one phrase."""
    page, path = imagenet_file(name)
    return (
        f"get {path.name} from the pre-trained weights that {page} links to (licence: research use "
        f"only) and put it at {path}, or set `weights: PATH` to it (`weights: none` trains from "
        "scratch)"
    )


def shapes(backbone: Backbone) -> Shapes:
    """{entry of the state dict: shape}."""
    return {key: tuple(value.shape) for key, value in backbone.state_dict().items()}


def read_state(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict in a file, out of its container and without the prefix of DataParallel.

    Raises:
        UserError: no such file, or no state dict in it.
    """
    try:
        content = torch.load(_existing(path, name), map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"No permission to read the weights {path}. Change its owner.") from error
    except BROKEN as error:
        raise UserError(
            f"{path} cannot be read: it is cut short, or holds more than tensors (a whole pickled "
            f"network). Fetch it again, or save `network.state_dict()` of {name} with torch.save."
        ) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in CONTAINERS if key in content), content)
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict of {name}.")
    strange = [k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if strange:
        raise UserError(
            f"{path} is not a state dict of {name}: entry {strange[0]!r} is no named tensor. "
            f"Save `network.state_dict()` alone, or inside a dict under {CONTAINERS[0]!r}."
        )
    if all(key.startswith(PARALLEL) for key in content):
        return {key.removeprefix(PARALLEL): value for key, value in content.items()}
    return dict(content)


def _existing(path: Path, name: str) -> Path:
    if path.is_file():
        return path
    what = "is a directory" if path.is_dir() else "does not exist"
    raise UserError(
        f"Weights {path} {what}. Set `weights` to a state dict of {name} (a .pth file), "
        f"to {IMAGENET!r} or to {NONE!r}."
    )


def _imagenet(name: str) -> torchvision.models.WeightsEnum:
    try:
        return torchvision.models.get_model_weights(name).IMAGENET1K_V1
    except ValueError as error:
        raise UserError(
            f"There are no ImageNet weights for {name}. Set `weights` to 'none' or to the path of "
            "a state dict."
        ) from error


def _download(name: str) -> Path:
    """The ImageNet file through torch.hub's cache."""
    url, path = imagenet_file(name)
    if path.is_file():
        return path
    if name in BY_HAND:
        raise UserError(f"ImageNet weights of {name} are not there: {by_hand(name)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), re.search(r"-([0-9a-f]+)\.", path.name)[1])
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"ImageNet weights of {name}: {path.name} could not be downloaded ({error}). Fetch "
            f"{url} where there is a network and put it at {path}, or set `weights: PATH` to a "
            "copy of it (`weights: none` trains from scratch)."
        ) from error
    return path


def _misfit(state: dict[str, Tensor], expected: Shapes) -> str:
    """What keeps `state` from fitting, in one phrase; empty if it fits."""
    missing = [key for key in expected if key not in state and not key.endswith(OPTIONAL)]
    unexpected = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    phrases = [f"{len(keys)} entries {what} (first: {keys[0]})" for what, keys in groups if keys]
    return ", ".join(phrases)


def _advice(state: dict[str, Tensor], name: str, others: dict[str, Shapes]) -> str:
    """Which backbone the file belongs to, and what to do."""
    found = {key: tuple(value.shape) for key, value in state.items()}

    def fitting(expected: Shapes) -> float:
        return sum(found.get(key) == shape for key, shape in expected.items()) / len(expected)

    best = max(others, key=lambda other: fitting(others[other]))
    if best != name and fitting(others[best]) >= SAME_ARCHITECTURE:
        return f"It looks like {best}: set `backbone: {best}` or give weights of {name}."
    release = "SegFormer's" if name in BY_HAND else "torchvision's"
    return f"Give a state dict of {release} {name}, or set `backbone` to what the file holds."
