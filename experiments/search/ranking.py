"""Ranks the videos of an index by texts, for `clipbert search` and the server.

Videos and texts have no separate embeddings, so every pair is scored: the cost of a new text grows with the
number of videos and clips. Scores are kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipbert_jax.errors import UserError
from experiments.input_checks import check_utf8, has_words
from experiments.reports.words import clip_times
from experiments.search.encoding import num_rows
from experiments.search.index import Index
from experiments.search.manifest import ManifestEntry, Span
from experiments.search.model import SearchModel
from experiments.search.scores import ScoreCache, TextScores, digests

if TYPE_CHECKING:
    import jax

    from clipbert_jax.models.clipbert import ClipBertOutput
    from clipbert_jax.tasks.task import MatchTask
    from experiments.runs.load_run import Run

_VIDEOS_PER_CALL = 32
"""Largest number on all devices together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hit:
    """A video that was found."""

    name: str
    """Name of the file, below the folder."""
    content: str
    """Name of its tokens and pictures in the store of the index."""
    probability: float
    """Probability that the text describes the video, from all clips together."""
    clip_probabilities: tuple[float, ...]
    """Probability from each clip alone."""
    best_clip: int
    """Number of the clip with the highest probability, from 0: the best moment."""
    clip_seconds: tuple[Span, ...]
    """Times of the first and last frame of each clip, in seconds."""

    @property
    def moment(self) -> str:
        """Time of the best clip, such as 1:05-1:06."""
        return clip_times(self.clip_seconds)[self.best_clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """The best videos for a text, best first."""

    text: str
    hits: tuple[Hit, ...]
    notes: tuple[str, ...]
    """Remarks on parts of the text that the model cannot read as they were meant."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
    """Rankings and what they cost."""

    rankings: tuple[Ranking, ...]
    num_videos: int
    num_contents: int
    """Number of videos without copies."""
    num_scored: int
    """Number of pairs of a content and a text that were scored; the others were known."""
    seconds: float
    """Duration of scoring, with compilation if it was the first time."""
    is_first: bool
    """Whether this model scored for the first time."""
    load_seconds: float
    """Duration of loading the model, now or when the index was made."""


def rank(
    index: Index,
    model: SearchModel,
    texts: Sequence[str],
    *,
    top: int = 10,
    on_progress: Callable[[int], None] = lambda num_videos: None,
) -> Ranked:
    """Rank the videos of an index by each of some texts; the model is loaded only if something is new.

    Args:
      index: an index that is up to date.
      model: the model that the index was made with.
      texts: the texts to search for.
      top: number of videos for each text.
      on_progress: called after each batch with the number of scored videos; may raise to end the search.

    Raises:
      DamagedIndexError: tokens or pictures are missing or broken; `Index.update` can rebuild them.
      UserError: no text, a text that is empty or not UTF-8, or no video that can be read.
    """
    texts = _checked(texts)
    cache = ScoreCache(index.root / "scores", index.options.num_clips)
    scores = {text: cache.get(text) for text in texts}
    entries, contents = _searched(index)
    groups = _missing(scores, contents)
    if groups and not all(has_words(model.run.tokenizer, text) for some in groups.values() for text in some):
        raise _nothing_asked()
    start, is_first, num_scored = time.perf_counter(), not model.has_ranked, 0
    for missing, some in groups.items():
        for text, new in _score(index, model.run, list(missing), some, on_progress).items():
            num_scored += len(missing)
            scores[text] = scores[text].only(contents).with_more(new)
            cache.put(text, scores[text])
    model.has_ranked = model.has_ranked or bool(groups)
    return Ranked(
        rankings=tuple(_ranking(index, entries, text, scores[text], top) for text in texts),
        num_videos=len(entries),
        num_contents=len(contents),
        num_scored=num_scored,
        seconds=time.perf_counter() - start,
        is_first=is_first,
        load_seconds=model.load_seconds,
    )


def _searched(index: Index) -> tuple[dict[str, ManifestEntry], list[str]]:
    """Return the files that can be searched, and their contents, each once."""
    entries = index.entries
    if not entries:
        name, reason = next(iter(index.unreadable.items()))
        raise UserError(f"no video in {index.folder} can be read, first {name!a}: {reason}")
    return entries, list(dict.fromkeys(entry.content for entry in entries.values()))


def _checked(texts: Sequence[str]) -> list[str]:
    """Return each text once; whether the model reads words in it is checked when the model is loaded."""
    check_utf8(texts)
    texts = list(dict.fromkeys(text.strip() for text in texts))
    if not texts or not all(texts):
        raise _nothing_asked()
    return texts


def _nothing_asked() -> UserError:
    return UserError('give one or more texts that are not empty, after the folder, such as "a man cooks"')


def _missing(scores: dict[str, TextScores], contents: list[str]) -> dict[tuple[str, ...], list[str]]:
    """Return the contents still to score, with their texts; texts that miss the same contents go together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for text, known in scores.items():
        rows = known.rows()
        if missing := tuple(content for content in contents if content not in rows):
            groups.setdefault(missing, []).append(text)
    return groups


def _ranking(
    index: Index, entries: dict[str, ManifestEntry], text: str, scores: TextScores, top: int
) -> Ranking:
    rows, names = scores.rows(), sorted(entries)
    logits = scores.logits[[rows[entries[name].content] for name in names]]
    best = [names[place] for place in np.argsort(-logits, kind="stable")[:top].tolist()]
    return Ranking(
        text=text,
        hits=tuple(_hit(index, name, entries[name], scores, rows[entries[name].content]) for name in best),
        notes=scores.notes,
    )


def _hit(index: Index, name: str, entry: ManifestEntry, scores: TextScores, row: int) -> Hit:
    index.store.pictures(
        entry.content
    )  # raises if they are damaged, while the index can still be built again
    alone = scores.clip_logits[row]
    return Hit(
        name=name,
        content=entry.content,
        probability=float(_sigmoid(scores.logits[row])),
        clip_probabilities=tuple(_sigmoid(alone).tolist()),
        best_clip=int(alone.argmax()),
        clip_seconds=entry.clip_seconds,
    )


def _sigmoid(logits: Any) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))  # without overflow


# ---- Scoring ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _MatchLogits:
    """Reduces scores to what is kept; equal for equal tasks, so that it is compiled once."""

    task: MatchTask

    def __call__(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        from experiments.evaluators.evaluator import pooled_and_by_clip

        return pooled_and_by_clip(self.task.match_logit, output.scores)


def _score(
    index: Index, run: Run, contents: list[str], texts: list[str], on_progress: Callable[[int], None]
) -> dict[str, TextScores]:
    """Return the scores of texts with contents, one text per call: their number compiles nothing new."""
    from clipbert_jax.evaluation.score import score_encoded
    from experiments.prediction.ask import notes
    from experiments.runtime.progress import Progress

    num_clips = index.options.num_clips
    progress = Progress("scoring", total=len(contents), unit="videos")
    parts, num_done = [], 0
    for part in score_encoded(
        run.scorer,
        _MatchLogits(run.experiment.task),  # type: ignore[arg-type]
        _encoded(index, run, contents),
        *run.encode_texts(texts),
        num_clips=[num_clips],
        texts_per_call=1,
    ):
        parts.append(part[num_clips])
        num_done += len(part[num_clips]["logits"])
        progress.update(num_done)
        on_progress(num_done)
    logits, clip_logits = (
        np.concatenate([part[name] for part in parts]).astype(np.float32)
        for name in ("logits", "clip_logits")
    )
    if not np.isfinite(logits).all():
        raise UserError(
            f"the scores of {run.workdir} are not finite: its parameters hold NaN; take another --step"
        )
    return {
        text: TextScores(
            contents=digests(contents),
            logits=logits[:, n],
            clip_logits=clip_logits[:, n],
            notes=tuple(notes(run, [text])),
        )
        for n, text in enumerate(texts)
    }


def _encoded(index: Index, run: Run, contents: list[str]) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Yield tokens on the devices in batches of one shape, and which rows hold videos."""
    import jax.numpy as jnp

    scorer = run.scorer
    most = -(-_VIDEOS_PER_CALL // scorer.num_devices) * scorer.num_devices
    size = -(-num_rows(len(contents), most) // scorer.num_devices) * scorer.num_devices
    first = index.store.tokens(contents[0])
    for start in range(0, len(contents), size):
        some = contents[start : start + size]
        tokens = np.zeros((size, *first.shape), jnp.dtype(run.experiment.model.compute_dtype))
        for row, content in zip(tokens, some, strict=False):
            row[:] = index.store.tokens(content)
        yield scorer.put_split(tokens), np.arange(size) < len(some)
