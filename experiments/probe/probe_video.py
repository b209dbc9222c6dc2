"""Probes one video and one text, and makes the values that the probe page shows.

`clipbert probe`, `predict --explain` and `serve` call it.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.evaluation.text_buckets import text_lengths, texts_by_bucket
from clipbert_jax.models.pixel_encoder import pixels_per_cell
from clipbert_jax.probing import attention_maps
from clipbert_jax.probing.ablation import (
    ProbedExample,
    changes_without_cells,
    changes_without_frames,
    changes_without_heads,
    changes_without_words,
)
from clipbert_jax.probing.evidence import changes_without_clips
from clipbert_jax.probing.faithfulness import map_faithfulness
from clipbert_jax.probing.model_probe import AttentionRecord, ModelProbe, OnProgress
from clipbert_jax.probing.probe_score import ProbeScore
from data_pipelines.clips import VideoClips, sample_clips
from data_pipelines.decoding.video import Video
from data_pipelines.transforms import resized_hw
from experiments.prediction.ask import check_question, model_texts, notes, one_clip_of
from experiments.probe.views import ClipView, ProbePage, WordView
from experiments.runs.load_run import Run

DISPLAY_SIZE = 640
"""Number of pixels of the longer side of the shown frames."""

_MAX_REGIONS = 64
"""Largest number of passes to hide cells; in larger grids, squares of cells are hidden together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """Text as the model reads it, and the number that is probed."""

    text: str
    probe_score: ProbeScore
    about: str
    """Question that the number answers, in words."""


def choose_question(
    run: Run,
    frames: UInt8[np.ndarray, "k t h w 3"],
    text: str,
    *,
    options: Sequence[str] = (),
    answer: str | None = None,
) -> Question:
    """Return the question to probe; without an answer, that of the model is probed.

    Raises:
      UserError: the model cannot answer this question, or does not know the answer.
    """
    check_question(run, [text], options)
    task = run.experiment.task
    if task.answer_form in ("match", "count"):
        if answer is not None:
            raise UserError(f"--answer is for models that answer questions, not for {task.name}")
        return Question(text=text, probe_score=ProbeScore(task), about=task.probe_question)
    known = tuple(options) or run.answers
    if answer is not None and answer not in known:
        raise UserError(f"the model does not know --answer {answer!r}: choose one of {_some(known)}")
    texts = model_texts([text], options)
    place = known.index(answer) if answer is not None else _best(run, frames, texts)
    return Question(
        text=texts[place] if options else text,
        probe_score=ProbeScore(task, answer=place, num_answers=len(known)),
        about=task.probe_question.format(answer=known[place]),
    )


def _some(known: Sequence[str]) -> str:
    return ", ".join(known[:8]) + (" ..." if len(known) > 8 else "")


def _best(run: Run, frames: UInt8[np.ndarray, "k t h w 3"], texts: Sequence[str]) -> int:
    """Return the index of the model's option or answer."""
    task = run.experiment.task
    probe = _model_probe(run, ProbeScore(task))
    encoded = [_encoded(run, text) for text in texts]
    scores = [ProbedExample(probe, frames, *ids_and_mask).scores for ids_and_mask in encoded]
    of_texts = jnp.asarray(np.stack(scores, axis=1))[None]
    is_text = jnp.ones((1, len(texts)), bool)
    return int(np.argmax(task.predict(of_texts, is_text, len(run.answers))))


_PROBES: weakref.WeakKeyDictionary[Scorer, ModelProbe] = weakref.WeakKeyDictionary()
"""Probe of each loaded model; its programs are compiled once for all videos and texts."""


def _model_probe(run: Run, probe_score: ProbeScore, on_progress: OnProgress = lambda num: None) -> ModelProbe:
    if run.scorer not in _PROBES:
        _PROBES[run.scorer] = ModelProbe(run.model(), probe_score)
    return _PROBES[run.scorer].of(probe_score, on_progress=on_progress)


def _encoded(run: Run, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask of a text, padded to one of a few lengths."""
    ids, mask = run.encode_texts([text])
    ((length, _),) = texts_by_bucket(text_lengths(mask), mask.shape[1])
    return ids[0, :length], mask[0, :length]


def probed_clips(run: Run, video: Video, *, num_clips: int) -> VideoClips:
    """Return clips spread over the whole video, with frames in the size of the page.

    Raises:
      UserError: frames cannot be read.
    """
    data, one_clip = run.experiment.data, one_clip_of(run)
    return sample_clips(video, data, num_clips=num_clips, one_clip=one_clip, shown_size=DISPLAY_SIZE)


def make_page(
    run: Run,
    clips: VideoClips,
    text: str,
    *,
    options: Sequence[str] = (),
    answer: str | None = None,
    facts: Mapping[str, str],
    on_progress: OnProgress = lambda num: None,
) -> ProbePage:
    """Probe the clips of a video and a text, and return the values of the page.

    Args:
      run: trained model.
      clips: decoded clips.
      text: text that may match, or a question.
      options: options of a multiple choice.
      answer: answer that is probed; by default that of the model.
      facts: facts about the model and the command, for the end of the page.
      on_progress: called with the number of clips scored since the last call.

    Raises:
      UserError: the model cannot answer the question.
    """
    frames = clips.frames
    question = choose_question(run, frames, text, options=options, answer=answer)
    probe = _model_probe(run, question.probe_score, on_progress)
    ids, mask = _encoded(run, question.text)
    example = ProbedExample(probe, frames, ids, mask)
    record = probe.record_from_tokens(example.visual_tokens, probe.grid(frames), ids, mask)
    region = region_of(record.grid)
    cell_changes = changes_without_cells(example, record.grid, region=region)
    shares = picture_shares(run, clips.height, clips.width, record.grid)
    layers, heads = record.attention.shape[0], record.attention.shape[2]
    return ProbePage(
        video_name=clips.name,
        duration=clips.duration,
        text=question.text,
        question=question.about,
        score=example.number,
        probability=question.probe_score.probability(example.number),
        consensus=run.experiment.task.consensus,
        clips=_clip_views(clips, example),
        words=_word_views(run, question.text, example),
        width_share=shares[0],
        height_share=shares[1],
        text_to_grid=_by_layer(attention_maps.text_to_grid(record.attention, record.grid)),
        grid_to_text=attention_maps.grid_to_text(record.attention.mean(axis=2), record.grid),
        gradient_weighted=attention_maps.text_to_grid(_gradient_maps(record), record.grid),
        rollout=attention_maps.text_to_grid(attention_maps.rollout(record.attention), record.grid),
        cell_changes=cell_changes,
        head_changes=changes_without_heads(example, layers, heads),
        faithfulness=map_faithfulness(
            example,
            _judged_maps(record),
            -cell_changes,
            rng=np.random.default_rng(0),
            picture=cells_in_picture(record.grid, shares),
            region=region,
        ),
        notes=[*notes(run, [question.text]), *_notes(region)],
        facts=facts,
    )


def region_of(grid: tuple[int, int]) -> int:
    """Return the side of the squares of cells that are hidden together."""
    region = 1
    while math.prod(-(-size // region) for size in grid) > _MAX_REGIONS:
        region += 1
    return region


def picture_shares(run: Run, height: int, width: int, grid: tuple[int, int]) -> tuple[float, float]:
    """Return the shares of the grid's width and height that a picture takes.

    They exceed 1 where pooling drops pixels that do not fill a cell, at the right and the bottom.
    """
    cell = pixels_per_cell(run.experiment.model.pixel_encoder)
    height, width = resized_hw(height, width, run.experiment.data.size)
    return width / (cell * grid[1]), height / (cell * grid[0])


def cells_in_picture(grid: tuple[int, int], shares: tuple[float, float]) -> tuple[int, int]:
    """Return how many rows and columns of cells have their centre in the picture; at least one of each."""
    (rows, columns), (wide, high) = grid, shares
    inside = [
        max(1, math.ceil(min(1.0, share) * size - 0.5)) for size, share in ((rows, high), (columns, wide))
    ]
    return inside[0], inside[1]


def _by_layer(
    maps: Float[np.ndarray, "layers k heads l gh gw"],
) -> Float[np.ndarray, "layers heads k l gh gw"]:
    return np.swapaxes(maps, 1, 2)


def _gradient_maps(record: AttentionRecord) -> Float[np.ndarray, "layers k s s"]:
    return attention_maps.gradient_weighted(record.attention_times_gradient)


def _clip_views(clips: VideoClips, example: ProbedExample) -> list[ClipView]:
    probe_score = example.probe.probe_score
    numbers = probe_score.of_clips(example.scores).tolist()
    without = changes_without_clips(example.scores, probe_score)
    frames = changes_without_frames(example)
    return [
        ClipView(
            seconds=seconds,
            frames=list(clips.shown[clip]),
            score=numbers[clip],
            probability=probe_score.probability(numbers[clip]),
            change_without=math.nan if without is None else float(without[clip]),
            frame_changes=None if frames is None else frames[clip],
        )
        for clip, seconds in enumerate(clips.times)
    ]


def _word_views(run: Run, text: str, example: ProbedExample) -> list[WordView]:
    words = run.tokenizer.words(text, run.experiment.data.max_text_length)
    changes = changes_without_words(example, [tokens for _, tokens in words[1:-1]])
    return [
        WordView(text=word, tokens=tokens, change_without=change)
        for (word, tokens), change in zip(words, [None, *changes.tolist(), None], strict=True)
    ]


def _judged_maps(record: AttentionRecord) -> dict[str, Float[np.ndarray, "k gh gw"]]:
    """Return the maps that are compared with ablation: means over the tokens of the text.

    In the last layer and in rollout only [CLS] counts, as no other token reaches the score there.
    """
    attention, gradient = record.attention.mean(axis=2), _gradient_maps(record)
    last, maps = len(attention) - 1, {}
    for kind, of_layers in (("attention", attention), ("gradient-weighted", gradient)):
        for layer, of_tokens in enumerate(attention_maps.text_to_grid(of_layers, record.grid)):
            tokens = slice(1) if layer == last else slice(None)
            maps[f"{kind}, layer {layer + 1}"] = of_tokens[:, tokens].mean(axis=1)
    maps["rollout"] = attention_maps.text_to_grid(attention_maps.rollout(record.attention), record.grid)[:, 0]
    return maps


def _notes(region: int) -> Iterator[str]:
    if region > 1:
        yield f"cells are hidden in squares of {region} x {region} to save time"


def probe_facts(run: Run, num_clips: int) -> dict[str, str]:
    """Return facts that the numbers of a page depend on."""
    from experiments.runtime.provenance import environment

    experiment, data = run.experiment, run.experiment.data
    facts = {
        "model": str(run.workdir),
        "step": str(run.step),
        "task": experiment.task_name,
        "consensus": experiment.task.consensus,
        "clips": f"{num_clips}, uniform",
        "frames of a clip": f"{data.num_frames} at {data.fps:g} a second",
        "size": f"{data.size} pixels",
        "parameters": "moving averages" if run.has_ema else "as trained",
    }
    values = environment()
    versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
    return facts | {name: values[name] for name in ("device", "command", "date")} | {"versions": versions}
