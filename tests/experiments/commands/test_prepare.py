from __future__ import annotations

import json

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.corpus.storage import Compact, Frames, Original
from experiments.cli import main
from experiments.commands.prepare import StoreOptions

DATASETS = (
    "table", "msrvtt", "msrvtt_qa", "msrvtt_mc", "didemo", "activitynet", "activitynet_qa", "tgif_qa", "msvd",
    "msvd_qa", "lsmdc", "vqa", "coco", "visual_genome", "clipbert",
)  # fmt: skip


def shown(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_the_list_has_a_line_for_each_dataset(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = shown(capsys, "prepare")
    for name in DATASETS:
        assert f" {name} " in said
    assert len(said.split("\n")) < 60


@pytest.mark.parametrize("name", DATASETS)
def test_help_tells_where_files_come_from(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = shown(capsys, "prepare", name)
    assert name == "table" or "http" in said
    assert "--data-dir" in said
    assert "--storage" in said


def test_settings_of_a_storage_form():
    def form(**settings):
        return StoreOptions(**settings).storage_form

    assert form() == Original()
    assert form(storage="compact", size=224, gop=8) == Compact(size=224, gop=8)
    assert form(storage="frames", jpeg_fps=2.0) == Frames(fps=2.0)
    with pytest.raises(UserError, match="--jpeg-fps"):
        form(storage="compact", jpeg_fps=2.0)
    with pytest.raises(UserError, match="--size"):
        form(size=224)


@pytest.fixture
def lsmdc(tmp_path):
    """Return the arguments that prepare a few clips, two of which are there."""
    lines = [f"1_Film_0.{i}-0.9\t0\t1\t0\t1\tSOMEONE does {i} things.\n" for i in range(4)]
    (tmp_path / "train.csv").write_text("".join(lines[:3]))
    (tmp_path / "test.csv").write_text(lines[3])
    return [
        "prepare", "lsmdc", "--train", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"),
        "--videos", str(tmp_path / "videos"), "--data-dir", str(tmp_path / "data"), "--num-workers", "1",
    ]  # fmt: skip


def make_video(encode, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("demo")
    options = ["--num-train", "1", "--num-validation", "1", "--num-test", "1", "--num-workers", "0"]
    main(["prepare", "demo", "--data-dir", str(folder / "data"), *options])
    return open_corpus(folder / "data").read("test_00000").data


def test_a_truncated_file_is_refused_and_taken_on_request(lsmdc, tmp_path, video, capsys):
    for i in range(4):
        make_video(video, tmp_path / "videos" / "1_Film" / f"1_Film_0.{i}-0.9.mp4")
    with pytest.raises(SystemExit) as exit_:
        main(lsmdc)
    assert exit_.value.code == 2
    assert "has 1,000 sentences" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    main([*lsmdc, "--allow-partial"])
    said = capsys.readouterr().out
    assert "captions: 3 train, 1 test" in said
    assert "4 videos" in said
    assert len(read_records(tmp_path / "data", Caption, "train")) == 3
    assert json.loads((tmp_path / "data" / "prepare.json").read_text())["num_videos"] == 4


def test_too_many_missing_videos_give_exit_code_1(lsmdc, tmp_path, video, capsys):
    for i in (0, 3):
        make_video(video, tmp_path / "videos" / f"1_Film_0.{i}-0.9.mp4")
    with pytest.raises(SystemExit) as exit_:
        main([*lsmdc, "--allow-partial"])
    assert exit_.value.code == 1
    said = capsys.readouterr().out
    assert "2 videos are missing" in said
    assert "50.0% of the videos are missing or unreadable, more than --max-bad-share 1.0%" in said
    assert f"{tmp_path / 'data'} is complete without them and may be used as it is" in said
    main([*lsmdc, "--allow-partial", "--overwrite", "--max-bad-share", "0.6"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--max-bad-share", "-1"), "--max-bad-share must be"),
        (("--num-workers", "-1"), "--num-workers must be"),
    ],
)
def test_numbers_out_of_range_are_refused(option, message, lsmdc, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*lsmdc, *option])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
