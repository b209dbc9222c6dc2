"""A trained model for the notebooks: that of `make demo` if it is there, else one trained in about a minute.

Notebooks start in folders of their own, on machines of all kinds; this finds or makes what all of them need,
once, below the repository, or below the folder that the environment variable CLIPBERT_NOTEBOOKS_DIR names.

The quick model first learns what objects look like from images with captions, which show all that is said,
and then goes on with videos, whose clips show a part of it: as the paper's models do, and the only way in so
little time.
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
    """How large the quick training is."""

    num_images: int = 1000
    num_videos: int = 400
    num_test: int = 40
    image_steps: int = 200
    image_batch_size: int = 32
    video_steps: int = 80
    video_batch_size: int = 16
    num_checkpoints: int = 4
    """Of the training on videos, evenly spread."""
    size: int = 96
    """Pixels, as the demo's: a cell sees 59 pixels around it, and then not the whole picture."""


QUICK = NotebookScale()


def notebook_run(workdir: str | Path | None = None, *, step: WhichStep = None) -> Run:
    """Return a trained retrieval model; find it, or train it first.

    Args:
      workdir: a run that you have, relative to the repository wherever the notebook is.
      step: of the checkpoint; by default the best or newest.

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
    """Return the steps of the checkpoints that a run has kept, rising."""
    return sorted(ocp.utils.checkpoint_steps(run.workdir / "checkpoints"))


def folder() -> Path:
    """Return where data and runs are."""
    return Path(os.environ.get(FOLDER_VARIABLE) or REPOSITORY).resolve()


def _found_or_trained() -> Path:
    demo, quick = folder() / "runs" / "demo", folder() / "runs" / "notebooks" / "videos"
    if has_checkpoint(demo) and (folder() / "data" / "demo").is_dir():
        return demo
    if not (quick / "results.json").is_file():
        train_quickly(folder())
        say("It has seen little: `make demo` trains for longer, and its model is found here from then on.")
    return quick


def train_quickly(root: Path, scale: NotebookScale = QUICK) -> None:
    """Generate images and videos, train on them and evaluate; what an earlier call has finished is kept."""
    images, videos = (root / "data" / "notebooks" / name for name in ("images", "videos"))
    # Processes of their own and notebooks do not always go together.
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
    """Return the training on images: of one frame, which is the whole video."""
    return _experiment(
        data_dir, scale, num_clips=1, num_steps=scale.image_steps, batch_size=scale.image_batch_size
    )


def on_videos(data_dir: Path, scale: NotebookScale, *, start: Path) -> Experiment:
    """Return the training on videos, with clips spread over each so that none of its objects is missed."""
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
    """Return what its evaluation found, if there was one, beside chance."""
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
