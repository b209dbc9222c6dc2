"""Made-up probes, for tests of the page and the figures: what is in them is known."""

from __future__ import annotations

import dataclasses

import numpy as np

from clipbert_jax.probing.faithfulness import MapFaithfulness, RankFaithfulness
from experiments.probe.views import ClipView, ProbePage, WordView


def make_page(
    *,
    words="a dog catches a red ball",
    num_clips=4,
    num_frames=1,
    frame_hw=(90, 160),
    grid=(7, 7),
    layers=3,
    heads=4,
    duration=60.0,
    seed=0,
    **changes,
):
    """Return a probe of random numbers; the padding of its pictures is that of their height and width."""
    rng = np.random.default_rng(seed)
    height, width = frame_hw
    num_tokens = len(words.split()) + 2
    maps = rng.dirichlet(np.full(num_tokens + grid[0] * grid[1], 0.3), (layers, heads, num_clips, num_tokens))
    maps = maps[..., num_tokens:].reshape(*maps.shape[:-1], *grid).astype(np.float32)
    page = ProbePage(
        video_name="dog.mp4",
        duration=duration,
        text=words,
        question="the text matches the video",
        score=1.93,
        probability=0.873,
        consensus="mean",
        clips=[make_clip(rng, i, num_clips, num_frames, frame_hw, duration) for i in range(num_clips)],
        words=make_words(words, rng),
        width_share=min(1.0, width / height),
        height_share=min(1.0, height / width),
        text_to_grid=maps,
        grid_to_text=maps.mean(axis=1),
        gradient_weighted=maps.max(axis=1) * 0.01,
        rollout=maps.mean(axis=(0, 1)),
        cell_changes=rng.normal(0, 0.01, (num_clips, *grid)),
        head_changes=rng.normal(0, 0.05, (layers, heads)),
        faithfulness={
            **{f"attention, layer {n}": make_faithfulness(0.02 * n, 0.9) for n in range(1, layers + 1)},
            **{f"gradient-weighted, layer {n}": make_faithfulness(0.4, 2.1) for n in range(1, layers + 1)},
            "rollout": make_faithfulness(0.2, 1.0),
        },
        notes=[],
        facts={"model": "tiny", "command": "clipbert probe"},
    )
    return dataclasses.replace(page, **changes)


def make_clip(rng, clip, num_clips, num_frames, frame_hw, duration):
    start = duration * (clip + 0.5) / num_clips
    score = float(rng.normal(1, 1))
    return ClipView(
        seconds=np.minimum(start + 0.5 * np.arange(num_frames), duration),
        frames=[rng.integers(0, 256, (*frame_hw, 3), np.uint8) for _ in range(num_frames)],
        score=score,
        probability=1 / (1 + np.exp(-score)),
        change_without=float(rng.normal(0, 0.3)),
        frame_changes=rng.normal(0, 0.1, num_frames) if num_frames > 1 else None,
    )


def make_words(text, rng):
    special = WordView(text="[CLS]", tokens=(0,), change_without=None)
    words = [
        WordView(text=word, tokens=(place,), change_without=float(rng.normal(-0.2, 0.3)))
        for place, word in enumerate(text.split(), 1)
    ]
    return [special, *words, dataclasses.replace(special, text="[SEP]", tokens=(len(words) + 1,))]


def make_faithfulness(rank_correlation, loss, *, can_tell=True):
    chance = 0.01 if rank_correlation > 0.14 else 0.5
    num_moves = 100 if can_tell else 6
    rank = RankFaithfulness(
        correlation=rank_correlation,
        low=-0.14,
        high=0.14,
        chance=chance if can_tell else 1.0,
        num_moves=num_moves,
    )
    return MapFaithfulness(rank=rank, loss=loss, random_loss=1.0, high_loss=1.2)
