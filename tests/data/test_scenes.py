"""The drawn pictures: every knob does what it says, and all layers of a picture agree."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsssbench.data import BACKGROUND, IGNORE
from wsssbench.data.scenes import SceneSettings, draw_scene
from wsssbench.data.scenes.draw import object_layers
from wsssbench.data.scenes.looks import body_looks, body_name, class_names, companion_look, partner
from wsssbench.data.scenes.settings import make_settings
from wsssbench.data.scenes.textures import KINDS, TILE_PX, sample, tile
from wsssbench.data.scenes.things import place_companions, place_things, polygon_area, silhouette
from wsssbench.errors import UserError

SMALL = SceneSettings(size=48, clutter=0.2)
LONE = SceneSettings(size=64, max_objects=1, thin=0, rho=0, q=0, clutter=0)


def scenes(knobs, count=12, **changes):
    knobs = dataclasses.replace(knobs, **changes)
    return [draw_scene(knobs, "train", index) for index in range(count)]


def same(first, second):
    return all(
        np.array_equal(getattr(first, field.name), getattr(second, field.name))
        for field in dataclasses.fields(first)
    )


# Settings


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"clases": 8}, "Did you mean 'classes'"),
        ({"classes": 1}, "classes must lie in 2..20"),
        ({"classes": 8.0}, "classes must be a whole number"),
        ({"train": True}, "train must be a whole number"),
        ({"part_ratio": 0}, "part_ratio must lie in"),
        ({"rho": 1.5}, "rho must lie in"),
        ({"q": float("nan")}, "q must lie in"),
        ({"contrast": "high"}, "contrast must be a number"),
        ({"scale": [0.6, 0.3]}, "smallest, largest"),
        ({"scale": 0.3}, "smallest, largest"),
        ({"scale": [0.1, 0.3], "size": 32}, "objects under 6 px"),
        ({"size": [64, 64, 3]}, "size must be a side or"),
        ({"size": 8}, "size must lie in"),
        ({"frequencies": "powr"}, "Did you mean 'power'"),
        ({"imbalance": 0.5}, "imbalance must lie in"),
        ({"swap_roles": 1}, "true or false"),
        ({"medium": 9}, "there are 8 classes"),
        ({"medium": 4, "control_pairs": 3}, "make 2 pairs"),
    ],
)
def test_bad_settings_get_one_clear_line(values, text):
    with pytest.raises(UserError, match=text) as caught:
        make_settings(values)
    assert "\n" not in str(caught.value)


def test_lists_from_yaml_equal_tuples():
    assert make_settings({"size": [32, 48], "scale": [0.3, 0.5]}) == SceneSettings(
        size=(32, 48), scale=(0.3, 0.5)
    )


def test_probabilities():
    np.testing.assert_allclose(SceneSettings().probabilities(), np.full(8, 1 / 8))
    power = SceneSettings(classes=4, imbalance=4).probabilities()  # exponent 1: 1, 1/2, 1/3, 1/4
    np.testing.assert_allclose(power, np.array([12, 6, 4, 3]) / 25)
    step = SceneSettings(classes=6, imbalance=9, medium=2, frequencies="step")
    np.testing.assert_allclose(step.probabilities(), np.array([9, 9, 3, 3, 1, 1]) / 26)
    swapped = dataclasses.replace(step, imbalance=16, swap_roles=True).probabilities()
    np.testing.assert_allclose(swapped, np.array([1, 1, 4, 4, 16, 16]) / 42)
    odd = SceneSettings(classes=3, imbalance=3, swap_roles=True).probabilities()
    assert odd[2] > odd[1] > odd[0]


def test_roles_say_who_is_rare():
    step = SceneSettings(classes=6, medium=2, control_pairs=1, imbalance=9, frequencies="step")
    roles = ["head", "control head", "medium", "medium", "control tail", "tail"]
    assert step.roles() == dict(enumerate(roles, 1))
    swapped = dataclasses.replace(step, swap_roles=True).roles()
    assert (swapped[1], swapped[2]) == ("tail", "control tail")
    even = dataclasses.replace(step, imbalance=1).roles()
    assert (even[1], even[2], even[3]) == ("even", "control even", "medium")


def test_frequencies_of_pictures_follow_the_probabilities():
    knobs = SceneSettings(size=24, max_objects=1, imbalance=10, clutter=0, rho=0, q=0)
    labels = [scene.labels for scene in scenes(knobs, 120)]
    assert all(len(label) == 1 for label in labels)
    counts = np.bincount(np.concatenate(labels), minlength=9)[1:]
    np.testing.assert_allclose(counts, 120 * knobs.probabilities(), atol=2)
    assert (np.diff(counts) <= 0).all()


# Looks


def test_pairs_share_their_body_and_control_pairs_do_not():
    knobs = SceneSettings(classes=9, medium=1, control_pairs=1, bodies=4)
    assert [partner(knobs, label) for label in (1, 4, 5, 6, 9)] == [9, 6, 5, 4, 1]
    for label, weight in ((1, 1.0), (3, 1.0), (4, 0.0), (6, 0.0), (5, 1.0), (9, 1.0)):
        assert body_looks(knobs, label)[2] == weight
    assert body_looks(knobs, 1)[0] == body_looks(knobs, 9)[0] != body_looks(knobs, 2)[0]
    assert body_looks(knobs, 4)[1] != body_looks(knobs, 6)[1]
    assert body_name(knobs, 5) not in {body_name(knobs, label) for label in (1, 2, 3, 4)}


def test_bodies_limits_the_kinds_and_names_are_unique():
    for classes in range(2, 21):
        knobs = SceneSettings(classes=classes)
        names = class_names(knobs)
        assert len(set(names)) == classes
        assert not any(" " in name for name in names)
    kinds = {body_name(SceneSettings(bodies=2), label) for label in range(1, 9)}
    assert len(kinds) == 2


def test_companion_difference_zero_leaves_only_the_texture():
    near = companion_look(SceneSettings(companion_difference=0), 3)
    body = body_looks(SceneSettings(), 3)[0]
    np.testing.assert_allclose(near.dark, body.dark)
    np.testing.assert_allclose(near.light, body.light)
    assert near.kind != body.kind
    assert companion_look(SceneSettings(), 3).dark != near.dark


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_periodic_and_in_range(kind):
    pattern = tile(kind)
    assert pattern.dtype == np.float32
    assert -1 <= pattern.min() < -0.5
    assert 0.5 < pattern.max() <= 1
    seam = np.abs(pattern[0] - pattern[-1]).mean()
    inside = np.abs(np.diff(pattern, axis=0)).mean(axis=1).max()
    assert seam <= 1.05 * inside
    once = sample(kind, (20, 30), 0.7, 0.3, (250.0, 3.0))
    again = sample(kind, (20, 30), 0.7, 0.3, (250.0 - TILE_PX, 3.0))
    np.testing.assert_allclose(once, again, atol=1e-3)


# Pictures


def test_a_picture_depends_on_settings_split_and_index_alone():
    first = draw_scene(SMALL, "train", 3)
    draw_scene(SMALL, "val", 0)
    assert same(first, draw_scene(SMALL, "train", 3))
    for other in (
        draw_scene(SMALL, "val", 3),
        draw_scene(SMALL, "train", 4),
        draw_scene(dataclasses.replace(SMALL, seed=1), "train", 3),
    ):
        assert not np.array_equal(first.image, other.image)


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(2, 20),
    size=st.tuples(st.integers(24, 70), st.integers(24, 70)),
    max_objects=st.integers(1, 6),
    part_ratio=st.floats(0.02, 0.9),
    thin=st.integers(0, 6),
    ignore_rim=st.integers(0, 3),
    min_visible_px=st.integers(1, 200),
    gap=st.integers(-8, 16),
    seed=st.integers(0, 2**63 - 1),
)
def test_layers_agree(classes, **values):
    scene = draw_scene(SceneSettings(classes=classes, another=0.9, q=0.3, **values), "train", 5)
    assert scene.image.shape == (*values["size"], 3)
    for layer, kind in (
        (scene.mask, np.uint8),
        (scene.part, np.uint8),
        (scene.companion, np.uint8),
    ):
        assert layer.dtype == kind
        assert layer.shape == values["size"]
    objects = scene.instance > 0
    count = int(scene.instance.max())
    assert np.array_equal(np.unique(scene.instance[objects]), np.arange(1, count + 1))
    for number in range(1, count + 1):
        seen = set(scene.mask[scene.instance == number]) - {IGNORE}
        assert len(seen) == 1
        assert seen <= set(scene.labels)
        own = (scene.instance == number) & (scene.mask != IGNORE)
        assert np.count_nonzero(own) >= values["min_visible_px"]
    assert set(np.unique(scene.mask)) - {BACKGROUND, IGNORE} == set(scene.labels)
    assert set(np.unique(scene.part)) <= {0, 1}
    assert objects[scene.part > 0].all()
    assert not objects[scene.companion > 0].any()
    assert scene.companion.max() <= classes
    assert (scene.mask[~objects & (scene.mask != IGNORE)] == BACKGROUND).all()


def block(rows, columns, shape=(8, 10)):
    alpha = np.zeros(shape, np.float32)
    alpha[slice(*rows), slice(*columns)] = 1
    return alpha


def test_object_layers_by_hand():
    below = (3, block((1, 5), (1, 6)), block((1, 3), (1, 3)))
    above = (7, block((1, 5), (4, 9)), block((3, 5), (4, 6)))
    mask, part, instance = object_layers((8, 10), [below, above], rim_px=0, least_px=12)
    assert mask[2].tolist() == [0, 3, 3, 3, 7, 7, 7, 7, 7, 0]
    assert instance[2].tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2, 0]
    assert part[2].tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert part[3].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert (mask == 3).sum() == 12  # the limit itself still counts

    mask, part, instance = object_layers((8, 10), [below, above], rim_px=0, least_px=13)
    assert mask[2].tolist() == [0, 255, 255, 255, 7, 7, 7, 7, 7, 0]
    assert instance[2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert part[2].sum() == 0


def test_rim_lies_on_both_sides_of_an_outline_only():
    mask, _, instance = object_layers(
        (8, 10), [(2, block((2, 7), (2, 8)), block((0, 0), (0, 0)))], rim_px=1, least_px=1
    )
    assert mask[4].tolist() == [0, 255, 255, 2, 2, 2, 2, 255, 255, 0]
    assert instance[4].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]
    assert mask[0].tolist() == [0] * 10


def test_an_object_hidden_entirely_gives_no_label():
    shape = (8, 10)
    mask, part, instance = object_layers(
        shape,
        [
            (1, block((2, 5), (2, 5)), block((2, 4), (2, 4))),
            (2, block((1, 7), (1, 7)), block((0, 0), (0, 0))),
        ],
        rim_px=0,
        least_px=1,
    )
    assert set(np.unique(mask)) == {0, 2}
    assert instance.max() == 1
    assert part.sum() == 0


def test_chosen_classes():
    both = draw_scene(SceneSettings(size=96), "pairs", 0, classes=(1, 8))
    assert both.labels == (1, 8)
    empty = draw_scene(dataclasses.replace(SMALL, q=1), "train", 0, classes=())
    assert empty.labels == ()
    assert not empty.mask.any()
    assert len(set(np.unique(empty.companion)) - {0}) >= 4


# Knobs


@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.4])
def test_part_ratio_is_the_share_of_the_area(ratio):
    drawn = scenes(LONE, 16, part_ratio=ratio, scale=(0.4, 0.5))
    share = sum(s.part.sum() for s in drawn) / sum((s.instance > 0).sum() for s in drawn)
    assert share == pytest.approx(ratio, rel=0.15)


def test_scale_is_the_diameter_of_the_body():
    knobs = dataclasses.replace(LONE, scale=(0.3, 0.3), part_ratio=0.02)
    for index in range(6):
        [thing] = place_things(knobs, [1], np.random.default_rng(index))
        assert 2 * np.sqrt(polygon_area(thing.body) / np.pi) == pytest.approx(0.3 * 64)
    areas = [
        np.mean([(s.mask > 0).sum() for s in scenes(LONE, scale=(bound, bound))])
        for bound in (0.2, 0.4, 0.6)
    ]
    assert areas[0] < areas[1] < areas[2]


def test_silhouette_covers_the_area_of_its_outline():
    square = np.array([[2.5, 3.0], [9.5, 3.0], [9.5, 8.0], [2.5, 8.0]])
    alpha = silhouette([square], (), (12, 14))
    assert polygon_area(square) == 35
    assert alpha.sum() == pytest.approx(35, rel=0.12)
    assert alpha[5, 5] == 1
    assert alpha[0, 0] == 0
    assert 0.4 <= alpha[5, 2] <= 0.8


def test_rho_and_q_are_the_frequencies_of_companions():
    knobs = SceneSettings(classes=4, rho=0.8, q=0.1)
    with_object, without = [], []
    for seed in range(300):
        things = place_things(knobs, [2], np.random.default_rng(seed))
        patches = place_companions(knobs, things, (2,), np.random.default_rng([seed, 1]))
        found = {patch.label for patch in patches}
        with_object.append(2 in found)
        without += [label in found for label in (1, 3, 4)]
    assert abs(np.mean(with_object) - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 300)
    assert abs(np.mean(without) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 900)


def test_companions_come_with_their_class():
    always = scenes(SMALL, rho=1.0, q=0.0, another=0)
    assert all(set(np.unique(s.companion)) - {0} <= set(s.labels) for s in always)
    assert np.mean([s.companion.any() for s in always]) > 0.9
    assert not any(s.companion.any() for s in scenes(SMALL, rho=0.0, q=0.0))


def test_a_higher_rho_adds_companions_and_changes_nothing_else():
    for few, many in zip(scenes(SMALL, rho=0.3, q=0), scenes(SMALL, rho=1.0, q=0)):
        assert np.array_equal(few.mask, many.mask)
        added = (few.companion == 0) & (many.companion > 0)
        kept = few.companion > 0
        assert (many.companion[kept] > 0).all()
        if not added.any():
            assert np.array_equal(few.image, many.image)


def test_gap_and_area_of_companions():
    knobs = dataclasses.replace(LONE, rho=1.0, gap=5, companion_area=0.5, part_ratio=0.05)
    for seed in range(8):
        things = place_things(knobs, [1], np.random.default_rng(seed))
        [patch] = place_companions(knobs, things, (1,), np.random.default_rng(seed))
        body = np.pi * things[0].radius ** 2
        assert polygon_area(patch.outline) / body == pytest.approx(0.5)
        gaps = np.hypot(*(patch.outline[:, None] - things[0].body[None]).transpose(2, 0, 1))
        assert gaps.min() >= 5 - 1e-9
    near = [s for s in scenes(knobs, gap=-6, companion_area=1.0) if s.companion.any()]
    assert all(not (s.instance > 0)[s.companion > 0].any() for s in near)


def test_contrast_sets_objects_off_and_sharpens_their_edges():
    off, edges = [], []
    for contrast in (0.2, 0.6, 1.0):
        drawn = scenes(LONE, contrast=contrast)
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(drawn, scenes(LONE)))
        off.append(np.mean([_colour_gap(s) for s in drawn]))
        edges.append(np.mean([_edge_strength(s) for s in drawn]))
    assert off[0] < off[1] < off[2]
    assert edges[0] < edges[1] < edges[2]


def _colour_gap(scene):
    ground = scene.image[scene.mask == 0].mean(axis=0)
    return np.abs(scene.image[scene.mask > 0] - ground).mean()


def _edge_strength(scene):
    grey = cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
    disc = np.ones((3, 3), np.uint8)
    return slope[cv2.dilate(scene.mask, disc) != cv2.erode(scene.mask, disc)].mean()


def test_clutter_adds_small_things_to_the_ground():
    changed = []
    for clutter in (0.3, 1.0):
        pairs = zip(scenes(LONE), scenes(LONE, clutter=clutter))
        changed.append(
            np.mean([(np.abs(a.image.astype(int) - b.image) > 4).mean() for a, b in pairs])
        )
    assert 0.005 < changed[0] < changed[1] / 2


def test_thin_limbs_are_thin_and_leave_the_body_alone():
    opening = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    for bare, legged in zip(scenes(LONE, part_ratio=0.02), scenes(LONE, thin=4, part_ratio=0.02)):
        added = (legged.mask > 0) & (bare.mask == 0)
        assert added.any()
        assert not cv2.erode(added.astype(np.uint8), opening).any()
        assert np.count_nonzero((bare.mask > 0) & (legged.mask == 0)) <= 4


def test_context_ties_the_ground_to_the_class():
    def spread(context):
        knobs = dataclasses.replace(LONE, context=context)
        drawn = [draw_scene(knobs, "train", i, classes=(1,)) for i in range(10)]
        return np.std([s.image[s.mask == 0].mean(axis=0) for s in drawn], axis=0).mean()

    assert spread(1.0) < 0.5 * spread(0.0)


def test_share_changes_the_bodies_only():
    for common, own in zip(scenes(LONE), scenes(LONE, share=0.0)):
        changed = np.abs(common.image.astype(int) - own.image).max(axis=2) > 2
        assert changed.any()
        near = cv2.dilate((common.mask > 0).astype(np.uint8), np.ones((7, 7), np.uint8))
        assert not changed[near == 0].any()
        assert changed[(common.mask > 0) & (common.part == 0)].mean() > 0.5


def test_objects_crowd_but_do_not_bury_each_other():
    drawn = scenes(SMALL, 10, size=96, max_objects=3, another=1.0)
    assert np.mean([s.instance.max() for s in drawn]) > 1.8
    for scene in drawn:
        for number in range(1, scene.instance.max() + 1):
            assert scene.part[scene.instance == number].any()
