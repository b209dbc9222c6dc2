"""The maps of a model that play the pointing game, and their points.

After `pointing_videos`, before `pointing`, which makes tables of them. A map is of a word, or of the whole
text (the row of [CLS], the ablation), which then stands for each of its words.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from clipbert_jax.bootstrap import bootstrap_intervals
from clipbert_jax.probing.ablation import Subject, changes_without_cells
from clipbert_jax.probing.attention_maps import gradient_weighted, grid_to_text, rollout, text_to_grid
from clipbert_jax.probing.model_probe import Look, ModelProbe
from clipbert_jax.probing.pointing_game import pointing_chances, pointing_hits
from experiments.pointing_videos import PointingVideo

MEAN = "mean"
WORD, PICTURE, GRADIENT, ROLLOUT = "word", "picture to word", "word, gradient", "word, rollout"
CLS, CLS_GRADIENT, CLS_ROLLOUT = "[CLS]", "[CLS], gradient", "[CLS], rollout"
ABLATION = "ablation"
OF_WHOLE_TEXT = (CLS, CLS_GRADIENT, CLS_ROLLOUT, ABLATION)
"""Maps that do not know which word they are asked about."""


class MapName(NamedTuple):
    """Which map; layers and heads count from 1."""

    kind: str
    layer: int | None = None
    head: int | str | None = None

    def __str__(self) -> str:
        layer = "" if self.layer is None else f", layer {self.layer}"
        return f"{self.kind}{layer}" + ("" if self.head in (None, MEAN) else f", head {self.head}")


Maps = dict[MapName, Float[np.ndarray, "o k gh gw"]]
"""For each object of a video, what is said of the cells of each clip."""


def attention_maps(look: Look, words: Iterable[tuple[int, ...]]) -> Maps:
    """Return all maps of attention, for words given by the places of their tokens."""
    grid, words = look.grid, list(words)
    heads_first = np.swapaxes(look.attention, 1, 2)  # [layers heads k s s]
    gradients = gradient_weighted(look.attention_times_gradient)
    maps: Maps = {}
    for layer, (attention, gradient) in enumerate(zip(heads_first, gradients, strict=True), start=1):
        for head, of_head in enumerate(attention, start=1):
            maps[MapName(WORD, layer, head)] = _by_word(text_to_grid(of_head, grid), words)
        mean = attention.mean(axis=0)
        maps[MapName(WORD, layer, MEAN)] = _by_word(text_to_grid(mean, grid), words)
        maps[MapName(PICTURE, layer, MEAN)] = _by_word(grid_to_text(mean, grid), words)
        if layer < len(gradients):  # of the last layer the head reads [CLS] alone: others have no gradient
            maps[MapName(GRADIENT, layer)] = _by_word(text_to_grid(gradient, grid), words)
        maps[MapName(CLS, layer, MEAN)] = _by_word(text_to_grid(mean, grid), [(0,)] * len(words))
        maps[MapName(CLS_GRADIENT, layer)] = _by_word(text_to_grid(gradient, grid), [(0,)] * len(words))
    total = text_to_grid(rollout(look.attention), grid)
    maps[MapName(ROLLOUT)] = _by_word(total, words)
    maps[MapName(CLS_ROLLOUT)] = _by_word(total, [(0,)] * len(words))
    return maps


def _by_word(
    maps: Float[np.ndarray, "k l gh gw"], words: Iterable[tuple[int, ...]]
) -> Float[np.ndarray, "o k gh gw"]:
    return np.stack([maps[:, list(tokens)].mean(axis=1) for tokens in words])


def ablation_losses(probe: ModelProbe, video: PointingVideo) -> Float[np.ndarray, "k gh gw"]:
    """Return what the score loses without each cell of each clip."""
    subject = Subject.of(probe, video.frames, video.text_ids, video.text_mask)
    return -changes_without_cells(subject, probe.grid(video.frames))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """What the maps of some videos have hit. A case is an object and a clip that shows it."""

    hits: dict[MapName, Float[np.ndarray, " cases"]]
    wrong_hits: dict[MapName, Float[np.ndarray, " cases"]]
    """Of the map of another word of the text, whose object the clip does not show."""
    chances: Float[np.ndarray, " cases"]
    video_of_case: tuple[str, ...]


def play(
    probe: ModelProbe, videos: Iterable[PointingVideo], on_video: Callable[[], None] = lambda: None
) -> Points:
    """Let all maps of a model point at the objects of videos."""
    hits: dict[MapName, list[Any]] = collections.defaultdict(list)
    wrong_hits: dict[MapName, list[Any]] = collections.defaultdict(list)
    chances: list[Any] = []
    video_of_case: list[str] = []
    for video in videos:
        maps = attention_maps(probe.look(video.frames, video.text_ids, video.text_mask), video.words)
        losses = ablation_losses(probe, video)
        maps[MapName(ABLATION)] = np.broadcast_to(losses, (len(video.words), *losses.shape))
        shown, clips, hidden = np.array(video.cases(), int).reshape(-1, 3).T
        targets = video.targets[shown, clips]
        for name, of_name in maps.items():
            hits[name].append(pointing_hits(of_name[shown, clips], targets))
            if name.kind not in OF_WHOLE_TEXT:
                wrong_hits[name].append(pointing_hits(of_name[hidden, clips], targets))
        chances.append(pointing_chances(targets, np.broadcast_to(video.in_picture, targets.shape)))
        video_of_case += [video.video_id] * len(shown)
        on_video()
    return Points(
        hits={name: np.concatenate(of_videos) for name, of_videos in hits.items()},
        wrong_hits={name: np.concatenate(of_videos) for name, of_videos in wrong_hits.items()},
        chances=np.concatenate(chances),
        video_of_case=tuple(video_of_case),
    )


def share_with_interval(
    values: Float[np.ndarray, " cases"], video_of_case: tuple[str, ...], seed: int
) -> dict[str, float]:
    """Return the mean and its 95 % interval over videos."""
    intervals = bootstrap_intervals(
        lambda rows: {"accuracy": float(values[rows].mean())}, video_of_case, seed=seed
    )
    low, high = intervals["accuracy"]
    return {"accuracy": float(values.mean()), "low": low, "high": high}
