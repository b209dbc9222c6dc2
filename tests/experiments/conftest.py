"""Small corpora of videos and images, and a run of each demo, shared by the tests of the commands.

The commands are imported late: pytest may load this before it has told JAX of the compilation cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

TASKS = ("retrieval", "multiple_choice", "open_ended_qa", "count", "image_qa", "pretraining")
OF_IMAGES = ("count", "image_qa", "pretraining")

SMALL = (  # noqa: SIM905, reads better than a list
    "--data.size 32 --data.num-clips 2 --train.batch-size 8 --train.num-steps 2 --train.log-every-steps 1 "
    "--model.pixel-encoder.stage-blocks 1 --model.fusion.num-layers 1 --model.fusion.hidden-size 16 "
    "--model.fusion.num-heads 2 --model.fusion.intermediate-size 32"
).split()
"""Options of a training that compiles in some seconds."""

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 train, 3 validation and 6 test videos."""
    from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos

    path = tmp_path_factory.mktemp("data") / "demo"
    return prepare_synthetic_videos(path, num_train=8, num_validation=3, num_test=6, num_workers=0)


@pytest.fixture(scope="session")
def images_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 train, 3 validation and 6 test images."""
    from data_pipelines.synthetic.image_corpus import prepare_synthetic_images

    path = tmp_path_factory.mktemp("data") / "demo_images"
    return prepare_synthetic_images(path, num_train=8, num_validation=3, num_test=6, num_workers=0)


@pytest.fixture(scope="session")
def run_of(data_dir: Path, images_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function: name of a task -> a run of its demo; each is trained once."""
    from experiments.cli import main

    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def train(task: str) -> Path:
        data = images_dir if task in OF_IMAGES else data_dir
        options = ["--data-dir", str(data), "--workdir", str(folder / task), "--train.num-validations", "1"]
        main(["train", f"demo/{task}", *options, *SMALL])
        return folder / task

    return train


@pytest.fixture
def run_dir(run_of: Train) -> Path:
    """A run of retrieval."""
    return run_of("retrieval")


def fails(arguments: Iterable[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail; return what it says to the user."""
    from experiments.cli import main

    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    text = said.err + said.out
    assert "Traceback" not in text
    return text
