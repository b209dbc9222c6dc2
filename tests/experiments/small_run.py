"""A small training run as a program, which can be told to get a signal after a step, alone or of several.

    python -m tests.experiments.small_run DATA_DIR WORKDIR [--signal KILL --after-step 3 --process 1] ...

Trains as `clipbert train` does, with dropout and accumulation, so that all randomness takes part.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.sharding import MeshConfig
from clipbert_jax.training.step import Metrics
from clipbert_jax.training.train_config import TrainConfig
from data_pipelines.loader import TrainBatches
from experiments.cli import errors_as_sentences
from experiments.configs import EXPERIMENTS
from experiments.experiment import Experiment
from experiments.runs import train_run as runs
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.runtime.processes import joined_processes

SAVE_EVERY = 5


def experiment(
    data_dir: str | Path,
    *,
    task: str = "retrieval",
    num_workers: int = 0,
    num_steps: int = 10,
    save_every: int = SAVE_EVERY,
    fsdp: int = 1,
    num_validations: int = 0,
    batch_size: int = 8,
) -> Experiment:
    """Return the run."""
    demo = EXPERIMENTS[f"demo/{task}"]()
    pixel_encoder = dataclasses.replace(demo.model.pixel_encoder, stage_blocks=(1,), stage_width=16)
    fusion = dataclasses.replace(
        demo.model.fusion, num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, dropout_rate=0.1
    )
    return dataclasses.replace(
        demo,
        model=dataclasses.replace(demo.model, pixel_encoder=pixel_encoder, fusion=fusion),
        data=dataclasses.replace(
            demo.data,
            data_dir=str(data_dir),
            num_clips=min(2, demo.data.num_clips),
            size=32,
            num_workers=num_workers,
        ),
        mesh=MeshConfig(fsdp=fsdp),
        train=TrainConfig(
            num_steps=num_steps,
            batch_size=batch_size,
            num_accumulation_steps=2,
            ema_decay=0.9,
            log_every_steps=1,
            save_every_steps=save_every,
            num_validations=num_validations,
        ),
    )


@dataclasses.dataclass(frozen=True)
class After(Callback):
    """Does something when a step is done, and once a checkpoint is there if one must be."""

    step: int
    act: Callable[[], object]
    saved: Path | None = None

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        if step == self.step:
            while self.saved is not None and not self.saved.is_dir():  # the save runs beside the training
                time.sleep(0.05)
            self.act()


def send(number: signal.Signals) -> None:
    """Send this process a signal, and say when."""
    print(f"signal at {time.time()}", flush=True)
    os.kill(os.getpid(), number)


def fail(sentence: str) -> None:
    """Raise what commands print as a sentence."""
    raise UserError(sentence)


def note_batches(path: Path) -> None:
    """Write down a digest of every batch that is made, with its position."""
    make_next: Callable[..., Any] = TrainBatches.__next__

    def next_noted(self: TrainBatches) -> object:
        position = self.get_state()["next_step"]
        batch = make_next(self)
        digest = hashlib.sha256(b"".join(x.tobytes() for x in jax.tree.leaves(batch))).hexdigest()
        with path.open("a") as file:
            file.write(f"{position} {digest}\n")
        return batch

    TrainBatches.__next__ = next_noted


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"])
    parser.add_argument("--after-step", type=int, default=0)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--max-file-bytes", type=int, help="from --after-step on, as if the disk were full")
    parser.add_argument("--fail", help="a user's mistake, at --after-step")
    parser.add_argument("--notes", type=Path)
    parser.add_argument("--task", default="retrieval")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--save-every", type=int, default=SAVE_EVERY)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--num-validations", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8)
    options = vars(parser.parse_args())
    name, after_step, process = (options.pop(key) for key in ("signal", "after_step", "process"))
    fault = options.pop("fail")
    max_file_bytes = options.pop("max_file_bytes")
    workdir, notes = options.pop("workdir"), options.pop("notes")
    with errors_as_sentences(), joined_processes(has_notices=True):
        use_compilation_cache()
        if notes is not None:
            note_batches(notes)
        must_be_saved = after_step > options["save_every"]
        saved = workdir / "checkpoints" / str(options["save_every"]) if must_be_saved else None
        callbacks: list[Callback] = []
        if max_file_bytes is not None:
            limits = max_file_bytes, max_file_bytes
            callbacks.append(
                After(after_step, partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits), saved)
            )
        if name is not None and jax.process_index() == process:
            callbacks.append(After(after_step, partial(send, signal.Signals[f"SIG{name}"]), saved))
        if fault is not None and jax.process_index() == process:
            callbacks.append(After(after_step, partial(fail, fault)))
        runs.train_run(experiment(**options), workdir, callbacks=callbacks)


if __name__ == "__main__":
    main()
