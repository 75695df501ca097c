import pytest
import torch

from wsssbench.models import STAGES, CamNetwork, Decoder, build


def network(*, decoder=False, **settings):
    torch.manual_seed(0)
    backbone = build("tiny", output_stride=8)
    branch = Decoder(backbone.channels, 5, output_stride=8, width=16, low_width=8)
    return CamNetwork(backbone, 4, decoder=branch if decoder else None, **settings)


@torch.no_grad()
def test_output_has_the_announced_shapes():
    output = network(decoder=True).eval()(torch.randn(2, 3, 97, 130))
    assert tuple(output.features) == STAGES
    assert output.cam.shape == (2, 4, 13, 17)
    assert output.logits.shape == (2, 4)
    assert output.decoder.shape == (2, 5, 25, 33)


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_averaging_then_classifying_equals_classifying_then_averaging(bias):
    net = network(bias=bias).eval()
    assert (net.classifier.bias is not None) == bias
    output = net(torch.randn(2, 3, 97, 130))
    pooled = output.features["C5"].mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(net.classifier(pooled).flatten(1), output.logits)


@torch.no_grad()
def test_map_is_the_classifier_at_every_position():
    net = network().eval()
    output = net(torch.randn(1, 3, 64, 64))
    expected = net.classifier.weight[2, :, 0, 0] @ output.features["C5"][0, :, 3, 5]
    torch.testing.assert_close(output.cam[0, 2, 3, 5], expected)
    assert output.cam.min() < 0 < output.cam.max()  # raw: nothing is cut off


def test_decoder_can_be_absent_or_skipped():
    images = torch.randn(2, 3, 32, 32)
    assert network()(images).decoder is None
    net = network(decoder=True)
    skipped = net(images, with_decoder=False)
    assert skipped.decoder is None
    skipped.logits.sum().backward()
    assert all(p.grad is None for p in net.decoder.parameters())
    assert net.classifier.weight.grad is not None


def test_dropout_takes_whole_channels_in_training_only():
    net = network(dropout=0.5)
    features = torch.ones(1, 128, 4, 4)
    kept = net.train().dropout(features)[0]
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert (kept.flatten(1).std(dim=1) == 0).all()
    assert torch.equal(net.eval().dropout(features), features)


def test_groups_hold_every_trainable_parameter_once():
    net = network(decoder=True)
    groups = net.parameter_groups()
    parts = {"backbone": net.backbone, "new": net.classifier, "decoder": net.decoder}
    assert set(groups) == set(parts)
    for name, part in parts.items():
        assert {id(p) for p in groups[name]} == {id(p) for p in part.parameters()}
    assert sum(map(len, groups.values())) == len(list(net.parameters()))


def test_groups_leave_out_frozen_stages():
    backbone = build("tiny", frozen_stages=4)
    groups = CamNetwork(backbone, 4).parameter_groups()
    assert {id(p) for p in groups["backbone"]} == {id(p) for p in backbone.stage5.parameters()}


def test_scores_stay_float32_under_autocast():
    net = network(decoder=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(torch.randn(2, 3, 32, 32))
    assert output.features["C5"].dtype == torch.bfloat16
    assert output.cam.dtype == output.logits.dtype == output.decoder.dtype == torch.float32


def test_classifier_learns_two_colours():
    """Red and green squares: a few steps separate them, and the map fires on the square."""
    net = network()
    images = torch.zeros(2, 3, 64, 64)
    images[0, 0, 8:24, 8:24] = images[1, 1, 8:24, 8:24] = 2.0
    labels = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(25):
        output = net(images)
        loss = torch.nn.functional.multilabel_soft_margin_loss(output.logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05
    inside = output.cam[0, 0, 1:3, 1:3].mean()
    assert inside > output.cam[0, 0, 5:, 5:].mean()
