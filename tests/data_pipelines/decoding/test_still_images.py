from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine, examine_video
from data_pipelines.decoding.still_images import _declared_size, picture_kind

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


def test_jpegs_are_turned_as_their_exif_says():
    plain = encode(".jpg")
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)  # orientation 6: turn clockwise
    exif = b"Exif\0\0" + tiff
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    video = examine_video(turned)
    assert (video.index.width, video.index.height) == (20, 30)
    upright = read_frames(plain, np.array([0]), examine_video(plain).index)[0]
    shown = read_frames(turned, np.array([0]), video.index)[0]
    np.testing.assert_array_equal(shown, np.rot90(upright, -1))


def test_alpha_of_images_is_laid_over_white():
    pixels = np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)])
    pixels[:, 20:, 3] = 0
    shown = read_frames(encode(".png", pixels), np.array([0]), examine_video(encode(".png", pixels)).index)[0]
    assert (shown[:, 20:] == 255).all()
    np.testing.assert_array_equal(shown[:, :20], PIXELS[:, :20])


def animation(extension: str) -> bytes:
    animated = cv2.Animation()
    bgra = [cv2.cvtColor(np.roll(PIXELS, 5 * i, axis=1), cv2.COLOR_RGB2BGRA) for i in range(6)]
    animated.frames = bgra
    animated.durations = np.array([100, 50, 200, 100, 100, 300], np.int32)
    is_encoded, data = cv2.imencodeanimation(extension, animated, [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert is_encoded
    return np.asarray(data).tobytes()


@pytest.mark.parametrize("extension", [".webp", ".png"])
def test_animations_are_videos(extension):
    data = animation(extension)
    assert picture_kind(data) == ("animated webp" if extension == ".webp" else None)
    video = examine_video(data)
    np.testing.assert_allclose(video.index.frame_times, [0, 0.1, 0.15, 0.35, 0.45, 0.55], atol=1e-6)
    wanted = np.array([4, 1, 4])
    shown = read_frames(data, wanted, video.index)
    for frame, position in zip(shown, wanted, strict=True):
        np.testing.assert_array_equal(frame, np.roll(PIXELS, 5 * int(position), axis=1))


def test_large_animations_are_decoded_in_portions(monkeypatch):
    monkeypatch.setattr("data_pipelines.decoding.still_images._PORTION_BYTES", 4 * 30 * 20 * 4)  # four frames
    data = animation(".webp")
    video = examine_video(data)
    assert len(video.index.frame_times) == 6
    shown = read_frames(data, np.array([5]), video.index)[0]
    np.testing.assert_array_equal(shown, np.roll(PIXELS, 25, axis=1))


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp"])
def test_damaged_images_are_named(extension):
    health = examine(encode(extension)[:40]).health
    assert health.verdict == "unreadable"
    assert "cannot be decoded" in health.reason


def tiff_of(width: int, height: int, order: str = "<", number: str = "I") -> bytes:
    """Return a TIFF's header with no pixels behind it."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    tags = [(256, width), (257, height)]
    kind = {"H": 3, "I": 4}[number]
    listed = b"".join(
        struct.pack(f"{order}HHI{number}", tag, kind, 1, value).ljust(12, b"\0") for tag, value in tags
    )
    return start + struct.pack(f"{order}IH", 8, len(tags)) + listed + bytes(4)


def webp_of(kind: bytes, header: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WEBP" + kind + struct.pack("<I", 50) + header + bytes(50)


def png_of(width: int, height: int) -> bytes:
    data = bytearray(encode(".png"))
    data[16:24] = struct.pack(">II", width, height)
    return bytes(data)


LARGE_LOSSLESS = struct.pack("<BI", 0x2F, 16382 | 16382 << 14)

BOMBS = {
    "png": png_of(60000, 60000),
    "tiff": tiff_of(24000, 24000),
    "tiff of shorts": tiff_of(24000, 24000, number="H"),
    "tiff of Motorola": tiff_of(24000, 24000, order=">"),
    "tiff of Motorola's shorts": tiff_of(24000, 24000, order=">", number="H"),
    "lossy webp": webp_of(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)),
    "lossless webp": webp_of(b"VP8L", LARGE_LOSSLESS),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_images_that_would_fill_the_memory_are_refused_by_their_header(data, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", lambda *arguments: pytest.fail("it was decoded"))
    health = examine(data).health
    assert health.verdict == "unreadable"
    assert "000 pixels are more than 100,000,000" in health.reason or "16383x16383 pixels" in health.reason


SIZELESS = {
    "tiff without tags": b"II*\0" + struct.pack("<IH", 8, 0) + bytes(20),
    "tiff that ends": b"MM\0*" + struct.pack(">I", 1000),
    "webp of something else": webp_of(b"ICCP", b""),
    "jpeg without frame": b"\xff\xd8" + b"\xff\xe0\0\x04ab" * 3,
    "jpeg that ends": b"\xff\xd8\xff\xc0\0",
}


@pytest.mark.parametrize("data", SIZELESS.values(), ids=SIZELESS)
def test_images_of_unknown_size_are_not_decoded(data, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", lambda *arguments: pytest.fail("it was decoded"))
    assert "its header says no size" in examine(data).health.reason


def test_the_size_of_a_jpeg_is_found_behind_fillers_and_thumbnails():
    plain = encode(".jpg")
    thumbnail = encode(".jpg", np.zeros((8, 8, 3), np.uint8))
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    video = examine_video(plain[:2] + b"\xff\xff" + comment + b"\0stray\xff\xff" + plain[2:])
    assert (video.index.width, video.index.height) == (30, 20)


@pytest.mark.parametrize(("extension", "quality"), [(".webp", 80), (".webp", 101), (".bmp", 0), (".tiff", 0)])
def test_headers_say_the_size_that_pictures_have(extension, quality):
    options = [cv2.IMWRITE_WEBP_QUALITY, quality] if extension == ".webp" else []
    data = cv2.imencode(extension, PIXELS, options)[1].tobytes()
    assert _declared_size(data, picture_kind(data)) == (30, 20)


def test_a_picture_that_memory_does_not_suffice_for_is_not_called_damaged(monkeypatch):
    def failing(*arguments):
        error = cv2.error("Failed to allocate 4000000000 bytes")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 4000000000 bytes"
        raise error

    monkeypatch.setattr("cv2.imdecode", failing)
    with pytest.raises(MemoryError, match="Failed to allocate"):
        examine(encode(".png"))
