"""A verdict counts what a player shows: what is hidden by design is not damage."""

from __future__ import annotations

import struct

import pytest

from data_pipelines.decoding.examine import examine
from tests.data_pipelines.decoding.numbered_video import (
    copied,
    ffmpeg_numbers,
    numbered_video,
    shown_numbers,
)

H264 = {"bf": "2", "g": "20", "sc_threshold": "0"}
OPEN_GROUPS = {
    "libx264": {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0"},
    "libx265": {
        "x265-params": "open-gop=1:keyint=12:min-keyint=12:bframes=4:scenecut=0:log-level=none:pools=1"
    },
    "mpeg2video": {"bf": "2", "g": "12"},
}


@pytest.fixture(scope="module")
def long_video() -> bytes:
    return numbered_video(range(100), options=H264)


@pytest.mark.parametrize("format", ["mp4", "mov"])
@pytest.mark.parametrize("seconds", [0.04, 1.4, 2.36])
def test_a_file_cut_without_encoding_hides_its_lead_in(long_video, format, seconds):
    data = copied(long_video, format, at_seconds=seconds)
    examination, shown = shown_numbers(data)
    assert examination.health.verdict == "ok", examination.health.reason
    assert shown == list(range(round(seconds * 25), 100))


EDITS = {  # duration in milliseconds, first tick of the media
    "shorter than its media": [(2000, 1024)],
    "from the middle": [(1000, 1024 + 512 * 37)],
    "longer than its media": [(9000, 1024)],
    "after a pause": [(1500, -1), (4000, 1024)],
    "two parts": [(1000, 1024), (1000, 1024 + 512 * 50)],
    "in another order": [(1000, 1024 + 512 * 50), (1000, 1024)],
}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_an_edit_list_decides_what_is_shown(long_video, edits):
    data = with_edit_list(long_video, edits)
    examination, shown = shown_numbers(data)
    assert examination.health.verdict == "ok", examination.health.reason
    assert shown == ffmpeg_numbers(data)
    assert examination.index is not None
    assert examination.index.duration == pytest.approx(len(shown) / 25, abs=0.041)


def with_edit_list(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    """Replace the edit list of an MP4, and correct the sizes of the boxes around it."""
    begin = data.index(b"elst") - 4
    (size,) = struct.unpack_from(">I", data, begin)
    rows = b"".join(struct.pack(">IiHH", milliseconds, tick, 1, 0) for milliseconds, tick in edits)
    box = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
    changed = bytearray(data[:begin] + box + data[begin + size :])
    for outer in (b"moov", b"trak", b"edts"):
        place = changed.rindex(outer, 0, begin + 8) - 4
        struct.pack_into(">I", changed, place, struct.unpack_from(">I", changed, place)[0] + len(box) - size)
    return bytes(changed)


@pytest.mark.parametrize(
    ("codec", "format"),
    [("libx264", "mp4"), ("libx264", "matroska"), ("libx265", "mp4"), ("libx265", "matroska"),
     ("mpeg2video", "mpegts"), ("mpeg2video", "mpeg")],
)  # fmt: skip
def test_leading_pictures_of_an_open_key_frame_are_not_missed(codec, format):
    source = numbered_video(range(36), codec=codec, options=OPEN_GROUPS[codec])
    data = copied(source, format, from_key_frame=1)
    examination, shown = shown_numbers(data)
    assert examination.health.verdict == "ok", examination.health.reason
    assert shown == ffmpeg_numbers(data)
    assert shown[-20:] == list(range(16, 36))


def avi(ticks: list[int]) -> bytes:
    return numbered_video(range(len(ticks)), format="avi", codec="mpeg4", ticks=ticks)


def test_empty_packets_of_an_avi_repeat_the_picture_before():
    ticks = [*range(10), *range(20, 30)]
    examination, shown = shown_numbers(avi(ticks))
    assert (examination.health.verdict, shown) == ("ok", list(range(20)))
    assert examination.index is not None
    assert examination.index.frame_times.tolist() == pytest.approx([tick / 25 for tick in ticks])


@pytest.mark.parametrize("declared", [3, 500])
def test_a_header_that_counts_otherwise_is_not_damage(declared):
    data = bytearray(avi(list(range(20))))
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, declared)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, declared)
    examination, shown = shown_numbers(bytes(data))
    assert (examination.health.verdict, shown) == ("ok", list(range(20)))


@pytest.mark.parametrize(
    ("format", "codec", "container_options", "share"),
    [("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, 0.5), ("avi", "mpeg4", {}, 0.8),
     ("asf", "msmpeg4", {}, 0.5), ("flv", "flv", {}, 0.5)],
    ids=["fragmented mp4", "avi", "asf", "flv"],
)  # fmt: skip
def test_data_that_end_early_are_damage(format, codec, container_options, share):
    options = {"g": "10"}
    data = numbered_video(
        range(50), format=format, codec=codec, options=options, container_options=container_options
    )
    assert examine(data).health.verdict == "ok"
    health = examine(data[: int(share * len(data))]).health
    assert health.verdict == "damaged"
    assert 0 < health.num_frames < 50
