"""Whether maps of attention are borne out by ablation, over some videos: beside the pointing game.

A map can point at an object that the score does not need, and a score can need what no map points to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from clipbert_jax.bootstrap import bootstrap_intervals
from clipbert_jax.probing.ablation import Subject, changes_without_cells
from clipbert_jax.probing.agreement import RankAgreement, deletion_losses, rank_agreement
from clipbert_jax.probing.model_probe import ModelProbe
from experiments.pointing_maps import ABLATION, MEAN, MapName, attention_maps
from experiments.pointing_videos import PointingVideo


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoAgreement:
    """How far one map is borne out in one video."""

    video_id: str
    rank: RankAgreement
    loss: float
    """What the score loses without the cells that the map ranks first."""
    random_loss: float
    """What it loses without those that misplaced maps rank first, on average."""
    high_loss: float
    """What 95 % of these stay below."""


def agreements(
    probe: ModelProbe, videos: Iterable[PointingVideo], *, seed: int
) -> dict[MapName, list[VideoAgreement]]:
    """Return for each map, of all words that name objects together, how far it is borne out in each video."""
    found: dict[MapName, list[VideoAgreement]] = {}
    for number, video in enumerate(videos):
        rng = np.random.default_rng([seed, number])
        subject = Subject.of(probe, video.frames, video.text_ids, video.text_mask)
        losses = -changes_without_cells(subject, probe.grid(video.frames))
        maps = attention_maps(probe.look(video.frames, video.text_ids, video.text_mask), video.words)
        named = {name: of_words.mean(axis=0) for name, of_words in maps.items() if name.head in (MEAN, None)}
        named[MapName(ABLATION)] = losses  # the most that a map can be borne out
        deleted = deletion_losses(subject, np.stack([*named.values()]), rng=rng, picture=video.picture)
        for (name, of_cells), loss in zip(named.items(), deleted.of_maps.tolist(), strict=True):
            found.setdefault(name, []).append(
                VideoAgreement(
                    video_id=video.video_id,
                    rank=rank_agreement(of_cells, losses, picture=video.picture),
                    loss=loss,
                    random_loss=deleted.random,
                    high_loss=deleted.random_high,
                )
            )
    return found


def summary(of_videos: list[VideoAgreement], *, seed: int) -> dict[str, Any]:
    """Return what a map comes to over videos, with 95 % intervals.

    `loss` is that without the cells that the map ranks first, `extra_loss` by how much it is more than that
    without those of misplaced maps, `deletion_ratio` how many times as much. `share_above_chance` counts the
    videos in which the map agrees with the losses more than 95 % of misplaced maps do, of those whose picture
    has cells enough to tell (None: there are none), `share_costlier` those in which it finds costlier cells
    than 95 % of them.
    """
    correlations = np.array([one.rank.correlation for one in of_videos])
    losses = np.array([one.loss for one in of_videos])
    random_losses = np.array([one.random_loss for one in of_videos])
    high_losses = np.array([one.high_loss for one in of_videos])
    telling = [one.rank.is_above_chance for one in of_videos if one.rank.can_tell]

    def numbers(rows: Any) -> dict[str, float]:
        return {
            "rank_correlation": float(correlations[rows].mean()),
            "loss": float(losses[rows].mean()),
            "extra_loss": float((losses - random_losses)[rows].mean()),
            "share_costlier": float((losses > high_losses)[rows].mean()),
        }

    intervals = bootstrap_intervals(numbers, [one.video_id for one in of_videos], seed=seed)
    values = numbers(slice(None))
    return {
        **values,
        "share_above_chance": float(np.mean(telling)) if telling else None,
        # Other cells may cost hardly anything, and the ratio anything then: it has no interval.
        "deletion_ratio": values["loss"] / float(random_losses.mean()),
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "num_videos": len(of_videos),
    }
