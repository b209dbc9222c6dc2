"""Makes small files of weights in every format, byte for byte as others write them, without PyTorch."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import zlib
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np

from clipbert_jax.weights.formats.torch_writer import (
    Call,
    Name,
    StorageId,
    contiguous_tensor,
    state_dict,
    storage_id,
    tensor,
    torch_pickle,
    write_torch_zip,
)

__all__ = [
    "Call",
    "Name",
    "StorageId",
    "TorchZip",
    "ZipMember",
    "example_arrays",
    "numpy_core",
    "python2_pickle",
    "state_dict",
    "storage_id",
    "tensor",
    "torch_legacy",
    "torch_legacy_of",
    "torch_pickle",
    "torch_zip",
    "torch_zip_of",
    "whole_tensor",
    "zip_file",
]


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


def whole_tensor(key: str, array: np.ndarray, *view: object) -> Call:
    """Return a tensor that is a whole storage."""
    return contiguous_tensor(storage_id(key, array.dtype.name, array.size, *view), array.shape)


# Files of torch.save.


def torch_zip(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the file of a state dict as PyTorch writes it since 1.6."""
    file = io.BytesIO()
    write_torch_zip(file, arrays)
    return file.getvalue()


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
    method: int | None = None
    flags: int | None = None
    attributes: int | None = None
    claimed_size: int | None = None
    local_size: int | None = None
    local_name: str | None = None
    header_offset: int | None = None


class TorchZip:
    """Writes an archive byte for byte as PyTorch does: sizes follow the data, and the end is ZIP64."""

    def __init__(self, file: io.BufferedIOBase):
        self._file = file
        self._position = 0
        self._directory = bytearray()
        self._num_members = 0

    def add(self, name: str, content: bytes | memoryview) -> None:
        """Write a member."""
        raw_name, size, offset = name.encode(), len(content), self._position
        has_descriptor = size > 0
        flags = 0x800 | (0x8 if has_descriptor else 0)  # the name is UTF-8; sizes follow
        padding = -(offset + 30 + len(raw_name) + 4) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        self._write(
            struct.pack("<4s5H3I2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(raw_name), len(extra))
        )
        self._write(raw_name + extra)
        self._write(content)
        checksum = zlib.crc32(content)
        if has_descriptor:
            self._write(struct.pack("<4s3I", b"PK\7\10", checksum, size, size))
        fields = (flags, 0, 0, 0, checksum, size, size, len(raw_name), 0)
        self._directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, *fields, 0, 0, 0, 0, offset)
        self._directory += raw_name
        self._num_members += 1

    def finish(self) -> None:
        """Write the directory."""
        start, size, count = self._position, len(self._directory), self._num_members
        end64 = start + size
        few, low = min(count, 0xFFFF), start
        self._write(self._directory)
        self._write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 798, 45, 0, 0, count, count, size, start))
        self._write(struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1))
        self._write(struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, few, few, size, low, 0))

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self._position += len(data)


def zip_file(members: Sequence[ZipMember], *, claimed_members: int | None = None) -> bytes:
    """Return an archive as PyTorch writes it, but for the lies."""
    file, starts = io.BytesIO(), []
    writer = TorchZip(file)
    for member in members:
        starts.append(file.tell())
        writer.add(member.name, member.content)
    entry = file.tell()
    writer.finish()
    archive = bytearray(file.getvalue())
    for start, member in zip(starts, members, strict=True):
        _lie(archive, start, entry, member)
        entry += 46 + len(member.name.encode())
    if claimed_members is not None:
        few = min(claimed_members, 0xFFFF)
        struct.pack_into("<QQ", archive, entry + 24, claimed_members, claimed_members)
        struct.pack_into("<HH", archive, len(archive) - 14, few, few)
    return bytes(archive)


def _lie(archive: bytearray, start: int, entry: int, member: ZipMember) -> None:
    """Put what a member claims into its header and its entry of the directory."""
    size, local = member.claimed_size, member.local_size
    for place, kind, value in (
        (start + 6, "<H", member.flags),
        (start + 8, "<H", member.method),
        (start + 18, "<I", local),
        (start + 22, "<I", local),
        (entry + 8, "<H", member.flags),
        (entry + 10, "<H", member.method),
        (entry + 20, "<I", size),
        (entry + 24, "<I", size),
        (entry + 38, "<I", member.attributes),
        (entry + 42, "<I", member.header_offset),
    ):
        if value is not None:
            struct.pack_into(kind, archive, place, value)
    if member.local_name is not None:
        assert len(member.local_name) == len(member.name)
        archive[start + 30 : start + 30 + len(member.name)] = member.local_name.encode()


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
