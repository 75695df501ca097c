"""The copy for inference gives the same maps."""

import copy

import pytest
import torch
from torch import nn

from wsssbench import methods, models
from wsssbench.engine.speed import for_inference, pointwise_on_onednn
from wsssbench.methods.segmentation import Segmentation


def make(method="recurseed", backbone="tiny"):
    """A method whose batch norms have statistics, scales and shifts of their own."""
    torch.manual_seed(0)
    built = methods.build(method, models.build(backbone, output_stride=16), 3, {})
    with torch.no_grad():
        for _ in range(2):
            built.train().network(torch.randn(4, 3, 64, 64))
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(0, 0.1)
    return built.eval()


@pytest.mark.parametrize(
    ("method", "backbone"),
    [("recurseed", "tiny"), ("cam", "mobilenet_v2"), ("cam", "resnet18"), ("cam", "resnet50"),
     ("ssss", "tiny"), ("seam", "tiny")],
)  # fmt: skip
@torch.inference_mode()
def test_same_maps(method, backbone):
    usual = make(method, backbone)
    usual.scales = (1.0, 0.5)
    quick, images = for_inference(usual), torch.randn(2, 3, 50, 67)
    gate = torch.tensor([[True, False, True], [True, True, False]])
    expected, found = (m.infer(images, lambda _: gate) for m in (usual, quick))
    for kind, maps in expected.maps.items():
        torch.testing.assert_close(found.maps[kind], maps, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=0, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.modules())


@torch.inference_mode()
def test_same_masks_of_the_last_stage():
    torch.manual_seed(0)
    usual = Segmentation(models.build("tiny"), 3, width=16).eval()
    images = torch.randn(2, 3, 50, 67)
    found = for_inference(usual).predict(images, (1.0,), True)
    torch.testing.assert_close(found, usual.predict(images, (1.0,), True), rtol=0, atol=1e-5)


def test_another_precision_gets_the_network_itself():
    usual = make()
    assert for_inference(usual, torch.bfloat16) is usual


def test_the_network_stays_as_it_is():
    usual = make()
    before = {name: value.clone() for name, value in usual.state_dict().items()}
    for_inference(usual)
    assert all(torch.equal(before[name], value) for name, value in usual.state_dict().items())
    assert all(m.dilation == (1, 1) for m in usual.modules()
               if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))  # fmt: skip


def test_only_what_runs_in_this_order_is_folded():
    """Norms of other modules' own making, and those that still count the batch, stay."""

    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv(self.norm(x))

    own = nn.Sequential(Backwards(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).train())
    own[0].norm.running_mean += 1
    own.eval()[2].train()
    quick, x = for_inference(own), torch.randn(4, 3, 8, 8)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in quick.modules()) == 2
    torch.testing.assert_close(quick(x), own(x))


def test_pointwise_convolutions_compute_and_learn_the_same():
    usual, images = make(backbone="mobilenet_v2"), torch.randn(2, 3, 64, 64)
    quick = copy.deepcopy(usual)
    pointwise_on_onednn(quick)
    for method in (usual, quick):
        method.network(images).logits.square().mean().backward()
    gradients = [dict(method.network.backbone.named_parameters()) for method in (usual, quick)]
    for name, parameter in gradients[0].items():
        if parameter.grad is not None:
            torch.testing.assert_close(
                gradients[1][name].grad, parameter.grad, rtol=1e-3, atol=1e-6
            )
