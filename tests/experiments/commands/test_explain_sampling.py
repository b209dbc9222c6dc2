"""`clipbert explain-sampling`: its table, its picture, and bad input."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.corpus.reader import open_corpus
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.cli import main


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    prepare_synthetic_videos(folder / "data", num_train=2, num_validation=1, num_test=1, num_workers=0)
    path = folder / "a.mp4"
    path.write_bytes(open_corpus(folder / "data").read("train_00000").data)
    return path


def rows_of(output: str) -> np.ndarray:
    """Return (wanted, frame, shown, difference) of every line of the table."""
    numbers = re.findall(r"(-?[\d.]+) s +(\d+) +([\d.]+) s +([+-][\d.]+) s$", output, re.MULTILINE)
    return np.array(numbers, float)


def test_table_says_what_is_shown_when(video, capsys, tmp_path):
    out = tmp_path / "a.png"
    main(["explain-sampling", str(video), "--num-clips", "3", "--num-frames", "2", "--out", str(out)])
    output = capsys.readouterr().out
    assert output.startswith("a.mp4: ")
    rows = rows_of(output)
    assert len(rows) == 6
    np.testing.assert_allclose(rows[:, 2] - rows[:, 0], rows[:, 3], atol=0.002)
    assert (rows[:, 3] <= 0.001).all(), "the frame on the screen is not later than wanted"
    np.testing.assert_allclose(rows[1::2, 0] - rows[::2, 0], 0.5)
    assert re.search(r"^ +1 ", output, re.MULTILINE)
    assert re.search(r"^ +3 ", output, re.MULTILINE)


def test_random_clips_follow_the_seed(video, capsys, tmp_path):
    def starts(*options: str) -> list[float]:
        main(
            [
                "explain-sampling",
                str(video),
                "--sampling",
                "random",
                "--out",
                str(tmp_path / "a.png"),
                *options,
            ]
        )
        return rows_of(capsys.readouterr().out)[::2, 0].tolist()

    assert starts("--seed", "1") == starts("--seed", "1") != starts("--seed", "2")


def test_the_rules_differ(video, capsys, tmp_path):
    def first(rule: str) -> float:
        main(["explain-sampling", str(video), "--rule", rule, "--out", str(tmp_path / "a.png")])
        return rows_of(capsys.readouterr().out)[0, 0]

    assert first("corrected") > first("original") == 0.0


@pytest.mark.parametrize(("num_clips", "num_frames"), [(1, 1), (8, 2), (16, 2), (2, 12)])
def test_picture_grows_with_the_clips(video, tmp_path, num_clips, num_frames):
    out = tmp_path / "a.png"
    options = {"--num-clips": num_clips, "--num-frames": num_frames, "--fps": 4, "--out": out}
    main(["explain-sampling", str(video), *(str(part) for pair in options.items() for part in pair)])
    height, width, _ = cv2.imread(str(out)).shape
    assert width == 1540
    assert 300 < height < 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4 does not exist: give the path of a video file"),
        (["VIDEO", "--num-clips", "0"], "--num-clips must be"),
        (["VIDEO", "--num-frames", "99"], "--num-frames must be"),
        (["VIDEO", "--fps", "0"], "--fps must be"),
        (["VIDEO", "--seed", "-1"], "--seed must be"),
        (["VIDEO", "--out", "a.txt"], "--out a.txt must end in .png, .svg or .pdf"),
        (["VIDEO", "--out", "/no/where/a.png"], "there is no directory /no/where"),
        (["VIDEO", "--out", "/proc/a.png"], "--out /proc/a.png cannot be written"),
        (["BROKEN"], "cannot read the video"),
    ],
)
def test_bad_input_is_refused_in_words(video, capsys, tmp_path, arguments, message):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:500])
    paths = {"VIDEO": str(video), "BROKEN": str(broken)}
    with pytest.raises(SystemExit, match="2"):
        main(["explain-sampling", *(paths.get(argument, argument) for argument in arguments)])
    assert message in capsys.readouterr().err
