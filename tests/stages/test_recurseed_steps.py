"""The steps of one image: consistent with each other and with what training computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_profile import write_params
from toys import make_folder

from wsssbench import models
from wsssbench.errors import UserError
from wsssbench.methods import mixed_pass
from wsssbench.methods.base import Progress
from wsssbench.methods.recurseed import RecurSeed
from wsssbench.models.cam_network import Output
from wsssbench.params import load
from wsssbench.refinement.certain_filter import certain_filter
from wsssbench.refinement.edge_prediction import fill_regions
from wsssbench.reporting.steps import draw
from wsssbench.stages import recurseed_panels as show
from wsssbench.stages.prepare import prepare
from wsssbench.stages.recurseed_steps import DECODER_STEPS, follow, steps
from wsssbench.stages.train import train

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "explore_recurseed.ipynb"
CLASSES = ("background", "a", "b", "c")
MIX = {"mixer": "edgepredictmix", "start": 1, "certain": 0.5, "uncertain": 0.2}
BOX = np.s_[:, :40]  # where the first picture lies in its crop


class Seeing(torch.nn.Module):
    """Stands in for a trained network: it sees the squares of `labelled`."""

    def forward(self, images, *, with_decoder=True):
        truth = labelled()
        scores = torch.stack([truth == i for i in range(4)], 1).float()
        small = torch.nn.functional.avg_pool2d(scores, 8)
        smaller = torch.nn.functional.avg_pool2d(scores, 4)
        colours = torch.nn.functional.avg_pool2d(images, 8)
        features = {f"C{i}": torch.cat([colours, 1 - colours], 1).relu() for i in range(1, 6)}
        cam = 5 * small[:, 1:] - 0.5
        return Output(features, cam, cam.mean((2, 3)), 6 * smaller if with_decoder else None)


def labelled():
    """(2, 48, 48) int64: a large 1 and a small 2; a medium 3."""
    truth = torch.zeros(2, 48, 48, dtype=torch.long)
    truth[0, 6:30, 4:24], truth[0, 32:44, 28:38], truth[1, 12:32, 16:36] = 1, 2, 3
    return truth


@pytest.fixture(scope="module")
def method():
    method = RecurSeed(models.build("tiny", output_stride=8), 3, decoder_width=16, mix=MIX).eval()
    method.network = Seeing()
    return method


@pytest.fixture(scope="module")
def batch():
    truth, colours = labelled(), torch.tensor([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    noise = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    valid = torch.zeros(2, 48, 48, dtype=torch.bool)
    valid[0][BOX], valid[1] = True, True
    return {
        "image": (colours[truth].permute(0, 3, 1, 2) + 0.2 * noise) * valid[:, None],
        "label": torch.tensor([[1.0, 1, 0], [0, 0, 1]]),
        "valid": valid,
        "id": ["one", "two"],
        "truth": truth.masked_fill(~valid, 255).to(torch.uint8),
    }


@pytest.fixture(scope="module")
def walk(method, batch):
    return follow(method, batch, CLASSES, 0)


def test_shapes_and_types(walk):
    assert walk.present == (1, 2)
    for maps in walk.maps.values():
        assert maps.shape == (2, 48, 48)
        assert maps.dtype == np.float32
        assert maps.min() >= 0
        assert maps.max() <= 1
    for mask in (*walk.masks.values(), walk.truth, walk.mix.mask, walk.edges.grey):
        assert (mask.shape, mask.dtype) == ((48, 48), np.uint8)
    for area in (walk.valid, walk.edges.canny, walk.edges.closed, walk.mix.pasted):
        assert (area.shape, area.dtype) == ((48, 48), bool)
    assert (walk.image.shape, walk.image.dtype) == ((48, 48, 3), np.uint8)


def test_the_certain_filter_of_the_maps_is_the_mask(walk, method, batch):
    assert walk.limits != walk.decoder_limits
    for step, maps in walk.maps.items():
        limits = walk.decoder_limits if step in DECODER_STEPS else walk.limits
        mask = certain_filter(
            torch.from_numpy(maps)[None], torch.ones(1, 2), valid=batch["valid"][:1], **limits
        )
        np.testing.assert_array_equal(mask[0], walk.masks[step])
    target = method.target(Seeing()(batch["image"]), batch["image"], batch["label"], batch["valid"])
    np.testing.assert_array_equal(target.mask[0], walk.masks["PAMR"])
    assert len({maps.tobytes() for maps in walk.maps.values()}) == 5


def test_each_refinement_can_be_left_out(method, batch):
    bare = RecurSeed(
        models.build("tiny", output_stride=8), 3, decoder_width=16, mix=MIX, use_scg=False
    )
    bare.network = Seeing()
    found = follow(bare, batch, CLASSES, 0)
    np.testing.assert_array_equal(found.maps["SCG"], found.maps["CAM"])
    assert not np.array_equal(found.maps["PAMR"], found.maps["CAM"])


def test_edges_and_regions_lead_from_the_certain_part_to_the_mask(walk):
    before, after = walk.masks["softmax + PAMR"], walk.masks["edge prediction"]
    closed, regions = walk.edges.closed, walk.edges.regions
    filled = fill_regions(before[BOX].copy(), closed[BOX].astype(np.uint8) * 255)
    np.testing.assert_array_equal(filled, after[BOX])
    assert (after[~walk.valid] == 255).all()
    assert closed[walk.edges.canny].all()
    assert closed.any()
    np.testing.assert_array_equal(regions > 0, walk.valid & ~closed)
    for number in range(1, regions.max() + 1):
        assert len(np.unique(after[(regions == number) & (before == 255)])) <= 1


def test_the_mix_is_base_or_source_at_each_pixel(walk, method, batch):
    mix, pasted = walk.mix, walk.mix.pasted
    assert mix.chosen == (3,)
    np.testing.assert_array_equal(pasted, mix.partner_mask == 3)
    assert 0 < pasted.mean() < 0.5
    np.testing.assert_array_equal(mix.image[pasted], mix.partner[pasted])
    np.testing.assert_array_equal(mix.image[~pasted], walk.image[~pasted])
    assert (mix.mask[pasted] == 3).all()
    own = walk.masks["edge prediction"]
    np.testing.assert_array_equal(mix.mask[~pasted], own[~pasted])
    np.testing.assert_array_equal(mix.truth[pasted], mix.partner_truth[pasted])
    assert mix.shown == (1, 2, 3)
    np.testing.assert_array_equal(mix.maps[:2] * ~pasted, walk.maps["PAMR"] * ~pasted)
    assert (mix.maps[:2, pasted] == 0).all()
    target = method.target(Seeing()(batch["image"]), batch["image"], batch["label"], batch["valid"])
    np.testing.assert_array_equal(mix.maps[2], target.maps[1, 2] * torch.from_numpy(pasted))


def test_training_mixes_the_same(walk, method, batch, monkeypatch):
    seen = {}

    def apply_mix(before, plan, **options):
        seen.update(before=before, plan=plan, after=mixed(before, plan, **options))
        return seen["after"]

    mixed = mixed_pass.apply_mix
    monkeypatch.setattr(mixed_pass, "apply_mix", apply_mix)
    method.rs_start = 1
    method.losses(batch, Progress(1, 1, 0, 1, torch.Generator().manual_seed(5)))
    np.testing.assert_array_equal(seen["before"].mask[0], walk.masks["edge prediction"])
    np.testing.assert_array_equal(seen["before"].mask[1], walk.mix.partner_mask)
    # one class to choose from and one partner: the draws decide nothing
    np.testing.assert_array_equal(seen["after"].mask[0], walk.mix.mask)
    assert (seen["after"].gate[0].nonzero()[:, 0] + 1).tolist() == list(walk.mix.shown)


def test_numbers_by_hand(walk):
    numbers = show.numbers(walk)
    assert list(numbers.index) == [*walk.masks, "mixed"]
    shares = numbers[["foreground", "background", "ignored"]].sum(axis=1)
    np.testing.assert_allclose(shares, 100, atol=0.2)
    mask, truth = walk.masks["softmax"][BOX], walk.truth[BOX]
    sure = mask != 255
    ious = [
        ((mask == i) & (truth == i)).sum() / (((mask == i) | (truth == i)) & sure).sum()
        for i in range(3)
    ]
    row = numbers.loc["softmax"]
    assert row.iou == pytest.approx(100 * np.mean(ious), abs=0.06)
    assert row.found == pytest.approx(100 * (mask == truth)[truth > 0].mean(), abs=0.06)
    assert row.ignored == pytest.approx(100 * (~sure).mean(), abs=0.06)
    text = show.in_words(walk, "CAM", "softmax")
    assert [line.partition(":")[0] for line in text.splitlines()] == ["CAM", "softmax"]


def test_everything_can_be_drawn(walk):
    sizes = {
        "pair": [4],
        "maps": [4],
        "certain": [4],
        "edges": [4, 3],
        "mixed": [4, 4, 3],
    }
    for name, wanted in sizes.items():
        rows = getattr(show, name)(walk, *{"maps": ["SCG"], "certain": ["PAMR"]}.get(name, []))
        assert [len(row) for row in rows] == wanted
        draw(rows)
    rows = show.maps(walk, "softmax", "softmax + PAMR")
    assert [[panel.title for panel in row] for row in rows] == [
        ["image", "softmax: a", "softmax + PAMR: a"],
        ["ground truth", "softmax: b", "softmax + PAMR: b"],
    ]
    assert show.the_pair(walk) == "image one: a, b; partner two: c"
    assert "drawn: c; pasted: " in show.the_mix(walk)


def test_an_image_without_labels(method, batch):
    label = torch.tensor([[0.0, 0, 0], [0, 0, 1]])
    found = follow(method, {**batch, "label": label}, CLASSES, 0)
    assert found.maps["PAMR"].shape == (0, 48, 48)
    assert (found.masks["PAMR"][BOX] == 0).all()
    for rows in (show.maps(found, "CAM", "SCG"), show.certain(found, "CAM"), show.mixed(found)):
        draw(rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("repo")
        monkeypatch.chdir(folder)
        make_folder(folder / "data" / "toy")
        settings = {"decoder_width": 16, "rs_start": 1}
        experiments = {
            "rs": {"method": "recurseed", "settings": settings},
            "rs_epm": {"method": "recurseed", "settings": {**settings, "mix": MIX}},
            "cf": {
                "method": "recurseed",
                "settings": {**settings, "mix": {**MIX, "refiner": "cf"}},
            },
        }
        path = write_params(folder, experiments=experiments, grid={"experiments": ["rs_epm"]})
        profile = load(path)
        prepare(profile)
        train(profile, "rs_epm", 0)
        yield folder, profile


def test_a_trained_run(trained, monkeypatch):
    folder, profile = trained
    monkeypatch.chdir(folder)
    walk = steps(profile, "rs_epm", 0)
    assert walk.image.shape == (32, 32, 3)
    assert walk.valid.mean() == pytest.approx(26 / 32)  # 40×32 px scaled to 32 px
    assert (walk.truth[~walk.valid] == 255).all()
    assert walk.image_id != walk.partner_id
    again = steps(profile, "rs_epm", 0, walk.image_id, walk.partner_id)
    for step, maps in walk.maps.items():
        np.testing.assert_array_equal(again.maps[step], maps)
    np.testing.assert_array_equal(again.mix.image, walk.mix.image)


def test_what_is_missing_is_said(trained, monkeypatch):
    folder, profile = trained
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"Train it: python -m wsssbench train .* -e rs_epm"):
        steps(profile, "rs_epm", 7)
    for other in ("rs", "cf"):
        with pytest.raises(UserError, match="Experiments that do: rs_epm"):
            steps(profile, other, 0)
    with pytest.raises(UserError, match="Unknown experiment"):
        steps(profile, "rs_ep", 0)
    with pytest.raises(UserError, match="nothing_like_it"):
        steps(profile, "rs_epm", 0, "nothing_like_it", "im000")


@pytest.mark.slow
def test_the_notebook_runs(trained, tmp_path):
    papermill = pytest.importorskip("papermill")
    folder, _ = trained
    target = tmp_path / "explore.ipynb"
    papermill.execute_notebook(
        NOTEBOOK, target, kernel_name="python3", progress_bar=False, cwd=folder
    )
    text = target.read_text()
    assert text.count("image/png") == 8
    assert "objects found" in text
