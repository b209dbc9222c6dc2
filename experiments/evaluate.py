"""`clipbert evaluate`: every caption of a split against every video of it, with any numbers of clips."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation import match_matrix
from clipbert_jax.metrics import retrieval_metrics
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records
from data_pipelines.data_config import DataConfig
from data_pipelines.loader import video_batches
from experiments.experiment import to_json
from experiments.progress import Progress, say
from experiments.results import environment, write_json
from experiments.runs import Run, load_run

DIRECTIONS = ("text_to_video", "video_to_text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Every caption of a split scored against every video of it."""

    captions: Sequence[Caption]
    video_ids: tuple[str, ...]
    logits: Float[np.ndarray, "videos captions"]
    """Match logits after the clips are pooled."""

    @property
    def video_of_caption(self) -> Int[np.ndarray, " captions"]:
        """Index of the video that each caption describes."""
        row = {video_id: index for index, video_id in enumerate(self.video_ids)}
        return np.array([row[caption.video_id] for caption in self.captions])

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return retrieval metrics both ways."""
        return retrieval_metrics(self.logits, self.video_of_caption)

    def write(self, path: Path) -> None:
        """Write the matrix with the names of its rows and columns (NumPy .npz)."""
        np.savez_compressed(
            path,
            match_logits=self.logits,
            video_ids=np.array(self.video_ids),
            caption_ids=np.array([caption.id for caption in self.captions]),
            captions=np.array([caption.text for caption in self.captions]),
            video_of_caption=self.video_of_caption,
        )


def evaluate(
    run_dir: Path,
    *,
    num_clips: Sequence[int],
    split: str = "test",
    data_dir: Path | None = None,
    step: int | None = None,
    batch_size: int = 8,
    texts_per_call: int = 64,
    num_workers: int = 0,
    decode_timeout: float = 60.0,
    out: Path | None = None,
) -> dict[int, Scores]:
    """Evaluate a run, print the table, and write the results and `scores-<split>-<n>-clips.npz`.

    Results go to `results.json` for the test split, to `results-<split>.json` for another. Numbers of clips
    that the file already has, from an evaluation that agrees in everything else, stay in it.

    Raises:
      UserError: no such run, checkpoint or split; a video that is missing or cannot be decoded.
    """
    if not decode_timeout > 0:
        raise UserError(f"--decode-timeout takes seconds above 0, not {decode_timeout:g}")
    _check_positive(num_clips=num_clips, batch_size=[batch_size], texts_per_call=[texts_per_call])
    out = out or run_dir
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a directory")
    run = load_run(run_dir, step=step)
    data = dataclasses.replace(
        run.experiment.data,
        data_dir=str(data_dir or run.experiment.data.data_dir),
        num_workers=num_workers,
        decode_timeout_seconds=decode_timeout,
    )
    scores = {
        count: score_split(
            run, data, split=split, num_clips=count, batch_size=batch_size, texts_per_call=texts_per_call
        )
        for count in num_clips
    }
    try:
        metrics = {count: table.metrics() for count, table in scores.items()}
    except ValueError as error:
        raise UserError(f"{run_dir} cannot be evaluated: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    for count, table in scores.items():
        table.write(out / f"scores-{split}-{count}-clips.npz")
    num_videos, num_captions = scores[num_clips[0]].logits.shape
    factors = {"split": split, "num_videos": num_videos, "num_captions": num_captions}
    path = out / ("results.json" if split == "test" else f"results-{split}.json")
    write_results(path, metrics, {**factors, **run_factors(run, data)})
    say(_table(metrics))
    say(f"results: {path}")
    return scores


def score_split(
    run: Run, data: DataConfig, *, split: str, num_clips: int, batch_size: int, texts_per_call: int
) -> Scores:
    """Score all captions of a split against all its videos, with `num_clips` uniform clips of each video.

    Raises:
      UserError: no such split; a video that is missing or cannot be decoded (nothing is ever substituted).
    """
    captions = read_records(data.data_dir, Caption, split)
    if not captions:
        raise UserError(f"{data.data_dir} has no captions in split {split!r}: choose another --split")
    video_ids = tuple(dict.fromkeys(caption.video_id for caption in captions))
    progress = Progress(f"{split}, {num_clips} clip(s) per video", total=len(video_ids), unit="videos")
    logits = match_matrix(
        run.scorer,
        run.experiment.task,
        (
            (batch.frames, batch.example_mask)
            for batch in video_batches(data, video_ids, batch_size=batch_size, num_clips=num_clips)
        ),
        *run.encode_texts([caption.text for caption in captions]),
        texts_per_call=texts_per_call,
        on_progress=progress.update,
    )
    return Scores(captions=captions, video_ids=video_ids, logits=logits)


def write_results(path: Path, metrics: dict[int, dict[str, Any]], run: dict[str, Any]) -> None:
    """Write {direction: {number of clips: metrics}, "run": factors}, with what fits from the old file."""

    def lasting(factors: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in factors.items() if name not in ("command", "date")}

    old = json.loads(path.read_text()) if path.exists() else {}
    by_direction = {
        direction: {str(count): both[direction] for count, both in metrics.items()}
        for direction in DIRECTIONS
    }
    if lasting(old.get("run", {})) == lasting(run):
        for direction, by_count in by_direction.items():
            merged = {**old[direction], **by_count}
            by_direction[direction] = {count: merged[count] for count in sorted(merged, key=int)}
    write_json(path, {**by_direction, "run": run})


def run_factors(run: Run, data: DataConfig) -> dict[str, Any]:
    """Return everything else that the numbers depend on, for the result file."""
    experiment = run.experiment
    return {
        "workdir": str(run.workdir),
        "checkpoint_step": run.step,
        "data_dir": data.data_dir,
        "sampling": "uniform",
        "sampling_rule": data.sampling_rule,
        "num_frames": data.num_frames,
        "fps": data.fps,
        "size": data.size,
        "consensus": experiment.task.consensus,
        "seed": experiment.train.seed,
        "config": to_json(experiment),
        **environment(),
    }


def _check_positive(**options: Sequence[int]) -> None:
    for name, values in options.items():
        if not values or min(values) < 1:
            raise UserError(f"--{name.replace('_', '-')} takes numbers from 1 on, not {list(values)}")


def _table(metrics: dict[int, dict[str, dict[str, float]]]) -> str:
    lines = []
    for direction in DIRECTIONS:
        lines.append(f"{direction.replace('_', ' '):<15}  clips    R@1    R@5   R@10  median  mean rank")
        for count, both in metrics.items():
            m = both[direction]
            lines.append(
                f"{'':<15}  {count:>5}  {m['r1']:>5.1f}  {m['r5']:>5.1f}  {m['r10']:>5.1f}  "
                f"{m['median_rank']:>6.1f}  {m['mean_rank']:>9.1f}"
            )
    return "\n".join(lines)
