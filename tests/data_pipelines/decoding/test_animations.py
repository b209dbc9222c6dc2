"""One animation in many formats: the same frames, times and clips."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine, examine_video
from data_pipelines.decoding.still_images import picture_kind
from data_pipelines.sampling import choose_frames
from tests.data_pipelines.decoding.made_pictures import animated_png, exif, shown

LEVELS = [17 * level for level in range(10)]
FRAMES = [np.full((24, 32, 3), level, np.uint8) for level in LEVELS]
DELAYS = [100] * 9 + [4000]


def saved(kind: str, delays: list[int] = DELAYS, **options) -> bytes:
    file = io.BytesIO()
    first, *others = [Image.fromarray(frame) for frame in FRAMES[: len(delays)]]
    first.save(file, kind, save_all=True, append_images=others, duration=delays, **options)
    return file.getvalue()


def encoded(container: str) -> bytes:
    """Return the animation as a video whose last packet says how long its frame is shown."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=10, options={"bf": "0", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in FRAMES]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        packets[-1].duration = int(4 / packets[-1].time_base)
        output.mux(packets)
    return file.getvalue()


ANIMATIONS = {
    "gif": lambda delays: saved("GIF", delays, loop=0),
    "apng": lambda delays: saved("PNG", delays),
    "webp": lambda delays: saved("WEBP", delays, lossless=True),
    "avif": lambda delays: saved("AVIF", delays, quality=95),
    "mp4": lambda _: encoded("mp4"),
    "mkv": lambda _: encoded("matroska"),
}


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_an_animation_has_the_same_frames_times_and_clips_in_every_format(kind):
    video = examine_video(ANIMATIONS[kind](DELAYS))
    np.testing.assert_allclose(video.index.frame_times, np.arange(10) / 10, atol=1e-6)
    assert video.index.duration == pytest.approx(4.9)
    levels = shown(video.data)[:, 12, 16, 0].astype(int)
    assert np.abs(levels - LEVELS).max() <= 2
    clips = choose_frames(video, num_clips=4, num_frames=2, fps=2.0, sampling="uniform")
    assert clips.indices.tolist() == [[1, 6], [9, 9], [9, 9], [9, 9]]


@pytest.mark.parametrize("kind", ["gif", "apng", "webp"])
def test_frames_of_no_time_last_a_tenth_of_a_second_as_in_browsers(kind):
    index = examine_video(ANIMATIONS[kind]([20, 0, 30, 100])).index
    np.testing.assert_allclose(index.frame_times, [0, 0.02, 0.12, 0.15], atol=1e-6)


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_frames_are_read_in_any_order(kind):
    video = examine_video(ANIMATIONS[kind](DELAYS))
    wanted = np.array([7, 2, 7, 0])
    levels = read_frames(video.data, wanted, video.index)[:, 12, 16, 0].astype(int)
    assert np.abs(levels - np.array(LEVELS)[wanted]).max() <= 2


COLOURS = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200], [90, 90, 90]], np.uint8)
WHOLE, PART = (0, 0, 5, 3), (1, 1, 3, 2)
INDICES = [np.arange(15).reshape(3, 5) % 4, np.arange(6).reshape(2, 3) * 3 % 4]


def packed(indices: np.ndarray, depth: int) -> list[bytes]:
    """Return rows of numbers of few bits."""
    bits = (indices[..., None] >> np.arange(depth)[::-1] & 1).reshape(len(indices), -1)
    return [np.packbits(row.astype(np.uint8)).tobytes() for row in bits]


@pytest.mark.parametrize("depth", [2, 4, 8])
@pytest.mark.parametrize("clear", [b"", b"\xff\x80"])
def test_parts_of_animated_pngs_lie_where_they_belong(depth, clear):
    rows = [packed(indices, depth) for indices in INDICES]
    palette = [(b"PLTE", COLOURS.tobytes()), *([(b"tRNS", clear)] if clear else [])]
    data = animated_png(
        (5, 3), depth, 3, [(WHOLE, rows[0]), (PART, rows[1])], *palette, other_picture=rows[0]
    )
    first, second = (COLOURS[indices].astype(float) for indices in INDICES)
    if clear:  # the second colour is half clear: over white, and over what the first part has there
        is_half = [(indices == 1)[..., None] for indices in INDICES]
        behind = np.where(is_half[0], blend(first, 255), first)
        above = np.where(is_half[1], blend(second, behind[1:3, 1:4]), second)
    else:
        behind, above = first, second
    after = behind.copy()
    after[1:3, 1:4] = above
    assert np.abs(shown(data) - np.stack([behind, after])).max() <= 1.5
    assert examine_video(data).index.duration == pytest.approx(0.2)


def blend(colours: np.ndarray, behind: np.ndarray | int) -> np.ndarray:
    return (colours * 128 + np.asarray(behind) * 127) / 255


def test_animated_pngs_of_few_greys_are_turned():
    rows = packed(np.array([[0, 1, 2], [3, 3, 3]]), 2)
    data = animated_png((3, 2), 2, 0, [((0, 0, 3, 2), rows)] * 2, (b"eXIf", exif(6)))
    assert picture_kind(data) == "apng"
    assert shown(data)[1, ..., 0].tolist() == [[255, 0], [255, 85], [255, 170]]


def test_animated_pngs_of_few_greys_with_a_clear_one_are_refused():
    rows = packed(np.array([[0, 1, 2]]), 2)
    data = animated_png((3, 1), 2, 0, [((0, 0, 3, 1), rows)] * 2, (b"tRNS", b"\0\1"))
    assert "save it with 8 bits" in examine(data).health.reason


def test_large_animations_of_few_colours_are_decoded_in_portions(monkeypatch):
    monkeypatch.setattr("data_pipelines.decoding.still_images._PORTION_BYTES", 2 * 4 * 3 * 1)  # two frames
    greys = [np.full((1, 3), level) for level in (0, 1, 2, 3, 0)]
    data = animated_png((3, 1), 2, 0, [((0, 0, 3, 1), packed(grey, 2)) for grey in greys])
    assert shown(data)[:, 0, 0, 0].tolist() == [0, 85, 170, 255, 0]
    index = examine_video(data).index
    assert read_frames(data, np.array([4, 1]), index)[:, 0, 0, 0].tolist() == [0, 85]


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_animations_that_end_early_are_named(kind):
    data = ANIMATIONS[kind](DELAYS)
    health = examine(data[: len(data) * 2 // 3]).health
    assert health.verdict == "unreadable"
    assert f"its {kind.upper()} picture cannot be decoded" in health.reason
