"""Pictures that explain a prediction: error and class overlays, heat maps. Arrays in and out."""

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

from wsssbench.data import BACKGROUND, IGNORE
from wsssbench.reporting.style import CORRECT, FALSE_NEGATIVE, FALSE_POSITIVE, WRONG

TRUE_BACKGROUND, HIT, FALSE_DETECTION, MISS, WRONG_CLASS, IGNORED = range(6)
CATEGORIES = {  # code: (words, colour)
    HIT: ("correct foreground", CORRECT),
    FALSE_DETECTION: ("false positive", FALSE_POSITIVE),
    MISS: ("false negative", FALSE_NEGATIVE),
    WRONG_CLASS: ("wrong class", WRONG),
    IGNORED: ("ignored", "#9a9a9a"),
}
STRIPE_PX = 3


def error_categories(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What happened at each pixel.

    Args:
        truth: (H, W) uint8, 0 background, 1..K, 255 ignore.
        prediction: (H, W) uint8, 0 background, 1..K; 255 claims no class, like background.

    Returns:
        (H, W) uint8: TRUE_BACKGROUND, HIT, FALSE_DETECTION (an object where there is none), MISS
        (no object where there is one), WRONG_CLASS (an object taken for another) or IGNORED.
    """
    claimed = (prediction != BACKGROUND) & (prediction != IGNORE)
    there = truth != BACKGROUND
    codes = np.full(truth.shape, TRUE_BACKGROUND, np.uint8)
    codes[claimed & ~there] = FALSE_DETECTION
    codes[~claimed & there] = MISS
    codes[claimed & there] = WRONG_CLASS
    codes[claimed & (prediction == truth)] = HIT
    codes[truth == IGNORE] = IGNORED
    return codes


def error_overlay(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, strength: float = 0.72
) -> np.ndarray:
    """The image in pale grey with the colours of CATEGORIES over it; ignored pixels are striped.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) uint8 as in `error_categories`.
        prediction: (H, W) uint8 as in `error_categories`.
        strength: share of the colour in the mixture, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    codes = error_categories(truth, prediction)
    colours = np.zeros((len(CATEGORIES) + 1, 3))
    for code, (_, colour) in CATEGORIES.items():
        colours[code] = 255 * np.array(to_rgb(colour))
    rows, columns = np.indices(codes.shape)
    gap = ((rows + columns) // STRIPE_PX) % 2 == 1
    painted = (codes != TRUE_BACKGROUND) & ~((codes == IGNORED) & gap)
    return _mix(_pale(image), colours[codes], strength * painted)


def class_overlay(
    image: np.ndarray, mask: np.ndarray, colours: np.ndarray, strength: float = 0.7
) -> np.ndarray:
    """The image in pale grey with each class in its colour; ignored pixels stay grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8.
        colours: (256, 3) uint8, colour per id.
        strength: share of the colour in the mixture, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    shown = (mask != BACKGROUND) & (mask != IGNORE)
    return _mix(_pale(image), colours[mask], strength * shown)


def heat_overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.75) -> np.ndarray:
    """The image in grey under a score map, dark violet (0) to yellow (1).

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (h, w) float in [0, 1]; resized to H × W.
        strength: share of the colour in the mixture, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    heat = cv2.resize(heat.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = 255 * matplotlib.colormaps["inferno"](heat.clip(0, 1))[..., :3]
    return _mix(_grey(image), colours, np.full(heat.shape, strength))


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)


def _pale(image: np.ndarray) -> np.ndarray:
    """Grey, lightened so that colours on it keep their hue."""
    return 110 + 0.55 * _grey(image)


def _mix(base: np.ndarray, colour: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share[..., None]
    return np.clip((1 - share) * base + share * colour + 0.5, 0, 255).astype(np.uint8)
