from __future__ import annotations

import struct
import time

import av
import numpy as np
import pytest

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import _tried_positions, examine, examine_video
from data_pipelines.decoding.streams import open_video, orientation
from data_pipelines.decoding.video import UNKNOWN_PTS

IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
ORIENTATIONS = {  # matrix (a, b, c, d); what is done to the stored picture, by hand
    "clockwise": ((0, 1, -1, 0), lambda p: p.transpose(1, 0, 2)[:, ::-1], (270, False)),
    "upside_down": ((-1, 0, 0, -1), lambda p: p[::-1, ::-1], (180, False)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1], (0, True)),
    "flipped": ((1, 0, 0, -1), lambda p: p[::-1], (180, True)),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2), (270, True)),
}


@pytest.mark.parametrize("kind", ORIENTATIONS)
def test_pictures_are_turned_and_mirrored_as_a_player_shows_them(kind, encode_video):
    (a, b, c, d), by_hand, expected = ORIENTATIONS[kind]
    data = encode_video(num_frames=3)
    stored = read_frames(data, np.arange(3), examine_video(data).index)
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    place = data.rindex(IDENTITY)  # the track's; the movie's comes before it
    video = examine_video(data[:place] + matrix + data[place + len(matrix) :])
    index = video.index
    assert (index.rotation, index.is_reflected) == expected
    shown = np.stack([by_hand(frame) for frame in stored])
    assert shown.shape[1:3] == (index.height, index.width)
    np.testing.assert_array_equal(read_frames(video.data, np.arange(3), index), shown)
    assert ("mirrored" in video.health.notes) == index.is_reflected


def test_a_frame_without_matrix_is_upright():
    assert orientation(av.VideoFrame(16, 16, "yuv420p")) == (0, False)


def test_health_says_what_a_user_should_know(encode_video):
    health = examine_video(
        encode_video(num_frames=20, first_pts=30, format="mpegts", options={"bf": "0"})
    ).health
    assert health.verdict == "ok"
    assert (health.codec, health.container, health.pixel_format) == ("h264", "mpegts", "yuv420p")
    assert health.num_frames == 20
    assert health.fps == pytest.approx(10)
    assert health.start_time == pytest.approx(3)
    assert not health.is_variable_rate


def test_variable_rate_is_noticed(encode_video):
    health = examine_video(encode_video(num_frames=6, pts=[0, 1, 2, 3, 9, 10], format="matroska")).health
    assert health.is_variable_rate
    assert health.fps == pytest.approx(5)


def test_damage_in_the_middle_is_located(encode_video):
    data = bytearray(encode_video(num_frames=60, gop=20, options={"preset": "veryfast", "bf": "0"}))
    with open_video(bytes(data)) as (container, stream, _):
        packets = [(packet.pos, packet.size) for packet in container.demux(stream) if packet.size]
    place, size = packets[25]
    data[place + 20 : place + size] = bytes(size - 20)
    examination = examine(bytes(data))
    assert examination.health.verdict == "damaged"
    assert "does not decode cleanly" in examination.health.reason
    ((begin, end),) = examination.health.damaged_ranges
    assert begin == pytest.approx(2.5)
    assert end == pytest.approx(4.0)  # where the next key frame is
    assert examination.index is not None
    assert examination.index.first_pts == UNKNOWN_PTS
    assert read_frames(bytes(data), np.array([50]), examination.index).shape == (1, 48, 64, 3)
    assert examine(bytes(data)).health == examination.health


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0" * 1000, "not a video"),
        (b"GIF89a" + b"\0" * 42, "not a video"),
    ],
)
def test_what_is_no_video_is_unreadable_in_plain_words(content, reason):
    examination = examine(content)
    assert examination.index is None
    assert examination.health.verdict == "unreadable"
    assert reason in examination.health.reason
    assert "Errno" not in examination.health.reason


def test_a_file_opens_neither_other_files_nor_ports(encode_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(encode_video(num_frames=3))
    session = (
        b"v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 7110 RTP/AVP 96\na=rtpmap:96 H264/90000\n" + b"\n" * 600
    )
    for content in (b"ffconcat version 1.0\nfile secret.mp4\n", session, b"FLV\n" + session):
        start = time.monotonic()
        assert examine(content).health.verdict == "unreadable"
        assert time.monotonic() - start < 30  # a port would be listened at for a minute


def test_one_frame_is_a_video(encode_video):
    video = examine_video(encode_video(num_frames=1))
    assert video.index.frame_times.tolist() == [0.0]
    assert video.index.duration == pytest.approx(0.1)
    assert read_frames(video.data, np.array([0, 0]), video.index).shape == (2, 48, 64, 3)


def test_random_access_is_tried_all_over_a_file():
    short = _tried_positions(np.arange(0, 400, 30), 400)
    assert np.diff(short).max() <= 4
    assert short[-1] == 399
    long = _tried_positions(np.arange(0, 100_000, 250), 100_000)
    assert len(long) < 350
    assert np.diff(long).max() <= 700
    assert np.unique(long % 4).size == 4  # no pattern of reference frames escapes


@pytest.mark.parametrize("format", ["matroska", "webm"])
def test_a_file_shorter_than_it_says_is_damaged(format, encode_video):
    codec = {"matroska": "libx264", "webm": "libvpx-vp9"}[format]
    options = {"preset": "ultrafast"} if format == "matroska" else {"deadline": "realtime", "cpu-used": "8"}
    data = encode_video(num_frames=60, format=format, codec=codec, options=options)
    assert examine(data).health.verdict == "ok"
    health = examine(data[: len(data) // 2]).health
    assert health.verdict == "damaged"
    assert health.reason.endswith("of a video of 6 s are there; the file is truncated")
    assert health.damaged_ranges[-1][1] == pytest.approx(6.0, abs=0.02)
    assert 0 < health.num_frames < 60


def test_only_headers_tell_of_encryption(encode_video):
    data = encode_video(num_frames=20)
    place = data.index(b"mdat") + 400
    unlucky = data[:place] + b"pssh" + data[place + 4 :]
    assert "encrypted" not in examine(unlucky[: len(data) // 2]).health.reason
