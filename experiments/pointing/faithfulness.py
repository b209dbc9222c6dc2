"""Faithfulness of attention maps over some videos, for `make pointing` and the notebooks.

A map can point at an object that the score does not need, and a score can need cells that no map points to.
The maps of another video, which have not seen this one, show how often a map passes by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from clipbert_jax.evaluation.bootstrap import bootstrap_intervals
from clipbert_jax.probing.faithfulness import MapFaithfulness, map_faithfulness
from experiments.pointing.maps import ABLATION, MEAN, MapName, VideoMaps
from experiments.pointing.videos import PointingVideo


def faithfulness_by_video(
    looked_at: Sequence[VideoMaps], *, seed: int, of_other_videos: bool = False
) -> dict[MapName, dict[str, MapFaithfulness]]:
    """Return the faithfulness of each map by video id; maps are means over the words that name objects.

    Args:
      looked_at: videos with their maps.
      seed: seed of misplaced maps.
      of_other_videos: judge the maps of the next video of the same shape by the losses of each video. Videos
        without another one of their shape are left out.
    """
    videos = [one.video for one in looked_at]
    found: dict[MapName, dict[str, MapFaithfulness]] = {}
    for number, (video, own) in enumerate(zip(videos, looked_at, strict=True)):
        source = _next_of_same_shape(videos, number) if of_other_videos else number
        if source is None:
            continue
        rng = np.random.default_rng([seed, number])
        maps, picture = _whole_maps(looked_at[source]), video.picture
        for name, of_map in map_faithfulness(own.example, maps, own.losses, rng=rng, picture=picture).items():
            found.setdefault(name, {})[video.video_id] = of_map
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


def passed(of_videos: Mapping[str, MapFaithfulness]) -> dict[str, float | None]:
    """Return the shares of videos in which a map passes the tests; None if no video can tell.

    `share_above_chance`: its rank correlation is higher than that of 95 % of misplaced maps, of the videos
    with enough cells to tell. `share_costlier`: its deletion score is higher than that of 95 % of them.
    `share_borne_out`: both, of the videos that can tell.
    """
    every = of_videos.values()
    telling = [one for one in every if one.rank.can_tell]
    return {
        "share_above_chance": _share([one.rank.is_above_chance for one in telling]),
        "share_costlier": _share([one.is_costlier for one in every]),
        "share_borne_out": _share([one.is_faithful for one in telling]),
    }


def _share(is_so: list[bool]) -> float | None:
    return float(np.mean(is_so)) if is_so else None


def summary(of_videos: Mapping[str, MapFaithfulness], *, seed: int) -> dict[str, Any]:
    """Return means over videos with 95 % intervals.

    `loss` is the deletion score of the map, `extra_loss` its difference to that of misplaced maps, and
    `deletion_ratio` their ratio. Shares are those of `passed`.
    """
    every = of_videos.values()
    correlations = np.array([one.rank.correlation for one in every])
    losses = np.array([one.loss for one in every])
    random_losses = np.array([one.random_loss for one in every])
    is_costlier = np.array([one.is_costlier for one in every])

    def numbers(rows: Any) -> dict[str, float]:
        return {
            "rank_correlation": float(correlations[rows].mean()),
            "loss": float(losses[rows].mean()),
            "extra_loss": float((losses - random_losses)[rows].mean()),
            "share_costlier": float(is_costlier[rows].mean()),
        }

    intervals = bootstrap_intervals(numbers, list(of_videos), seed=seed)
    values = numbers(slice(None))
    return {
        **values,
        **passed(of_videos),
        # The loss of misplaced maps may be close to 0, so the ratio has no interval.
        "deletion_ratio": values["loss"] / float(random_losses.mean()),
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "num_videos": len(of_videos),
    }
