from __future__ import annotations

import ctypes
import gc
import io
import wave

import av
import numpy as np
import pytest

from data_pipelines.decoding import decode
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine, examine_video
from data_pipelines.decoding.video import UNKNOWN_PTS, UnreadableVideo

X264 = {
    "no_b_frames": {"options": {"preset": "ultrafast"}, "gop": 12},
    "b_frames": {"options": {"preset": "medium", "bf": "3"}, "gop": 12},
    "b_pyramid_long_gop": {"options": {"preset": "medium", "bf": "4", "b-pyramid": "normal"}, "gop": 250},
    "open_gop": {"options": {"preset": "medium", "bf": "3", "x264-params": "open-gop=1"}, "gop": 10},
    "intra_refresh": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "matroska": {"options": {"preset": "medium", "bf": "2"}, "format": "matroska"},
    "mpeg_ts_start_offset": {"options": {"bf": "2"}, "format": "mpegts", "first_pts": 50},
    "mpeg4": {"codec": "mpeg4", "options": {}},
    "avi_without_pts": {"codec": "mpeg4", "options": {"bf": "2"}, "format": "avi"},
    "vp9": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}, "format": "webm"},
}


def decode_all(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("kind", X264)
def test_wanted_frames_equal_those_of_a_full_decode(kind, encode_video):
    video = examine_video(encode_video(**X264[kind]))
    data, index = video.data, video.index
    reference = decode_all(data)
    assert len(index.frame_times) == len(reference)
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 17):
        wanted = rng.integers(0, len(reference), count)  # any order, repeats
        np.testing.assert_array_equal(read_frames(data, wanted, index), reference[wanted])


@pytest.mark.parametrize("kind", X264)
def test_jumps_over_unwanted_frames_change_no_pixel(kind, encode_video, monkeypatch):
    monkeypatch.setattr(decode, "MIN_JUMP", 1)
    landed = []
    jump = decode._jump
    monkeypatch.setattr(decode, "_jump", lambda *inputs: landed.append(jump(*inputs)) or landed[-1])
    video = examine_video(encode_video(**X264[kind], num_frames=90))
    reference = decode_all(video.data)
    rng = np.random.default_rng(1)
    for count in (1, 2, 3, 4, 6):
        wanted = rng.integers(0, len(reference), count)
        np.testing.assert_array_equal(read_frames(video.data, wanted, video.index), reference[wanted])
    if kind in ("no_b_frames", "b_frames", "open_gop", "matroska", "vp9"):
        assert any(landed)


def test_a_jump_that_goes_astray_is_made_good(encode_video, monkeypatch):
    video = examine_video(encode_video(num_frames=60))
    monkeypatch.setattr(decode, "MIN_JUMP", 1)
    jump = decode._jump
    monkeypatch.setattr(decode, "_jump", lambda c, s, tick, of: [] if tick else jump(c, s, tick, of))
    wanted = np.array([50, 3, 27])
    np.testing.assert_array_equal(
        read_frames(video.data, wanted, video.index), decode_all(video.data)[wanted]
    )


def test_random_access_decodes_only_what_it_needs(encode_video, monkeypatch):
    video = examine_video(encode_video(num_frames=60, gop=12, options={"preset": "ultrafast"}))
    data, index = video.data, video.index
    assert index.key_frames.tolist() == [0, 12, 24, 36, 48]
    decoded = []
    keep = decode._keep
    monkeypatch.setattr(
        decode, "_keep", lambda frames, of: (decoded.extend(f.pts for f in frames), keep(frames, of))[1]
    )
    read_frames(data, np.array([38, 13]), index)
    assert len(decoded) == 2 + 3  # 12, 13 and 36, 37, 38


def test_frame_times_are_seconds_after_the_first_frame(encode_video):
    shown_at = [0, 1, 2, 5, 6, 10, 11, 20, 21, 30]  # tenths of a second: variable frame rate
    data = encode_video(num_frames=10, pts=shown_at, first_pts=7, format="matroska")
    index = examine_video(data).index
    np.testing.assert_allclose(index.frame_times, np.array(shown_at) / 10, atol=1.1e-3)  # mkv counts in ms
    assert index.duration == pytest.approx(3.1, abs=0.02)
    assert (index.width, index.height, index.rotation) == (64, 48, 0)


def test_a_file_whose_seeking_is_broken_is_read_from_its_start(encode_video, monkeypatch):
    original = decode._decode
    # As a file whose key frames do not start a decode cleanly: another frame comes out.
    monkeypatch.setattr(
        decode,
        "_decode",
        lambda *inputs: ((p - p % 12, f) for p, f in original(*inputs)),
    )
    video = examine_video(encode_video())
    data, index = video.data, video.index
    assert index.first_pts == UNKNOWN_PTS
    np.testing.assert_array_equal(read_frames(data, np.array([17, 3]), index), decode_all(data)[[17, 3]])


def test_an_index_of_other_bytes_is_refused(encode_video):
    index = examine_video(encode_video(num_frames=40)).index
    other = encode_video(num_frames=10)
    with pytest.raises(UnreadableVideo, match=r"frames \[30\] of its index cannot be decoded"):
        read_frames(other, np.array([30, 3]), index)


def make_wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\0" * 8000)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"these are words, not pictures\n" * 50, "not a video"),
        (make_wav(), "no video stream"),
    ],
)
def test_what_is_no_video_is_named_with_the_reason(content, reason, tmp_path):
    path = tmp_path / "holiday.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableVideo, match=reason) as error:
        examine_video(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_files_are_refused(encode_video, tmp_path):
    data = encode_video(num_frames=60)
    with pytest.raises(UnreadableVideo, match=r"an MP4 of [\d,]+ bytes whose index \(moov box\) is missing"):
        examine_video(data[: len(data) // 2])  # its table of contents was at the end
    path = tmp_path / "faststart.mp4"
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    whole = path.read_bytes()
    assert len(examine_video(whole).index.frame_times) == 60
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    for cut in (places[30], places[30] + 3):  # between two frames, within a frame
        path.write_bytes(whole[:cut])
        with pytest.raises(UnreadableVideo, match=r"only 30 of 60 frames .* the file is truncated"):
            examine_video(path)
    health = examine(whole[: places[30]]).health
    assert (health.verdict, health.num_frames, health.num_declared_frames) == ("damaged", 30, 60)
    assert health.damaged_ranges[-1][1] == pytest.approx(6.0)


def test_frames_have_one_size_whichever_are_asked_for(encode_video):
    small = encode_video(num_frames=12, size=(64, 48), format="mpegts", options={"bf": "0"})
    large = encode_video(num_frames=12, size=(96, 80), format="mpegts", options={"bf": "0"}, first_pts=12)
    video = examine_video(small + large)  # a transport stream may change its resolution
    data, index = video.data, video.index
    assert len(index.frame_times) == 24
    assert (index.width, index.height) == (64, 48)
    together = read_frames(data, np.array([3, 20]), index)
    np.testing.assert_array_equal(read_frames(data, np.array([20]), index)[0], together[1])


def test_metadata_need_not_be_utf8(encode_video):
    data = encode_video(num_frames=3, format="matroska")
    assert data.count(b"Lavf") > 0  # the name of the writing program
    index = examine_video(data.replace(b"Lavf", b"L\xa8vf")).index
    assert len(index.frame_times) == 3


class _MallInfo(ctypes.Structure):
    _fields_ = [
        ("before", 7 * ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("after", 2 * ctypes.c_size_t),
    ]


@pytest.fixture
def allocated():
    """Return a function: bytes that this process has got from glibc, FFmpeg's among them."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("a C library without mallinfo2")
    mallinfo2.restype = _MallInfo

    def measure():
        gc.collect()
        return mallinfo2().uordblks

    return measure


@pytest.mark.parametrize("min_jump", [1, 500])
def test_reading_a_part_of_a_video_keeps_no_memory(min_jump, encode_video, monkeypatch, allocated):
    monkeypatch.setattr(decode, "MIN_JUMP", min_jump)
    video = examine_video(encode_video(**X264["no_b_frames"]))

    def read(times):
        for _ in range(times):
            read_frames(video.data, np.array([2, 14]), video.index)

    read(100)
    before = allocated()
    read(400)
    assert (allocated() - before) / 400 < 50  # PyAV's buffer for a packet alone has 156 bytes
