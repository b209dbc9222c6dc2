"""`clipbert predict` with a model that is not trained, on a video of the demo."""

import json

import pytest

from data_pipelines.corpus.reader import open_corpus
from experiments.cli import main
from tests.experiments.conftest import OF_IMAGES
from tests.experiments.untrained import untrained_run


@pytest.fixture(name="use")
def use_untrained(monkeypatch, data_dir, images_dir):
    """Return a function: task -> an untrained run of it, which is what the command loads."""

    def load(task):
        run = untrained_run(task, images_dir if task in OF_IMAGES else data_dir)
        monkeypatch.setattr("experiments.runs.load_run.load_run", lambda path, step: run)
        return run

    return load


def write_video(data_dir, video_id, path):
    path.write_bytes(open_corpus(data_dir).read(video_id).data)
    return path


@pytest.fixture(name="video")
def video_file(data_dir, tmp_path):
    return write_video(data_dir, "test_00000", tmp_path / "a.mp4")


def predict(capsys, *arguments):
    """Return what the command says, as JSON."""
    capsys.readouterr()
    main(["predict", "untrained", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)
