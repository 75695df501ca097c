import hashlib
from urllib.error import URLError

import pytest
import torch
import torchvision

from wsssbench.errors import UserError
from wsssbench.models import build, imagenet_file, weights_hash


@pytest.fixture(scope="module")
def state():
    """A complete torchvision state dict, head included."""
    torch.manual_seed(5)
    return torchvision.models.mobilenet_v2(weights=None).state_dict()


def save(content, folder, name="weights.pth"):
    path = folder / name
    torch.save(content, path)
    return path


def assert_loaded(path, state):
    loaded = build("mobilenet_v2", weights=str(path)).state_dict()
    for key, value in loaded.items():
        torch.testing.assert_close(value, state[key].to(value.dtype))


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {k: v for k, v in s.items() if not k.startswith("classifier.")},
    ],
    ids=["plain", "state_dict", "model", "parallel", "both", "headless"],
)
def test_state_dicts_load_however_they_are_wrapped(wrap, state, tmp_path):
    assert_loaded(save(wrap(state), tmp_path), state)


def test_half_precision_is_cast(state, tmp_path):
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    path = save(half, tmp_path)
    assert build("mobilenet_v2", weights=path).features[0][0].weight.dtype == torch.float32
    assert_loaded(path, half)


def test_counters_of_batch_norm_may_be_missing(state, tmp_path):
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert_loaded(save(old, tmp_path), state)


def test_own_network_is_found_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = build("tiny")
    save(source.state_dict(), tmp_path)
    loaded = build("tiny", weights="~/weights.pth")
    assert torch.equal(loaded.stage3[0].weight, source.stage3[0].weight)


def message(name, path):
    with pytest.raises(UserError) as caught:
        build(name, weights=path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_another_architecture_is_recognised(state, tmp_path):
    text = message("resnet18", save(state, tmp_path))
    assert "does not fit resnet18: 100 entries missing (first: conv1.weight)" in text
    assert "unexpected (first: features.0.0.weight)" in text
    assert "looks like mobilenet_v2" in text


def test_another_depth_is_told_by_shapes(tmp_path):
    text = message("resnet18", save(torchvision.models.resnet50().state_dict(), tmp_path))
    assert "layer1.0.conv1.weight (64, 64, 1, 1) instead of (64, 64, 3, 3)" in text
    assert "looks like resnet50" in text


def test_one_missing_entry_is_enough_and_nothing_is_guessed(state, tmp_path):
    part = {k: v for k, v in state.items() if k != "features.3.conv.2.weight"}
    text = message("mobilenet_v2", save(part, tmp_path))
    assert "1 entries missing (first: features.3.conv.2.weight)" in text
    assert "looks like" not in text


def test_missing_file_and_directory(tmp_path):
    text = message("resnet18", tmp_path / "nowhere.pth")
    assert "does not exist" in text
    assert "'imagenet'" in text
    assert "is a directory" in message("tiny", tmp_path)


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(1)], {}, {"epoch": 3, "loss": 0.1}, {"state_dict": None}, {0: torch.zeros(1)}],
)
def test_files_without_a_state_dict(content, tmp_path):
    assert "state dict" in message("tiny", save(content, tmp_path))


def test_truncated_and_foreign_files(tmp_path):
    path = save(build("tiny").state_dict(), tmp_path)
    whole = path.read_bytes()
    for length in (0, 5000, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        assert "cut short" in message("tiny", path)
    path.write_text("<html>404</html>")
    assert "cut short" in message("tiny", path)


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = save({}, tmp_path)
    monkeypatch.setattr(torch, "load", refuse)
    assert "No permission" in message("tiny", path)


def test_whole_pickled_networks_are_not_executed(tmp_path):
    assert "pickled network" in message("tiny", save(build("tiny"), tmp_path))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_failed_download_says_what_to_fetch_and_where_to_put_it(hub, monkeypatch):
    def offline(url, target, prefix):
        assert (target, prefix) == (str(hub / "resnet50-0676ba61.pth"), "0676ba61")
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError) as caught:
        build("resnet50", weights="imagenet")
    text = str(caught.value)
    assert "\n" not in text
    for part in ("no network", imagenet_file("resnet50")[0], str(hub), "weights: PATH"):
        assert part in text


def test_download_is_read_and_then_kept(hub, state, monkeypatch):
    calls = []

    def network(url, target, prefix):
        calls.append(url)
        torch.save(state, target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", network)
    for _ in range(2):
        loaded = build("mobilenet_v2", weights="imagenet")
    assert torch.equal(loaded.features[0][0].weight, state["features.0.0.weight"])
    assert calls == [torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url]


def test_imagenet_does_not_exist_for_our_own_network():
    with pytest.raises(UserError, match="no ImageNet weights for tiny"):
        build("tiny", weights="imagenet")


def test_hash_identifies_the_start(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"abc")
    assert weights_hash("tiny", path) == hashlib.sha256(b"abc").hexdigest()[:12] == "ba7816bf8f01"
    assert weights_hash("resnet50", "imagenet") == "ResNet50_Weights.IMAGENET1K_V1"
    assert weights_hash("resnet50", "none") == "none"
    with pytest.raises(UserError, match="does not exist"):
        weights_hash("tiny", tmp_path / "nowhere.pth")
