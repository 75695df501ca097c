import pytest
import torch
from torch.nn.functional import interpolate

from wsssbench import models
from wsssbench.methods.affinity import NETWORKS, PSA_ALPHA, Affinity
from wsssbench.methods.base import Progress
from wsssbench.refinement.affinity_labels import pair_labels, pool_scores, psa_scores, shrink
from wsssbench.refinement.affinity_losses import affinity_losses
from wsssbench.refinement.pairs import feature_affinity, pad_border
from wsssbench.refinement.random_walk import walk, walk_maps
from wsssbench.stages.plan import STRIDES

RADIUS = 3
KINDS = sorted(NETWORKS)
WALK = {"radius": 3, "beta": 2.0, "log2_steps": 2}


def learner(network, seed=0):
    torch.manual_seed(seed)
    backbone = models.build("tiny", output_stride=8)
    return Affinity(backbone, 2, network=network, radius=RADIUS)


def progress():
    return Progress(1, 1, 0, 1, torch.Generator())


def batch(size=(48, 64)):
    """Two images, a bright square each; around the square a band where nothing is known."""
    torch.manual_seed(1)
    height, width = size
    mask = torch.zeros(2, height, width, dtype=torch.uint8)
    mask[:, 4:40, 4:44] = 255
    mask[0, 8:36, 8:40] = 1
    mask[1, 8:36, 8:40] = 2
    image = 0.1 * torch.randn(2, 3, height, width) + 2.0 * ((mask == 1) | (mask == 2))[:, None]
    return {"image": image, "mask": mask}


def steps(method, data, count=8, lr=0.05):
    method.train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(count):
        loss = sum(method.losses(data, progress()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("network", KINDS)
def test_steps_lower_the_loss(network):
    losses = steps(learner(network), batch())
    assert losses[1] < losses[0]
    assert losses[-1] < losses[1]


@pytest.mark.parametrize("network", KINDS)
def test_loss_is_that_of_the_pairs_at_the_networks_stride(network):
    method, data, at = learner(network).eval(), batch(), progress()
    found = method.losses(data, at)
    seeds = shrink(data["mask"].long(), method.network.stride)
    labels = pair_labels(seeds, RADIUS, 2)
    total = affinity_losses(method.affinities(data["image"]), labels).total
    torch.testing.assert_close(sum(found.values()), total)
    assert set(found) == {"bg", "fg", "neg"}
    assert all(loss > 0 for loss in found.values())
    assert at.logged["seeded"] == pytest.approx(float((seeds != 255).float().mean()))


@pytest.mark.parametrize("network", KINDS)
def test_gradient_goes_where_it_must(network):
    method = learner(network).train()
    sum(method.losses(batch(), progress()).values()).backward()
    moved = {
        name.split(".")[1]
        for name, p in method.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    groups = method.parameter_groups()
    assert moved == {"heads", "join"} | ({"backbone"} if network == "affinitynet" else set())
    assert bool(groups["backbone"]) == (network == "affinitynet")
    assert not groups.get("decoder")
    grouped = {id(p) for group in groups.values() for p in group}
    assert grouped == {id(p) for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize("network", KINDS)
def test_nothing_known_teaches_nothing(network):
    method, data = learner(network).train(), batch()
    data["mask"] = torch.full_like(data["mask"], 255)
    at = progress()
    loss = sum(method.losses(data, at).values())
    loss.backward()
    assert loss == 0
    assert at.logged["seeded"] == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in method.parameters())


@pytest.mark.parametrize("network", KINDS)
def test_plan_knows_the_strides(network):
    assert STRIDES[network] == NETWORKS[network].stride


@pytest.mark.parametrize("size", [(41, 35), (33, 50), (40, 48), (17, 19)])
@pytest.mark.parametrize("network", KINDS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_walk_of_any_size_and_number_of_maps(network, size, count):
    torch.manual_seed(2)
    method = learner(network).eval()
    found = method.refine(torch.randn(1, 3, *size), torch.rand(count, *size), **WALK)
    assert found.shape == (count, *size)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def blobs(size, peaks):
    """One map per peak: highest in a square of its own, 0 far away."""
    maps = torch.zeros(len(peaks), *size)
    for number, peak in enumerate(peaks):
        maps[number, 4 + 10 * number : 16 + 10 * number, 6:26] = peak
    return maps


def test_irn_divides_by_the_maximum_of_all_or_of_each():
    torch.manual_seed(3)
    method, size = learner("irn").eval(), (41, 35)
    image, maps = torch.randn(1, 3, *size), blobs(size, (1.0, 0.3))
    together = method.refine(image, maps, **WALK)
    apart = method.refine(image, maps, **WALK, per_class=True)
    assert together.amax() == 1
    assert together[1].amax() < 0.6
    torch.testing.assert_close(apart.amax((1, 2)), torch.ones(2))
    torch.testing.assert_close(apart, together / together.amax((1, 2), keepdim=True))


def test_affinitynets_highest_class_exceeds_a_half_where_it_beats_the_background():
    torch.manual_seed(3)
    method, size = learner("affinitynet").eval(), (41, 35)
    image, maps = torch.randn(1, 3, *size), blobs(size, (0.9, 0.2, 0.05))
    maps[0, :, :20], maps[:, :, 20:] = 0.95, 0.0
    found = method.refine(image, maps, **WALK)
    with torch.no_grad():
        features = pad_border(method.network(image), WALK["radius"], value=0.0)
        scores = pool_scores(psa_scores(maps, PSA_ALPHA), 8)
        walked = walk(scores, feature_affinity(features, WALK["radius"])[0], **WALK)
        full = walk_maps(walked, size, stride=8, divide="none")
    background, highest = full[0], full[1:].amax(0)
    close = (highest - background).abs() < 1e-5
    assert close.float().mean() < 0.01
    assert torch.equal((found.amax(0) > 0.5)[~close], (highest > background)[~close])
    assert (found.amax(0) > 0.5).any()
    assert (found.amax(0) <= 0.5).any()
    # thresholding and argmax is AffinityNet's argmax
    wins = torch.where(found.amax(0) > 0.5, found.argmax(0) + 1, 0)
    assert (wins == full.argmax(0))[~close].all()


def test_affinitynets_classes_keep_their_order_where_the_background_is_gone():
    torch.manual_seed(3)
    method = learner("affinitynet").eval()
    maps = torch.stack([torch.full((40, 40), 0.6), torch.ones(40, 40)])  # (1 - 1)^16 is 0
    found = method.refine(torch.randn(1, 3, 40, 40), maps, **WALK)
    torch.testing.assert_close(found, maps)


def test_per_class_and_irns_settings_leave_affinitynet_alone():
    torch.manual_seed(3)
    method = learner("affinitynet").eval()
    image, maps = torch.randn(1, 3, 40, 40), torch.rand(2, 40, 40)
    plain = method.refine(image, maps, **WALK)
    torch.testing.assert_close(method.refine(image, maps, **WALK, per_class=True), plain)


@pytest.mark.parametrize("side", [40, 41, 42, 43])
def test_maps_are_walked_where_the_boundaries_are(side, monkeypatch):
    """A ramp down the image: cell i of stride 4 covers rows 4i to 4i + 3, also in odd images."""
    seen = {}

    def fake(maps, boundary, **steps):
        seen["maps"], seen["boundary"] = maps, boundary
        return maps

    monkeypatch.setattr("wsssbench.methods.affinity.random_walk", fake)
    ramp = (torch.arange(side) / side)[None, :, None].expand(1, side, side)
    method = learner("irn").eval()
    found = method.refine(torch.randn(1, 3, side, side), ramp.contiguous(), **WALK)
    small = seen["maps"][0]
    assert small.shape == seen["boundary"].shape[1:] == (-(-side // 4),) * 2
    centres = (4 * torch.arange(1, 9) + 1.5) / side
    torch.testing.assert_close(small[1:9, 3], centres, atol=1e-5, rtol=0)
    back, ramp = found[0, 8:30, 9], ramp[0, 8:30, 9]  # up to a factor, the maximum
    torch.testing.assert_close(back / back[12], ramp / ramp[12], atol=1e-4, rtol=0)


def test_the_walk_spreads_but_not_over_a_boundary(monkeypatch):
    method, size = learner("irn").eval(), (32, 32)
    wall = torch.zeros(1, 1, 8, 8)
    wall[..., 4] = 1.0
    monkeypatch.setattr(method.network, "boundary", lambda images: wall)
    maps = torch.zeros(1, *size)
    maps[0, 12:20, 4:8] = 1.0
    walked = method.refine(torch.zeros(1, 3, *size), maps, radius=2, beta=10, log2_steps=6)
    small = interpolate(walked[None], (8, 8), mode="area")[0, 0]
    assert small[4, 2] > 0.2
    assert small[:, 5:].max() < 0.05 * small.max()
