"""Scores the videos of a data directory for an evaluator; called by validation and `clipbert evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from clipbert_jax.evaluation.score import Reduced
from clipbert_jax.evaluation.scorer import Scorer
from data_pipelines.data_config import DataConfig
from data_pipelines.video_batches import video_batches
from experiments.evaluators.evaluator import Evaluator
from experiments.runtime.progress import Progress


def score_split(
    evaluator: Evaluator,
    scorer: Scorer,
    data: DataConfig,
    *,
    what: str,
    num_clips: Sequence[int],
    batch_size: int,
    texts_per_call: int,
    after_batch: Callable[[], None] = lambda: None,
) -> dict[int, Reduced]:
    """Score the texts of an evaluator with uniform clips; every video is decoded and encoded once.

    The batch size grows to a multiple of the number of devices, which share each batch. Each process decodes
    the videos of its devices, and gets all scores.

    Args:
      evaluator: names the videos and texts.
      scorer: model on its devices.
      data: config of the videos.
      what: label of the progress lines.
      num_clips: numbers of clips, which share one pass over the videos.
      batch_size: number of videos scored at once, over all devices.
      texts_per_call: largest number of texts scored at once.
      after_batch: called after each batch; may raise to stop.

    Raises:
      UserError: a video that is missing or cannot be decoded.
    """
    videos = video_batches(
        data,
        evaluator.video_ids,
        batch_size=batch_size + -batch_size % scorer.num_devices,
        num_clips=num_clips,
        one_clip=evaluator.one_clip,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    progress = Progress(what, total=len(evaluator.video_ids), unit="videos")

    def on_progress(num_done: int) -> None:
        progress.update(num_done)
        after_batch()

    return evaluator.score(
        scorer,
        ((batch.frames, batch.example_mask) for batch in videos),
        num_clips=num_clips,
        texts_per_call=texts_per_call,
        on_progress=on_progress,
    )
