"""Evaluates retrieval: every caption of a split against every video of it, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipbert_jax.atomic_files import replacing
from clipbert_jax.evaluation.bootstrap import bootstrap_intervals
from clipbert_jax.evaluation.metrics import original_ranks_both_ways, rank_metrics, ranks_both_ways
from clipbert_jax.evaluation.score import OnProgress, Reduced, Videos, score_batches
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.task import MatchTask
from data_pipelines.annotations.records import Caption
from experiments.evaluators.best_videos import BestVideos
from experiments.evaluators.evaluator import Evaluation, Evaluator, TextOptions, pooled_and_by_clip

NUM_RANKED = 10
"""Number of videos that predictions name for each caption."""


class RetrievalEvaluator(Evaluator):
    """Ranks all videos for each caption, and all captions for each video."""

    record_kind = Caption
    headline = "text_to_video/mean_recall"

    def __init__(self, task: MatchTask, captions: Sequence[Caption], options: TextOptions) -> None:
        super().__init__(captions)
        self._task = task
        self._is_original = task.ranking_rule == "original"
        self._ids, self._mask = options.encode([caption.text for caption in captions])

    @property
    def baseline(self) -> Mapping[str, float]:
        """Return recall of a random order, in percent."""
        num_videos = len(self.video_ids)
        return {f"text_to_video/r{k}": 100 * min(k, num_videos) / num_videos for k in (1, 5, 10)}

    def all_texts(self) -> Iterator[str]:
        """Yield the captions."""
        return (caption.text for caption in self.records)

    def reduce(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        """Return match logits [b n] of the pooled clips, and those of each clip alone [b n k]."""
        return pooled_and_by_clip(self._task.match_logit, output.scores)

    def score(
        self,
        scorer: Scorer,
        videos: Videos,
        *,
        num_clips: Sequence[int],
        texts_per_call: int,
        on_progress: OnProgress,
    ) -> dict[int, Reduced]:
        """Score every caption with every video; scores of single clips are kept for the best videos only."""
        kept = {count: BestVideos(self.video, NUM_RANKED) for count in num_clips}
        batches = score_batches(
            scorer,
            self.reduce,
            videos,
            self._ids,
            self._mask,
            num_clips=num_clips,
            texts_per_call=texts_per_call,
        )
        num_done = 0
        for batch in batches:
            for count, reduced in batch.items():
                kept[count].add(reduced)
            num_done += len(batch[num_clips[0]]["logits"])
            on_progress(num_done)
        return {count: best.reduced() for count, best in kept.items()}

    def metrics(self, reduced: Reduced) -> dict[str, float]:
        """Return recalls and ranks of both directions."""
        ranks = self._ranks(reduced["logits"])
        return {
            f"{direction}/{name}": value
            for direction, of_queries in ranks.items()
            for name, value in _metrics(of_queries).items()
        }

    def evaluate(self, reduced: Reduced) -> Evaluation:
        """Return metrics with intervals: queries are resampled by video, candidates stay."""
        intervals = {}
        clusters = {"text_to_video": self.video, "video_to_text": np.unique(self.video)}
        for direction, ranks in self._ranks(reduced["logits"]).items():
            of_direction = bootstrap_intervals(
                lambda rows, ranks=ranks: _metrics(ranks[rows]), clusters[direction]
            )
            intervals |= {f"{direction}/{name}": interval for name, interval in of_direction.items()}
        return Evaluation(metrics=self.metrics(reduced), intervals=intervals)

    def _ranks(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        if self._is_original:
            probabilities = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
            return original_ranks_both_ways(probabilities, self.video)
        return ranks_both_ways(logits, self.video)

    def predictions(self, reduced: Reduced) -> Iterator[dict[str, Any]]:
        """Yield for each caption its rank and the best videos, with the logits of their clips."""
        logits = reduced["logits"]
        ranks = self._ranks(logits)["text_to_video"]
        for column, caption in enumerate(self.records):
            shown = zip(reduced["videos"][column].tolist(), reduced["clip_logits"][column], strict=True)
            yield {
                "id": caption.id,
                "video_id": caption.video_id,
                "text": caption.text,
                "rank": int(ranks[column]),
                "videos": [
                    {
                        "video_id": self.video_ids[row],
                        "match_logit": float(logits[row, column]),
                        "clip_match_logits": clip_logits.tolist(),
                    }
                    for row, clip_logits in dict(shown).items()
                ],
            }

    def write_extras(self, folder: Path, name: str, reduced: Reduced) -> list[Path]:
        """Write the similarity matrix with the names of its rows and columns (NumPy .npz)."""
        path = folder / f"scores-{name}.npz"
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                match_logits=reduced["logits"],
                video_ids=np.array(self.video_ids),
                caption_ids=np.array([caption.id for caption in self.records]),
                captions=np.array([caption.text for caption in self.records]),
                video_of_caption=self.video,
            )
        return [path]


def _metrics(ranks: np.ndarray) -> dict[str, float]:
    metrics = rank_metrics(ranks)
    return {**metrics, "mean_recall": (metrics["r1"] + metrics["r5"] + metrics["r10"]) / 3}
