"""Periodic grey patterns that bodies, grounds and companions are painted with.

A tile is made once per process and sampled at any angle and zoom; there is no other state.
"""

import functools

import cv2
import numpy as np

TILE_PX = 256
KINDS = ("mottle", "stripes", "spots", "checks", "waves", "scales", "bricks", "hatch", "grain")


@functools.cache
def tile(kind: str) -> np.ndarray:
    """A pattern that continues seamlessly over its borders, (256, 256) float32 in [-1, 1]."""
    y, x = np.mgrid[:TILE_PX, :TILE_PX] / TILE_PX * 2 * np.pi  # one turn per tile keeps it periodic
    match kind:
        case "mottle":
            return _noise(2.0, 40.0, 1)
        case "stripes":
            return _soft(np.sin(12 * x + 0.9 * _noise(1.0, 6.0, 2)))
        case "spots":
            return _soft(np.cos(10 * x) * np.cos(10 * y) + np.cos(5 * x + 5 * y) * 0.3 - 0.35)
        case "checks":
            return _soft(np.sin(8 * x) * np.sin(8 * y))
        case "waves":
            return _soft(np.sin(11 * y + 1.6 * np.sin(7 * x)))
        case "scales":
            row = np.floor(y / (2 * np.pi) * 16)
            u = (x / (2 * np.pi) * 10 + 0.5 * (row % 2)) % 1 - 0.5
            v = y / (2 * np.pi) * 16 - row
            return _soft(1.6 - 3.2 * np.hypot(u * 1.4, v - 0.1), 2.0)
        case "bricks":
            row = np.floor(y / (2 * np.pi) * 16)
            u = (x / (2 * np.pi) * 8 + 0.5 * (row % 2)) % 1
            v = y / (2 * np.pi) * 16 - row
            mortar = np.minimum(np.minimum(u, 1 - u) * 2, np.minimum(v, 1 - v))
            return _soft((mortar - 0.12) * 12, 1.0)
        case "hatch":
            return _soft(np.maximum(np.sin(14 * (x + y)), np.sin(14 * (x - y))) - 0.6)
        case "grain":
            return _noise(30.0, 100.0, 3)
    raise ValueError(f"unknown texture {kind!r}")


def sample(
    kind: str, shape: tuple[int, int], zoom: float, angle: float, offset: tuple[float, float]
) -> np.ndarray:
    """Cut a rotated, scaled window out of a tile.

    Args:
        kind: one of KINDS.
        shape: (H, W) of the window.
        zoom: image px per tile px.
        angle: radians.
        offset: place of the window's corner in the tile, tile px.

    Returns:
        (H, W) float32 in [-1, 1].
    """
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    window = np.array([[cos, -sin, offset[0]], [sin, cos, offset[1]]], dtype=np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(tile(kind), window, shape[::-1], flags=flags, borderMode=cv2.BORDER_WRAP)


def _soft(pattern: np.ndarray, sharpness: float = 3.0) -> np.ndarray:
    return np.tanh(sharpness * pattern).astype(np.float32)


def _noise(low: float, high: float, seed: int) -> np.ndarray:
    """Periodic 1/f noise between two frequencies (periods per tile), clipped to [-1, 1]."""
    white = np.random.default_rng(seed).standard_normal((TILE_PX, TILE_PX))
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(TILE_PX, 1 / TILE_PX)] * 2))
    band = np.where((frequency >= low) & (frequency <= high), 1 / np.maximum(frequency, 1), 0)
    noise = np.fft.ifft2(np.fft.fft2(white) * band).real
    return np.clip(noise / (2 * noise.std()), -1, 1).astype(np.float32)
