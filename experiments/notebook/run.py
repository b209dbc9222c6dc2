"""A trained model for the notebooks: that of `make demo` if it exists, else one trained in about a minute.

Data and runs are made once, below the repository or below the folder that the environment variable
CLIPBERT_NOTEBOOKS_DIR names.

The quick model first learns objects from images with captions, which show all that is said. Then it goes on
with videos, whose clips show a part of it. The paper's models train in the same order, and nothing else works
in so little time.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from clipbert_jax.training.saved_checkpoint import WhichStep, has_checkpoint
from data_pipelines.data_config import DataConfig
from data_pipelines.synthetic.image_corpus import prepare_synthetic_images
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.configs import demo_retrieval
from experiments.experiment import Experiment, InitConfig
from experiments.runs.evaluate_run import evaluate
from experiments.runs.load_run import Run, load_run
from experiments.runs.train_run import train_run
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.runtime.progress import say

FOLDER_VARIABLE = "CLIPBERT_NOTEBOOKS_DIR"
REPOSITORY = Path(__file__).resolve().parents[2]
NUM_CLIPS = 8
_METRIC = "text_to_video/r1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotebookScale:
    """Size of the quick training."""

    num_images: int = 1000
    num_videos: int = 400
    num_test: int = 40
    image_steps: int = 200
    image_batch_size: int = 32
    video_steps: int = 80
    video_batch_size: int = 16
    num_checkpoints: int = 4
    """Number of checkpoints of the training on videos, evenly spread."""
    size: int = 96
    """Number of pixels on a side, as in the demo: a cell sees 59 pixels around it, not the whole picture."""


QUICK = NotebookScale()


def notebook_run(workdir: str | Path | None = None, *, step: WhichStep = None) -> Run:
    """Return a trained retrieval model; train one first if needed.

    Args:
      workdir: run to use, relative to the repository.
      step: step of the checkpoint; by default the best or the newest.

    Raises:
      UserError: `workdir` holds no run, or not that checkpoint.
    """
    use_compilation_cache()
    chosen = folder() / workdir if workdir is not None else _found_or_trained()
    run = load_run(chosen, step=step)
    data = dataclasses.replace(run.experiment.data, data_dir=str(folder() / run.experiment.data.data_dir))
    if step is None:
        say(f"model: {chosen}, step {run.step}; {how_good(chosen)}")
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, data=data))


def kept_steps(run: Run) -> list[int]:
    """Return the steps of a run's checkpoints in rising order."""
    return sorted(ocp.utils.checkpoint_steps(run.workdir / "checkpoints"))


def folder() -> Path:
    """Return the folder of data and runs."""
    return Path(os.environ.get(FOLDER_VARIABLE) or REPOSITORY).resolve()


def _found_or_trained() -> Path:
    demo, quick = folder() / "runs" / "demo", folder() / "runs" / "notebooks" / "videos"
    if has_checkpoint(demo) and (folder() / "data" / "demo").is_dir():
        return demo
    if not (quick / "results.json").is_file():
        train_quickly(folder())
        say("This model has seen little data. `make demo` trains a better one, which notebooks then use.")
    return quick


def train_quickly(root: Path, scale: NotebookScale = QUICK) -> None:
    """Generate images and videos, train on them and evaluate; finished parts of an earlier call are kept."""
    images, videos = (root / "data" / "notebooks" / name for name in ("images", "videos"))
    # No workers: new processes do not work in every notebook.
    few: dict[str, Any] = {"num_validation": scale.num_test, "num_test": scale.num_test, "num_workers": 0}
    if not images.exists():
        say(f"generating {scale.num_images} images and {scale.num_videos} videos in {images.parent}")
        prepare_synthetic_images(images, num_train=scale.num_images, **few)
    if not videos.exists():
        prepare_synthetic_videos(videos, num_train=scale.num_videos, **few)
    say(f"training {scale.image_steps} steps on images and {scale.video_steps} on videos: about a minute")
    runs = root / "runs" / "notebooks"
    train_run(on_images(images, scale), runs / "images")
    train_run(on_videos(videos, scale, start=runs / "images"), runs / "videos")
    evaluate(runs / "videos", num_clips=[NUM_CLIPS])


def on_images(data_dir: Path, scale: NotebookScale) -> Experiment:
    """Return the training on images, which are videos of one frame."""
    return _experiment(
        data_dir, scale, num_clips=1, num_steps=scale.image_steps, batch_size=scale.image_batch_size
    )


def on_videos(data_dir: Path, scale: NotebookScale, *, start: Path) -> Experiment:
    """Return the training on videos; clips are spread so that each object is seen."""
    steps = scale.video_steps
    experiment = _experiment(data_dir, scale, num_clips=4, num_steps=steps, batch_size=scale.video_batch_size)
    train = dataclasses.replace(
        experiment.train,
        save_every_steps=max(1, steps // scale.num_checkpoints),
        num_kept_checkpoints=scale.num_checkpoints,
    )
    return dataclasses.replace(experiment, train=train, init=InitConfig(model=str(start)))


def _experiment(
    data_dir: Path, scale: NotebookScale, *, num_clips: int, num_steps: int, batch_size: int
) -> Experiment:
    demo = demo_retrieval.experiment()
    data: DataConfig = dataclasses.replace(
        demo.data, data_dir=str(data_dir), num_clips=num_clips, sampling="uniform", size=scale.size
    )
    train = dataclasses.replace(demo.train, num_steps=num_steps, batch_size=batch_size)
    return dataclasses.replace(demo, data=data, train=train)


def how_good(workdir: Path) -> str:
    """Return the result of a run's evaluation, if there was one, and chance."""
    path = workdir / "results.json"
    if not path.is_file():
        return "never evaluated"
    results = json.loads(path.read_text())
    num_clips, metrics = list(results["metrics"].items())[-1]
    if _METRIC not in metrics:
        return f"a model of {results['run']['task']}"
    num_videos = results["run"]["num_videos"]
    return (
        f"with {num_clips} clips it finds the right one of {num_videos} test videos for "
        f"{metrics[_METRIC]:.0f} % of the captions (chance {100 / num_videos:.1f} %)"
    )
