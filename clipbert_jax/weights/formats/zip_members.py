"""Finds the uncompressed members of a ZIP archive in its file, for `torch_files`.

Python's `zipfile` reads the directory. The file may be an attacker's, so what `zipfile` takes on trust is
checked here: one directory, which ends the file; members that do not overlap; sizes that agree wherever they
stand twice. Nothing is decompressed or written to disk, so no bomb and no path can do harm.
"""

from __future__ import annotations

import dataclasses
import io
import stat
import struct
import zipfile
import zlib

from clipbert_jax.weights.formats.refusals import SAVE_WITHOUT_CODE, Refusal, quoted

MAX_MEMBERS = 100_000
MAX_DIRECTORY_BYTES = 16 * 2**20

_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")

_MAX_32 = 0xFFFFFFFF
"""Mark of a value that stands in a field of 64 bits elsewhere."""

_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
_IS_UTF8 = 1 << 11
_SIZES_FOLLOW = 1 << 3
"""Flag of a member whose header has zeros, and whose sizes stand behind it and in the directory."""


@dataclasses.dataclass(frozen=True)
class Member:
    """Range of the file that holds a member's bytes."""

    name: str
    start: int
    size: int
    checksum: int
    """CRC-32; 0 if the writer left it out, as PyTorch can."""


def zip_members(data: memoryview) -> dict[str, Member]:
    """Return the members by name.

    Raises:
      Refusal: the archive is damaged or contradicts itself, or a member is compressed, encrypted, a link, or
        has a name that leads elsewhere.
    """
    start, size, count = _directory(data)
    members: dict[str, Member] = {}
    end_of_last = 0
    for entry in _entries(data[start : start + size], count):
        offset, name = entry.header_offset, entry.orig_filename
        _check_entry(entry)
        if name in members:
            raise Refusal(f"has two members named {quoted(name)}", SAVE_WITHOUT_CODE)
        if offset < end_of_last:
            raise Refusal("has members that overlap", SAVE_WITHOUT_CODE)
        members[name] = member = _member(data[:start], entry, offset)
        end_of_last = member.start + member.size
    return members


def check_checksum(data: memoryview, member: Member) -> None:
    """Refuse a member whose bytes have changed since they were written."""
    if member.checksum and zlib.crc32(data[member.start : member.start + member.size]) != member.checksum:
        raise Refusal(f"is damaged: the bytes of {quoted(member.name)} do not have their checksum")


def _directory(data: memoryview) -> tuple[int, int, int]:
    """Return where the directory begins, its size, and how many members it lists."""
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


def _entries(directory: memoryview, count: int) -> list[zipfile.ZipInfo]:
    """Return what the directory says of the members, in the order in which they lie in the file.

    zipfile gets the directory with an end of its own: newer versions of Python refuse the file's end, which
    has 64 bits in files of torch.save, at any other place than its own.
    """
    size = len(directory)
    end64 = _END64.pack(b"PK\6\6", _END64.size - 12, 45, 45, 0, 0, count, count, size, 0)
    locator = _LOCATOR64.pack(b"PK\6\7", 0, size, 1)
    end = _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _MAX_32, _MAX_32, 0)
    try:
        with zipfile.ZipFile(io.BytesIO(b"".join((directory, end64, locator, end)))) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        raise _damaged() from None
    if len(entries) != count:
        raise _damaged()
    return sorted(entries, key=lambda entry: entry.header_offset)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    if not name or "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise Refusal(f"has a member whose name leads elsewhere, {quoted(name)}", SAVE_WITHOUT_CODE)
    if entry.flag_bits & _ENCRYPTED:
        raise Refusal(f"has an encrypted member, {quoted(name)}", SAVE_WITHOUT_CODE)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise Refusal(
            f"has a compressed member, {quoted(name)}, which torch.save never writes",
            "give the file as torch.save wrote it",
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Refusal(f"has a member that is a link, {quoted(name)}", SAVE_WITHOUT_CODE)


def _member(data: memoryview, entry: zipfile.ZipInfo, offset: int) -> Member:
    """Return the member, if its own header agrees with the directory."""
    header_end = offset + _LOCAL.size
    if header_end > len(data) or entry.compress_size != entry.file_size:
        raise _damaged()
    fields = _LOCAL.unpack(data[offset:header_end])
    magic, _, flags, method, _, _, checksum, packed_size, size, name_length, extra_length = fields
    name_end = header_end + name_length
    start = name_end + extra_length
    raw_name = entry.orig_filename.encode("utf-8" if flags & _IS_UTF8 else "cp437")
    if magic != b"PK\3\4" or flags != entry.flag_bits or method or start + entry.file_size > len(data):
        raise _damaged()
    if bytes(data[header_end:name_end]) != raw_name:
        raise _damaged()
    if not (flags & _SIZES_FOLLOW and size == packed_size == checksum == 0):
        if size == packed_size == _MAX_32 and _has_size(data[name_end:start], entry.file_size):
            size = packed_size = entry.file_size
        if (size, packed_size, checksum) != (entry.file_size, entry.file_size, entry.CRC):
            raise _damaged()
    return Member(entry.orig_filename, start, entry.file_size, entry.CRC)


def _has_size(extra: memoryview, size: int) -> bool:
    """Return whether the extra field of a header has this size in 64 bits; writers use it from 2 GiB on."""
    return struct.pack("<HHQQ", 1, 16, size, size) in bytes(extra)


def _damaged() -> Refusal:
    return Refusal("is damaged: its ZIP directory contradicts the file")
