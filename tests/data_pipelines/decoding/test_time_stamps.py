from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.decoding.time_stamps import first_of_rising, rising_times
from tests.data_pipelines.decoding.numbered_video import numbered_video, shown_numbers

TICK = 1e-3
REGULAR = [40 * place for place in range(50)]
OTHERS = np.arange(50) != 25


def times_of(pts, dts=None, *, time_base=TICK):
    times, notes = rising_times(pts, dts or [None] * len(pts), time_base=time_base, rate=25.0)
    assert times[0] == 0
    assert np.all(np.diff(times) > 0)
    return times, notes


def test_time_stamps_that_rise_are_taken_as_they_are():
    times, notes = times_of([7, 8, 20, 1000])
    assert times.tolist() == pytest.approx([0, 0.001, 0.013, 0.993])
    assert not notes
    assert first_of_rising([7, 8, 20, 1000]) == 7


@pytest.mark.parametrize(
    "wrong", [REGULAR[24], REGULAR[26], 0, 999_999, 30], ids=["twin", "next", "back", "ahead", "far"]
)
def test_one_wrong_stamp_moves_and_no_other(wrong):
    pts = [wrong if place == 25 else tick for place, tick in enumerate(REGULAR)]
    times, notes = times_of(pts)
    is_moved = np.abs(times - np.array(pts) * TICK) > 1e-9
    assert is_moved.sum() == 1
    assert times[25] == pytest.approx(np.clip(wrong, pts[24] + 1, pts[26] - 1) * TICK, abs=1.01e-3)
    assert len(notes) == 1
    assert first_of_rising(pts) is None


def test_twins_on_a_coarse_scale_move_by_a_millisecond():
    times, _ = times_of([0, 1, 2, 2, 3, 4], time_base=1 / 25)
    assert np.abs(times - np.array([0, 1, 2, 2, 3, 4]) / 25).max() == pytest.approx(1e-3)


def test_a_stream_that_starts_again_goes_on():
    times, notes = times_of(REGULAR + REGULAR)
    assert times.tolist() == pytest.approx((np.arange(100) * 0.04).tolist())
    assert "start again" in notes[0]


def test_a_block_of_wrong_stamps_is_no_restart():
    pts = REGULAR[:20] + [tick - 5000 for tick in REGULAR[20:25]] + REGULAR[25:]
    times, _ = times_of(pts)
    kept = np.r_[:20, 25:50]
    assert times[kept].tolist() == pytest.approx((np.array(pts)[kept] * TICK).tolist())


def test_missing_stamps_lie_between_their_neighbours():
    times, notes = times_of([0, None, 80, None, None, 200, None])
    assert times.tolist() == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24])
    assert "3" not in notes[0]
    assert "4" in notes[0]
    assert times_of([None] * 3)[0].tolist() == pytest.approx([0, 0.04, 0.08])


def test_times_of_decoding_replace_stamps_in_disorder():
    times, notes = times_of([1, 2, 4, 3, 5, 7, 6, 8], [1, 2, 3, 4, 5, 6, 7, None], time_base=1 / 25)
    assert times.tolist() == pytest.approx((np.arange(8) / 25).tolist())
    assert "times of decoding" in notes[0]


def test_a_video_with_twins_keeps_its_times_and_frames():
    ticks = [0, 1000, 2000, 3000, 3000, *(4000 + 10 * place for place in range(20))]

    def set_times(packets):
        for packet, tick in zip(packets, ticks, strict=True):
            packet.pts = packet.dts = tick
            packet.time_base, packet.duration = Fraction(1, 1000), 0

    data = numbered_video(range(25), format="matroska", options={"bf": "0"}, change=set_times)
    examination, shown = shown_numbers(data)
    assert (examination.health.verdict, shown) == ("ok", list(range(25)))
    assert examination.health.is_variable_rate
    assert examination.index is not None
    assert np.abs(examination.index.frame_times - np.array(ticks) * TICK).max() < 2e-3


@pytest.mark.parametrize("format", ["mp4", "mov", "matroska", "webm", "gif"])
def test_the_last_frame_lasts_as_long_as_it_says(format):
    codec, pixel_format = {
        "webm": ("libvpx-vp9", "yuv420p"),
        "gif": ("gif", "rgb8"),
    }.get(format, ("libx264", "yuv420p"))

    def hold(packets):
        packets[-1].duration = int(4 / packets[-1].time_base)

    options = {"bf": "0"} if codec == "libx264" else {}
    data = numbered_video(
        range(10),
        format=format,
        codec=codec,
        pixel_format=pixel_format,
        rate=10,
        options=options,
        change=hold,
    )
    examination, shown = shown_numbers(data)
    assert shown == list(range(10))
    assert examination.index is not None
    assert examination.index.duration == pytest.approx(4.9, abs=0.02)
    assert examination.index.frame_times.tolist() == pytest.approx([place / 10 for place in range(10)])


@pytest.mark.parametrize("format", ["mp4", "matroska", "avi", "mpegts"])
def test_a_single_frame_has_a_duration(format):
    codec = "mpeg2video" if format == "mpegts" else "mpeg4"
    examination, _ = shown_numbers(numbered_video([5], format=format, codec=codec, rate=25))
    assert examination.index is not None
    assert examination.index.duration == pytest.approx(0.04, abs=0.001)
