import pytest
import torch

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import CAM, METHODS, build, check_settings, settings_of
from wsssbench.methods.base import Progress


@pytest.fixture
def method():
    torch.manual_seed(0)
    return CAM(models.build("tiny", output_stride=8), 3).eval()


def progress():
    return Progress(1, 1, 0, 1, torch.Generator())


def batch(size=4):
    torch.manual_seed(1)
    label = torch.eye(3)[torch.arange(size) % 3]
    return {
        "image": torch.randn(size, 3, 48, 40),
        "label": label,
        "id": [str(i) for i in range(size)],
    }


def test_loss_is_the_mean_over_classes_and_batch(method):
    data = batch()
    logits = method.network(data["image"]).logits
    y = data["label"]
    by_hand = -(y * logits.sigmoid().log() + (1 - y) * (1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(method.losses(data, progress())["cls"], by_hand)


def test_one_step_lowers_the_loss(method):
    method.train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    data, losses = batch(), []
    for _ in range(6):
        loss = method.losses(data, progress())["cls"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_score_maps_contract(method):
    images = torch.randn(2, 3, 37, 50)
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    maps = method.score_maps(images, labels)
    assert maps.shape == (2, 4, 37, 50)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert (maps[:, 0] == method.threshold).all()
    assert (maps[0, 2:] == 0).all()  # absent classes never appear
    assert (maps[1, 1:] == 0).all()  # an image without labels is all background
    assert maps[1].argmax(0).max() == 0


def test_without_labels_the_own_prediction_gates(method):
    images = torch.randn(2, 3, 32, 32)
    method.conf_threshold = 0.0
    everything = method.predict(images)
    assert (everything[:, 1:].amax((2, 3)) > 0).any()
    method.conf_threshold = 1.1
    assert (method.predict(images)[:, 1:] == 0).all()


def test_flip_equivariance(method):
    images = torch.randn(1, 3, 32, 48)
    labels = torch.ones(1, 3)
    maps = method.score_maps(images, labels)
    torch.testing.assert_close(
        method.score_maps(images.flip(-1), labels).flip(-1), maps, atol=1e-4, rtol=0
    )


def test_strided_maps(method):
    found = method.infer(
        torch.randn(1, 3, 33, 50), lambda p: torch.ones_like(p, dtype=torch.bool), 4
    )
    assert found.maps["cam"].shape == (1, 3, 9, 13)
    assert found.probabilities.shape == (1, 3)


def test_unknown_names_are_explained():
    with pytest.raises(UserError, match="Did you mean 'cam'"):
        settings_of("cams")
    with pytest.raises(UserError, match="Did you mean 'dropout'"):
        check_settings("cam", {"droput": 0.5}, "here")
    with pytest.raises(UserError, match="expected a float"):
        check_settings("cam", {"dropout": "much"}, "here")


def test_every_method_builds_and_declares_its_parameters():
    for name in METHODS:
        built = build(name, models.build("tiny", output_stride=8), 3, {})
        assert built.kinds[0] in built.wanted
        grouped = [p for group in built.parameter_groups().values() for p in group]
        assert {id(p) for p in grouped} == {id(p) for p in built.parameters() if p.requires_grad}
        assert len(grouped) == len({id(p) for p in grouped})
