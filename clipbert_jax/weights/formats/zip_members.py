"""Where the members of a ZIP archive lie in its file, for archives whose members are stored as they are.

Python's `zipfile` serves users; here the file may be an attacker's. What it takes on trust (one directory,
which ends the file; members that do not overlap; sizes that agree wherever they are given twice) is checked,
and nothing is decompressed or written to disk, so no bomb and no path can do harm.
"""

from __future__ import annotations

import dataclasses
import stat
import struct
import zlib
from typing import Any

from clipbert_jax.weights.formats.refusals import SAVE_WITHOUT_CODE, Refusal, quoted

MAX_MEMBERS = 100_000
MAX_DIRECTORY_BYTES = 64 * 2**20

_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")

_MAX_32 = 0xFFFFFFFF
"""Says that the value is where there are 64 bits for it."""

_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
_SIZES_FOLLOW = 1 << 3
"""The member's sizes stand behind it and in the directory; its own header has zeros."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A range of the file that holds a member's bytes."""

    name: str
    start: int
    size: int
    checksum: int
    """CRC-32; 0 if whoever wrote the file left it out, as PyTorch can."""


@dataclasses.dataclass(frozen=True)
class _DirectoryEntry:
    """What the directory says of a member."""

    raw_name: bytes
    name: str
    flags: int
    size: int
    checksum: int
    header_offset: int


def zip_members(data: memoryview) -> dict[str, Member]:
    """Return the members by name.

    Raises:
      Refusal: the archive is damaged or contradicts itself, or a member is compressed, encrypted, a link, or
        has a name that leads elsewhere.
    """
    start, size, count = _directory(data)
    entries = _entries(data[start : start + size], count)
    members: dict[str, Member] = {}
    end_of_last = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.name in members:
            raise Refusal(f"has two members named {quoted(entry.name)}", SAVE_WITHOUT_CODE)
        if entry.header_offset < end_of_last:
            raise Refusal("has members that overlap", SAVE_WITHOUT_CODE)
        members[entry.name] = member = _member(data, entry, start)
        end_of_last = member.start + member.size
    return members


def check_checksum(data: memoryview, member: Member) -> None:
    """Refuse a member that is not what was written."""
    if member.checksum and zlib.crc32(data[member.start : member.start + member.size]) != member.checksum:
        raise Refusal(f"is damaged: the bytes of {quoted(member.name)} do not have their checksum")


def _directory(data: memoryview) -> tuple[int, int, int]:
    """Return where the directory is, its size, and how many members it lists."""
    end = len(data) - _END.size
    if end < 0 or bytes(data[end : end + 4]) != b"PK\5\6":
        raise Refusal("is a ZIP archive whose end is missing")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack(data[end:])
    if comment or disk not in (0, 0xFFFF) or first_disk not in (0, 0xFFFF) or here != count:
        raise _damaged()
    directory_end = end
    locator = end - _LOCATOR64.size
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7":
        low = count, size, start
        directory_end, size, start, count = _directory64(data, locator)
        for value, value64, most in zip(low, (count, size, start), (0xFFFF, _MAX_32, _MAX_32), strict=True):
            if value not in (value64, most):  # other readers may go by it
                raise _damaged()
    if count > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        raise Refusal(f"claims {count:,} members in a directory of {size:,} bytes, more than are read")
    if start + size != directory_end:
        raise _damaged()
    return start, size, count


def _directory64(data: memoryview, locator: int) -> tuple[int, int, int, int]:
    _, disk, offset, num_disks = _LOCATOR64.unpack(data[locator : locator + _LOCATOR64.size])
    if disk or num_disks > 1 or offset + _END64.size != locator:
        raise _damaged()
    magic, length, _, _, disk, first_disk, here, count, size, start = _END64.unpack(data[offset:locator])
    if magic != b"PK\6\6" or length != _END64.size - 12 or disk or first_disk or here != count:
        raise _damaged()
    return offset, size, start, count


def _entries(directory: memoryview, count: int) -> list[_DirectoryEntry]:
    entries, position = [], 0
    for _ in range(count):
        end = position + _ENTRY.size
        if end > len(directory):
            raise _damaged()
        fields = _ENTRY.unpack(directory[position:end])
        name_length, extra_length, comment_length = fields[10:13]
        extra_start = end + name_length
        position = extra_start + extra_length + comment_length
        if fields[0] != b"PK\1\2" or position > len(directory):
            raise _damaged()
        raw_name = bytes(directory[end:extra_start])
        entries.append(_entry(fields, raw_name, directory[extra_start : extra_start + extra_length]))
    if position != len(directory):
        raise _damaged()
    return entries


def _entry(fields: tuple[Any, ...], raw_name: bytes, extra: memoryview) -> _DirectoryEntry:
    flags, method, checksum, packed_size, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    attributes, header_offset = fields[15], fields[16]
    name = _checked_name(raw_name)
    if flags & _ENCRYPTED:
        raise Refusal(f"has an encrypted member, {quoted(name)}", SAVE_WITHOUT_CODE)
    if method:
        raise Refusal(
            f"has a compressed member, {quoted(name)}, which torch.save never writes",
            "give the file as torch.save wrote it",
        )
    if stat.S_ISLNK(attributes >> 16):
        raise Refusal(f"has a member that is a link, {quoted(name)}", SAVE_WITHOUT_CODE)
    size, packed_size, header_offset = _large(extra, [size, packed_size, header_offset])
    if size != packed_size:
        raise _damaged()
    return _DirectoryEntry(raw_name, name, flags, size, checksum, header_offset)


def _checked_name(raw_name: bytes) -> str:
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        raise _damaged() from None
    if not name or "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise Refusal(f"has a member whose name leads elsewhere, {quoted(name)}", SAVE_WITHOUT_CODE)
    return name


def _large(extra: memoryview, values: list[int]) -> list[int]:
    """Put in the 64-bit values that an extra field holds, in this order, for those that do not fit."""
    if _MAX_32 not in values:
        return values
    field = _extra_field(extra, 0x0001)
    results = []
    for value in values:
        if value == _MAX_32:
            if len(field) < 8:
                raise _damaged()
            value, field = int.from_bytes(field[:8], "little"), field[8:]
        results.append(value)
    return results


def _extra_field(extra: memoryview, wanted: int) -> memoryview:
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        if kind == wanted:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    raise _damaged()


def _member(data: memoryview, entry: _DirectoryEntry, directory_start: int) -> Member:
    """Return the member, if its own header agrees with the directory."""
    header_end = entry.header_offset + _LOCAL.size
    if header_end > directory_start:
        raise _damaged()
    fields = _LOCAL.unpack(data[entry.header_offset : header_end])
    magic, _, flags, method, _, _, checksum, packed_size, size, name_length, extra_length = fields
    name_end = header_end + name_length
    start = name_end + extra_length
    if magic != b"PK\3\4" or flags != entry.flags or method or start + entry.size > directory_start:
        raise _damaged()
    if bytes(data[header_end:name_end]) != entry.raw_name:
        raise _damaged()
    if not (flags & _SIZES_FOLLOW and size == packed_size == checksum == 0):
        size, packed_size = _large(data[name_end:start], [size, packed_size])
        if (size, packed_size, checksum) != (entry.size, entry.size, entry.checksum):
            raise _damaged()
    return Member(entry.name, start, entry.size, entry.checksum)


def _damaged() -> Refusal:
    return Refusal("is damaged: its ZIP directory contradicts the file")
