"""What pictures show: every expected value is known from how the file was made, not from a decoder."""

from __future__ import annotations

import io
import re
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.decoding.examine import examine
from data_pipelines.decoding.picture_pixels import upright
from tests.data_pipelines.decoding.made_pictures import (
    bmp,
    box,
    box_of,
    corners,
    exif,
    heif_grid,
    png,
    png_chunk,
    shown,
    tiff,
)

PICTURE = corners()
ROWS = [row.tobytes() for row in PICTURE]
TURNED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: np.rot90(PICTURE, 2),
    4: PICTURE[::-1],
    5: PICTURE.swapaxes(0, 1),
    6: np.rot90(PICTURE, -1),
    7: np.rot90(PICTURE, 2).swapaxes(0, 1),
    8: np.rot90(PICTURE, 1),
}
"""What a viewer shows for each orientation of EXIF."""
RGB_TIFF = {258: [8, 8, 8], 262: [2], 277: [3]}
ALPHA_TIFF = {258: [8] * 4, 262: [2], 277: [4], 338: [2]}


def saved(kind: str, pixels: np.ndarray = PICTURE, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def turned_jpeg(orientation: int) -> bytes:
    plain = cv2.imencode(".jpg", PICTURE[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    body = b"Exif\0\0" + exif(orientation)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


def png_with_exif_behind(orientation: int) -> bytes:
    plain = png((64, 48), 8, 2, ROWS)
    return plain[:-12] + png_chunk(b"eXIf", exif(orientation)) + plain[-12:]


TURNED_FILES = {
    "jpeg": turned_jpeg,
    "png": lambda o: png((64, 48), 8, 2, ROWS, (b"eXIf", exif(o))),
    "png with EXIF behind": png_with_exif_behind,
    "png of 16 bits": lambda o: png(
        (64, 48), 16, 2, [np.repeat(row, 2).tobytes() for row in PICTURE.reshape(48, -1)], (b"eXIf", exif(o))
    ),
    "webp": lambda o: saved("WEBP", lossless=True, exif=exif(o)),
    "tiff": lambda o: tiff((64, 48), PICTURE.tobytes(), {**RGB_TIFF, 274: [o]}),
    "packed tiff": lambda o: saved("TIFF", compression="tiff_lzw", tiffinfo={274: o}),
    "avif": lambda o: saved("AVIF", quality=95, exif=exif(o)),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", TURNED_FILES)
def test_pictures_are_turned_once_as_their_file_says(kind, orientation):
    data = TURNED_FILES[kind](orientation)
    (frame,) = shown(data)
    assert frame.shape == TURNED[orientation].shape
    inner = np.abs(frame.astype(int) - TURNED[orientation])  # lossy kinds blur the edges
    assert np.median(inner) <= 3
    assert inner.mean() < (4 if kind in ("jpeg", "avif") else 1e-9)


@pytest.mark.parametrize(("in_boxes", "is_turned"), [(0x0112, True), (0x0114, False)])
def test_the_turn_of_an_avif_is_that_of_its_boxes_whatever_its_exif_says(in_boxes, is_turned):
    # Pillow moves the orientation (0x0112) to boxes. Afterwards that of EXIF is put back.
    body = struct.pack("<HHIHHHHIHHI", in_boxes, 3, 1, 6, 0, 0x0113, 3, 1, 6, 0, 0)
    data = saved("AVIF", quality=95, exif=b"II*\0" + struct.pack("<IH", 8, 2) + body)
    data, count = re.subn(rb"\x13\x01\x03\0|\x01\x13\0\x03", lambda m: m[0].replace(b"\x13", b"\x12"), data)
    assert (b"irot" in data, count) == (is_turned, 1)
    (frame,) = shown(data)
    expected = TURNED[6 if is_turned else 1]
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 4


def test_damaged_exif_turns_nothing():
    cut = png((64, 48), 8, 2, ROWS, (b"eXIf", exif(6)[:14]))
    strange = png((64, 48), 8, 2, ROWS, (b"eXIf", exif(77)))
    for data in (cut, strange):
        np.testing.assert_array_equal(shown(data)[0], PICTURE)


CLEAR, HALF = [255, 255, 255], [191, 191, 191]
PALETTE = (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
WITH_ALPHA = {
    "grey of 1 bit": (png((2, 1), 1, 0, [b"\x40"], (b"tRNS", b"\0\0")), [CLEAR, [255] * 3]),
    "grey of 2 bits": (
        png((4, 1), 2, 0, [b"\x1b"], (b"tRNS", b"\0\2")),
        [[0] * 3, [85] * 3, CLEAR, [255] * 3],
    ),
    "grey of 4 bits": (png((2, 1), 4, 0, [b"\x5a"], (b"tRNS", b"\0\5")), [CLEAR, [170] * 3]),
    "grey of 8 bits": (png((2, 1), 8, 0, [b"\x50\x60"], (b"tRNS", b"\0\x50")), [CLEAR, [96] * 3]),
    "grey of 16 bits": (
        png((2, 1), 16, 0, [b"\x50\x10\x50\x60"], (b"tRNS", b"\x50\x10")),
        [CLEAR, [80] * 3],
    ),
    "RGB": (png((2, 1), 8, 2, [b"\1\2\3\4\5\6"], (b"tRNS", b"\0\1\0\2\0\3")), [CLEAR, [4, 5, 6]]),
    "RGB of 16 bits": (
        png((2, 1), 16, 2, [b"\1\1\2\2\3\3\1\0\2\2\3\3"], (b"tRNS", b"\1\1\2\2\3\3")),
        [CLEAR, [1, 2, 3]],
    ),
    "palette": (png((2, 1), 8, 3, [b"\0\1"], PALETTE, (b"tRNS", b"\0")), [CLEAR, [40, 50, 60]]),
    "palette of 1 bit": (
        png((2, 1), 1, 3, [b"\x40"], PALETTE, (b"tRNS", b"\xff\0")),
        [[10, 20, 30], CLEAR],
    ),
    "half clear palette": (
        png((1, 1), 8, 3, [b"\0"], (b"PLTE", bytes([127] * 3)), (b"tRNS", b"\x80")),
        [HALF],
    ),
    "grey and alpha": (png((2, 1), 8, 4, [b"\x7f\x80\x60\xff"]), [HALF, [96] * 3]),
    "grey and alpha of 16 bits": (png((1, 1), 16, 4, [b"\x7f\x80\x80\x90"]), [HALF]),
    "RGBA of 16 bits": (png((1, 1), 16, 6, [b"\x7f\1" * 3 + b"\x80\2"]), [HALF]),
    "TIFF with alpha": (
        tiff((1, 1), bytes([127, 127, 127, 128]), ALPHA_TIFF),
        [HALF],
    ),
    "premultiplied TIFF": (
        tiff((2, 1), bytes([64, 64, 64, 128, 0, 0, 0, 0]), {**ALPHA_TIFF, 338: [1]}),
        [HALF, CLEAR],
    ),
    "premultiplied TIFF of 16 bits": (
        tiff((1, 1), struct.pack("<4H", *[64 * 257] * 3, 128 * 257), {**ALPHA_TIFF, 258: [16] * 4, 338: [1]}),
        [HALF],
    ),
    "premultiplied grey TIFF": (
        tiff((2, 1), bytes([64, 128, 0, 0]), {258: [8] * 2, 262: [1], 277: [2], 338: [1]}),
        [HALF, CLEAR],
    ),
    "bitmap with alpha": (
        bmp(
            (1, 1), 32, bytes([127, 127, 127, 128]), header=108,
            rest=struct.pack("<IIIIII4I", 3, 0, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        ),
        [HALF],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WITH_ALPHA)
def test_every_kind_of_alpha_is_laid_over_white(kind):
    data, expected = WITH_ALPHA[kind]
    assert np.abs(shown(data)[0, 0].astype(int) - expected).max() <= 1
    assert "alpha, over white" in examine(data).health.notes


COLOURS = [*range(0, 256 * 257, 257)]  # of 16 bits
FEW_COLOURS = [0, 257, *[0] * 14, 0, 514, *[0] * 14, 0, 771, *[0] * 14]
LESS_BLUE = [c // 2 for c in COLOURS]
WITHOUT_ALPHA = {
    "grey PNG of 16 bits": (png((2, 1), 16, 0, [b"\x50\x10\x60\xff"]), [[80] * 3, [96] * 3]),
    "RGB PNG of 16 bits": (png((1, 1), 16, 2, [b"\x50\xff\x60\0\x70\x80"]), [[80, 96, 112]]),
    "grey TIFF of 16 bits": (
        tiff((2, 1), struct.pack("<2H", 1000, 60000), {258: [16], 262: [1]}),
        [[3] * 3, [234] * 3],
    ),
    "grey TIFF of 16 bits, Motorola": (
        tiff((2, 1), struct.pack(">2H", 1000, 60000), {258: [16], 262: [1]}, ">"),
        [[3] * 3, [234] * 3],
    ),
    "grey TIFF of 16 bits whose 0 is white": (
        tiff((2, 1), struct.pack("<2H", 1000, 60000), {258: [16], 262: [0]}),
        [[252] * 3, [21] * 3],
    ),
    "grey TIFF of 8 bits whose 0 is white": (
        tiff((2, 1), b"\1\xfe", {258: [8], 262: [0]}),
        [[254] * 3, [1] * 3],
    ),
    "grey TIFF of 12 bits": (tiff((2, 1), b"\x12\x3f\xed", {258: [12], 262: [1]}), [[18] * 3, [254] * 3]),
    "RGB TIFF of 16 bits": (
        tiff((1, 1), struct.pack(">3H", 1000, 2000, 60000), {258: [16] * 3, 262: [2], 277: [3]}, ">"),
        [[3, 7, 234]],
    ),
    "palette TIFF": (
        tiff((2, 1), b"\1\xc8", {258: [8], 262: [3], 320: COLOURS * 2 + LESS_BLUE}),
        [[1, 1, 0], [200, 200, 100]],
    ),
    "palette TIFF of 8-bit colours": (
        tiff((2, 1), b"\1\xc8", {258: [8], 262: [3], 320: [*range(256)] * 2 + [*range(0, 128)] * 2}),
        [[1, 1, 1], [200, 200, 72]],
    ),
    "palette TIFF of 4 bits": (
        tiff((2, 1), b"\x01", {258: [4], 262: [3], 320: FEW_COLOURS}),
        [[0] * 3, [1, 2, 3]],
    ),
    "CMYK TIFF": (tiff((1, 1), bytes([0, 255, 0, 0]), {258: [8] * 4, 262: [5], 277: [4]}), [[255, 0, 255]]),
    "TIFF with a fourth channel that means nothing": (
        tiff((1, 1), bytes([10, 20, 30, 0]), {**ALPHA_TIFF, 338: [0]}),
        [[10, 20, 30]],
    ),
    "OS/2 bitmap": (bmp((2, 1), 24, b"\1\2\3\4\5\6\0\0", header=12), [[3, 2, 1], [6, 5, 4]]),
    "OS/2 bitmap with a palette": (
        bmp((2, 1), 8, b"\0\1\0\0", header=12, palette=b"\0\0\0\3\2\1" + bytes(254 * 3)),
        [[0] * 3, [1, 2, 3]],
    ),
    "later OS/2 bitmap": (bmp((2, 1), 24, b"\1\2\3\4\5\6\0\0", header=64), [[3, 2, 1], [6, 5, 4]]),
    "OS/2 bitmap with a short header": (
        bmp((2, 1), 24, b"\1\2\3\4\5\6\0\0", header=16),
        [[3, 2, 1], [6, 5, 4]],
    ),
    "bitmap": (bmp((2, 1), 24, b"\1\2\3\4\5\6\0\0"), [[3, 2, 1], [6, 5, 4]]),
    "bitmap from the top": (bmp((2, -1), 24, b"\1\2\3\4\5\6\0\0"), [[3, 2, 1], [6, 5, 4]]),
    "bitmap of 32 bits without alpha": (bmp((1, 1), 32, b"\1\2\3\0"), [[3, 2, 1]]),
    "bitmap whose alpha was never filled": (
        bmp(
            (1, 1), 32, b"\1\2\3\0", header=108,
            rest=struct.pack("<IIIIII4I", 3, 0, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        ),
        [[3, 2, 1]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WITHOUT_ALPHA)
def test_depths_palettes_and_headers_are_read_as_they_are_meant(kind):
    data, expected = WITHOUT_ALPHA[kind]
    frames = shown(data)
    assert frames.shape == (1, 1, len(expected), 3)
    np.testing.assert_array_equal(frames[0, 0], expected)


@pytest.mark.parametrize("is_ycck", [False, True])
def test_jpegs_of_four_colours_are_those_that_were_printed(is_ycck):
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file, "JPEG", quality=100, subsampling=0)
    data = file.getvalue()
    expected = [255, 0, 0]
    if is_ycck:  # the Adobe segment says that the first three are luminance and chroma
        place = data.index(b"Adobe") + 11
        assert data[place] == 0
        data = data[:place] + b"\2" + data[place + 1 :]
        # Stored upside down as 255, 0, 0. As Y, Cb, Cr they are the red, green and blue 76, 255, 28, which
        # are upside down for ink.
        expected = [255 - 76, 0, 255 - 28]
    assert np.abs(shown(data)[0, 8, 8].astype(int) - expected).max() <= 4


def test_pixels_without_an_8_bit_meaning_are_refused():
    data = tiff((1, 1), struct.pack("<f", 0.5), {258: [32], 262: [1], 339: [3]})
    assert "convert it to 8 bits" in examine(data).health.reason


def test_hdr_pictures_are_tone_mapped():
    plain = saved("AVIF", np.full((16, 16, 3), 148, np.uint8), quality=100, subsampling="4:4:4")
    colours = plain.index(b"colrnclx") + 8
    pq = plain[:colours] + struct.pack(">HH", 9, 16) + plain[colours + 4 :]
    assert np.abs(shown(plain)[0].astype(int) - 148).max() <= 1
    # 148 of 255 is 203 cd/m2 in PQ, which is reference white: bright, but with room above it.
    assert 195 <= shown(pq)[0].min() <= shown(pq)[0].max() <= 245
    assert "HDR (PQ), tone-mapped" in examine(pq).health.notes


def avif_tile(colour: tuple[int, int, int]) -> bytes:
    return saved("AVIF", np.full((64, 64, 3), colour, np.uint8), quality=90)


COLOURS_OF_TILES = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (200, 200, 30)]


def assert_shows_tiles(frame: np.ndarray, colours: list[tuple[int, int, int]]) -> None:
    assert frame.shape == (128, 128, 3)
    for colour, (y, x) in zip(colours, [(32, 32), (32, 96), (96, 32), (96, 96)], strict=True):
        assert np.abs(frame[y, x].astype(int) - colour).max() <= 6


def test_avif_grids_come_whole_and_turned():
    tiles = [avif_tile(colour) for colour in COLOURS_OF_TILES]
    pixels = [box_of(tile, b"mdat")[8:] for tile in tiles]
    setup = box_of(tiles[0], b"av1C")
    assert_shows_tiles(shown(heif_grid(pixels, 64, b"av01", setup))[0], COLOURS_OF_TILES)
    turned = shown(heif_grid(pixels, 64, b"av01", setup, turn=box(b"irot", b"\1")))[0]
    assert_shows_tiles(turned, [COLOURS_OF_TILES[place] for place in (1, 3, 0, 2)])  # to the left


def test_heic_comes_whole_and_turned_where_its_reader_is_installed():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    tiles = [saved("HEIF", np.full((64, 64, 3), c, np.uint8), quality=90) for c in COLOURS_OF_TILES]
    pixels = [box_of(tile, b"mdat")[8:] for tile in tiles]
    setup = box_of(tiles[0], b"hvcC")
    assert_shows_tiles(shown(heif_grid(pixels, 64, b"hvc1", setup))[0], COLOURS_OF_TILES)
    turned = shown(heif_grid(pixels, 64, b"hvc1", setup, turn=box(b"irot", b"\1")))[0]
    assert_shows_tiles(turned, [COLOURS_OF_TILES[place] for place in (1, 3, 0, 2)])


def test_upright_turns_as_exif_says():
    for orientation, expected in TURNED.items():
        np.testing.assert_array_equal(upright(PICTURE, orientation), expected)
