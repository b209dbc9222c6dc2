"""What `clipbert probe` shows of one video and one text: runs the probing, and makes a page's values of it.

Before: `asking`, which says what the model answers; after: `reports.probe_page` and `reports.probe_figures`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation import MatchTask
from clipbert_jax.probing import attention_maps
from clipbert_jax.probing.ablation import (
    Subject,
    changes_without_cells,
    changes_without_frames,
    changes_without_heads,
    changes_without_words,
)
from clipbert_jax.probing.agreement import deletion_losses, rank_agreement
from clipbert_jax.probing.evidence import changes_without_clips
from clipbert_jax.probing.model_probe import Look, ModelProbe, OnProgress
from clipbert_jax.probing.target import Target
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from data_pipelines.clips import sample_video
from data_pipelines.transforms import resized_hw
from data_pipelines.video import Video
from experiments.asking import check_question, model_texts, notes
from experiments.experiment import model_shapes
from experiments.reports.probe_views import AgreementView, ClipView, ProbePage, WordView
from experiments.runs import Run

DISPLAY_SIZE = 640
"""Pixels of the longer side of the frames that are shown."""

_MAX_REGIONS = 64
"""Cells of larger grids are hidden in squares: each costs a pass of all clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is probed: the text as the model reads it, and the number that is looked at."""

    text: str
    target: Target
    about: str
    """In words."""


def choose_question(
    run: Run,
    frames: UInt8[np.ndarray, "k t h w 3"],
    text: str,
    *,
    options: Sequence[str] = (),
    answer: str | None = None,
) -> Question:
    """Return what is probed, by default what the model answers.

    Raises:
      UserError: the model cannot be asked this, or has no such answer.
    """
    check_question(run, [text], options)
    task = run.experiment.task
    if isinstance(task, MatchTask | CountQA):
        if answer is not None:
            raise UserError(
                f"--answer is for models that answer questions, not for {run.experiment.task_name}"
            )
        about = "how many it counts" if isinstance(task, CountQA) else "the text matches the video"
        return Question(text=text, target=Target(task), about=about)
    known = tuple(options) or run.answers
    if answer is not None and answer not in known:
        raise UserError(f"--answer {answer!r} is none of the model's {len(known):,} answers: {_some(known)}")
    if isinstance(task, MultipleChoiceQA):
        texts = model_texts([text], options)
        place = known.index(answer) if answer is not None else _best_option(run, frames, texts)
        about = f"the choice is “{options[place]}”"
        return Question(text=texts[place], target=Target(task), about=about)
    place = known.index(answer) if answer is not None else _best_answer(run, frames, text)
    about = f"the answer is “{known[place]}”"
    return Question(text=text, target=Target(task, answer=place, num_answers=len(known)), about=about)


def _some(known: Sequence[str]) -> str:
    return ", ".join(known[:8]) + (" ..." if len(known) > 8 else "")


def _best_option(run: Run, frames: UInt8[np.ndarray, "k t h w 3"], texts: Sequence[str]) -> int:
    probe = _model_probe(run, Target(run.experiment.task))
    return int(np.argmax([Subject.of(probe, frames, *_encoded(run, text)).number for text in texts]))


def _best_answer(run: Run, frames: UInt8[np.ndarray, "k t h w 3"], text: str) -> int:
    task = run.experiment.task
    probe = _model_probe(run, Target(task, num_answers=len(run.answers)))
    scores = Subject.of(probe, frames, *_encoded(run, text)).scores
    logits = np.asarray(task.answer_logits(jnp.asarray(scores)[None, :, None]))[0, 0]  # type: ignore[union-attr]
    return int(np.argmax(logits[: len(run.answers)]))


def _model_probe(run: Run, target: Target, on_progress: OnProgress = lambda num: None) -> ModelProbe:
    model = model_shapes(run.experiment)[0].merge(
        {name: jnp.asarray(array) for name, array in run.scorer.parameters.items()}
    )
    return ModelProbe(model, target, on_progress=on_progress)


def _encoded(run: Run, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask of a text without padding."""
    ids, mask = run.encode_texts([text])
    return ids[0, : mask[0].sum()], mask[0, : mask[0].sum()]


def make_page(
    run: Run,
    video: Video,
    text: str,
    *,
    num_clips: int,
    options: Sequence[str] = (),
    answer: str | None = None,
    facts: Mapping[str, str],
    on_progress: OnProgress = lambda num: None,
) -> ProbePage:
    """Probe a video and a text, and return what the page shows of it.

    Args:
      run: the model.
      video: the file.
      text: a text that may match, or a question.
      num_clips: spread over the whole video.
      options: of a multiple choice.
      answer: whose score is probed; by default the one that the model gives.
      facts: of the model and the command, for the end of the page.
      on_progress: called with the number of clips that were scored since.

    Raises:
      UserError: the model cannot be asked this, or the video's frames cannot be read.
    """
    data = run.experiment.data
    frames, times = sample_video(
        video,
        data,
        num_clips=[num_clips],
        sampling="uniform",
        # As `asking` does it.
        one_clip="middle" if isinstance(run.experiment.task, MatchTask) else "start",
    )
    question = choose_question(run, frames, text, options=options, answer=answer)
    probe = _model_probe(run, question.target, on_progress)
    ids, mask = _encoded(run, question.text)
    subject = Subject.of(probe, frames, ids, mask)
    look = probe.look_at_tokens(subject.visual_tokens, probe.grid(frames), ids, mask)
    region = region_of(look.grid)
    cell_changes = changes_without_cells(subject, look.grid, region=region)
    shares = picture_shares(run, video, look.grid)
    layers, heads = look.attention.shape[0], look.attention.shape[2]
    return ProbePage(
        video_name=video.video_id,
        duration=video.index.duration,
        text=question.text,
        question=question.about,
        score=subject.number,
        probability=question.target.probability(subject.number),
        consensus=run.experiment.task.consensus,
        clips=_clip_views(run, video, subject, times),
        words=_word_views(run, question.text, subject),
        width_share=shares[0],
        height_share=shares[1],
        text_to_grid=_by_layer(attention_maps.text_to_grid(look.attention, look.grid)),
        grid_to_text=attention_maps.grid_to_text(look.attention.mean(axis=2), look.grid),
        gradient_weighted=attention_maps.text_to_grid(_gradient_maps(look), look.grid),
        rollout=attention_maps.text_to_grid(attention_maps.rollout(look.attention), look.grid),
        cell_changes=cell_changes,
        head_changes=changes_without_heads(subject, layers, heads),
        agreements=list(_agreements(look, subject, -cell_changes, cells_in_picture(look.grid, shares))),
        notes=[*notes(run, [question.text]), *_notes(region)],
        facts=facts,
    )


def region_of(grid: tuple[int, int]) -> int:
    """Return how many cells of a side are hidden together."""
    region = 1
    while math.prod(-(-size // region) for size in grid) > _MAX_REGIONS:
        region += 1
    return region


def picture_shares(run: Run, video: Video, grid: tuple[int, int]) -> tuple[float, float]:
    """Return which part of the grid the picture takes, to the right and down; more than 1 if cells lack.

    Pooling drops what does not fill a cell at the right and the bottom.
    """
    stages = len(run.experiment.model.pixel_encoder.stage_blocks)
    pixels_per_cell = 4 * 2 ** (stages - 1) * 2  # stem, stages after res2, pooling of the grid encoder
    height, width = resized_hw(video.index.height, video.index.width, run.experiment.data.size)
    return width / (pixels_per_cell * grid[1]), height / (pixels_per_cell * grid[0])


def cells_in_picture(grid: tuple[int, int], shares: tuple[float, float]) -> Bool[np.ndarray, " v"]:
    """Return which cells have their centre in the picture; the first row and column always."""
    rows, columns = grid
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    is_column, is_row = x < shares[0], y < shares[1]
    is_column[0] = is_row[0] = True
    return (is_row[:, None] & is_column).ravel()


def _by_layer(
    maps: Float[np.ndarray, "layers k heads l gh gw"],
) -> Float[np.ndarray, "layers heads k l gh gw"]:
    return np.swapaxes(maps, 1, 2)


def _gradient_maps(look: Look) -> Float[np.ndarray, "layers k s s"]:
    return attention_maps.gradient_weighted(look.attention_times_gradient)


def _clip_views(run: Run, video: Video, subject: Subject, times: Float[np.ndarray, "k t"]) -> list[ClipView]:
    large = dataclasses.replace(run.experiment.data, size=DISPLAY_SIZE)
    one_clip = "middle" if isinstance(run.experiment.task, MatchTask) else "start"
    shown, _ = sample_video(video, large, num_clips=[len(times)], sampling="uniform", one_clip=one_clip)
    height, width = resized_hw(video.index.height, video.index.width, DISPLAY_SIZE)
    target = subject.probe.target
    numbers = target.of_clips(subject.scores).tolist()
    without = changes_without_clips(subject.scores, target)
    frames = changes_without_frames(subject)
    return [
        ClipView(
            seconds=seconds,
            frames=list(shown[clip, :, :height, :width]),  # without the padding
            score=numbers[clip],
            probability=target.probability(numbers[clip]),
            change_without=math.nan if without is None else float(without[clip]),
            frame_changes=None if frames is None else frames[clip],
        )
        for clip, seconds in enumerate(times)
    ]


def _word_views(run: Run, text: str, subject: Subject) -> list[WordView]:
    words = run.tokenizer.words(text, run.experiment.data.max_text_length)
    changes = changes_without_words(subject, [tokens for _, tokens in words[1:-1]])
    return [
        WordView(text=word, tokens=tokens, change_without=change)
        for (word, tokens), change in zip(words, [None, *changes.tolist(), None], strict=True)
    ]


def _agreements(
    look: Look, subject: Subject, losses: Float[np.ndarray, "k gh gw"], cells: Bool[np.ndarray, " v"]
) -> Iterator[AgreementView]:
    """Yield how far each map is borne out, as the mean of the text's tokens looks at the cells."""
    by_name: dict[str, np.ndarray] = {}
    for layer in range(len(look.attention)):
        by_name[f"attention, layer {layer + 1}"] = look.attention[layer].mean(axis=1)
    for layer, maps in enumerate(_gradient_maps(look)):
        by_name[f"gradient-weighted, layer {layer + 1}"] = maps
    by_name["rollout"] = attention_maps.rollout(look.attention)
    length = look.num_text_tokens
    maps = np.stack([attention[:, :length, length:].mean(axis=1) for attention in by_name.values()])
    rng = np.random.default_rng(0)
    deleted, random = deletion_losses(subject, maps, rng=rng, cells=cells)
    for name, of_map, loss in zip(by_name, maps, deleted.tolist(), strict=True):
        ranks = rank_agreement(of_map, losses.reshape(len(losses), -1), rng=rng, cells=cells)
        yield AgreementView(
            name=name,
            rank_correlation=ranks.correlation,
            low=ranks.low,
            high=ranks.high,
            deletion=loss / random if random > 0 else math.nan,
        )


def _notes(region: int) -> Iterator[str]:
    if region > 1:
        yield f"cells are hidden in squares of {region} x {region}, to save time"
