"""Frames have the shape that a player shows: square pixels, one field, the stream that was meant."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from data_pipelines.clips import sample_clips
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine, examine_video
from data_pipelines.decoding.video import as_stored
from tests.data_pipelines.decoding.numbered_video import number_of, numbered_video, picture, shown_numbers


def pixels_of(ratio: Fraction, rotation: int = 0) -> Callable[[av.VideoStream], None]:
    def set_up(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = ratio
        if rotation:
            stream.set_display_rotation(rotation)

    return set_up


@pytest.mark.parametrize(
    ("ratio", "rotation", "expected"),
    [
        ((64, 45), 0, (102, 58)),
        ((8, 9), 0, (72, 65)),
        ((64, 45), 90, (58, 102)),
        ((8, 9), 90, (65, 72)),
        ((1, 1), 0, (72, 58)),
        ((1000, 3), 0, (72, 58)),  # an error of the header
    ],
)
@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_pixels_that_are_not_square_are_stretched(ratio, rotation, expected, format):
    set_up = pixels_of(Fraction(*ratio), rotation)
    video = examine_video(numbered_video(range(3), format=format, size=(72, 58), set_up=set_up))
    index, stored = video.index, as_stored(video.index)
    assert (index.width, index.height) == expected
    frames = read_frames(video.data, np.arange(3), index)
    assert frames.shape == (3, expected[1], expected[0], 3)
    assert (stored.width, stored.height) == ((58, 72) if rotation else (72, 58))
    assert read_frames(video.data, np.arange(3), stored).shape == (3, stored.height, stored.width, 3)
    is_noted = any("pixels are not square: 72x58 shown as" in note for note in video.health.notes)
    assert is_noted == (ratio in ((64, 45), (8, 9)))
    if not rotation:
        assert [number_of(frame) for frame in frames] == [0, 1, 2]


def test_only_the_rule_of_the_original_keeps_stored_pixels():
    set_up = pixels_of(Fraction(2, 1))
    video = examine_video(numbered_video(range(4), size=(64, 64), set_up=set_up))
    config = DataConfig(data_dir="unused", size=64, num_frames=1)
    corrected = sample_clips(video, config, num_clips=1)
    assert (corrected.width, corrected.height) == (128, 64)
    assert not corrected.frames[0, 0, 32:].any()  # padding below a wide picture
    config = DataConfig(data_dir="unused", size=64, num_frames=1, sampling_rule="original")
    original = sample_clips(video, config, num_clips=1)
    assert (original.width, original.height) == (64, 64)
    assert original.frames[0, 0, 32:].any()


def combed(upper: int, lower: int) -> np.ndarray:
    """Return a frame with a bar that stands at another place in each field."""
    frame = np.full((48, 64, 3), 40, np.uint8)
    frame[::2, upper : upper + 8] = 220
    frame[1::2, lower : lower + 8] = 220
    return frame


def test_interlaced_frames_show_their_first_field_whichever_frames_are_wanted():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        options = {"x264-params": "interlaced=1:tff=1", "crf": "5"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for place in range(6):
            pixels = combed(8 * place + 8, 8 * place)  # x264 shows the lower field first
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    video = examine_video(file.getvalue())
    assert "interlaced, shown without the second field" in video.health.notes
    frames = read_frames(video.data, np.arange(6), video.index).astype(int)
    for place, frame in enumerate(frames):
        middle = frame[10:38]
        assert middle[:, 8 * place + 2 : 8 * place + 6].min() > 150, place
        assert middle[:, 8 * place + 10 : 8 * place + 14].max() < 110, place
    np.testing.assert_array_equal(read_frames(video.data, np.array([3]), video.index)[0], frames[3])
    as_in_file = read_frames(video.data, np.array([3]), as_stored(video.index)).astype(int)[0]
    assert np.abs(as_in_file[10:38] - combed(32, 24)[10:38]).max() < 40


def two_streams(*parts: tuple[str, tuple[int, int], range, Disposition], format: str = "matroska") -> bytes:
    """Return a file with streams of (codec, size, what the frames show, marks)."""
    file, packets = io.BytesIO(), []
    with av.open(file, "w", format=format) as container:
        for codec, size, numbers, marks in parts:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = marks
            for number in numbers:
                frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
                packets += stream.encode(frame)
            packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return file.getvalue()


NONE, DEFAULT, COVER = Disposition(0), Disposition.default, Disposition.attached_pic
MOVIE = range(10)
STREAMS = {
    "the default one": (("libx264", (160, 96), range(9, 10), NONE), ("libx264", (64, 48), MOVIE, DEFAULT)),
    "the larger of equal ones": (
        ("libx264", (32, 32), range(30, 40), DEFAULT),
        ("libx264", (64, 48), MOVIE, DEFAULT),
    ),
    "the first of the same": (
        ("libx264", (64, 48), MOVIE, DEFAULT),
        ("libx264", (64, 48), range(30, 40), DEFAULT),
    ),
    "no cover": (("mjpeg", (320, 240), range(200, 201), COVER | DEFAULT), ("libx264", (64, 48), MOVIE, NONE)),
    "no description for few": (
        ("libx264", (96, 96), range(30, 40), Disposition.visual_impaired),
        ("libx264", (64, 48), MOVIE, NONE),
    ),
}


@pytest.mark.parametrize("parts", STREAMS.values(), ids=STREAMS)
def test_the_stream_that_a_player_would_choose_is_read(parts):
    has_cover = any(marks & COVER for _, _, _, marks in parts)
    data = two_streams(*parts, format="mp4" if has_cover else "matroska")
    examination, shown = shown_numbers(data)
    assert examination.index is not None
    assert ((examination.index.width, examination.index.height), shown) == ((64, 48), list(MOVIE))


def test_a_thumbnail_of_one_frame_in_an_mp4_is_not_the_movie():
    thumbnail = ("mjpeg", (320, 240), range(200, 201), DEFAULT)
    data = two_streams(thumbnail, ("libx264", (64, 48), MOVIE, DEFAULT), format="mov")
    assert shown_numbers(data)[1] == list(MOVIE)


def test_side_data_that_pyav_does_not_name_do_not_hide_a_video():
    exif = Image.Exif()
    exif[0x10F] = "Camera"
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(5):
            jpeg = io.BytesIO()
            Image.fromarray(picture(number)).save(jpeg, "JPEG", quality=95, exif=exif)
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    examination, shown = shown_numbers(file.getvalue())
    assert (examination.health.verdict, shown) == ("ok", list(range(5)))


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("ffv1", "gray10le"), ("ffv1", "ya8"), ("ffv1", "yuv410p"), ("ffv1", "gbrp16le"), ("ffv1", "yuva420p"),
     ("rawvideo", "gbrpf32le"), ("rawvideo", "monow"), ("rawvideo", "xyz12le"), ("rawvideo", "bgr8")],
)  # fmt: skip
def test_every_pixel_format_of_ffmpeg_is_shown(codec, pixel_format):
    data = numbered_video(range(3), format="nut", codec=codec, pixel_format=pixel_format)
    examination, shown = shown_numbers(data)
    assert (examination.health.pixel_format, shown) == (pixel_format, [0, 1, 2])


def test_a_stream_of_an_unknown_codec_is_passed_over():
    data = two_streams(
        ("libx264", (96, 96), range(30, 40), DEFAULT), ("libx265", (64, 48), MOVIE, NONE), format="matroska"
    )
    unknown = data.replace(b"V_MPEG4/ISO/AVC", b"V_NOBODY/KNOWS\0", 1)
    assert shown_numbers(unknown)[1] == list(MOVIE)
    assert (
        examine(unknown.replace(b"V_MPEGH/ISO/HEVC", b"V_NOBODY/KNOWSIT", 1)).health.verdict == "unreadable"
    )
