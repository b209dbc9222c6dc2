"""The maps of a model in the pointing game, and their hits; `run` and the notebooks make tables of them.

A map belongs to a word, or to the whole text (the row of [CLS], the ablation); then it stands for each word.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from clipbert_jax.evaluation.bootstrap import bootstrap_intervals
from clipbert_jax.probing.ablation import ProbedExample, changes_without_cells
from clipbert_jax.probing.attention_maps import gradient_weighted, grid_to_text, rollout, text_to_grid
from clipbert_jax.probing.model_probe import AttentionRecord, ModelProbe
from clipbert_jax.probing.pointing_game import (
    constant_cell_hits,
    other_video_hits,
    pointing_chances,
    pointing_hits,
)
from experiments.pointing.videos import PointingVideo

MEAN = "mean"
WORD, PICTURE, GRADIENT, ROLLOUT = "word", "picture to word", "word, gradient", "word, rollout"
CLS, CLS_GRADIENT, CLS_ROLLOUT = "[CLS]", "[CLS], gradient", "[CLS], rollout"
ABLATION = "ablation"
OF_WHOLE_TEXT = (CLS, CLS_GRADIENT, CLS_ROLLOUT, ABLATION)
"""Kinds of maps that are the same for all words."""


class MapName(NamedTuple):
    """Name of a map; layers and heads count from 1."""

    kind: str
    layer: int | None = None
    head: int | str | None = None

    def __str__(self) -> str:
        layer = "" if self.layer is None else f", layer {self.layer}"
        return f"{self.kind}{layer}" + ("" if self.head in (None, MEAN) else f", head {self.head}")


Maps = dict[MapName, Float[np.ndarray, "o k gh gw"]]
"""Value of each cell of each clip, for each object of a video."""


def attention_maps(record: AttentionRecord, words: Iterable[tuple[int, ...]]) -> Maps:
    """Return all maps of attention, for words given by the indices of their tokens."""
    grid, words = record.grid, list(words)
    heads_first = np.swapaxes(record.attention, 1, 2)  # [layers heads k s s]
    gradients = gradient_weighted(record.attention_times_gradient)
    maps: Maps = {}
    for layer, (attention, gradient) in enumerate(zip(heads_first, gradients, strict=True), start=1):
        for head, of_head in enumerate(attention, start=1):
            maps[MapName(WORD, layer, head)] = _by_word(text_to_grid(of_head, grid), words)
        mean = attention.mean(axis=0)
        maps[MapName(WORD, layer, MEAN)] = _by_word(text_to_grid(mean, grid), words)
        maps[MapName(PICTURE, layer, MEAN)] = _by_word(grid_to_text(mean, grid), words)
        if layer < len(gradients):  # in the last layer only [CLS] has a gradient, as the head reads it
            maps[MapName(GRADIENT, layer)] = _by_word(text_to_grid(gradient, grid), words)
        maps[MapName(CLS, layer, MEAN)] = _by_word(text_to_grid(mean, grid), [(0,)] * len(words))
        maps[MapName(CLS_GRADIENT, layer)] = _by_word(text_to_grid(gradient, grid), [(0,)] * len(words))
    total = text_to_grid(rollout(record.attention), grid)
    maps[MapName(ROLLOUT)] = _by_word(total, words)
    maps[MapName(CLS_ROLLOUT)] = _by_word(total, [(0,)] * len(words))
    return maps


def _by_word(
    maps: Float[np.ndarray, "k l gh gw"], words: Iterable[tuple[int, ...]]
) -> Float[np.ndarray, "o k gh gw"]:
    return np.stack([maps[:, list(tokens)].mean(axis=1) for tokens in words])


def ablation_losses(probe: ModelProbe, video: PointingVideo) -> Float[np.ndarray, "k gh gw"]:
    """Return the loss of the score without each cell of each clip."""
    example = ProbedExample(probe, video.frames, video.text_ids, video.text_mask)
    return -changes_without_cells(example, probe.grid(video.frames))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VideoMaps:
    """A video as the model reads it, and all maps of its objects."""

    video: PointingVideo
    example: ProbedExample
    of_attention: Maps
    losses: Float[np.ndarray, "k gh gw"]
    """Loss of the score without each cell: the map of the ablation."""

    @classmethod
    def of(cls, probe: ModelProbe, video: PointingVideo) -> VideoMaps:
        """Compute the maps of a video, and ablate each of its cells, which takes most of the time."""
        example = ProbedExample(probe, video.frames, video.text_ids, video.text_mask)
        return cls(
            video=video,
            example=example,
            of_attention=attention_maps(
                probe.record(video.frames, video.text_ids, video.text_mask), video.words
            ),
            losses=-changes_without_cells(example, probe.grid(video.frames)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """Maps of some objects (letter `m`), each in a clip that shows it."""

    maps: Mapping[MapName, Float[np.ndarray, "m gh gw"]]
    wrong_maps: Mapping[MapName, Float[np.ndarray, "m gh gw"]]
    """Maps of another word of the text, whose object the clip does not show."""
    targets: Bool[np.ndarray, "m gh gw"]
    in_picture: Bool[np.ndarray, "m gh gw"]
    video_of_case: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Hits of maps for each case, and hits without looking."""

    hits: Mapping[MapName, Float[np.ndarray, " m"]]
    wrong_hits: Mapping[MapName, Float[np.ndarray, " m"]]
    """Hits of the map of a wrong word."""
    other_hits: Mapping[MapName, Float[np.ndarray, " m"]]
    """Mean hits of the same map in other videos of the same shape."""
    targets: Bool[np.ndarray, "m gh gw"]
    in_picture: Bool[np.ndarray, "m gh gw"]
    video_of_case: tuple[str, ...]

    @property
    def chances(self) -> Float[np.ndarray, " m"]:
        """Return the expected hits of a random cell of the picture."""
        return pointing_chances(self.targets, self.in_picture)

    @property
    def constant_hits(self) -> Bool[np.ndarray, " m"]:
        """Return the hits of the cell that hits most objects in other videos of the same shape."""
        return constant_cell_hits(self.targets, self.in_picture, np.array(self.video_of_case))

    def missed(self) -> Points:
        """Return the cases that the constant cell misses.

        The hits of other videos' maps still count all of their maps: a control that has not seen the video
        cannot know that it is such a case.
        """
        kept = ~self.constant_hits
        return Points(
            hits={name: of_name[kept] for name, of_name in self.hits.items()},
            wrong_hits={name: of_name[kept] for name, of_name in self.wrong_hits.items()},
            other_hits={name: of_name[kept] for name, of_name in self.other_hits.items()},
            targets=self.targets[kept],
            in_picture=self.in_picture[kept],
            video_of_case=tuple(np.array(self.video_of_case)[kept].tolist()),
        )


def play(
    probe: ModelProbe, videos: Iterable[PointingVideo], on_video: Callable[[], None] = lambda: None
) -> Points:
    """Let all maps of a model point at the objects of videos."""
    return count_hits(find_cases(look_at(probe, videos, on_video)))


def look_at(
    probe: ModelProbe, videos: Iterable[PointingVideo], on_video: Callable[[], None] = lambda: None
) -> Iterator[VideoMaps]:
    """Yield the maps of one video at a time, because they take much memory."""
    for video in videos:
        maps = VideoMaps.of(probe, video)
        on_video()
        yield maps


def find_cases(videos: Iterable[VideoMaps]) -> Cases:
    """Return the maps of all objects of videos."""
    own: dict[MapName, list[Any]] = collections.defaultdict(list)
    wrong: dict[MapName, list[Any]] = collections.defaultdict(list)
    targets: list[Any] = []
    in_picture: list[Any] = []
    video_of_case: list[str] = []
    for of_video in videos:
        video, losses = of_video.video, of_video.losses
        of_ablation = np.broadcast_to(losses, (len(video.words), *losses.shape))
        maps = {**of_video.of_attention, MapName(ABLATION): of_ablation}
        shown, clips, hidden = np.array(video.cases(), int).reshape(-1, 3).T
        for name, of_name in maps.items():
            own[name].append(of_name[shown, clips])
            if name.kind not in OF_WHOLE_TEXT:
                wrong[name].append(of_name[hidden, clips])
        targets.append(video.targets[shown, clips])
        in_picture.append(np.broadcast_to(video.in_picture, targets[-1].shape))
        video_of_case += [video.video_id] * len(shown)
    return Cases(
        maps={name: np.concatenate(of_videos) for name, of_videos in own.items()},
        wrong_maps={name: np.concatenate(of_videos) for name, of_videos in wrong.items()},
        targets=np.concatenate(targets),
        in_picture=np.concatenate(in_picture),
        video_of_case=tuple(video_of_case),
    )


def count_hits(cases: Cases) -> Points:
    """Return the hits of maps, and the hits without looking."""
    targets, in_picture, videos = cases.targets, cases.in_picture, np.array(cases.video_of_case)
    return Points(
        hits={name: pointing_hits(maps, targets) for name, maps in cases.maps.items()},
        wrong_hits={name: pointing_hits(maps, targets) for name, maps in cases.wrong_maps.items()},
        other_hits={
            name: other_video_hits(maps, targets, in_picture, videos) for name, maps in cases.maps.items()
        },
        targets=targets,
        in_picture=in_picture,
        video_of_case=cases.video_of_case,
    )


def shares_with_intervals(
    values: Mapping[str, Shaped[np.ndarray, " m"]], video_of_case: tuple[str, ...], *, seed: int
) -> dict[str, dict[str, float]]:
    """Return by name the mean over cases and its 95 % interval over videos."""

    def means(rows: Any) -> dict[str, float]:
        return {name: float(of_cases[rows].mean()) for name, of_cases in values.items()}

    intervals = bootstrap_intervals(means, video_of_case, seed=seed)
    return {
        name: {"accuracy": mean, "low": intervals[name][0], "high": intervals[name][1]}
        for name, mean in means(slice(None)).items()
    }
