"""Hidden states of generated images and what each image shows, for the linear probes of a notebook.

In images, unlike videos, every object is known and seen. An image is a clip of one frame. All have the same
neutral text, so a state knows the image from its pixels only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.probing.model_probe import ModelProbe
from clipbert_jax.probing.probe_score import ProbeScore
from data_pipelines.clips import sample_clips
from data_pipelines.data_config import DataConfig
from data_pipelines.synthetic.drawing import COLOURS, OBJECTS
from data_pipelines.synthetic.image import ImagePlan, make_image
from data_pipelines.synthetic.texts import all_events, draw_events, event_text
from experiments.runs.load_run import Run

NEUTRAL_TEXT = "look"
_IMAGES_PER_CALL = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShownImages:
    """Images as the model reads them, and what they show. Letters: `m` images."""

    frames: UInt8[np.ndarray, "m h w 3"]
    names: Shaped[np.ndarray, " m"]
    """Name of each image; a probe is trained on some and tested on others."""
    shows: Shaped[np.ndarray, " m"]
    """Objects in words, from left to right."""
    shape: Int[np.ndarray, " m"]
    """Index of the first object's shape in OBJECTS."""
    colour: Int[np.ndarray, " m"]
    """Index of the first object's colour in COLOURS."""
    count: Int[np.ndarray, " m"]


def images_of_one(size: int, *, num_of_each: int, seed: int) -> ShownImages:
    """Return images of one object each: all shapes in all colours, equally often."""
    plans = [
        ImagePlan(video_id=f"one_{number}_{repeat}", seed=seed, objects=(event,))
        for repeat in range(num_of_each)
        for number, event in enumerate(all_events("medium"))
    ]
    return _shown(plans, size)


def images_of_some(size: int, *, num_of_each: int, seed: int) -> ShownImages:
    """Return images of one, two and three objects, equally often."""
    rng = np.random.default_rng(seed)
    plans = [
        ImagePlan(video_id=f"some_{count}_{repeat}", seed=seed, objects=draw_events("medium", count, rng))
        for repeat in range(num_of_each)
        for count in (1, 2, 3)
    ]
    return _shown(plans, size)


def _shown(plans: list[ImagePlan], size: int) -> ShownImages:
    config = DataConfig(data_dir="", num_frames=1, size=size)
    frames = [sample_clips(make_image(plan), config, num_clips=1).frames[0, 0] for plan in plans]
    shapes, colours = list(OBJECTS), list(COLOURS)
    return ShownImages(
        frames=np.stack(frames),
        names=np.array([plan.video_id for plan in plans]),
        shows=np.array([", ".join(map(event_text, plan.objects)) for plan in plans]),
        shape=np.array([shapes.index(plan.objects[0].shape) for plan in plans]),
        colour=np.array([colours.index(str(plan.objects[0].colour)) for plan in plans]),
        count=np.array([len(plan.objects) for plan in plans]),
    )


def states_of_images(
    run: Run, model: ClipBert, images: ShownImages
) -> dict[str, Float[np.ndarray, "states m d"]]:
    """Return the mean state of the cells of each image, and that of [CLS], which the head reads.

    There is one before the first layer of the fusion and one after each layer.

    Args:
      run: run with the tokenizer and the task.
      model: model, trained or untrained.
      images: images to encode.
    """
    probe = ModelProbe(model, ProbeScore(run.experiment.task))
    ids, mask = run.encode_texts([NEUTRAL_TEXT])
    parts = []
    for start in range(0, len(images.frames), _IMAGES_PER_CALL):
        some = images.frames[start : start + _IMAGES_PER_CALL]
        # Clips do not see each other, so images may be the clips of one video.
        filled = np.resize(some, (_IMAGES_PER_CALL, *some.shape[1:]))[:, None]
        parts.append(probe.record(filled, ids[0], mask[0]).hidden_states[:, : len(some)])
    states = np.concatenate(parts, axis=1)
    return {"cells": states[:, :, int(mask.sum()) :].mean(axis=2), "[CLS]": states[:, :, 0]}


def mean_match_by_object(
    run: Run, images: ShownImages, text: str, objects: Sequence[str]
) -> dict[str, float]:
    """Return the mean log odds of a match between a text and images of each object."""
    probe = ModelProbe(run.model(), ProbeScore(run.experiment.task))
    ids, mask = run.encode_texts([text])
    matches = {}
    for shown in objects:
        frames = images.frames[images.shows == shown][:, None]
        (scores,) = probe.score_with_hidden(probe.encode(frames), ids[0], mask[0])
        matches[shown] = float(probe.probe_score.of_clips(scores).mean())
    return matches
