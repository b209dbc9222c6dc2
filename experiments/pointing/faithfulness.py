"""Faithfulness of attention maps over some videos, for `make pointing` and the notebooks.

A map can point at an object that the score does not need, and a score can need cells that no map points to.
The maps of another video, which have not seen this one, show how often a map passes by chance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from clipbert_jax.evaluation.bootstrap import bootstrap_intervals
from clipbert_jax.probing.faithfulness import RankFaithfulness, deletion_losses, rank_faithfulness
from experiments.pointing.maps import ABLATION, MEAN, MapName, VideoMaps
from experiments.pointing.videos import PointingVideo


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFaithfulness:
    """Faithfulness of one map in one video."""

    video_id: str
    rank: RankFaithfulness
    loss: float
    """Loss of the score without the cells that the map ranks first: the deletion score."""
    random_loss: float
    """Mean loss without the cells that misplaced maps rank first."""
    high_loss: float
    """Loss that 95 % of misplaced maps stay below."""

    @property
    def is_costlier(self) -> bool:
        """Return whether the map finds costlier cells than nearly all misplaced ones."""
        return self.loss > self.high_loss

    @property
    def is_faithful(self) -> bool:
        """Return whether the map passes both tests."""
        return self.rank.is_above_chance and self.is_costlier


def map_faithfulness(
    looked_at: Sequence[VideoMaps], *, seed: int, of_other_videos: bool = False
) -> dict[MapName, list[VideoFaithfulness]]:
    """Return the faithfulness of each map in each video; maps are means over the words that name objects.

    Args:
      looked_at: videos with their maps.
      seed: seed of misplaced maps.
      of_other_videos: judge the maps of the next video of the same shape by the losses of each video. Videos
        without another one of their shape are left out.
    """
    videos = [one.video for one in looked_at]
    found: dict[MapName, list[VideoFaithfulness]] = {}
    for number, (video, own) in enumerate(zip(videos, looked_at, strict=True)):
        source = _next_of_same_shape(videos, number) if of_other_videos else number
        if source is None:
            continue
        rng = np.random.default_rng([seed, number])
        maps = _whole_maps(looked_at[source])
        deleted = deletion_losses(own.example, np.stack([*maps.values()]), rng=rng, picture=video.picture)
        for (name, of_cells), loss in zip(maps.items(), deleted.of_maps.tolist(), strict=True):
            found.setdefault(name, []).append(
                VideoFaithfulness(
                    video_id=video.video_id,
                    rank=rank_faithfulness(of_cells, own.losses, picture=video.picture),
                    loss=loss,
                    random_loss=deleted.random,
                    high_loss=deleted.random_high,
                )
            )
    return found


def _next_of_same_shape(videos: Sequence[PointingVideo], number: int) -> int | None:
    """Return the index of the next video with the same picture, around the end."""
    following = ((number + step) % len(videos) for step in range(1, len(videos)))
    return next((i for i in following if videos[i].picture == videos[number].picture), None)


def _whole_maps(looked_at: VideoMaps) -> dict[MapName, Float[np.ndarray, "k gh gw"]]:
    maps = looked_at.of_attention
    named = {name: of_words.mean(axis=0) for name, of_words in maps.items() if name.head in (MEAN, None)}
    # The losses of the ablation are a map too, the most faithful one.
    return {**named, MapName(ABLATION): looked_at.losses}


def passed(of_videos: Sequence[VideoFaithfulness]) -> dict[str, float | None]:
    """Return the shares of videos in which a map passes the tests; None if no video can tell.

    `share_above_chance`: its rank correlation is higher than that of 95 % of misplaced maps, of the videos
    with enough cells to tell. `share_costlier`: its deletion score is higher than that of 95 % of them.
    `share_borne_out`: both, of the videos that can tell.
    """
    telling = [one for one in of_videos if one.rank.can_tell]
    return {
        "share_above_chance": _share([one.rank.is_above_chance for one in telling]),
        "share_costlier": _share([one.is_costlier for one in of_videos]),
        "share_borne_out": _share([one.is_faithful for one in telling]),
    }


def _share(is_so: list[bool]) -> float | None:
    return float(np.mean(is_so)) if is_so else None


def summary(of_videos: list[VideoFaithfulness], *, seed: int) -> dict[str, Any]:
    """Return means over videos with 95 % intervals.

    `loss` is the deletion score of the map, `extra_loss` its difference to that of misplaced maps, and
    `deletion_ratio` their ratio. Shares are those of `passed`.
    """
    correlations = np.array([one.rank.correlation for one in of_videos])
    losses = np.array([one.loss for one in of_videos])
    random_losses = np.array([one.random_loss for one in of_videos])
    is_costlier = np.array([one.is_costlier for one in of_videos])

    def numbers(rows: Any) -> dict[str, float]:
        return {
            "rank_correlation": float(correlations[rows].mean()),
            "loss": float(losses[rows].mean()),
            "extra_loss": float((losses - random_losses)[rows].mean()),
            "share_costlier": float(is_costlier[rows].mean()),
        }

    intervals = bootstrap_intervals(numbers, [one.video_id for one in of_videos], seed=seed)
    values = numbers(slice(None))
    return {
        **values,
        **passed(of_videos),
        # The loss of misplaced maps may be close to 0, so the ratio has no interval.
        "deletion_ratio": values["loss"] / float(random_losses.mean()),
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "num_videos": len(of_videos),
    }
