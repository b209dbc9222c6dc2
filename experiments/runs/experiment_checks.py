"""Checks of a whole experiment before anything is written; each config has its own validator beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import model_shapes
from clipbert_jax.training.optimizer import check_optimizer_config
from clipbert_jax.training.sharding import check_mesh
from clipbert_jax.training.train_config import check_train_config
from data_pipelines.data_config import check_data_config
from experiments.experiment import Experiment


def check_experiment(experiment: Experiment) -> None:
    """Refuse settings that make no sense, or contradict each other.

    Raises:
      UserError: names the first such option.
    """
    check_train_config(experiment.train)
    check_data_config(experiment.data)
    experiment.task.check()
    check_optimizer_config(experiment.optimizer)
    num_clips, clips_per_pass = experiment.data.num_clips, experiment.train.clips_per_pass
    if clips_per_pass and num_clips % clips_per_pass:
        raise UserError(
            f"--train.clips-per-pass {clips_per_pass} must divide --data.num-clips {num_clips}; 0 takes all "
            "clips at once"
        )


def check_devices(experiment: Experiment, num_devices: int) -> None:
    """Refuse a batch or a mesh that does not divide over so many devices.

    Raises:
      UserError: it does not.
    """
    train = experiment.train
    check_mesh(experiment.mesh, num_devices, num_heads=experiment.model.fusion.num_heads)
    portion = train.num_accumulation_steps * num_devices
    if train.batch_size % portion:
        raise UserError(
            f"--train.batch-size {train.batch_size} does not divide into {train.num_accumulation_steps} "
            f"accumulation step(s) on {num_devices} device(s): use a multiple of {portion}"
        )


def check_model(experiment: Experiment) -> None:
    """Trace the model on shapes, so that sizes that do not fit are reported before anything is written.

    Raises:
      UserError: for example a grid is larger than its position table, or heads do not divide the width.
    """
    data = experiment.data
    frames = jax.ShapeDtypeStruct((1, 1, data.num_frames, data.size, data.size, 3), jnp.uint8)
    text_ids = jax.ShapeDtypeStruct((1, 1, data.max_text_length), jnp.int32)
    text_mask = jax.ShapeDtypeStruct(text_ids.shape, jnp.bool_)
    try:
        model_def, trainable, frozen = model_shapes(experiment.model, experiment.task.head)
        _check_frozen_parts(experiment.train.frozen_parts, trainable)
        jax.eval_shape(
            lambda arrays, *inputs: model_def.merge(arrays)(*inputs).scores,
            {**trainable, **frozen},
            frames,
            text_ids,
            text_mask,
        )
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"the model cannot be built with these --model and --data options: {error}"
        ) from error


def _check_frozen_parts(parts: Sequence[str], trainable: Iterable[str]) -> None:
    for part in parts:
        if not any(name.startswith(part) for name in trainable):
            groups = sorted({name.partition("/")[0] + "/" for name in trainable})
            raise UserError(
                f"--train.frozen-parts {part} is not a prefix of any trained parameter: choose among "
                f"{' '.join(groups)} and their parts"
            )
