import pytest
import torch
from torch.nn.functional import interpolate

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods.base import Progress
from wsssbench.methods.segmentation import NETWORKS, Segmentation
from wsssbench.models.segmentation_losses import msc_loss

KINDS = sorted(NETWORKS)


def learner(network, classes=2, frozen=0, **settings):
    torch.manual_seed(0)
    backbone = models.build("tiny", output_stride=8, frozen_stages=frozen)
    settings = {"width": 16} | settings
    return Segmentation(backbone, classes, network=network, **settings)


def progress():
    return Progress(1, 1, 0, 1, torch.Generator())


def batch(size=(48, 40)):
    torch.manual_seed(1)
    mask = torch.zeros(2, *size, dtype=torch.uint8)
    mask[0, 8:30, 6:30] = 1
    mask[1, 8:30, 6:30] = 2
    mask[:, :3] = 255
    image = 0.1 * torch.randn(2, 3, *size)
    for number in (1, 2):
        image[:, number] += 2.0 * (mask == number)
    return {"image": image, "mask": mask}


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("network", KINDS)
def test_steps_lower_the_loss(network, balanced):
    method, data, losses = learner(network, balanced=balanced).train(), batch(), []
    optimizer = torch.optim.SGD(method.parameters(), lr=0.005)
    for _ in range(6):
        loss = method.losses(data, progress())["seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    assert losses[-1] < losses[1]


@pytest.mark.parametrize("network", KINDS)
def test_loss_is_that_of_the_whole_pyramid(network):
    method, data = learner(network, balanced=True).eval(), batch()
    pyramid = method.network.pyramid(data["image"])
    assert len(pyramid) == (1 if network == "deeplab_v3plus" else 4)
    by_hand = msc_loss(pyramid, data["mask"].long(), balanced=True)
    torch.testing.assert_close(method.losses(data, progress())["seg"], by_hand)
    plain = learner(network).eval().losses(data, progress())["seg"]
    torch.testing.assert_close(plain, msc_loss(pyramid, data["mask"].long()))


@pytest.mark.parametrize("network", KINDS)
def test_gradient_reaches_all_but_frozen_stages(network):
    method = learner(network, frozen=1).train()
    method.losses(batch(), progress())["seg"].backward()
    for name, parameter in method.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert reached == (".stage1." not in name), name
    groups = method.parameter_groups()
    head = "decoder" if network == "deeplab_v3plus" else "new"
    assert {name for name, group in groups.items() if group} == {"backbone", head}
    grouped = [p for group in groups.values() for p in group]
    assert {id(p) for p in grouped} == {id(p) for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("network", KINDS)
def test_a_mask_of_255_alone_teaches_nothing(network, balanced):
    method, data = learner(network, balanced=balanced).train(), batch()
    data["mask"] = torch.full_like(data["mask"], 255)
    loss = method.losses(data, progress())["seg"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in method.parameters())


@pytest.mark.parametrize("network", KINDS)
def test_ignored_pixels_do_not_count(network):
    """Logits against a mask with 255 cost what the pixels beside cost, whatever lies below 255."""
    method, data = learner(network).eval(), batch()
    half = data["mask"].clone()
    half[:, :, 20:] = 255
    pyramid = method.network.pyramid(data["image"])
    left = [logits.clone() for logits in pyramid]
    for logits in left:
        logits[..., logits.shape[-1] // 2 :] += 5 * torch.rand_like(logits[..., :1])
    found = method.losses({**data, "mask": half}, progress())["seg"]
    torch.testing.assert_close(found, msc_loss(pyramid, half.long()))
    torch.testing.assert_close(found, msc_loss(left, half.long()))


@pytest.mark.parametrize("size", [(33, 50), (41, 35), (40, 48)])
@pytest.mark.parametrize("network", KINDS)
def test_predictions_are_probabilities_of_the_images_size(network, size):
    method = learner(network).eval()
    found = method.predict(torch.randn(2, 3, *size), (1.0, 0.5, 1.5), True)
    assert found.shape == (2, 3, *size)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(2, *size), atol=1e-5, rtol=0)


def single(method, images):
    """The softmax of one view at its own size."""
    with torch.no_grad():
        logits = method.network(images)
        size = images.shape[-2:]
        return interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)


@pytest.mark.parametrize("network", KINDS)
def test_one_scale_is_one_view(network):
    method, images = learner(network).eval(), torch.randn(2, 3, 41, 35)
    torch.testing.assert_close(method.predict(images, (1.0,), False), single(method, images))


@pytest.mark.parametrize("network", KINDS)
def test_mirrored_views_come_back_the_right_way_round(network):
    method, images = learner(network).eval(), torch.randn(2, 3, 40, 35)
    plain, mirrored = single(method, images), single(method, images.flip(-1)).flip(-1)
    assert not torch.allclose(plain, mirrored)
    both = method.predict(images, (1.0,), True)
    torch.testing.assert_close(both, (plain + mirrored) / 2)
    symmetric = images + images.flip(-1)
    both, plain = method.predict(symmetric, (1.0,), True), single(method, symmetric)
    torch.testing.assert_close(both, both.flip(-1))
    torch.testing.assert_close(both, (plain + plain.flip(-1)) / 2)


@pytest.mark.parametrize("network", KINDS)
def test_scales_are_averaged_with_equal_weight(network):
    method, images = learner(network).eval(), torch.randn(1, 3, 40, 36)
    small = interpolate(images, (20, 18), mode="bicubic", align_corners=False, antialias=True)
    resized = interpolate(single(method, small), (40, 36), mode="bilinear", align_corners=False)
    by_hand = (single(method, images) + resized) / 2
    torch.testing.assert_close(method.predict(images, (1.0, 0.5), False), by_hand)


def test_images_of_a_batch_do_not_meet():
    method, images = learner("deeplab_v3plus").eval(), torch.randn(3, 3, 40, 36)
    together = method.predict(images, (1.0, 0.5), True)
    for number in range(3):
        alone = method.predict(images[number : number + 1], (1.0, 0.5), True)
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-4)


def test_width_is_that_of_the_head_of_deeplab_v3plus():
    def count(network, width):
        return sum(p.numel() for p in learner(network, width=width).parameters())

    assert count("deeplab_v3plus", 32) > count("deeplab_v3plus", 16)
    assert count("deeplab_v2", 32) == count("deeplab_v2", 16)


def test_one_image_cannot_be_normalised_in_training():
    method, data = learner("deeplab_v3plus").train(), batch()
    with pytest.raises(UserError):
        method.losses({key: value[:1] for key, value in data.items()}, progress())
