from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.corpus.storage import Compact, Frames, Original, StoredVideo, store
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.jpeg_frames import pack_jpegs, read_jpegs
from data_pipelines.decoding.video import UnreadableVideo, Video


@pytest.fixture(scope="module")
def video(encode_video) -> Video:
    """22 frames at uneven times, the first of them 3.5 s after the file's start."""
    gaps = [1, 3, 1, 1, 7, 2, 1, 1, 1, 4, 1, 2, 2, 1, 1, 10, 1, 1, 3, 1, 1]
    pts = np.cumsum([0, *gaps]).tolist()
    data = encode_video(num_frames=22, pts=pts, first_pts=70, rate=Fraction(20), size=(96, 54), gop=22)
    return examine_video(data, video_id="v")


def all_frames(video: Video) -> np.ndarray:
    return read_frames(video.data, np.arange(len(video.index.frame_times)), video.index)


def grey_levels_apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def test_original_keeps_bytes_and_index(video: Video) -> None:
    stored = store(video, Original())
    assert stored.data == video.data
    assert stored.index is video.index
    assert stored.health == video.health
    assert stored.note.max_time_error_seconds == 0


def test_compact_keeps_every_frame_at_its_time(video: Video) -> None:
    stored = store(video, Compact(crf=12))
    np.testing.assert_allclose(stored.index.frame_times, video.index.frame_times, rtol=0, atol=1e-5)
    assert stored.note.max_time_error_seconds < 1e-5
    assert stored.index.duration == video.index.duration
    apart = [grey_levels_apart(a, b) for a, b in zip(all_frames(stored), all_frames(video), strict=True)]
    assert max(apart) < 12  # of noise; another frame of it is 80 apart


def test_compact_times_are_kept_though_no_clock_of_theirs_is_a_multiple_of_ours(encode_video) -> None:
    video = examine_video(encode_video(num_frames=30, rate=Fraction(43019, 1873)))
    stored = store(video, Compact())
    assert 0 < stored.note.max_time_error_seconds < 6e-6
    assert stored.index.first_pts == 0


def test_compact_shrinks_to_even_sides_and_never_enlarges(encode_video) -> None:
    video = examine_video(encode_video(num_frames=3, size=(130, 74)))
    shrunk = store(video, Compact(size=64)).index
    assert (shrunk.width, shrunk.height) == (64, 36)
    same = store(video, Compact(size=448)).index
    assert (same.width, same.height) == (130, 74)


def test_compact_has_short_groups_of_pictures(video: Video) -> None:
    key_frames = store(video, Compact(gop=5)).index.key_frames
    assert np.diff(key_frames).max() <= 5
    assert store(video, Compact(gop=1)).index.key_frames.tolist() == list(range(22))


@pytest.mark.parametrize("form", [Compact(crf=12), Frames(fps=20.0, quality=98)])
def test_stored_frames_are_upright(video: Video, form: Compact | Frames) -> None:
    index = dataclasses.replace(video.index, rotation=90, width=54, height=96)
    turned = Video(video_id="v", data=video.data, index=index, health=video.health)
    stored = store(turned, form)
    assert (stored.index.rotation, stored.index.is_reflected) == (0, False)
    first = np.zeros(1, np.int64)
    upright = read_frames(video.data, first, index)
    assert upright.shape == (1, 96, 54, 3)
    assert grey_levels_apart(read_frames(stored.data, first, stored.index), upright) < 16


@pytest.mark.parametrize("form", [Compact(), Frames()])
def test_the_same_video_gives_the_same_bytes(video: Video, form: Compact | Frames) -> None:
    first, second = store(video, form), store(video, form)
    assert first.data == second.data
    assert first.note == second.note


def test_frames_holds_the_frame_shown_at_each_instant(video: Video) -> None:
    stored = store(video, Frames(fps=5.0, quality=98))
    times = stored.index.frame_times
    assert times.tolist() == [i / 5 for i in range(len(times))]
    assert times[-1] < video.index.duration <= times[-1] + 1 / 5 + 1e-6
    shown = [int(np.flatnonzero(video.index.frame_times <= t + 1e-6)[-1]) for t in times]
    assert len(set(shown)) < len(shown)  # one is shown for long
    for frame, position in zip(all_frames(stored), shown, strict=True):
        assert grey_levels_apart(frame, all_frames(video)[position]) < 12
    late = max(times[shown.index(position)] - video.index.frame_times[position] for position in set(shown))
    assert stored.note.max_time_error_seconds == pytest.approx(late)
    assert stored.note.num_frames_after == len(times)


def test_a_frame_shown_for_long_is_stored_once(encode_video) -> None:
    video = examine_video(encode_video(num_frames=2, pts=[0, 100]))
    few, many = store(video, Frames(fps=1.0)), store(video, Frames(fps=10.0))
    assert many.note.num_frames_after > 9 * few.note.num_frames_after
    assert many.note.num_bytes_after - few.note.num_bytes_after == 16 * (
        many.note.num_frames_after - few.note.num_frames_after
    )


def test_frames_can_be_shrunk_to_odd_sides(video: Video) -> None:
    stored = store(video, Frames(size=48))
    assert all_frames(stored).shape[1:] == (27, 48, 3)


@pytest.mark.parametrize("form", [Original(), Compact(), Frames()])
def test_one_frame_is_enough(encode_video, form: Original | Compact | Frames) -> None:
    stored = store(examine_video(encode_video(num_frames=1)), form)
    assert len(stored.index.frame_times) == 1
    assert all_frames(stored).shape == (1, 48, 64, 3)


def test_the_note_says_what_was_done(video: Video) -> None:
    stored = store(video, Frames(fps=5.0))
    assert isinstance(stored, StoredVideo)
    assert str(stored.note) == (
        f"stored as frames (fps 5.0, quality 90, size None): 22 -> {len(stored.index.frame_times)} frames, "
        f"times within {stored.note.max_time_error_seconds * 1000:.3g} ms, "
        f"{len(video.data)} -> {len(stored.data)} bytes"
    )
    assert stored.health.notes[-1] == str(stored.note)
    assert "x264 core" in store(video, Compact()).note.encoder


def test_a_frame_that_does_not_decode_is_reported(video: Video) -> None:
    longer = dataclasses.replace(video.index, frame_times=np.append(video.index.frame_times, 99.0))
    with pytest.raises(UnreadableVideo):
        store(Video(video_id="v", data=video.data, index=longer, health=video.health), Compact())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Compact(size=8), "Compact.size"),
        (lambda: Compact(gop=0), "Compact.gop"),
        (lambda: Frames(fps=0.0), "Frames.fps"),
        (lambda: Frames(quality=101), "Frames.quality"),
        (lambda: Frames(size=1), "Frames.size"),
    ],
)
def test_impossible_forms_are_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_jpegs_are_read_in_any_order_and_repeatedly(video: Video) -> None:
    data = store(video, Frames(fps=20.0)).data
    order = np.array([7, 0, 7, 30, 2])
    frames = read_jpegs(data, order)
    for frame, position in zip(frames, order, strict=True):
        np.testing.assert_array_equal(frame, read_jpegs(data, np.array([position]))[0])
    assert read_jpegs(data, np.zeros(0, np.int64)).shape == (0, 54, 96, 3)


def test_broken_files_of_jpegs_are_refused(video: Video) -> None:
    data = store(video, Frames(fps=5.0)).data
    first, last = np.array([0]), np.array([len(store(video, Frames(fps=5.0)).index.frame_times) - 1])
    for length in (8, 30, 100, len(data) - 2000):
        with pytest.raises(UnreadableVideo):
            read_jpegs(data[:length], np.concatenate([first, last]))
    with pytest.raises(UnreadableVideo, match="not frame"):
        read_jpegs(data, last + 1)
    with pytest.raises(UnreadableVideo, match="cannot be decoded"):
        read_jpegs(pack_jpegs([b"no JPEG"], np.array([0]), (96, 54)), first)
