"""Writes files of torch.save without PyTorch, tensor by tensor, so that a model is never in memory twice.

`clipbert convert` calls it with the original's names. The format is that of PyTorch since 1.6: a ZIP archive
of uncompressed members with a pickle, which refers to the storages beside it. The content of each member is,
byte for byte, what PyTorch writes.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Shaped

from clipbert_jax.atomic_files import replacing
from clipbert_jax.errors import UserError, unwritable
from clipbert_jax.weights.formats.torch_tensors import STORAGE_DTYPES

_ALIGNMENT_BYTES = 64
_MAX_BYTES = 2**32
_LOCAL_HEADER_BYTES = 30


def write_torch_file(path: str | os.PathLike[str], arrays: Mapping[str, Shaped[np.ndarray, "*dims"]]) -> None:
    """Write arrays as a state dict that `torch.load(path, weights_only=True)` reads, whole or not at all.

    Args:
      path: file to create or replace.
      arrays: arrays by name. Those with the same memory share a storage, as tied weights of PyTorch do.

    Raises:
      UserError: the file cannot be written, or PyTorch lacks an array's type.
    """
    path = Path(path)
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            write_torch_zip(file, arrays)
    except UnwritableError as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    except OSError as error:
        raise unwritable(path, error) from error


class UnwritableError(ValueError):
    """An array that the format cannot hold."""


def write_torch_zip(file: io.BufferedIOBase, arrays: Mapping[str, Shaped[np.ndarray, "*dims"]]) -> None:
    """Write a state dict to an open, empty file.

    Raises:
      UnwritableError: PyTorch lacks an array's type, or an array has 4 GiB or more.
    """
    arrays = dict(arrays)  # keeps the memory, which identifies storages, alive
    keys: dict[object, str] = {}
    tensors: dict[str, Call] = {}
    storages: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.dtype.name not in STORAGE_TYPES:
            raise UnwritableError(f"{name} is of type {array.dtype}, which PyTorch does not have")
        if array.nbytes >= _MAX_BYTES:
            raise UnwritableError(f"{name} has 4 GiB or more")
        key = keys.setdefault(_memory(array), str(len(keys)))
        tensors[name] = contiguous_tensor(storage_id(key, array.dtype.name, array.size), array.shape)
        storages.setdefault(key, array)
    with zipfile.ZipFile(file, "w") as archive:
        _add(file, archive, "archive/data.pkl", torch_pickle(state_dict(tensors)))
        _add(file, archive, "archive/byteorder", b"little")
        for key, array in storages.items():
            _add(file, archive, f"archive/data/{key}", _elements(array))
        _add(file, archive, "archive/version", b"3\n")


def _add(file: io.BufferedIOBase, archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    """Write a member uncompressed; its content begins at a multiple of 64, as in files of PyTorch."""
    member = zipfile.ZipInfo(name)
    num_size_bytes = 20 if len(content) * 1.05 > zipfile.ZIP64_LIMIT else 0  # as zipfile decides
    header_bytes = _LOCAL_HEADER_BYTES + len(name) + num_size_bytes
    padding = -(file.tell() + header_bytes + 4) % _ALIGNMENT_BYTES
    member.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(member, content)


def _memory(array: np.ndarray) -> object:
    """Return a key that is equal only for arrays with the same elements in the same memory."""
    if not array.size:
        return object()
    return array.__array_interface__["data"][0], array.dtype.str, array.shape, array.strides


def _elements(array: np.ndarray) -> memoryview:
    """Return the bytes of the elements; copies only if they are out of order."""
    ordered = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


# The pickle of a state dict.


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
    """A name in a pickle: module and attribute."""

    module: str
    attribute: str

    def __call__(self) -> None:
        """Fail: pickle demands a callable, but never calls it when it writes."""
        raise AssertionError("names in pickles are never called here")


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call in a pickle."""

    function: Name
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@dataclasses.dataclass(frozen=True, eq=False)
class StorageId:
    """A reference to data outside the pickle."""

    identity: object


# The pickler in Python, as the one in C looks up the names, which are not installed. Stubs know it in part.
_PicklerInPython: Any = pickle._Pickler


class _Pickler(_PicklerInPython):
    """Pickles names and references as they are."""

    dispatch: ClassVar[dict[type, Any]] = _PicklerInPython.dispatch.copy()

    def persistent_id(self, obj: object) -> object:
        return obj.identity if isinstance(obj, StorageId) else None

    def save_name(self, name: Name) -> None:
        self.write(f"c{name.module}\n{name.attribute}\n".encode())
        self.memoize(name)

    dispatch[Name] = save_name


def torch_pickle(value: object) -> bytes:
    """Pickle a value with names and references."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(value)
    return file.getvalue()


STORAGE_TYPES = {
    str(dtype): Name("torch", name)
    for name, dtype in STORAGE_DTYPES.items()
    if name != "UntypedStorage" and dtype.kind != "c"
}

_REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
# A pickle writes an object once and then refers to it: these two must be the same objects in all references.
_STORAGE, _CPU = "storage", "cpu"


def storage_id(key: str, dtype: str, num_elements: int, *view: object) -> StorageId:
    """Return the reference to a storage; files from before 1.6 add `view`, mostly None."""
    return StorageId((_STORAGE, STORAGE_TYPES[dtype], key, _CPU, num_elements, *view))


def tensor(storage: StorageId, offset: object, shape: object, strides: object) -> Call:
    """Return a tensor of a storage."""
    return Call(_REBUILD, (storage, offset, shape, strides, False, OrderedDict()))


def contiguous_tensor(storage: StorageId, shape: tuple[int, ...]) -> Call:
    """Return a tensor over a whole storage, in order."""
    # PyTorch gives axes without elements strides as if they had one.
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(1, size)
    return tensor(storage, 0, shape, tuple(strides))


def state_dict(tensors: Mapping[str, object] | Iterable[tuple[str, object]]) -> OrderedDict[str, object]:
    """Return the value of `module.state_dict()`, with the version of the module that PyTorch adds to it.

    Modules within get no version: detectron2 would otherwise change the variances of its norms.
    """
    state = OrderedDict(tensors)
    vars(state)["_metadata"] = OrderedDict({"": {"version": 1}})
    return state
