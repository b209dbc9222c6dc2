from __future__ import annotations

import io
import struct
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine, examine_video
from data_pipelines.decoding.pixels import RgbConverter
from data_pipelines.decoding.still_images import picture_kind, read_picture
from tests.data_pipelines.decoding.made_pictures import bmp, box, png, shown, tiff

PIXELS = np.zeros((20, 30, 3), np.uint8)
PIXELS[:10, :15] = (255, 0, 0)  # red at the top left
PIXELS[10:] = (0, 0, 255)


def encode(extension: str, pixels: np.ndarray = PIXELS) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[-1] == 4 else cv2.COLOR_RGB2BGR
    return cv2.imencode(extension, cv2.cvtColor(pixels, order))[1].tobytes()


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff", ".jpg"])
def test_an_image_is_a_video_of_one_frame(extension):
    video = examine_video(encode(extension))
    assert video.index.frame_times.tolist() == [0.0]
    assert (video.index.width, video.index.height, video.index.duration) == (30, 20, 0.0)
    frames = read_frames(video.data, np.array([0, 0]), video.index).astype(int)
    assert frames.shape == (2, 20, 30, 3)
    assert np.abs(frames[1] - PIXELS).mean() <= (12 if extension == ".jpg" else 0)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp"])
def test_damaged_images_are_named(extension):
    health = examine(encode(extension)[:40]).health
    assert health.verdict == "unreadable"
    assert "cannot be decoded" in health.reason


def webp_of(kind: bytes, header: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WEBP" + kind + struct.pack("<I", 50) + header + bytes(50)


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encode(".jpg"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


RGB_TIFF = {258: [8, 8, 8], 262: [2], 277: [3]}
LARGE_LOSSLESS = struct.pack("<BI", 0x2F, 16382 | 16382 << 14)

BOMBS = {
    "png": png((60000, 60000), 8, 2, []),
    "png that Pillow would decode": png((11000, 10000), 8, 2, []),
    "bitmap": bmp((11000, 10000), 24, b""),
    "tiff": tiff((24000, 24000), b"", RGB_TIFF),
    "tiff of Motorola": tiff((24000, 24000), b"", RGB_TIFF, ">"),
    "jpeg": jpeg_of(20000, 20000),
    "lossy webp": webp_of(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)),
    "lossless webp": webp_of(b"VP8L", LARGE_LOSSLESS),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_images_that_would_fill_the_memory_are_refused_by_their_header(data, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", lambda *arguments: pytest.fail("it was decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *arguments: pytest.fail("it was decoded"))
    health = examine(data).health
    assert health.verdict == "unreadable"
    assert "pixels are more than 100,000,000" in health.reason


HOPELESS = {
    "tiff without tags": b"II*\0" + struct.pack("<IH", 8, 0) + bytes(20),
    "tiff that ends": b"MM\0*" + struct.pack(">I", 1000),
    "webp of something else": webp_of(b"ICCP", b""),
    "jpeg without frame": b"\xff\xd8" + b"\xff\xe0\0\x04ab" * 3,
    "jpeg that ends": b"\xff\xd8\xff\xc0\0",
    "png that ends": b"\x89PNG\r\n\x1a\n",
    "animated png that ends": b"\x89PNG\r\n\x1a\nacTL\0",
    "bitmap of an unknown kind": b"BM" + bytes(40),
    "avif of nothing": box(b"ftyp", b"avif", bytes(4), b"avif"),
}


@pytest.mark.parametrize("data", HOPELESS.values(), ids=HOPELESS)
def test_headers_that_make_no_sense_are_named(data):
    health = examine(data).health
    assert health.verdict == "unreadable"
    assert "cannot be decoded" in health.reason
    assert "object at" not in health.reason, "a reason depends on the bytes alone"


def test_the_size_of_a_jpeg_is_found_behind_fillers_and_thumbnails():
    plain = encode(".jpg")
    thumbnail = encode(".jpg", np.zeros((8, 8, 3), np.uint8))
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    video = examine_video(plain[:2] + b"\xff\xff" + comment + b"\0stray\xff\xff" + plain[2:])
    assert (video.index.width, video.index.height) == (30, 20)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_images_that_end_early_are_unreadable(extension):
    data = encode(extension, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    health = examine(data[: len(data) - 200]).health
    assert (health.verdict, "cannot be decoded" in health.reason) == ("unreadable", True)


def encoded_by_ffmpeg(codec: str, pixel_format: str, **options: str) -> bytes:
    rows, columns = np.mgrid[:48, :64]
    rgba = np.stack([columns * 4, rows * 5, (rows + columns) * 2, 255 - columns * 3], -1).astype(np.uint8)
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 64, 48, pixel_format
    context.time_base, context.options = Fraction(1, 25), options
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixel_format)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


PLAIN = ["rgb24", "rgba", "ya8"]
TIFF_KINDS = [*PLAIN, "rgb48le", "rgba64le", "gray16le", "monow", "yuv420p", "yuv422p", "yuv444p"]
OF_FFMPEG = [
    *(("png", kind, {}) for kind in [*PLAIN, "gray", "rgb48be", "rgba64be", "ya16be", "monob"]),
    *(("tiff", kind, {"compression_algo": "raw"}) for kind in TIFF_KINDS),
    *(("tiff", kind, {"compression_algo": "lzw"}) for kind in TIFF_KINDS),
    *(("bmp", kind, {}) for kind in ["bgr24", "rgb565le", "rgb555le", "gray", "monob"]),
    *(("mjpeg", kind, {}) for kind in ["yuvj420p", "yuvj422p", "yuvj444p"]),
    *(("libwebp", kind, {}) for kind in ["bgra", "yuv420p", "yuva420p"]),
]


@pytest.mark.parametrize(("codec", "pixel_format", "options"), OF_FFMPEG)
def test_pictures_look_as_ffmpeg_shows_them(codec, pixel_format, options):
    data = encoded_by_ffmpeg(codec, pixel_format, **options)
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
    expected = RgbConverter((64, 48), 0)(frame).astype(int)
    difference = np.abs(shown(data)[0] - expected)
    # Upper bytes are not rounded; chroma of few samples is interpolated in other ways.
    is_lossy = "yuv" in pixel_format or codec == "libwebp"
    assert difference.max() <= (8 if is_lossy else 1)
    assert difference.mean() <= (1.7 if is_lossy else 0.5)


def test_a_png_whose_pixels_do_not_fit_their_check_sum_is_unreadable():
    sound = encode(".png")
    check_sum = len(sound) - 16
    health = examine(sound[:check_sum] + bytes(4) + sound[check_sum + 4 :]).health
    assert (health.verdict, "checksum" in health.reason) == ("unreadable", True)


def test_other_pages_are_noted():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    video = examine_video(file.getvalue())
    assert video.health.notes == ("the first of several pages",)
    np.testing.assert_array_equal(shown(video.data)[0], PIXELS)


BRANDS = {
    b"avif": ("avif", [b"mif1"]),
    b"mif1": ("avif", [b"miaf", b"avif"]),
    b"avis": ("avif", [b"msf1"]),
    b"heic": ("heic", [b"mif1"]),
    b"msf1": ("heic", [b"heic"]),
    b"isom": (None, [b"mif1", b"avif"]),
    b"qt  ": (None, []),
}


@pytest.mark.parametrize("main", BRANDS)
def test_pictures_in_the_form_of_mp4_are_known_by_their_brands(main):
    kind, others = BRANDS[main]
    assert picture_kind(box(b"ftyp", main, bytes(4), *others) + box(b"meta", b"avif")) == kind


def test_a_sequence_of_heic_is_a_video():
    assert picture_kind(box(b"ftyp", b"hevc", bytes(4), b"heic") + box(b"moov")) is None


def test_a_heic_picture_without_its_reader_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    health = examine(box(b"ftyp", b"heic", bytes(4), b"mif1")).health
    assert health.verdict == "unreadable"
    assert "pip install 'clipbert_jax[heic]'" in health.reason


def test_a_jpeg_without_the_mark_of_its_end_is_whole():
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(file, "JPEG")
    whole = file.getvalue()
    assert whole.endswith(b"\xff\xd9")
    assert examine(whole[:-2]).health.verdict == "ok"
    np.testing.assert_array_equal(
        read_picture(whole[:-2], np.zeros(1, int)), read_picture(whole, np.zeros(1, int))
    )
    for missing in (8, 20, 300):
        assert examine(whole[:-missing]).health.verdict == "unreadable"


def test_a_picture_that_memory_does_not_suffice_for_is_not_called_damaged(monkeypatch):
    def failing(*arguments):
        error = cv2.error("Failed to allocate 4000000000 bytes")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 4000000000 bytes"
        raise error

    monkeypatch.setattr("cv2.imdecode", failing)
    with pytest.raises(MemoryError, match="Failed to allocate"):
        examine(encode(".jpg"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", raise_memory_error)
    with pytest.raises(MemoryError):
        examine(encode(".png"))


def raise_memory_error(*arguments: object) -> None:
    raise MemoryError
