"""Run directories: train an experiment in one, load what was trained."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Bool, Int

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation import Scorer
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.skeleton import split_model
from clipbert_jax.training.checkpoint import SavedCheckpoint
from clipbert_jax.training.loop import train
from clipbert_jax.training.run_directory import claim, list_differences, read_config
from data_pipelines.corpus.builder import open_corpus
from data_pipelines.loader import train_batches
from data_pipelines.tokenizer import Tokenizer, load_tokenizer
from experiments.experiment import FREE_FIELDS, Experiment, from_json, to_json
from experiments.progress import say


def train_run(experiment: Experiment, workdir: Path, *, log: Callable[[str], None] = say) -> None:
    """Train an experiment in `workdir`, or continue the run that is there.

    Raises:
      UserError: bad data or options, or the directory holds a run with another config. Nothing has been
        written then.
    """
    check_numbers(experiment)
    experiment = resolve(experiment)
    check_batch_size(experiment)
    check_model(experiment)
    config = experiment.train
    make_batches = functools.partial(
        train_batches,
        experiment.data,
        experiment.task,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    make_batches(start_step=0).close()  # bad annotations are reported before the directory is claimed
    resolved_config = {**to_json(experiment), DATA_SHA256: data_sha256(experiment)}
    if jax.process_index() == 0:
        claim(workdir, resolved_config, free=FREE_FIELDS)
        experiment.data.load_tokenizer().save(workdir)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the run directory is claimed")
    log(f"training in {workdir} on {jax.device_count()} {jax.devices()[0].platform} device(s)")
    train(
        make_model(experiment),
        experiment.task,
        config=config,
        optimizer_config=experiment.optimizer,
        make_batches=lambda step: make_batches(start_step=step),
        workdir=workdir,
        resolved_config=resolved_config,
        log=log,
    )


DATA_SHA256 = "data_sha256"
"""Field of config.json beside the experiment's own: what the data were, wherever they are."""


def data_sha256(experiment: Experiment) -> str:
    """Return a fingerprint of what training reads: names of videos, train records, vocabulary."""
    tokenizer = experiment.data.load_tokenizer()
    digest = hashlib.sha256(f"{tokenizer.is_lower_case} {tokenizer.tokens}".encode())
    for data_dir, _ in experiment.data.sources:
        records = sorted(Path(data_dir).glob("annotations/*/train.jsonl"))
        for path in [Path(data_dir) / "video_ids.json", *records]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def make_model(experiment: Experiment) -> ClipBert:
    """Return the experiment's model, freshly initialised from its seed."""
    return ClipBert(experiment.model, experiment.task.head, rngs=nnx.Rngs(experiment.train.seed))


def resolve(experiment: Experiment) -> Experiment:
    """Fill in what the data decide: a `vocab_size` of 0 becomes that of the vocabulary.

    Raises:
      UserError: no data or vocabulary, or the model has too few word embeddings or positions for them.
    """
    open_corpus(experiment.data.data_dir)
    path, fusion, data = vocabulary_path(experiment), experiment.model.fusion, experiment.data
    num_tokens = load_tokenizer(path).vocab_size
    if fusion.vocab_size == 0:
        fusion = dataclasses.replace(fusion, vocab_size=num_tokens)
    if num_tokens > fusion.vocab_size:
        raise UserError(
            f"The vocabulary {path} has {num_tokens} tokens and the model {fusion.vocab_size}: set "
            f"--model.fusion.vocab-size to {num_tokens}, or to 0 for as many as there are."
        )
    if data.max_text_length > fusion.max_text_length:
        raise UserError(
            f"--data.max-text-length is {data.max_text_length}, the model has {fusion.max_text_length} text "
            f"positions: raise --model.fusion.max-text-length or shorten the texts."
        )
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, fusion=fusion))


AT_LEAST_ONE = {
    "data": ("num_clips", "num_frames", "size", "max_text_length", "num_prefetch", "num_threads"),
    "train": (
        "num_steps",
        "batch_size",
        "num_accumulation_steps",
        "log_every_steps",
        "save_every_steps",
        "num_kept_checkpoints",
    ),
}


MAX_DECODE_TIMEOUT_SECONDS = 250.0
"""Two attempts at a video end before training gives up waiting for a batch."""


MIN_WORKER_MEMORY_GIB = 0.5
"""With less, libraries abort or wait for ever where they should say that there is no memory."""


def check_numbers(experiment: Experiment) -> None:
    """Refuse counts, seeds and frame rates that are too small.

    Raises:
      UserError: there is one.
    """
    for group, names in AT_LEAST_ONE.items():
        for name in names:
            value = getattr(getattr(experiment, group), name)
            if value < 1:
                raise UserError(f"--{group}.{name.replace('_', '-')} must be at least 1, not {value}")
    for group, name in (("data", "num_workers"), ("train", "seed")):
        value = getattr(getattr(experiment, group), name)
        if value < 0:
            raise UserError(f"--{group}.{name.replace('_', '-')} must be at least 0, not {value}")
    for name in ("fps", "decode_timeout_seconds"):
        value = getattr(experiment.data, name)
        if not value > 0:
            raise UserError(f"--data.{name.replace('_', '-')} must be above 0, not {value}")
    if not experiment.data.worker_memory_gib >= MIN_WORKER_MEMORY_GIB:
        raise UserError(
            f"--data.worker-memory-gib must be at least {MIN_WORKER_MEMORY_GIB}, not "
            f"{experiment.data.worker_memory_gib:g}"
        )
    if experiment.data.decode_timeout_seconds > MAX_DECODE_TIMEOUT_SECONDS:
        raise UserError(
            f"--data.decode-timeout-seconds must be at most {MAX_DECODE_TIMEOUT_SECONDS:g}, not "
            f"{experiment.data.decode_timeout_seconds:g}"
        )


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
        model = nnx.eval_shape(lambda: make_model(experiment))
        skeleton, trainable, frozen = split_model(model)
        jax.eval_shape(
            lambda arrays, *inputs: skeleton.merge(arrays)(*inputs).scores,
            {**trainable, **frozen},
            frames,
            text_ids,
            text_mask,
        )
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"the model cannot be built with these --model and --data options: {error}"
        ) from error


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


def vocabulary_path(experiment: Experiment) -> Path:
    """Return the vocabulary that the experiment's texts go through."""
    return Path(experiment.data.vocab or Path(experiment.data.data_dir) / "vocab.txt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with all that is needed to use it."""

    workdir: Path
    experiment: Experiment
    step: int
    """The checkpoint's step."""
    scorer: Scorer
    tokenizer: Tokenizer

    def encode_texts(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
        """Return ids and mask [n l] of texts."""
        return self.tokenizer.encode(list(texts), self.experiment.data.max_text_length)


def load_run(workdir: Path, *, step: int | None = None) -> Run:
    """Load the newest checkpoint of a run (or that of `step`), on one device.

    Raises:
      UserError: no run there, no such checkpoint, or one of another config than the run's.
    """
    config = read_config(workdir)
    checkpoint = SavedCheckpoint(workdir, step=step)
    differences = list_differences(checkpoint.config, config, free=FREE_FIELDS)
    if differences:
        raise UserError(
            f"{workdir / 'config.json'} is not the config that checkpoint {checkpoint.step} was trained with "
            f"({'; '.join(differences)}): restore that file."
        )
    config.pop(DATA_SHA256, None)
    experiment = from_json(config, workdir / "config.json")
    skeleton, trainable, frozen = split_model(nnx.eval_shape(lambda: make_model(experiment)))
    parameters = checkpoint.load_parameters({**trainable, **frozen})
    return Run(
        workdir=workdir,
        experiment=experiment,
        step=checkpoint.step,
        scorer=Scorer(skeleton, parameters),
        tokenizer=load_tokenizer(workdir),
    )
