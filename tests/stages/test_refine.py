"""`wsssbench refine` on small folders: numbers by hand, what is kept, what is refused."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from toy_profile import write_params
from toys import make_folder
from typer.testing import CliRunner

from wsssbench import cli
from wsssbench.data.palette import read_mask, write_mask
from wsssbench.data.transforms import normalise
from wsssbench.engine.inference import to_mask
from wsssbench.errors import UserError
from wsssbench.evaluation.reading import read_maps
from wsssbench.methods.affinity import Affinity
from wsssbench.params import RandomWalkSettings, load
from wsssbench.refinement.dense_crf import crf_labels, crf_scores
from wsssbench.refinement.pamr import pamr
from wsssbench.refinement.ppmg import ppmg
from wsssbench.refinement.random_walk import random_walk, walk_maps
from wsssbench.stages import refine
from wsssbench.stages.common import build_backbone
from wsssbench.stages.crf import sharpen_mask
from wsssbench.stages.refine_source import read_boundary
from wsssbench.stages.refine_walk import load_affinity, walk_along, walk_by

runner = CliRunner()
NAMES = ("a", "b")
SIZE = 18, 22


@pytest.fixture
def place(tmp_path, monkeypatch):
    """maps, masks, images of two pictures: a dark square on a bright ground, .jpg and .PNG."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name, ending in zip(NAMES, (".jpg", ".PNG")):
        image = np.full((*SIZE, 3), 220, np.uint8)
        image[5:13, 6:16] = 30
        Image.fromarray(image).save(tmp_path / "images" / f"{name}{ending}")
        mask = np.zeros(SIZE, np.uint8)
        mask[4:12, 5:15] = 3
        write_mask(tmp_path / "masks" / f"{name}.png", mask)
        store(tmp_path / "maps" / f"{name}.npz", [3, 7], blobs())
    return tmp_path


def blobs():
    """(2, 18, 22) float16: a blob over the square, and faint noise."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    blob = np.exp(-((rows - 8) ** 2 + (columns - 10) ** 2) / 40)
    noise = np.random.default_rng(0).random(SIZE) * 0.3
    return np.stack([blob, noise]).astype(np.float16)


def store(path, keys, maps, size=SIZE, **more):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, keys=np.array(keys), maps=maps, size=np.array(size), **more)


def image_of(place, name="b"):
    return np.array(Image.open(next((place / "images").glob(f"{name}.*"))).convert("RGB"))


def run(*arguments):
    texts = [str(argument) for argument in arguments]
    return runner.invoke(cli.app, ["refine", *texts, "--images", "images"], catch_exceptions=False)


def test_crf_of_maps_is_the_crf_of_scores(place):
    result = run("crf", "maps", "out", "--threshold", 0.4, "--set", "deeplab", "--iterations", 2)
    assert result.output.startswith("2 images refined, 0 were done before: out/masks")
    maps = torch.from_numpy(blobs().astype(np.float32))
    scores = torch.cat([torch.full((1, *SIZE), 0.4), maps])
    found = crf_scores(image_of(place), scores, "deeplab", iterations=2).argmax(0)
    np.testing.assert_array_equal(read_mask(place / "out/masks/b.png"), np.array([0, 3, 7])[found])


def test_crf_of_maps_leaves_the_others_out(place):
    store(place / "maps" / "b.npz", [3, 7], blobs()[::-1], gated=np.array([False, True]))
    run("crf", "maps", "out", "--threshold", 0.4)
    assert set(np.unique(read_mask(place / "out/masks/b.png"))) == {0, 7}


def test_crf_of_a_mask_follows_the_image(place):
    run("crf", "masks", "out")
    mask, image = read_mask(place / "masks/b.png"), image_of(place)
    wanted = 3 * crf_labels(image, torch.from_numpy(mask // 3), 2, "irn").numpy()
    np.testing.assert_array_equal(read_mask(place / "out/masks/b.png"), wanted)
    true = np.where(image[..., 0] < 100, 3, 0)
    assert (wanted == true).mean() > (mask == true).mean()


def test_255_has_no_say_and_stays(place):
    image, mask = np.full((9, 9, 3), 80, np.uint8), np.full((9, 9), 255, np.uint8)
    mask[4, 4] = 5  # one opinion in a uniform picture: were the others background, it would lose
    found = sharpen_mask(image, mask, "irn", 5)
    np.testing.assert_array_equal(found, mask)
    assert sharpen_mask(image, np.where(mask == 255, 0, mask), "irn", 5)[4, 4] == 0
    assert (sharpen_mask(image, np.full((9, 9), 255, np.uint8), "psa", 1) == 255).all()
    for command in ("crf", "pamr"):
        mask = read_mask(place / "masks" / "a.png")
        mask[:3] = 255
        write_mask(place / "masks" / "a.png", mask)
        run(command, "masks", command)
        np.testing.assert_array_equal(
            read_mask(place / command / "masks/a.png") == 255, mask == 255
        )


def test_ppmg_of_maps(place):
    store(place / "maps" / "a.npz", [3, 7], blobs(), gated=np.array([False, True]))
    run("ppmg", "maps", "out", "--alpha", 8, "--smoothing", 0.2)
    maps = torch.from_numpy(blobs().astype(np.float32))
    found = ppmg(image_of(place), maps, alpha=8, scale=0.2)
    mask = read_mask(place / "out/masks/b.png")
    np.testing.assert_array_equal(mask, np.array([0, 3, 7])[found])
    assert {0, 3} <= set(np.unique(mask))
    assert set(np.unique(read_mask(place / "out/masks/a.png"))) <= {0, 7}
    assert json.loads((place / "out/refine.json").read_text())["alpha"] == 8


def test_pamr_of_maps_keeps_keys_and_gates(place):
    gated = np.array([True, False])
    store(place / "maps" / "b.npz", [3, 7], blobs()[:, ::2, ::2], gated=gated)
    run("pamr", "maps", "out", "--iterations", 3, "--threshold", 0.3)
    stored = read_maps(place / "out/maps/b.npz")
    assert stored.keys.tolist() == [3, 7]
    assert stored.gated.tolist() == [True, False]
    assert stored.size == SIZE
    small = torch.from_numpy(blobs()[:, ::2, ::2].astype(np.float32))[None]
    pixels = torch.from_numpy(image_of(place)).permute(2, 0, 1)[None] / 255
    wanted = pamr(pixels, small, iterations=3)[0]
    np.testing.assert_allclose(stored.maps, wanted, atol=1e-3)
    np.testing.assert_array_equal(read_mask(place / "out/masks/b.png"), to_mask(stored, 0.3))


def test_pamr_of_a_mask_is_that_of_its_classes(place):
    run("pamr", "masks", "out", "--iterations", 2)
    mask = torch.from_numpy(read_mask(place / "masks/b.png"))
    pixels = torch.from_numpy(image_of(place)).permute(2, 0, 1)[None] / 255
    wanted = pamr(pixels, torch.stack([mask == 0, mask == 3])[None].float(), iterations=2)[0]
    np.testing.assert_array_equal(read_mask(place / "out/masks/b.png"), 3 * wanted.argmax(0))
    assert not (place / "out" / "maps").exists()


def boundaries(place):
    """At stride 4, a wall in the middle column: a as .npy of full size, b as .png."""
    folder = place / "edges"
    folder.mkdir()
    small = np.zeros((5, 6), np.uint8)
    small[:, 3] = 255
    Image.fromarray(small).save(folder / "b.png")
    full = np.zeros(SIZE, np.float32)
    full[:, 12:16] = 0.5
    np.save(folder / "a.npy", full)
    return folder


def test_a_boundary_of_full_size_is_averaged(place):
    folder = boundaries(place)
    wanted = [[[0, 0, 0, 0.5, 0, 0]] * 5]  # columns 12..15, which are cell 3
    assert read_boundary(folder / "a.npy", SIZE).tolist() == wanted
    assert read_boundary(folder / "b.png", SIZE).tolist() == [[[0, 0, 0, 1, 0, 0]] * 5]
    # 4×4 pixels to one: a wall of one pixel among four is a fourth of a wall
    thin = np.zeros((4, 8), np.float32)
    thin[:, 5] = 1
    np.save(folder / "thin.npy", thin)
    assert read_boundary(folder / "thin.npy", (4, 8)).tolist() == [[[0, 0.25]]]


def test_a_walk_stops_at_a_wall(place):
    boundary = read_boundary(boundaries(place) / "b.png", SIZE)
    maps = torch.zeros(1, *SIZE)
    maps[:, :, :4] = 1
    walked = walk_along(boundary, maps, RandomWalkSettings(log2_steps=10))[0]
    assert walked[:, :10].min() > 0.99  # everywhere the same on this side, divided by its maximum
    assert walked[:, 18:].max() < 1e-6
    assert walk_along(boundary, maps[:0], RandomWalkSettings()).shape == (0, *SIZE)


def test_rw_walks_the_gated_maps(place):
    boundaries(place)
    store(place / "maps" / "b.npz", [3, 7], blobs(), gated=np.array([False, True]))
    run(
        "rw", "maps", "out", "--boundaries", "edges", "--beta", 4, "--per-class", "--threshold", 0.3
    )
    stored = read_maps(place / "out/maps/b.npz")
    assert stored.keys.tolist() == [7]
    maps = np.pad(blobs()[1:].astype(np.float32), ((0, 0), (0, 2), (0, 2)), mode="edge")
    options = {"mode": "bilinear", "align_corners": False, "antialias": True}
    small = interpolate(torch.from_numpy(maps)[None], (5, 6), **options)[0]
    walked = random_walk(small.clamp(0, 1), read_boundary(place / "edges/b.png", SIZE), beta=4)
    wanted = walk_maps(walked, SIZE, divide="class")
    np.testing.assert_allclose(stored.maps, wanted, atol=1e-3)
    np.testing.assert_array_equal(read_mask(place / "out/masks/b.png"), to_mask(stored, 0.3))
    settings = json.loads((place / "out/refine.json").read_text())
    assert settings["beta"] == 4
    assert settings["walk_radius"] == 5


def test_rw_along_a_network_is_the_stage_s_walk(place):
    make_folder(place / "data" / "toy")
    walk = {"network": "irn", "radius": 4, "walk_radius": 3, "log2_steps": 2}
    profile = load(write_params(place, random_walk=walk))
    torch.manual_seed(0)
    network = Affinity(build_backbone(profile.model, "none"), 2, network="irn", radius=4).eval()
    torch.save(network.state_dict(), place / "model.pt")
    run("rw", "maps", "out", "--network", "model.pt", "-e", "cam", "--beta", 3)
    maps = torch.from_numpy(blobs().astype(np.float32))
    changed = RandomWalkSettings(**walk, beta=3.0)
    wanted = walk_by(network, image_of(place), maps, changed)
    pixels = normalise(torch.from_numpy(image_of(place)).permute(2, 0, 1))[None]
    boundary = network.network.boundary(pixels)[0]
    torch.testing.assert_close(walk_along(boundary, maps, changed), wanted)
    np.testing.assert_allclose(read_maps(place / "out/maps/b.npz").maps, wanted, atol=1e-3)
    with pytest.raises(UserError, match=r"wsssbench random-walk -p .* -e cam"):
        load_affinity(profile, "cam", place / "none.pt")
    torch.save({"other": torch.zeros(1)}, place / "model.pt")
    with pytest.raises(UserError, match="is not the affinity network of"):
        load_affinity(profile, "cam", place / "model.pt")
    (place / "model.pt").write_bytes(b"a note")
    for other in ("images/a.jpg", "maps/a.npz", "model.pt"):
        with pytest.raises(UserError, match=rf"{other} is no trained .*network/model\.pt") as error:
            run("rw", "maps", "else", "--network", other, "-e", "cam")
        assert "weights_only" not in str(error.value)
    with pytest.raises(UserError, match="name it with -e"):
        run("rw", "maps", "else", "--network", "model.pt")


def test_an_interrupted_run_goes_on(place, monkeypatch):
    monkeypatch.setattr("wsssbench.stages.refine.cpus", lambda: 1)
    write = refine.write_mask

    def stopping(path, mask):
        if path.stem == "b":
            raise KeyboardInterrupt
        write(path, mask)

    monkeypatch.setattr(refine, "write_mask", stopping)
    with pytest.raises(KeyboardInterrupt):
        refine.refine_crf(place / "masks", place / "out", place / "images")
    first = place / "out/masks/a.png"
    assert [path.name for path in first.parent.iterdir()] == ["a.png"]
    first.write_bytes(b"untouched")
    monkeypatch.setattr(refine, "write_mask", write)
    assert "1 images refined, 1 were done before" in run("crf", "masks", "out").output
    assert first.read_bytes() == b"untouched"
    os.utime(place / "masks/a.png", ns=(first.stat().st_mtime_ns + 10,) * 2)  # a newer input
    assert "1 images refined, 1 were done before" in run("crf", "masks", "out").output
    assert read_mask(first).shape == SIZE


def test_results_of_other_settings_are_not_mixed(place):
    run("pamr", "maps", "out", "--threshold", 0.3)
    with pytest.raises(UserError, match=r"iterations 10 then, 5 now.*--overwrite"):
        run("pamr", "maps", "out", "--threshold", 0.3, "--iterations", 5)
    before = (place / "out/maps/a.npz").read_bytes()
    run("pamr", "maps", "out", "--iterations", 5, "--overwrite")
    assert (place / "out/maps/a.npz").read_bytes() != before
    assert not list((place / "out/masks").iterdir())  # masks of the old maps are gone
    assert "0 images refined, 2" in run("pamr", "maps", "out", "--iterations", 5).output


def test_nobody_s_files_are_overwritten(place):
    with pytest.raises(UserError, match="would be overwritten"):
        run("crf", "masks", ".", "--overwrite")
    run("pamr", "maps", "out")  # maps, which a CRF into the same folder would clear away
    before = (place / "out/maps/a.npz").read_bytes()
    for more in ((), ("--overwrite",)):
        with pytest.raises(UserError, match="maps would be overwritten"):
            run("crf", "out/maps", "out", "--threshold", 0.3, *more)
    assert (place / "out/maps/a.npz").read_bytes() == before
    write_mask(place / "other/masks/a.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(UserError, match="did not write"):
        run("crf", "masks", "other", "--overwrite")


def wrong_maps(place, **changes):
    given = {"keys": [3, 7], "maps": blobs(), "size": SIZE, **changes}
    store(place / "maps" / "b.npz", **given)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"maps": blobs() * np.float16("nan")}, r"b\.npz holds NaN"),
        ({"maps": blobs() * 9}, r"scores of 0\.\.9\. Bring them to \[0, 1\]"),
        ({"size": SIZE[::-1]}, r"of an image of 22×18.*18×22 pixels.*Height comes before width"),
        ({"size": 18}, r"b\.npz are damaged"),
        ({"size": (9, 11)}, "of an image of 9×11.*18×22 pixels"),
        ({"keys": [0, 7]}, r"keys \[0, 7\].*1\.\.254"),
        ({"keys": [7, 7]}, r"keys \[7, 7\]"),
        ({"keys": ["cat", "dog"]}, "keys of <U3"),
        ({"keys": [3]}, r"maps \(2, 18, 22\), keys \(1,\)"),
        ({"gated": np.ones(3, bool)}, r"gated \(3,\)"),
        ({"maps": blobs()[0]}, r"maps \(18, 22\)"),
        ({"maps": blobs()[:, :0]}, r"maps \(2, 0, 22\) without a pixel"),
        ({"maps": (blobs() * 255).astype(np.uint8)}, "maps of uint8"),
    ],
)
def test_wrong_maps_are_found_before_the_work(place, changes, text):
    wrong_maps(place, **changes)
    with pytest.raises(UserError, match=text) as error:
        run("pamr", "maps", "out")
    assert "\n" not in str(error.value)
    assert not (place / "out").exists()


def arrange(place, what):
    """Spoil one thing; returns the arguments."""
    if what == "image":
        next((place / "images").glob("a.*")).unlink()
    elif what == "twice":
        Image.new("RGB", SIZE[::-1]).save(place / "images" / "a.png")
    elif what == "damaged":
        (place / "images" / "b.PNG").write_bytes(b"\x89PNG nothing")
    elif what == "small":
        write_mask(place / "masks" / "b.png", np.zeros((9, 11), np.uint8))
    elif what == "colours":
        Image.new("RGB", SIZE[::-1]).save(place / "masks" / "b.png")
    elif what == "both":
        write_mask(place / "maps" / "b.png", np.zeros(SIZE, np.uint8))
    elif what == "file":
        (place / "maps" / "b.npz").write_bytes(b"PK")


@pytest.mark.parametrize(
    ("what", "arguments", "text"),
    [
        ("image", ["crf", "masks"], "1 of 2 ids have no image in images: a. "),
        ("twice", ["crf", "masks"], "more than one image in images of id a"),
        ("damaged", ["crf", "masks"], r"images/b\.PNG is truncated or damaged"),
        ("small", ["crf", "masks"], r"masks/b\.png is of an image of 9×11"),
        ("colours", ["crf", "masks"], "RGB mask"),
        ("both", ["pamr", "maps"], "maps .* as well as masks"),
        ("file", ["pamr", "maps"], r"maps/b\.npz are damaged"),
        ("", ["crf", "nowhere"], "nowhere does not exist"),
        ("", ["crf", "images"], "RGB mask where a palette"),
        ("", ["crf", "."], r"holds no score maps or masks.*There are: images, maps, masks"),
        ("", ["crf", "maps"], "give it as --threshold"),
        ("", ["crf", "maps", "--threshold", 1.5], "threshold is 1.5"),
        ("", ["crf", "masks", "--threshold", 0.5], "need no threshold"),
        ("", ["crf", "masks", "--set", "isn"], "Did you mean 'irn'"),
        ("", ["rw", "masks", "--boundaries", "edges"], "holds masks"),
        ("", ["ppmg", "masks"], "holds masks. PPMG needs score maps"),
        ("", ["ppmg", "maps", "--alpha", 0], "needs alpha above 0"),
        ("", ["rw", "maps"], "--boundaries or a --network"),
        ("", ["rw", "maps", "--boundaries", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place, what, arguments, text):
    arrange(place, what)
    command, folder, *options = arguments
    with pytest.raises(UserError, match=text) as error:
        run(command, folder, "out", *options)
    assert "\n" not in str(error.value)
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.zeros((4, 6), np.float32), "is 4×6, its image 18×22 pixels.*here 5×6"),
        (np.full((5, 6), np.nan), "no NaN"),
        (np.full((5, 6), 255.0), "from 0 .no boundary. to 1"),
        (np.zeros((5, 6), np.uint8), "floating point"),
        (None, "1 of 2 ids have no boundary map in edges: a"),
    ],
)
def test_wrong_boundaries(place, values, text):
    path = boundaries(place) / "a.npy"
    path.unlink()
    if values is not None:
        np.save(path, values)
    with pytest.raises(UserError, match=text):
        run("rw", "maps", "out", "--boundaries", "edges")
    if values is None:
        Image.new("RGB", (6, 5)).save(path.with_suffix(".png"))
        with pytest.raises(UserError, match="8-bit grey"):
            run("rw", "maps", "out", "--boundaries", "edges")


def test_images_without_any_class(place):
    for name in NAMES:
        store(place / "maps" / f"{name}.npz", np.zeros(0, int), np.zeros((0, 18, 22), np.float16))
    boundaries(place)
    run("crf", "maps", "crf", "--threshold", 0.5)
    run("pamr", "maps", "pamr", "--threshold", 0.5)
    run("rw", "maps", "rw", "--boundaries", "edges", "--threshold", 0.5)
    run("ppmg", "maps", "ppmg")
    for command in ("crf", "pamr", "rw", "ppmg"):
        assert (read_mask(place / command / "masks/a.png") == 0).all()


def test_help_documents_the_format():
    assert "refine" in runner.invoke(cli.app, ["--help"]).output
    text = " ".join(runner.invoke(cli.app, ["refine", "--help"]).output.split())
    for word in ("crf", "pamr", "ppmg", "rw", "keys", "maps", "size", "gated"):
        assert word in text
