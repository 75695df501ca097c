"""Panels from tiny arrays; colours and legends read back from the figure."""

import numpy as np
import pytest

from wsssbench.data.palette import palette
from wsssbench.reporting import steps

CLASSES = ["background", "dog", "cat"]
IDS = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)


def words(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_mask_has_vocs_colours_and_ignored_pixels_are_stripes():
    ids = np.full((96, 96), 255, np.uint8)
    ids[:10], ids[10:20] = 0, 2
    panel = steps.mask("mask", ids, CLASSES)
    assert (panel.pixels[:10] == 0).all()
    assert (panel.pixels[10:20] == palette()[2]).all()
    stripes = np.unique(panel.pixels[20:].reshape(-1, 3), axis=0)
    assert stripes.tolist() == [[202] * 3, [255] * 3]
    assert list(panel.key) == ["background", "cat", "ignored"]


def test_edges_lie_over_the_grey_map():
    edge = np.array([[True, False, False], [False, False, False]])
    closed = edge | np.array([[False, True, False], [False, False, False]])
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    pixels = steps.edges("edges", grey, edge, closed).pixels
    assert pixels[0, 0].tolist() == [0x56, 0xB4, 0xE9]
    assert pixels[0, 1].tolist() == [0xE6, 0x9F, 0x00]
    assert pixels[1, 2].tolist() == [5, 5, 5]


def test_regions_differ_in_colour_and_edges_are_white():
    pixels = steps.regions("regions", np.arange(12, dtype=np.int32).reshape(3, 4)).pixels
    assert (pixels[0, 0] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 12


def test_figure_of_everything():
    zeros = np.zeros((2, 3), bool)
    rows = [
        [steps.picture("image", np.zeros((2, 3, 3), np.uint8)), steps.mask("mask", IDS, CLASSES)],
        [None, steps.scores("a title that is too long for one line", IDS / 255.0, IDS == 1)],
        [steps.edges("edges", IDS, zeros, zeros), steps.regions("regions", IDS.astype(np.int32))],
    ]
    figure = steps.draw(rows)
    figure.canvas.draw()
    assert len(figure.axes) == 5 + 1  # the colour bar is the last one
    long = figure.axes[2]
    assert "\n" in long.get_title(loc="left")
    assert long.images[0].get_cmap().name == "inferno"
    assert long.images[0].get_clim() == (0, 1)
    assert words(figure)[-2:] == ["ignored", "outline of the true object"]
    assert {"background", "dog", "cat", "edge (Canny)"} <= set(words(figure))


def test_pictures_are_aligned_and_nothing_leaves_the_figure():
    image = steps.picture("image", np.zeros((3, 2, 3), np.uint8))
    mask = steps.mask("mask", IDS.T.copy(), CLASSES)
    score = steps.scores("score", np.zeros((3, 2)), np.ones((3, 2), bool))
    figure = steps.draw([[image, mask], [score]])
    figure.canvas.draw()
    first, second, third = (axis.get_position() for axis in figure.axes[:3])
    assert (first.y0, first.height) == (second.y0, second.height)
    assert (first.x0, first.width) == pytest.approx((third.x0, third.width))
    inches = figure.get_tightbbox()
    assert inches.x0 >= -0.01
    assert inches.y0 >= -0.01
    assert inches.x1 <= figure.get_figwidth() + 0.01
    assert inches.y1 <= figure.get_figheight() + 0.01


def test_a_figure_without_maps_has_neither_bar_nor_key():
    figure = steps.draw([[steps.picture("image", np.zeros((2, 3, 3), np.uint8))]])
    assert len(figure.axes) == 1
    assert not figure.legends
