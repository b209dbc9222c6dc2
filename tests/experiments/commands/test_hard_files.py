"""Files that people have, through the commands: turned by a camera, of one frame, oddly named, cut off."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from experiments.cli import main
from experiments.serve.decoding import thumbnail
from tests.experiments.conftest import fails
from tests.experiments.untrained import untrained_run

RED = (220, 30, 30)
SCRIPT = "<script>alert(1)<:script>.mp4"
IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
CLOCKWISE = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)


def encoded(codec: str, suffix: str, pixel_format: str, num_frames: int) -> bytes:
    """Return a video of 96x64 pixels, 10 frames a second, grey with red at the top left."""
    pixels = np.full((64, 96, 3), 90, np.uint8)
    pixels[:32, :48] = RED
    file = io.BytesIO()
    with av.open(file, "w", format=suffix) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class Hard:
    """A file, and what is seen of it."""

    name: str
    data: bytes
    is_turned: bool = False
    last_second: tuple[float, float] = (1.0, 1.9)
    """Between which the last clip ends: in the second half, before the end."""


def turned(data: bytes) -> bytes:
    place = data.rindex(IDENTITY)  # of the track; that of the movie comes before
    return data[:place] + CLOCKWISE + data[place + len(CLOCKWISE) :]


MP4 = encoded("libx264", "mp4", "yuv420p", 20)
FILES = [
    Hard("turned.mp4", turned(MP4), is_turned=True),
    Hard("one frame.gif", encoded("gif", "gif", "rgb8", 1), last_second=(0.0, 0.0)),
    Hard(SCRIPT, MP4),
]


@pytest.fixture(scope="module")
def run(data_dir):
    return untrained_run("retrieval", data_dir)


@pytest.fixture
def use_run(run, monkeypatch):
    monkeypatch.setattr("experiments.runs.load_run.load_run", lambda path, step: run)


def is_upright(picture: np.ndarray, *, is_turned: bool) -> bool:
    """Return whether red is at the top: left, or right in a picture that is turned clockwise."""
    height, width = picture.shape[:2]
    quarters = [picture[height // 8, width // 8], picture[height // 8, -(width // 8)]]
    quarters += [picture[-(height // 8), width // 8], picture[-(height // 8), -(width // 8)]]
    reds = [int(quarter[0]) - int(quarter[1]) > 100 for quarter in quarters]
    return reds == [not is_turned, is_turned, False, False] and (height > width) == is_turned


def pictures(page: Path) -> list[np.ndarray]:
    """Return the JPEGs that a page shows, RGB."""
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    jpegs = [np.frombuffer(base64.b64decode(text), np.uint8) for text in found]
    return [cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1] for jpeg in jpegs]


def said(capsys, *arguments):
    capsys.readouterr()
    main([*map(str, arguments)])
    return capsys.readouterr().out


@pytest.mark.parametrize("hard", FILES, ids=lambda hard: hard.name[:6])
def test_hard_files_go_through_every_command(hard, use_run, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / hard.name
    file.write_bytes(hard.data)
    clips = ["--num-clips", "2"]

    predicted = json.loads(said(capsys, "predict", "run", file, "--texts", "a ball", *clips, "--json"))
    first, last = predicted["clip_seconds"]
    assert 0 <= first[0] <= first[1] <= last[0]
    assert hard.last_second[0] <= last[1] <= hard.last_second[1]
    assert hard.name in said(capsys, "predict", "run", file, "--texts", "a ball", *clips)

    said(capsys, "probe", "run", file, "--text", "a ball", *clips, "--out", tmp_path / "probe.html")
    page = ["--out", tmp_path / "search.html"]
    options = [*clips, "--num-workers", "0", "--json", *page]
    (found,) = json.loads(said(capsys, "search", "run", folder, "a ball", *options))["texts"][0]["videos"]
    assert found["video"] == hard.name
    np.testing.assert_allclose(found["clip_seconds"], predicted["clip_seconds"], atol=1e-3)
    assert found["probability"] == pytest.approx(predicted["texts"][0]["probability"], abs=2e-3)
    for path in (tmp_path / "probe.html", tmp_path / "search.html"):
        shown = pictures(path)
        assert shown
        assert all(is_upright(picture, is_turned=hard.is_turned) for picture in shown)
        assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_half_a_file_gets_a_sentence_from_every_command(use_run, tmp_path, capsys):
    (tmp_path / "half.mp4").write_bytes(MP4[: len(MP4) // 2])
    (tmp_path / "whole.mp4").write_bytes(MP4)
    half = tmp_path / "half.mp4"
    for asked in (["predict", "run", half, "--texts", "a"], ["probe", "run", half, "--text", "a"]):
        sentence = fails([*asked, "--num-clips", "2"], capsys)
        assert sentence.startswith(f"clipbert: cannot read the video {half}: ")
        assert "truncated" in sentence
        assert sentence.count("\n") == 1
    options = ["--num-clips", "2", "--num-workers", "0", "--json"]
    found = json.loads(said(capsys, "search", "run", tmp_path, "a ball", *options))
    assert [video["video"] for video in found["texts"][0]["videos"]] == ["whole.mp4"]
    assert [(one["video"], "truncated" in one["reason"]) for one in found["unreadable"]] == [
        ("half.mp4", True)
    ]


# ---- Small pictures of the server --------------------------------------------------------------------------


@pytest.mark.parametrize("hard", FILES, ids=lambda hard: hard.name[:6])
def test_thumbnails_are_upright(hard, tmp_path):
    file = tmp_path / hard.name
    file.write_bytes(hard.data)
    picture = cv2.imdecode(np.frombuffer(thumbnail(file), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert is_upright(picture, is_turned=hard.is_turned)


def test_thumbnails_of_pictures_are_as_videos_show_them(tmp_path):
    """Upright by EXIF, alpha over white, and none of what would fill the memory."""
    pixels = np.full((64, 96, 4), 255, np.uint8)
    pixels[..., :3] = (90, 90, 90)
    pixels[:32, :48, :3] = RED[::-1]
    pixels[32:, :, 3] = 0
    file = tmp_path / "a.png"
    file.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    picture = cv2.imdecode(np.frombuffer(thumbnail(file), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert is_upright(picture, is_turned=False)
    assert picture[-10, 10].min() > 240
    bomb = bytearray(file.read_bytes())
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    file.write_bytes(bomb)
    assert thumbnail(file) is None
