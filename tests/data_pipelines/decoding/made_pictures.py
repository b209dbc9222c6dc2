"""Makes picture files byte by byte, so that tests know what each must show without asking a decoder."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine_video

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 30), (30, 30, 220), (128, 128, 128)


def corners(height: int = 48, width: int = 64) -> np.ndarray:
    """Return a picture of four colours, which tells every turn from every other."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, GREY
    return pixels


def shown(data: bytes) -> np.ndarray:
    """Return all frames of a sound file."""
    index = examine_video(data).index
    frames = read_frames(data, np.arange(len(index.frame_times)), index)
    assert frames.shape[1:] == (index.height, index.width, 3)
    return frames


def exif(orientation: int) -> bytes:
    """Return EXIF, in the form of a TIFF, that says nothing but how to turn the picture."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    size: tuple[int, int], depth: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes]
) -> bytes:
    """Return a PNG; `colour` is 0 for grey, 2 for RGB, 3 for a palette, 4 and 6 with alpha."""
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)),
            *(png_chunk(kind, body) for kind, body in chunks),
            png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            png_chunk(b"IEND", b""),
        ]
    )


def animated_png(
    size: tuple[int, int],
    depth: int,
    colour: int,
    parts: list[tuple[tuple[int, int, int, int], list[bytes]]],
    *chunks: tuple[bytes, bytes],
    delay: tuple[int, int] = (1, 10),
    other_picture: list[bytes] | None = None,
) -> bytes:
    """Return an animation of parts (x, y, width, height) that are laid over what is there before."""
    start = png(size, depth, colour, [], (b"acTL", struct.pack(">II", len(parts), 0)), *chunks)
    made = [start[: start.index(b"IDAT") - 4]]
    if other_picture:
        made.append(png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in other_picture))))
    for number, ((x, y, width, height), rows) in enumerate(parts):
        pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
        is_first = number == 0 and not other_picture
        count = 2 * number - (number > 0 and not other_picture)
        made.append(png_chunk(b"fcTL", struct.pack(">5I2H2B", count, width, height, x, y, *delay, 0, 1)))
        made.append(
            png_chunk(b"IDAT", pixels)
            if is_first
            else png_chunk(b"fdAT", struct.pack(">I", count + 1) + pixels)
        )
    return b"".join([*made, png_chunk(b"IEND", b"")])


def tiff(size: tuple[int, int], pixels: bytes, tags: dict[int, list[int]], order: str = "<") -> bytes:
    """Return a TIFF of one strip; all values of tags are 16-bit numbers but the places of the strip."""
    width, height = size
    values = {256: [width], 257: [height], 278: [height], 279: [len(pixels)], 273: [0], **tags}
    begin, behind, places = 8 + 2 + 12 * len(values) + 4, b"", {}
    for tag, value in values.items():
        if len(value) > 2:  # too long for its entry
            places[tag] = begin + len(behind)
            behind += struct.pack(f"{order}{len(value)}H", *value)
    values[273] = [begin + len(behind)]
    made = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(values))
    for tag, value in sorted(values.items()):
        made += struct.pack(f"{order}HHI", tag, 3, len(value))
        if tag in places:
            made += struct.pack(f"{order}I", places[tag])
        else:
            made += struct.pack(f"{order}{len(value)}H", *value).ljust(4, b"\0")
    return made + bytes(4) + behind + pixels


def bmp(
    size: tuple[int, int],
    bits: int,
    pixels: bytes,
    *,
    header: int = 40,
    rest: bytes = b"",
    palette: bytes = b"",
) -> bytes:
    """Return a bitmap with a header of so many bytes: OS/2 has 12, later 16 to 64."""
    numbers = struct.pack("<IHHHH" if header == 12 else "<IiiHH", header, *size, 1, bits)
    head = (numbers + rest).ljust(header, b"\0")
    begin = 14 + header + len(palette)
    return b"BM" + struct.pack("<IHHI", begin + len(pixels), 0, 0, begin) + head + palette + pixels


def box(kind: bytes, *parts: bytes, version: int | None = None) -> bytes:
    """Return a box of a file in MP4's form; `version` and flags of one that has them."""
    body = b"".join([b"" if version is None else struct.pack(">I", version), *parts])
    return struct.pack(">I", 8 + len(body)) + kind + body


def box_of(data: bytes, kind: bytes) -> bytes:
    """Return the first box of a kind."""
    begin = data.index(kind) - 4
    return data[begin : begin + int.from_bytes(data[begin : begin + 4], "big")]


def heif_grid(tiles: list[bytes], side: int, codec: bytes, setup: bytes, turn: bytes = b"") -> bytes:
    """Return a picture of 2 x 2 square tiles, as phones write it.

    Args:
      tiles: four pictures of that codec, without a container.
      side: pixels of a side of a tile.
      codec: `av01` or `hvc1`.
      setup: box with what the decoder needs to know of all tiles.
      turn: box `irot` or `imir` that turns the whole.
    """
    brand = {b"av01": b"avif", b"hvc1": b"heic"}[codec]
    start = box(b"ftyp", brand, bytes(4), brand, b"mif1miaf")
    base = len(start) + len(_heif_meta(tiles, side, codec, setup, turn, 0)) + 8
    return start + _heif_meta(tiles, side, codec, setup, turn, base) + box(b"mdat", *tiles)


def _heif_meta(tiles: list[bytes], side: int, codec: bytes, setup: bytes, turn: bytes, base: int) -> bytes:
    places = base + np.cumsum([0, *map(len, tiles)])
    numbers = range(2, 2 + len(tiles))
    rows = [struct.pack(">HHHHII", 1, 1, 0, 1, 0, 8)]
    rows += [struct.pack(">HHHHII", n, 0, 0, 1, places[n - 2], len(tiles[n - 2])) for n in numbers]
    sizes = [box(b"ispe", struct.pack(">II", pixels, pixels), version=0) for pixels in (2 * side, side)]
    depth = box(b"pixi", b"\3\10\10\10", version=0)
    of_whole = bytes([1, 4, 0x85]) if turn else bytes([1, 4])
    of_items = [struct.pack(">HB", 1, len(of_whole)) + of_whole]
    of_items += [struct.pack(">HBBBB", n, 3, 2, 0x83, 4) for n in numbers]
    items = [_heif_item(1, b"grid", 0), *(_heif_item(n, codec, 1) for n in numbers)]
    return box(
        b"meta",
        box(b"hdlr", bytes(4), b"pict", bytes(13), version=0),
        box(b"pitm", struct.pack(">H", 1), version=0),
        box(b"iloc", b"\x44\0", struct.pack(">H", len(rows)), *rows, version=0x01000000),
        box(b"iinf", struct.pack(">H", len(items)), *items, version=0),
        box(b"iref", box(b"dimg", struct.pack(">HH4H", 1, 4, *numbers)), version=0),
        box(
            b"iprp",
            box(b"ipco", *sizes, setup, depth, turn),
            box(b"ipma", struct.pack(">I", len(of_items)), *of_items, version=0),
        ),
        box(b"idat", struct.pack(">BBBBHH", 0, 0, 1, 1, 2 * side, 2 * side)),
        version=0,
    )


def _heif_item(number: int, kind: bytes, is_hidden: int) -> bytes:
    return box(b"infe", struct.pack(">HH", number, 0), kind, b"\0", version=0x02000000 | is_hidden)
