"""Arrays of class ids as they come from files, networks or users, made comparable."""

from typing import Any

import numpy as np

from wsssbench.errors import UserError

MAX_ID = 255  # masks are 8-bit files


def as_array(values: Any) -> np.ndarray:
    """NumPy view of an array or of a torch tensor on any device (bfloat16 becomes float32)."""
    if hasattr(values, "detach"):  # a tensor; torch itself is not needed here
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
        return values.numpy()
    return np.asarray(values)


def check_classes(num_classes: int, ignore_index: int) -> None:
    """Both must fit into 8-bit masks.

    Raises:
        UserError: they do not.
    """
    if not 1 <= num_classes <= MAX_ID:
        raise UserError(
            f"num_classes is {num_classes}; it counts the background too and must lie in "
            f"1..{MAX_ID}, because masks are 8-bit files."
        )
    if not 0 <= ignore_index <= MAX_ID:
        raise UserError(f"ignore_index is {ignore_index}; it must lie in 0..{MAX_ID}.")


def truth_bytes(truth: Any) -> np.ndarray:
    """Ground truth as contiguous uint8.

    Raises:
        UserError: not whole numbers, or a value outside 0..255.
    """
    truth = _whole(truth, "Ground truth")
    if truth.dtype != np.uint8 and truth.size and not 0 <= truth.min() <= truth.max() <= MAX_ID:
        raise wrong_value(truth.min() if truth.min() < 0 else truth.max())
    return np.ascontiguousarray(truth, dtype=np.uint8)


def prediction_bytes(prediction: Any) -> np.ndarray:
    """Predicted ids as contiguous uint8; what fits no byte becomes 255, which is no class.

    Raises:
        UserError: not whole numbers.
    """
    prediction = _whole(prediction, "A predicted mask")
    if prediction.dtype != np.uint8:
        outside = (prediction < 0) | (prediction > MAX_ID)
        prediction = np.where(outside, MAX_ID, prediction)
    return np.ascontiguousarray(prediction, dtype=np.uint8)


def wrong_value(value: int) -> UserError:
    """The error for a value of the ground truth that is neither a class nor the ignore value."""
    return UserError(
        f"Value {int(value)} in the ground truth is neither a class id (0..num_classes-1) nor the "
        "ignore value. Check num_classes (background included) and how the mask was written."
    )


def _whole(values: Any, what: str) -> np.ndarray:
    values = as_array(values)
    if values.dtype.kind not in "uib":
        raise UserError(
            f"{what} must hold whole numbers (class ids), got {values.dtype}. "
            "Take the argmax of score maps first."
        )
    return values
