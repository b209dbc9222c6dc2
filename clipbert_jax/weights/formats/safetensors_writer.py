"""Writes safetensors files array by array, so that a model is never in memory twice."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from clipbert_jax.atomic_files import replacing
from clipbert_jax.errors import unwritable
from clipbert_jax.weights.formats.safetensors_files import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}

WEIGHT_TYPES = tuple(map(np.dtype, (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)))
"""Data types of weights; narrower types are quantised, and mean nothing without their scales."""


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray | jax.Array], metadata: Mapping[str, str]
) -> None:
    """Write arrays, on a device or not, and metadata by their names, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        dtype, start = np.dtype(array.dtype), end
        end += int(np.prod(np.shape(array), dtype=np.int64)) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(np.shape(array)), "data_offsets": [start, end]}
    encoded = json.dumps(header, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that arrays begin at a multiple of 8
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)))
            file.write(encoded)
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise unwritable(path, error) from error
