"""Small corpora of videos and images, and a run of each demo, shared by the tests of the commands.

The commands are imported late: pytest may load this before it has told JAX of the compilation cache.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import filelock
import pytest

from tests.xla_flags import SHARED_FOLDER

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
def data_dir() -> Path:
    """8 train, 3 validation and 6 test videos."""
    from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos

    numbers = {"num_train": 8, "num_validation": 3, "num_test": 6}
    return made_once("demo", lambda path: prepare_synthetic_videos(path, **numbers, num_workers=0))


@pytest.fixture(scope="session")
def images_dir() -> Path:
    """8 train, 3 validation and 6 test images."""
    from data_pipelines.synthetic.image_corpus import prepare_synthetic_images

    numbers = {"num_train": 8, "num_validation": 3, "num_test": 6}
    return made_once("demo_images", lambda path: prepare_synthetic_images(path, **numbers, num_workers=0))


@pytest.fixture(scope="session")
def run_of(data_dir: Path, images_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function: name of a task -> a run of its demo, trained once for all processes.

    Each call gives a copy of its own, as tests write into runs.
    """
    from experiments.cli import main

    def train(task: str) -> Path:
        data = images_dir if task in OF_IMAGES else data_dir
        options = ["--data-dir", str(data), "--train.num-validations", "1", *SMALL]
        trained = made_once(
            f"run_{task}", lambda path: main(["train", f"demo/{task}", "--workdir", str(path), *options])
        )
        return shutil.copytree(trained, tmp_path_factory.mktemp("runs") / task)

    return train


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process of pytest which asks for it makes."""
    shared = Path(os.environ[SHARED_FOLDER])
    with filelock.FileLock(shared / f"{name}.lock"):
        if not (shared / f"{name}.made").exists():
            make(shared / name)
            (shared / f"{name}.made").touch()
    return shared / name


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
