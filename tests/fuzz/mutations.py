"""Ways to break a file, each a function of a random generator: what disks and bad tools do, and worse."""

from __future__ import annotations

import numpy as np

# Where headers have sizes, counts, dimensions, durations and time bases.
_MARKERS = [
    # MP4 and MOV
    b"ftyp", b"moov", b"mvhd", b"tkhd", b"elst", b"mdhd", b"hdlr", b"stsd", b"avc1", b"avcC", b"hvc1",
    b"hvcC", b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"mvex", b"trex", b"moof", b"tfhd",
    b"tfdt", b"trun", b"mdat", b"colr", b"pasp", b"esds",
    # Matroska and WebM: segment, cluster, tracks, cues, time stamp scale, duration, width, height, block
    b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\x1c\x53\xbb\x6b", b"\x2a\xd7\xb1",
    b"\x44\x89", b"\xb0", b"\xba", b"\xa3", b"\xe7",
    # AVI and WebP
    b"RIFF", b"avih", b"strh", b"strf", b"movi", b"idx1", b"00dc", b"VP8X", b"ANIM", b"ANMF", b"VP8 ",
    b"VP8L",
    # PNG, GIF, JPEG
    b"IHDR", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"GIF8", b"\x21\xf9\x04", b"\x2c\x00", b"\xff\xc0",
    b"\xff\xc4", b"\xff\xdb", b"\xff\xda",
    # MPEG and FLV: pack, system, program streams, sequence, packets, metadata; H.264 and HEVC start codes
    b"\x00\x00\x01\xba", b"\x00\x00\x01\xe0", b"\x00\x00\x01\xb3", b"\x47", b"FLV", b"onMetaData",
    b"\x00\x00\x01\x67", b"\x00\x00\x01\x65",
    # ours
    b"CBJPEGS1",
]  # fmt: skip

# fmt: off
_TELLING = [
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF,
]
# fmt: on


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return a broken version of a file, and which mutations were made."""
    chosen = [_MUTATIONS[i] for i in rng.integers(0, len(_MUTATIONS), rng.integers(1, 4))]
    for mutation in chosen:
        if len(data) > 8:
            data = mutation(data, rng)
    return data, "+".join(mutation.__name__ for mutation in chosen)


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip some bits anywhere."""
    array = bytearray(data)
    for place in rng.integers(0, len(data), int(2 ** rng.uniform(0, 6))):
        array[place] ^= 1 << rng.integers(0, 8)
    return bytes(array)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave out the end."""
    return data[: rng.integers(1, len(data))]


def overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    """Write zeros, ones or noise over a range."""
    start, stop = _range(data, rng)
    noise = rng.bytes(stop - start)
    filling = [bytes(stop - start), b"\xff" * (stop - start), noise][rng.integers(0, 3)]
    return data[:start] + filling + data[stop:]


def duplicate(data: bytes, rng: np.random.Generator) -> bytes:
    """Repeat a range."""
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] + data[stop:]


def remove(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave out a range."""
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def move(data: bytes, rng: np.random.Generator) -> bytes:
    """Put a range elsewhere."""
    start, stop = _range(data, rng)
    rest = data[:start] + data[stop:]
    place = rng.integers(0, len(rest) + 1)
    return rest[:place] + data[start:stop] + rest[place:]


def patch_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Put a telling number into a field near a marker: a size, a count, a dimension, a duration."""
    present = [marker for marker in _MARKERS if marker in data]
    if not present:
        return flip_bits(data, rng)
    places = _occurrences(data, present[rng.integers(0, len(present))])
    place = places[rng.integers(0, len(places))] + int(rng.integers(-4, 48))
    width = int([1, 2, 4, 8][rng.integers(0, 4)])
    place = min(max(place, 0), len(data) - width)
    old = int.from_bytes(data[place : place + width], "big")
    values = [*_TELLING, old + 1, old - 1, old * 2, old // 2, int(rng.integers(0, 2**32))]
    value = values[rng.integers(0, len(values))] % 256**width
    byte_order = "big" if rng.random() < 0.7 else "little"
    return data[:place] + value.to_bytes(width, byte_order) + data[place + width :]


def _occurrences(data: bytes, marker: bytes) -> list[int]:
    places, place = [], data.find(marker)
    while place >= 0:
        places.append(place)
        place = data.find(marker, place + 1)
    return places


def _range(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """Return a range of any order of magnitude, up to a quarter of the file."""
    length = max(1, int(len(data) ** rng.uniform(0, 1) / 4))
    start = int(rng.integers(0, len(data) - length + 1))
    return start, start + length


_MUTATIONS = [
    flip_bits,
    truncate,
    overwrite,
    duplicate,
    remove,
    move,
    patch_header,
    patch_header,
    patch_header,
]
