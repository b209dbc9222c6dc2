"""Reads files of weights in other formats, without PyTorch and without running anything that a file says.

`import_weights` and `pretrained.directory` call it. The format is found by content. Anything odd in a file is
an error: weights that are read in part would spoil a training.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from clipbert_jax.errors import UserError
from clipbert_jax.weights.formats.array_views import Budget, check_truth_values
from clipbert_jax.weights.formats.numpy_pickles import PickledArray, numpy_vocabulary
from clipbert_jax.weights.formats.pickle_limits import MAX_NAME_BYTES
from clipbert_jax.weights.formats.pickle_reader import read_pickle
from clipbert_jax.weights.formats.refusals import GET_AGAIN, SAVE_AS_STATE_DICT, Refusal, listed, quoted
from clipbert_jax.weights.formats.safetensors_files import is_safetensors, read_safetensors
from clipbert_jax.weights.formats.torch_files import (
    Content,
    is_legacy,
    read_torch_legacy,
    read_torch_zip,
)
from clipbert_jax.weights.formats.torch_tensors import Tensor

WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
"""Keys under which checkpoints keep their weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Weights in a file; arrays are read-only and, where the format allows, views of the mapped file."""

    path: Path
    format: str
    """"torch zip", "torch legacy", "pickle of NumPy arrays" or "safetensors"."""
    arrays: Mapping[str, np.ndarray]
    others: tuple[str, ...]
    """Names of other entries, such as an optimizer's state, which are not read."""


def read_weights_file(path: str | os.PathLike[str]) -> WeightsFile:
    """Read a PyTorch checkpoint, a pickle of NumPy arrays (detectron2) or a safetensors file.

    The state dict is the entry of `WRAPPERS` that holds arrays, or else the whole file. The file must not
    change while the arrays, which are views of it, are in use.

    Args:
      path: file; its suffix does not matter.

    Raises:
      UserError: the file cannot be read, is damaged, holds no weights, or wants to run code.
    """
    path = Path(path)
    try:
        return _read(path, _mapped(path))
    except Refusal as refusal:
        raise UserError(f"{path} {refusal.reason}; {refusal.remedy}.") from refusal
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be read ({reason}); check the path and its permissions.") from error


def _mapped(path: Path) -> memoryview:
    if path.is_dir():
        raise Refusal("is a directory", "give the file of weights in it")
    if not path.exists():
        raise Refusal("does not exist", "check the path")
    # Checked before opening: opening a pipe would wait for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refusal("is not a regular file", "give a file on disk")
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise Refusal("is empty", GET_AGAIN)
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read(path: Path, data: memoryview) -> WeightsFile:
    if is_safetensors(data):
        arrays = read_safetensors(data)
        _check_arrays(arrays, Budget(len(data)))
        return WeightsFile(path=path, format="safetensors", arrays=MappingProxyType(arrays), others=())
    if bytes(data[:4]) == b"PK\3\4":
        kind, (root, start_of) = "torch zip", read_torch_zip(data)
    elif data[0] == 0x80 and is_legacy(data):
        kind, (root, start_of) = "torch legacy", read_torch_legacy(data)
    elif data[0] == 0x80:
        kind, (root, start_of) = "pickle of NumPy arrays", _read_pickle(data)
    else:
        raise _unknown(data)
    state, others = _state_dict(root)
    entries = {name: value for name, value in state.items() if _is_array(value)}
    made: dict[int, np.ndarray] = {}
    for value in entries.values():
        if id(value) not in made:  # an array may have many names, and making it verifies it
            made[id(value)] = _array(value, data, start_of)
    arrays = {name: made[id(value)] for name, value in entries.items()}
    _check_arrays(arrays, Budget(len(data)))
    return WeightsFile(path=path, format=kind, arrays=MappingProxyType(arrays), others=others)


def _read_pickle(data: memoryview) -> Content:
    root, end = read_pickle(data, numpy_vocabulary(Budget(len(data)), len(data)))
    if end != len(data):
        raise Refusal("does not end where its pickle does", GET_AGAIN)
    return root, {}.__getitem__  # its rules have no name for storages


def _array(value: Tensor | PickledArray, data: memoryview, start_of: Callable[[str], int]) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.array(data, start_of(value.storage.key))
    if value.value is None:
        raise Refusal("has an array that its pickle never fills")
    return value.value


def _state_dict(root: Any) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """Return the state dict of a checkpoint, and the names of everything else."""
    if not isinstance(root, dict):
        raise Refusal(f"holds a {_kind(root)}, not a state dict", SAVE_AS_STATE_DICT)
    wrappers = [name for name in WRAPPERS if _holds_arrays(root.get(name))]
    if len(wrappers) > 1:
        where = " and ".join(wrappers)
        raise Refusal(f"has several state dicts, under {where}", "save the one to use in a file of its own")
    state = root[wrappers[0]] if wrappers else root
    if not _holds_arrays(state):
        raise Refusal(
            f"holds no state dict, at its top or under {', '.join(WRAPPERS)}; its entries are "
            f"{listed([str(name) for name in root]) or 'none'}",
            SAVE_AS_STATE_DICT,
        )
    beside = [name for name in root if name not in wrappers] if wrappers else []
    within = [name for name, value in state.items() if not _is_array(value)]
    return state, tuple(quoted(name) for name in [*beside, *within])


def _holds_arrays(value: object) -> bool:
    return isinstance(value, dict) and any(map(_is_array, value.values()))


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | PickledArray)


def _check_arrays(arrays: Mapping[Any, np.ndarray], budget: Budget) -> None:
    """Check names and values; an array counts once for each of its names, as it would be copied for each."""
    for name, array in arrays.items():
        if not isinstance(name, str) or len(name) > MAX_NAME_BYTES:
            raise Refusal(f"has an array whose name is not a short text: {quoted(name)}", SAVE_AS_STATE_DICT)
        budget.spend(array.nbytes)
    for array in {id(array): array for array in arrays.values()}.values():
        check_truth_values(array)


def _kind(root: object) -> str:
    if _is_array(root):
        return "single array"
    return "list" if isinstance(root, list | tuple) else "single value"


def _unknown(data: memoryview) -> Refusal:
    """Return the error for a file without weights, with what the file is."""
    head = bytes(data[:512])
    if head.startswith(b"version https://git-lfs"):
        return Refusal("is a Git LFS pointer, not the file itself", "run `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return Refusal("is a web page, not weights", "download the file itself, not the page about it")
    for magic, kind, remedy in _OTHER_KINDS:
        if head.startswith(magic):
            return Refusal(f"is {kind}", remedy)
    if head[257:262] == b"ustar":
        return Refusal("is a tar archive (PyTorch before 0.1.10 saved so)", SAVE_AS_STATE_DICT)
    if not any(byte < 9 or 13 < byte < 32 or byte >= 127 for byte in head):
        return Refusal("is text, not weights", GET_AGAIN)
    return Refusal(
        "has an unknown format; torch.save, pickles of NumPy arrays and safetensors are read",
        SAVE_AS_STATE_DICT,
    )


_OTHER_KINDS = (
    (b"\x1f\x8b", "compressed with gzip", "give the file that gunzip makes of it"),
    (b"\x89HDF", "an HDF5 file", SAVE_AS_STATE_DICT),
    (b"\x93NUMPY", "a single NumPy array", SAVE_AS_STATE_DICT),
    (b"PK\5\6", "an empty ZIP archive", GET_AGAIN),
)
