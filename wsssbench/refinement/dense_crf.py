"""Fully connected CRF (Krähenbühl & Koltun, NIPS 2011): pixels near each other, and pixels of
similar colour however far apart, talk each other into one label; mean field inference.

As pydensecrf, the library behind the published figures, computes it: kernels on the permutohedral
lattice, symmetric normalisation, and a pixel counts itself among its neighbours. The marginals
agree to 1e-6 after one iteration; ten magnify rounding, the more the closer labels are to a tie.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsssbench.errors import UserError, unknown
from wsssbench.refinement.pamr import one_thread
from wsssbench.refinement.permutohedral import Lattice, build_lattice, filter_values

# Gaussian: weight, sxy; bilateral: weight, sxy, srgb. Who uses which, and on what:
PARAMETER_SETS: Mapping[str, Mapping[str, Any]] = {
    # AffinityNet, SEAM's seeds (1 iteration after the random walk), Puzzle-CAM's test, AFA; scores
    "psa": {"iterations": 10, "gaussian": (3, 3), "bilateral": (10, 80, 13)},
    # IRN's and Puzzle-CAM's seeds, Puzzle-CAM's pseudo-masks (1 iteration); labels
    "irn": {"iterations": 10, "gaussian": (3, 3), "bilateral": (10, 50, 5)},
    # deeplab-pytorch, RecurSeed, FMA-WSSS; scores
    "deeplab": {"iterations": 10, "gaussian": (3, 1), "bilateral": (4, 67, 3)},
    # SEAM's test after retraining; scores
    "seamseg": {"iterations": 1, "gaussian": (3, 3), "bilateral": (10, 32, 13)},
    # AFA's final masks; scores
    "afa-test": {"iterations": 10, "gaussian": (3, 3), "bilateral": (4, 64, 5)},
    # CoSA; scores
    "cosa-test": {"iterations": 1, "gaussian": (1, 1), "bilateral": (4, 121, 5)},
}
LOWEST_SCORE = 1e-5  # an energy of 11.5
TINY = 1e-20
VECTOR = 16  # float32 values that a CPU handles at once


@torch.no_grad()
def dense_crf(
    image: np.ndarray | Tensor,
    unary: Tensor,
    *,
    iterations: int = 10,
    gaussian: tuple[float, float] = (3, 3),
    bilateral: tuple[float, float, float] = (10, 80, 13),
) -> Tensor:
    """Mean field inference in a fully connected CRF; one image.

    Give only the labels that the image has: time grows with their number.

    Args:
        image: (H, W, 3) uint8, RGB, undistorted.
        unary: (L, H, W) float, finite energies, see `unary_from_scores` and `unary_from_labels`.
        iterations: number of times; 0 gives the softmax of the negative energies.
        gaussian: weight >= 0 and sxy > 0 in px, the standard deviation of the distance.
        bilateral: weight >= 0, sxy > 0 in px and srgb > 0 in grey levels, the standard deviation
            of the difference in each channel.

    Returns:
        (L, H, W) float32 on the device of `unary`, sum 1 over the labels, without gradient.

    Raises:
        UserError: shapes do not fit, energies are not finite, or a setting makes no sense.
    """
    pixels = _check_image(image, unary)
    _check_settings(iterations, gaussian, bilateral)
    if len(unary) == 1:
        return torch.ones_like(unary, dtype=torch.float32)
    with one_thread(unary.device):
        kernels = _kernels(pixels.to(unary.device), gaussian, bilateral) if iterations else []
        prior = -unary.flatten(1).T.float().contiguous()
        logits, q = prior.clone(), torch.empty_like(prior)
        _softmax(logits, q)
        for _ in range(iterations if kernels else 0):
            logits.copy_(prior)
            for weight, lattice in kernels:
                logits.add_(filter_values(lattice, q), alpha=weight)
            _softmax(logits, q)
        return q.T.reshape(unary.shape).contiguous()


@torch.no_grad()
def binary_crf(
    image: np.ndarray | Tensor,
    unary: Tensor,
    *,
    iterations: int = 10,
    gaussian: tuple[float, float] = (3, 3),
    bilateral: tuple[float, float, float] = (10, 80, 13),
) -> Tensor:
    """Many fields of two labels each on one image, such as a class against its own background.

    As `dense_crf` of each alone. Of two labels only the difference matters, so that all fields
    pass one lattice together, with one value per pixel.

    Args:
        image: (H, W, 3) uint8, RGB, undistorted.
        unary: (N, 2, H, W) float, finite energies, N > 0.
        iterations: see `dense_crf`.
        gaussian: see there.
        bilateral: see there.

    Returns:
        (N, H, W) float32, probability of each field's second label, without gradient.

    Raises:
        UserError: as `dense_crf`.
    """
    pixels = _check_image(image, unary.flatten(0, 1))
    _check_settings(iterations, gaussian, bilateral)
    with one_thread(unary.device):
        kernels = _kernels(pixels.to(unary.device), gaussian, bilateral) if iterations else []
        prior = (unary[:, 0] - unary[:, 1]).flatten(1).T.float().contiguous()
        logits = prior.clone()
        for _ in range(iterations if kernels else 0):
            difference = (logits / 2).tanh_()  # of the two labels' probabilities
            logits.copy_(prior)
            for weight, lattice in kernels:
                logits.add_(filter_values(lattice, difference), alpha=weight)
        return logits.sigmoid_().T.reshape(unary[:, 0].shape).contiguous()


def crf_scores(
    image: np.ndarray | Tensor, scores: Tensor, parameter_set: str = "psa", **changes: Any
) -> Tensor:
    """Sharpen score maps.

    Args:
        image: (H, W, 3) uint8, RGB.
        scores: (L, H, W) float in [0, 1], background and the classes that the image shows.
        parameter_set: key of `PARAMETER_SETS`.
        **changes: settings of `dense_crf` that differ from the set, such as `iterations=1`.

    Returns:
        (L, H, W) float32 as `dense_crf`: close to 0 or 1 after ten iterations.

    Raises:
        UserError: as `dense_crf`, or no such parameter set.
    """
    settings = {**_parameter_set(parameter_set), **changes}
    return dense_crf(image, unary_from_scores(scores), **settings)


def crf_labels(
    image: np.ndarray | Tensor,
    mask: Tensor,
    num_labels: int,
    parameter_set: str = "irn",
    *,
    confidence: float = 0.7,
    **changes: Any,
) -> Tensor:
    """Sharpen a mask.

    Args:
        image: (H, W, 3) uint8, RGB.
        mask: (H, W) integer labels 0..num_labels-1.
        num_labels: L, also of labels that no pixel has.
        parameter_set: key of `PARAMETER_SETS`.
        confidence: see `unary_from_labels`.
        **changes: settings of `dense_crf` that differ from the set, such as `iterations=1`.

    Returns:
        (H, W) int64, the best label of each pixel.

    Raises:
        UserError: as `dense_crf` and `unary_from_labels`, or no such parameter set.
    """
    settings = {**_parameter_set(parameter_set), **changes}
    unary = unary_from_labels(mask, num_labels, confidence=confidence)
    return dense_crf(image, unary, **settings).argmax(0)


def unary_from_scores(scores: Tensor) -> Tensor:
    """Energies of scores, which need not add up to 1.

    Args:
        scores: float in [0, 1], any shape.

    Returns:
        Float32 of the same shape, -ln of the score, at most 11.5.
    """
    return scores.float().clamp(LOWEST_SCORE, 1).log().neg()


def unary_from_labels(mask: Tensor, num_labels: int, *, confidence: float = 0.7) -> Tensor:
    """Energies of a mask whose pixels are right with a given probability.

    Args:
        mask: (H, W) integer labels 0..num_labels-1.
        num_labels: L > 0.
        confidence: probability of a pixel's label, in (0, 1); the others share the rest.

    Returns:
        (L, H, W) float32.

    Raises:
        UserError: a label or a setting is out of range.
    """
    if mask.ndim != 2 or mask.is_floating_point():
        raise UserError(
            f"The dense CRF needs a mask (H, W) of whole numbers, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )
    if num_labels < 1 or not 0 < confidence < 1:
        raise UserError(
            f"num_labels = {num_labels!r}, confidence = {confidence!r}: give at least one label "
            "and a confidence between 0 and 1."
        )
    if mask.numel() and not 0 <= int(mask.min()) <= int(mask.max()) < num_labels:
        raise UserError(
            f"The mask has labels {int(mask.min())}..{int(mask.max())}, the dense CRF was told of "
            f"0..{num_labels - 1}. Renumber them; an ignored pixel needs a label, too."
        )
    own = -math.log(confidence)
    other = -math.log((1 - confidence) / (num_labels - 1)) if num_labels > 1 else own
    labels = torch.arange(num_labels, device=mask.device)[:, None, None]
    return torch.where(mask == labels, own, other).float()


def _kernels(
    image: Tensor, gaussian: tuple[float, float], bilateral: tuple[float, float, float]
) -> list[tuple[float, Lattice]]:
    """Weights and lattices of the kernels that have a say."""
    height, width = image.shape[:2]
    kernels = []
    if gaussian[0]:
        kernels.append((gaussian[0], _gaussian_lattice(height, width, gaussian[1], image.device)))
    if bilateral[0]:
        _, sxy, srgb = bilateral
        colours = image.flatten(0, 1).T.float() / srgb
        features = torch.cat([_positions(height, width, image.device) / sxy, colours])
        kernels.append((bilateral[0], _normalised(build_lattice(features))))
    return kernels


@lru_cache(maxsize=8)
def _gaussian_lattice(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """Kept, for it is the same for all images of a size: 10 MB for 375×500 pixels."""
    return _normalised(build_lattice(_positions(height, width, device) / sxy))


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """(2, H·W) float32, x and y of each pixel."""
    x = torch.arange(width, dtype=torch.float32, device=device).repeat(height)
    y = torch.arange(height, dtype=torch.float32, device=device).repeat_interleave(width)
    return torch.stack([x, y])


def _normalised(lattice: Lattice) -> Lattice:
    """With values multiplied by n before and after the filter, n = 1/sqrt of the filtered 1."""
    ones = torch.ones_like(lattice.slice_weights[:, :1])
    scale = filter_values(lattice, ones).add_(TINY).rsqrt_()
    return replace(
        lattice,
        splat_weights=lattice.splat_weights * scale[lattice.points, 0],
        slice_weights=lattice.slice_weights * scale,
    )


def _softmax(rows: Tensor, out: Tensor) -> None:
    """(N, L) -> (N, L), sum 1 over the labels."""
    if rows.is_cpu and rows.shape[1] < VECTOR:  # PyTorch takes short rows value by value
        out.T.copy_(rows.T.contiguous().softmax(0))
    else:
        torch.softmax(rows, 1, out=out)


def _parameter_set(name: str) -> Mapping[str, Any]:
    if name not in PARAMETER_SETS:
        raise unknown("parameter set of the dense CRF", name, PARAMETER_SETS)
    return PARAMETER_SETS[name]


def _check_image(image: np.ndarray | Tensor, unary: Tensor) -> Tensor:
    """The image as a tensor."""
    if not isinstance(image, Tensor):
        image = torch.from_numpy(np.array(image))  # a copy, for it may be read-only or reversed
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"The dense CRF needs an image (H, W, 3) of uint8 values 0..255, got {image.dtype} of "
            f"shape {tuple(image.shape)}."
        )
    if unary.ndim != 3 or not unary.is_floating_point() or not unary.numel():
        raise UserError(
            f"The dense CRF needs energies or scores (L, H, W) of type float, got {unary.dtype} "
            f"of shape {tuple(unary.shape)}."
        )
    if unary.shape[1:] != image.shape[:2]:
        raise UserError(
            f"The image has {tuple(image.shape[:2])} pixels, the maps {tuple(unary.shape[1:])}. "
            "Resize the maps to the image."
        )
    if not unary.isfinite().all():
        raise UserError(
            "The dense CRF got NaN or infinite energies. Look for NaN in the scores; make energies "
            "of scores with `unary_from_scores`, which does not take the logarithm of 0."
        )
    return image


def _check_settings(
    iterations: int, gaussian: tuple[float, float], bilateral: tuple[float, float, float]
) -> None:
    if not isinstance(iterations, int) or iterations < 0:
        raise UserError(f"The dense CRF needs iterations = 0, 1, 2, …, got {iterations!r}.")
    for name, kernel, form in (
        ("gaussian", gaussian, "(weight, sxy)"),
        ("bilateral", bilateral, "(weight, sxy, srgb)"),
    ):
        fits = len(kernel) == form.count(",") + 1 and all(map(math.isfinite, kernel))
        if not fits or kernel[0] < 0 or min(kernel[1:]) <= 0:
            raise UserError(
                f"The dense CRF needs {name} = {form} with weight >= 0 and standard deviations > 0,"
                f" got {tuple(kernel)}."
            )
