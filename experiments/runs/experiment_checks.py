"""What is refused before anything is written: numbers, batch sizes and models that cannot work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from clipbert_jax.errors import UserError
from clipbert_jax.pretrained.checks import INPUT_RANGES
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.pretraining import Pretraining
from experiments.experiment import Experiment, model_shapes

AT_LEAST_ONE = {
    "data": ("num_prefetch", "num_threads"),
    "train": (
        "batch_size",
        "num_accumulation_steps",
        "log_every_steps",
        "save_every_steps",
        "num_kept_checkpoints",
        "num_validation_clips",
    ),
}


AT_LEAST_ZERO = (
    ("data", "num_workers"),
    ("train", "seed"),
    ("train", "num_steps"),
    ("train", "num_epochs"),
    ("train", "clips_per_pass"),
    ("train", "num_validations"),
    ("train", "early_stop_validations"),
)


MAX_DECODE_TIMEOUT_SECONDS = 250.0
"""Two attempts at a video end before training gives up waiting for a batch."""


MIN_WORKER_MEMORY_GIB = 0.5
"""With less, libraries abort or wait for ever where they should say that there is no memory."""


def check_numbers(experiment: Experiment) -> None:
    """Refuse numbers that are too small or too large, or do not go together.

    Raises:
      UserError: there is one.
    """
    for group, names in AT_LEAST_ONE.items():
        for name in names:
            value = getattr(getattr(experiment, group), name)
            if value < 1:
                raise UserError(f"--{group}.{name.replace('_', '-')} must be at least 1, not {value}")
    for group, name in AT_LEAST_ZERO:
        value = getattr(getattr(experiment, group), name)
        if not 0 <= value < math.inf:
            raise UserError(f"--{group}.{name.replace('_', '-')} must be at least 0, not {value}")
    for name, (least, most) in INPUT_RANGES.items():
        value = getattr(experiment.data, name)
        if not least <= value <= most:
            raise UserError(
                f"--data.{name.replace('_', '-')} must be from {least:g} to {most:g}, not {value:g}"
            )
    num_steps, num_epochs = experiment.train.num_steps, experiment.train.num_epochs
    if num_steps and num_epochs:
        raise UserError(
            f"this experiment would train for {num_steps} steps and for {num_epochs:g} epochs: set "
            "--train.num-steps 0 to let epochs decide, or --train.num-epochs 0"
        )
    if not num_steps and not num_epochs:
        raise UserError("how long to train is not said: give --train.num-steps or --train.num-epochs")
    if experiment.train.early_stop_validations and not experiment.train.num_validations:
        raise UserError("--train.early-stop-validations needs validations: give --train.num-validations too")
    num_clips, clips_per_pass = experiment.data.num_clips, experiment.train.clips_per_pass
    if clips_per_pass and num_clips % clips_per_pass:
        raise UserError(
            f"--train.clips-per-pass {clips_per_pass} must divide --data.num-clips {num_clips}; 0 takes all "
            "clips at once"
        )
    if not 0 <= experiment.train.ema_decay < 1:
        raise UserError(
            f"--train.ema-decay must be at least 0 and below 1, not {experiment.train.ema_decay:g}"
        )
    if not experiment.data.worker_memory_gib >= MIN_WORKER_MEMORY_GIB:
        raise UserError(
            f"--data.worker-memory-gib must be at least {MIN_WORKER_MEMORY_GIB}, not "
            f"{experiment.data.worker_memory_gib:g}"
        )
    if not 0 < experiment.data.decode_timeout_seconds <= MAX_DECODE_TIMEOUT_SECONDS:
        raise UserError(
            f"--data.decode-timeout-seconds must be above 0 and at most {MAX_DECODE_TIMEOUT_SECONDS:g}, not "
            f"{experiment.data.decode_timeout_seconds:g}"
        )


def check_task(experiment: Experiment) -> None:
    """Refuse settings of the task that mean nothing.

    Raises:
      UserError: there is one.
    """
    task = experiment.task
    if isinstance(task, CountQA) and not 0 <= task.min_count < task.max_count:
        raise UserError(
            f"--task.min-count {task.min_count} must be at least 0 and below --task.max-count "
            f"{task.max_count}"
        )
    if isinstance(task, Pretraining) and task.num_sampled_tokens < 0:
        raise UserError(f"--task.num-sampled-tokens must be at least 0, not {task.num_sampled_tokens}")


def check_model(experiment: Experiment) -> None:
    """Trace the model on shapes alone, so that sizes that do not fit are reported before anything is written.

    Raises:
      UserError: such as a grid larger than its position table, or a width that the heads do not divide.
    """
    data = experiment.data
    frames = jax.ShapeDtypeStruct((1, 1, data.num_frames, data.size, data.size, 3), jnp.uint8)
    text_ids = jax.ShapeDtypeStruct((1, 1, data.max_text_length), jnp.int32)
    text_mask = jax.ShapeDtypeStruct(text_ids.shape, jnp.bool_)
    try:
        model_def, trainable, frozen = model_shapes(experiment)
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
                f"--train.frozen-parts {part} begins the name of no trained parameter; the largest parts are "
                f"{' '.join(groups)}"
            )


def check_batch_size(experiment: Experiment) -> None:
    """Refuse a batch that does not divide over accumulation steps and devices.

    Raises:
      UserError: it does not.
    """
    config = experiment.train
    portion = config.num_accumulation_steps * jax.device_count()
    if config.batch_size % portion:
        raise UserError(
            f"--train.batch-size {config.batch_size} does not divide into {config.num_accumulation_steps} "
            f"accumulation step(s) on {jax.device_count()} device(s): use a multiple of {portion}."
        )
