"""Makes small files of weights in every format, byte for byte as others write them, without PyTorch."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np


def example_arrays() -> dict[str, np.ndarray]:
    """Return arrays of many types, the same ones that `make_torch_files` saves by PyTorch."""
    rng = np.random.default_rng(7)
    return {
        "layer.weight": rng.standard_normal((4, 3), np.float32),
        "layer.bias": rng.standard_normal(4, np.float32),
        "half": rng.standard_normal((2, 2)).astype(np.float16),
        "bfloat16": rng.standard_normal((3, 5)).astype(ml_dtypes.bfloat16),
        "double": rng.standard_normal((2, 1, 2)),
        "int64": rng.integers(-(2**62), 2**62, 3),
        "int32": rng.integers(-(2**31), 2**31, 3, np.int32),
        "int16": rng.integers(-(2**15), 2**15, 3, np.int16),
        "int8": rng.integers(-128, 128, 3, np.int8),
        "uint8": rng.integers(0, 256, 3, np.uint8),
        "bool": np.array([True, False, True]),
        "counter": np.array(12345),
        "empty": np.zeros((0, 3), np.float32),
    }


# Pickles as torch.save writes them.


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
    """Something that a pickle names by module and attribute."""

    module: str
    attribute: str

    def __call__(self) -> None:
        raise AssertionError("pickle wants what it calls to be callable; nobody calls it")


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """An object that a pickle makes by a call."""

    function: Name
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@dataclasses.dataclass(frozen=True, eq=False)
class StorageId:
    """A reference to data beside the pickle."""

    identity: tuple[Any, ...]


class TorchPickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes the names and references above; the pickler in Python, since the other one looks names up."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def persistent_id(self, obj: object) -> object:
        return obj.identity if isinstance(obj, StorageId) else None

    def save_name(self, name: Name) -> None:
        self.write(f"c{name.module}\n{name.attribute}\n".encode())
        self.memoize(name)

    dispatch[Name] = save_name


def torch_pickle(value: object) -> bytes:
    """Pickle a value with names and references."""
    file = io.BytesIO()
    TorchPickler(file, protocol=2).dump(value)
    return file.getvalue()


_REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
_STORAGE, _CPU = "storage", "cpu"
_STORAGE_TYPES = {
    "float32": Name("torch", "FloatStorage"),
    "float64": Name("torch", "DoubleStorage"),
    "float16": Name("torch", "HalfStorage"),
    "bfloat16": Name("torch", "BFloat16Storage"),
    "int64": Name("torch", "LongStorage"),
    "int32": Name("torch", "IntStorage"),
    "int16": Name("torch", "ShortStorage"),
    "int8": Name("torch", "CharStorage"),
    "uint8": Name("torch", "ByteStorage"),
    "bool": Name("torch", "BoolStorage"),
}


def storage_id(key: str, dtype: str, num_elements: int, *view: object) -> StorageId:
    """Return the reference to a storage; files of the legacy format add `view`, mostly None."""
    return StorageId((_STORAGE, _STORAGE_TYPES[dtype], key, _CPU, num_elements, *view))


def tensor(storage: StorageId, offset: object, shape: object, strides: object) -> Call:
    """Return a tensor of a storage."""
    return Call(_REBUILD, (storage, offset, shape, strides, False, OrderedDict()))


def whole_tensor(key: str, array: np.ndarray, *view: object) -> Call:
    """Return a tensor that is a whole storage."""
    # What PyTorch has for axes without elements: strides as if they had one.
    strides, step = [], 1
    for size in reversed(array.shape):
        strides.insert(0, step)
        step *= max(1, size)
    return tensor(storage_id(key, array.dtype.name, array.size, *view), 0, array.shape, tuple(strides))


def state_dict(tensors: Mapping[str, object]) -> OrderedDict[str, object]:
    """Return what `module.state_dict()` is, with the versions that PyTorch adds to it."""
    state = OrderedDict(tensors)
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return state


# Files of torch.save.


def torch_zip(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the file of a state dict as PyTorch writes it since 1.6."""
    tensors = {name: whole_tensor(str(i), array) for i, (name, array) in enumerate(arrays.items())}
    storages = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    return torch_zip_of(torch_pickle(state_dict(tensors)), storages)


def torch_zip_of(
    data_pickle: bytes, storages: Mapping[str, bytes], *, byte_order: bytes = b"little"
) -> bytes:
    """Return a file of torch.save with this pickle and these storages."""
    members = [
        ZipMember("archive/data.pkl", data_pickle),
        ZipMember("archive/byteorder", byte_order),
        *(ZipMember(f"archive/data/{key}", content) for key, content in storages.items()),
        ZipMember("archive/version", b"3\n"),
    ]
    return zip_file(members)


def torch_legacy(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the file of a state dict as PyTorch wrote it before 1.6."""
    keys = {name: str(94168524000000 + 64 * i) for i, name in enumerate(arrays)}
    tensors = {name: whole_tensor(keys[name], array, None) for name, array in arrays.items()}
    storages = {keys[name]: (array.size, array.tobytes()) for name, array in arrays.items()}
    return torch_legacy_of(torch_pickle(state_dict(tensors)), storages)


def torch_legacy_of(
    object_pickle: bytes,
    storages: Mapping[str, tuple[int, bytes]],
    *,
    version: int = 1001,
    is_little_endian: bool = True,
) -> bytes:
    """Return a legacy file with this pickle and these storages, each with its number of elements."""
    system = {
        "protocol_version": version,
        "little_endian": is_little_endian,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    head = [0x1950A86A20F9469CFC6C, version, system]
    return (
        b"".join(pickle.dumps(part, 2) for part in head)
        + object_pickle
        + pickle.dumps(sorted(storages), 2)
        + b"".join(struct.pack("<q", storages[key][0]) + storages[key][1] for key in sorted(storages))
    )


@dataclasses.dataclass(frozen=True)
class ZipMember:
    """A member of a ZIP archive; the fields after `content` are for lies."""

    name: str
    content: bytes
    method: int = 0
    flags: int = 0x808
    attributes: int = 0
    claimed_size: int | None = None
    local_size: int = 0
    local_name: str | None = None
    header_offset: int | None = None
    checksum: int | None = None


def zip_file(members: Sequence[ZipMember], *, claimed_members: int | None = None) -> bytes:
    """Return an archive as PyTorch writes it: data on multiples of 64, sizes behind them, ZIP64 end."""
    file, directory = bytearray(), bytearray()
    for member in members:
        name = member.name.encode()
        local_name = name if member.local_name is None else member.local_name.encode()
        checksum = zlib.crc32(member.content) if member.checksum is None else member.checksum
        offset, size = len(file), len(member.content)
        padding = -(offset + 30 + len(name) + 4) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        fields = (0, member.flags, member.method, 0, 0, 0, member.local_size, member.local_size)
        file += struct.pack("<4s5H3I2H", b"PK\3\4", *fields, len(local_name), len(extra)) + local_name + extra
        file += member.content + struct.pack("<4s3I", b"PK\7\10", checksum, size, size)
        claimed = size if member.claimed_size is None else member.claimed_size
        at = offset if member.header_offset is None else member.header_offset
        directory += struct.pack("<4s6H", b"PK\1\2", 0, 0, member.flags, member.method, 0, 0)
        directory += struct.pack(
            "<3I5H2I", checksum, claimed, claimed, len(name), 0, 0, 0, 0, member.attributes, at
        )
        directory += name
    start, count = len(file), len(members) if claimed_members is None else claimed_members
    file += directory
    end64 = len(file)
    file += struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 798, 45, 0, 0, count, count, len(directory), start)
    file += struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1)
    few = min(count, 0xFFFF)
    file += struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, few, few, len(directory), start, 0)
    return bytes(file)


# Pickles of NumPy arrays.


def python2_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return what Python 2's cPickle wrote for a dict of arrays, protocol 2: strings are bytes."""
    result = b"\x80\x02}q\x00("
    for name, array in arrays.items():
        shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in array.shape) + b"t"
        result += _string(name.encode())
        result += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        result += b"(K\x01" + shape + b"cnumpy\ndtype\n" + _string(array.dtype.str[1:].encode())
        result += b"K\x00K\x01\x87R(K\x03" + _string(array.dtype.str[:1].encode())
        result += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + _string(array.tobytes()) + b"tb"
    return result + b"u."


def numpy_core(data: bytes) -> bytes:
    """Return a pickle of protocol 2 with the names of NumPy 1."""
    return data.replace(b"cnumpy._core.", b"cnumpy.core.")


def _string(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data
