"""Names that pickles of PyTorch may use, with what replaces them here: tensors as places in a storage.

A storage is known by its key; the readers of `torch_files` know where its bytes lie.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from clipbert_jax.weights.formats.array_views import (
    BFLOAT16,
    Budget,
    check_shape,
    check_strides,
    is_size,
    strided_view,
)
from clipbert_jax.weights.formats.numpy_pickles import numpy_vocabulary
from clipbert_jax.weights.formats.pickle_reader import Function, PickleRules
from clipbert_jax.weights.formats.refusals import SAVE_AS_STATE_DICT, Refusal, quoted


@dataclasses.dataclass(frozen=True)
class StorageType:
    """A class of storages; untyped ones count bytes."""

    dtype: np.dtype


STORAGE_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "UntypedStorage": np.dtype(np.uint8),
}

_DTYPES = {
    **{
        name: np.dtype(getattr(ml_dtypes, name, name))
        for name in (
            *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
            *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
            *("bool", "complex64", "complex128"),
        )
    },
    "double": np.dtype(np.float64),
    "float": np.dtype(np.float32),
    "half": np.dtype(np.float16),
    "long": np.dtype(np.int64),
    "int": np.dtype(np.int32),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A storage, or a view of a part of it."""

    key: str
    dtype: np.dtype
    num_elements: int
    """Number of elements of the whole storage."""
    view_start: int
    view_elements: int

    @property
    def num_bytes(self) -> int:
        """Size of the whole storage."""
        return self.num_elements * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor; its elements lie within its storage."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: memoryview, storage_start: int) -> np.ndarray:
        """Return the array; its storage begins at `storage_start` in the data."""
        start = storage_start + self.storage.view_start * self.storage.dtype.itemsize
        offset_bytes = start + self.offset * self.dtype.itemsize
        return strided_view(data, self.dtype, self.shape, self.strides, offset_bytes=offset_bytes)


class Storages:
    """Storages that a pickle refers to; each has one type and one size."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def find(self, identity: Any) -> Storage:
        """Return the storage that a persistent id of torch.save names."""
        # A pattern would unpack any sequence, such as a gigabyte of bytes.
        if not isinstance(identity, tuple):
            raise _wrong_reference()
        match identity:
            case ("storage", StorageType(dtype), str() as key, str(), int() as count):
                part = None
            case ("storage", StorageType(dtype), str() as key, str(), int() as count, part):
                pass
            case ("module", *_):
                raise Refusal("holds a whole module with its source code", SAVE_AS_STATE_DICT)
            case _:
                raise _wrong_reference()
        storage = self._part(Storage(key, dtype, count, 0, count), part)
        known = self.by_key.setdefault(key, storage)
        if (known.dtype, known.num_elements) != (storage.dtype, storage.num_elements):
            raise Refusal(f"gives its storage {quoted(key)} two types or sizes")
        return storage

    def _part(self, storage: Storage, part: object) -> Storage:
        if not is_size(storage.num_elements):
            raise Refusal("has a storage of an impossible size")
        match part:
            case None:
                return storage
            case (str(), int() as start, int() as count) if is_size(start) and is_size(count):
                if start + count <= storage.num_elements:
                    return dataclasses.replace(storage, view_start=start, view_elements=count)
        raise Refusal("has a view of a storage that reaches beyond it")


def torch_vocabulary(budget: Budget, file_size: int, storages: Storages) -> PickleRules:
    """Return the names that a pickle of torch.save may use; NumPy's too, as checkpoints hold its numbers."""
    rebuild: Mapping[str, Callable[[tuple[Any, ...]], object]] = {
        **{name: functools.partial(_rebuild_tensor, name, budget) for name in _NUM_ARGUMENTS},
        "_rebuild_parameter": _rebuild_parameter,
        "_rebuild_parameter_with_state": _rebuild_parameter,
    }
    types = {name: StorageType(dtype) for name, dtype in STORAGE_DTYPES.items()}
    numpy = numpy_vocabulary(budget, file_size)
    names = {
        **numpy.names,
        **{("torch._utils", name): Function(call) for name, call in rebuild.items()},
        **{(module, name): type_ for module in ("torch", "torch.storage") for name, type_ in types.items()},
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
        ("torch", "Size"): Function(lambda arguments: arguments),
        ("torch", "device"): Function(lambda arguments: arguments),
    }
    return PickleRules(names=names, build=numpy.build, find_persistent=storages.find)


_NUM_ARGUMENTS = {"_rebuild_tensor": (4,), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}
"""Functions of PyTorch that make tensors -> numbers of arguments that it writes."""


def _rebuild_tensor(name: str, budget: Budget, arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) in _NUM_ARGUMENTS[name] and isinstance(arguments[0], Storage):
        storage, offset, shape, strides = arguments[:4]
        dtype = arguments[6] if name == "_rebuild_tensor_v3" else storage.dtype
        if isinstance(dtype, np.dtype):
            return _tensor(storage, dtype, offset, shape, strides, budget)
    raise _wrong_call(name)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Tensor() as tensor, _, _, *state) if len(state) <= 1:
            return tensor
    raise _wrong_call("_rebuild_parameter")


def _tensor(
    storage: Storage, dtype: np.dtype, offset: object, shape: object, strides: object, budget: Budget
) -> Tensor:
    checked = check_shape(shape, dtype)
    if not isinstance(offset, int) or not is_size(offset):
        raise Refusal("has a tensor that begins before its storage")
    num_elements = storage.view_elements * storage.dtype.itemsize // dtype.itemsize
    check_strides(checked, strides, offset=offset, num_elements=num_elements)
    budget.spend(math.prod(checked) * dtype.itemsize)
    assert isinstance(strides, tuple)  # by check_strides
    return Tensor(storage, dtype, offset, checked, strides)


def _wrong_reference() -> Refusal:
    return Refusal("refers to data in a way that torch.save never writes")


def _wrong_call(name: str) -> Refusal:
    return Refusal(f"calls {name} with arguments that torch.save never writes")
