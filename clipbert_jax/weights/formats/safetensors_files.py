"""Reader of safetensors files, for `read_file`: a JSON header says where each array lies, then they follow.

The format's library copies every array, and silently keeps the last of two entries with one name. Here,
arrays are views of the file, and each rule of the format is checked.
"""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np

from clipbert_jax.weights.formats.array_views import BFLOAT16, MAX_ARRAYS, check_shape, is_size, view
from clipbert_jax.weights.formats.refusals import SAVE_AS_STATE_DICT, Refusal, quoted

MAX_HEADER_BYTES = 16 * 2**20

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}


def is_safetensors(data: memoryview) -> bool:
    """Return whether a file begins with a length and a JSON object, and is not a pickle."""
    return bytes(data[8:9]) == b"{" and (data[0] != 0x80 or not any(data[4:8]))


def read_safetensors(data: memoryview) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by name.

    Raises:
      Refusal: the header breaks a rule of the format, or does not fit the file.
    """
    header_size = int.from_bytes(data[:8], "little")
    if header_size > MAX_HEADER_BYTES:
        raise Refusal(f"claims a safetensors header of {header_size:,} bytes, more than are read")
    if 8 + header_size > len(data):
        raise Refusal("ends in the middle of its safetensors header")
    header = _header(bytes(data[8 : 8 + header_size]))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(map(_is_text, [*metadata, *metadata.values()])):
        raise _broken("its metadata must map names to texts")
    content = data[8 + header_size :]
    _check_ranges(header, len(content))
    return {name: _array(content, name, entry) for name, entry in header.items()}


def _header(text: bytes) -> dict[str, Any]:
    # Brackets alone make many Python objects in a small file; each array of a header has a fixed number.
    if text.count(b"{") > MAX_ARRAYS + 2 or text.count(b"[") > 2 * MAX_ARRAYS:
        raise Refusal(f"lists more than {MAX_ARRAYS:,} arrays in its safetensors header", SAVE_AS_STATE_DICT)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _broken("it is not JSON") from None
    if not isinstance(header, dict):
        raise _broken("it is not an object")
    return header


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_text(value: object) -> bool:
    """Return whether a value is text that can be printed: JSON can spell halves of letters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _broken("it has two entries with one name")
    return result


def _check_ranges(header: dict[str, Any], num_bytes: int) -> None:
    """Check that the arrays follow one another without gaps or overlaps, up to the end of the file."""
    ranges = [_range(name, entry) for name, entry in header.items()]
    position = 0
    for start, stop, name in sorted(ranges):
        if start != position:
            raise _broken(f"{quoted(name)} does not begin where the array before it ends")
        position = stop
    if position != num_bytes:
        raise Refusal(f"has {num_bytes:,} bytes of arrays where its safetensors header says {position:,}")


def _range(name: str, entry: Any) -> tuple[int, int, str]:
    if not _is_text(name):
        raise _broken(f"the name {quoted(name)} is not text")
    match entry:
        case {"dtype": str(), "shape": list(), "data_offsets": [start, stop]} if len(entry) == 3:
            if is_size(start) and is_size(stop) and start <= stop:
                return start, stop, name
    raise _broken(f"its entry {quoted(name)} does not describe an array")


def _array(content: memoryview, name: str, entry: dict[str, Any]) -> np.ndarray:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise Refusal(f"has {quoted(name)} as {quoted(entry['dtype'])}, which is not read", "save it as F32")
    shape = check_shape(tuple(entry["shape"]), dtype)
    start, stop = entry["data_offsets"]
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise _broken(f"the shape of {quoted(name)} does not fit its {stop - start:,} bytes")
    return view(content, dtype, shape, offset_bytes=start)


def _broken(reason: str) -> Refusal:
    return Refusal(f"has a broken safetensors header: {reason}")
