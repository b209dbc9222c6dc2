from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from data_pipelines.decode import read_frames
from data_pipelines.pictures import picture_kind
from data_pipelines.probe import examine, probe

PIXELS = np.zeros((20, 30, 3), np.uint8)
PIXELS[:10, :15] = (255, 0, 0)  # red at the top left
PIXELS[10:] = (0, 0, 255)


def encode(extension: str, pixels: np.ndarray = PIXELS) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[-1] == 4 else cv2.COLOR_RGB2BGR
    return cv2.imencode(extension, cv2.cvtColor(pixels, order))[1].tobytes()


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff", ".jpg"])
def test_an_image_is_a_video_of_one_frame(extension):
    video = probe(encode(extension))
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
    video = probe(turned)
    assert (video.index.width, video.index.height) == (20, 30)
    upright = read_frames(plain, np.array([0]), probe(plain).index)[0]
    shown = read_frames(turned, np.array([0]), video.index)[0]
    np.testing.assert_array_equal(shown, np.rot90(upright, -1))


def test_alpha_of_images_is_laid_over_white():
    pixels = np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)])
    pixels[:, 20:, 3] = 0
    shown = read_frames(encode(".png", pixels), np.array([0]), probe(encode(".png", pixels)).index)[0]
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
    video = probe(data)
    np.testing.assert_allclose(video.index.frame_times, [0, 0.1, 0.15, 0.35, 0.45, 0.55], atol=1e-6)
    wanted = np.array([4, 1, 4])
    shown = read_frames(data, wanted, video.index)
    for frame, position in zip(shown, wanted, strict=True):
        np.testing.assert_array_equal(frame, np.roll(PIXELS, 5 * int(position), axis=1))


def test_large_animations_are_decoded_in_portions(monkeypatch):
    monkeypatch.setattr("data_pipelines.pictures._PORTION_BYTES", 4 * 30 * 20 * 4)  # four frames
    data = animation(".webp")
    video = probe(data)
    assert len(video.index.frame_times) == 6
    shown = read_frames(data, np.array([5]), video.index)[0]
    np.testing.assert_array_equal(shown, np.roll(PIXELS, 25, axis=1))


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp"])
def test_damaged_images_are_named(extension):
    health = examine(encode(extension)[:40]).health
    assert health.verdict == "unreadable"
    assert "cannot be decoded" in health.reason


def test_images_that_would_fill_the_memory_are_refused_by_their_header():
    bomb = bytearray(encode(".png"))
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    health = examine(bytes(bomb)).health
    assert health.verdict == "unreadable"
    assert "60000x60000 pixels" in health.reason
