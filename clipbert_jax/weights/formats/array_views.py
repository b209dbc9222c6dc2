"""Arrays as views of a weights file's bytes, for all its readers; shapes and strides are checked first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from clipbert_jax.weights.formats.refusals import SAVE_AS_STATE_DICT, Refusal

MAX_DIMENSIONS = 16
MAX_ARRAYS = 100_000
_MAX_BYTES = 2**62
"""Limit on the bytes of a shape, zeros aside: NumPy computes sizes in 64 bits."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Budget:
    """Bounds all arrays of a file together: views cost nothing, but their users copy them.

    Twice the file leaves room for weights that two names share. A file that claims more is an attack.
    """

    def __init__(self, file_size: int):
        self._bytes_left = 2 * file_size + 2**20
        self._arrays_left = MAX_ARRAYS

    def spend(self, num_bytes: int) -> None:
        """Count one more array."""
        self._bytes_left -= num_bytes
        self._arrays_left -= 1
        if self._arrays_left < 0:
            raise Refusal(f"holds more than {MAX_ARRAYS:,} arrays", SAVE_AS_STATE_DICT)
        if self._bytes_left < 0:
            raise Refusal("claims arrays of more than twice its own size")


def is_size(value: object) -> bool:
    """Return whether a value from a file can be a size or an offset."""
    return type(value) is int and 0 <= value < 2**63


def check_shape(shape: object, dtype: np.dtype) -> tuple[int, ...]:
    """Return the shape, checked.

    Raises:
      Refusal: it is not a tuple of sizes, has too many of them, or their product overflows.
    """
    if not isinstance(shape, tuple) or not all(is_size(size) for size in shape):
        raise Refusal("gives an array an invalid shape")
    if len(shape) > MAX_DIMENSIONS:
        raise Refusal(f"gives an array {len(shape)} dimensions; more than {MAX_DIMENSIONS} are not read")
    if math.prod(max(1, size) for size in shape) * dtype.itemsize >= _MAX_BYTES:
        raise Refusal("gives an array a shape larger than any memory")
    return shape


def view(
    data: memoryview | bytes | bytearray,
    dtype: np.dtype,
    shape: tuple[int, ...],
    *,
    offset_bytes: int = 0,
    order: str = "C",
) -> np.ndarray:
    """Return a read-only contiguous array over a part of the data, with a shape from `check_shape`.

    Its order is "C", or "F" if the first axis varies fastest.

    Raises:
      Refusal: the array reaches beyond the data.
    """
    if offset_bytes + math.prod(shape) * dtype.itemsize > len(data):
        raise Refusal("has an array that reaches beyond its data")
    if not math.prod(shape):
        return _read_only(np.empty(shape, dtype))
    array = np.ndarray(shape, dtype, buffer=data, offset=offset_bytes, order="F" if order == "F" else "C")
    return _read_only(array)


def strided_view(
    data: memoryview, dtype: np.dtype, shape: tuple[int, ...], strides: Sequence[int], *, offset_bytes: int
) -> np.ndarray:
    """Return a read-only array over a part of the data; strides count elements, see `check_strides`."""
    if not math.prod(shape):
        return _read_only(np.empty(shape, dtype))
    # A stride along an axis of one element means nothing, and may be any number.
    steps = [
        stride * dtype.itemsize if size > 1 else dtype.itemsize
        for size, stride in zip(shape, strides, strict=True)
    ]
    return _read_only(np.ndarray(shape, dtype, buffer=data, offset=offset_bytes, strides=steps))


def check_strides(shape: tuple[int, ...], strides: object, *, offset: int, num_elements: int) -> None:
    """Check that a strided array lies within its storage of `num_elements` and has each element once.

    Strides and offset count elements; the shape comes from `check_shape`.

    Raises:
      Refusal: the array leaves its storage, or two elements share memory.
    """
    if not isinstance(strides, tuple) or len(strides) != len(shape) or not all(map(is_size, strides)):
        raise Refusal("gives a tensor strides that do not fit its shape")
    if not math.prod(shape):
        if offset > num_elements:
            raise Refusal("has a tensor that reaches beyond its storage")
        return
    reach = 0
    # From the fastest axis to the slowest, each step must pass over all that the faster axes cover.
    axes = [(stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1]
    for stride, size in sorted(axes):
        if stride <= reach:
            raise Refusal(
                "has a tensor whose elements share memory, as after `expand`", "save it `.contiguous()`"
            )
        reach += stride * (size - 1)
    if offset + reach >= num_elements:
        raise Refusal("has a tensor that reaches beyond its storage")


def check_truth_values(array: np.ndarray) -> None:
    """Refuse truth values other than 0 and 1: compiled code relies on one bit."""
    if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise Refusal("has truth values that are neither true nor false")


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
