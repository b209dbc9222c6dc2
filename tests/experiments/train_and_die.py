"""Train as `clipbert train` does, note what every step was fed, and die by SIGKILL if told to.

python train_and_die.py DATA_DIR WORKDIR NOTES KILL_AFTER_STEP NUM_WORKERS   (KILL_AFTER_STEP 0: live on)
"""

import dataclasses
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import jax

from clipbert_jax.training.train_config import TrainConfig
from data_pipelines.loader import TrainBatches
from experiments import runs
from experiments.configs import demo_retrieval
from experiments.experiment import Experiment

SAVE_EVERY = 5


def experiment(data_dir: str, num_workers: int) -> Experiment:
    """Return a short run with dropout and accumulation, so that all randomness takes part."""
    demo = demo_retrieval.experiment()
    fusion = dataclasses.replace(
        demo.model.fusion, num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, dropout_rate=0.1
    )
    return dataclasses.replace(
        demo,
        model=dataclasses.replace(demo.model, fusion=fusion),
        data=dataclasses.replace(demo.data, data_dir=data_dir, num_clips=2, size=32, num_workers=num_workers),
        train=TrainConfig(
            num_steps=10,
            batch_size=4,
            num_accumulation_steps=2,
            log_every_steps=1,
            save_every_steps=SAVE_EVERY,
        ),
    )


def main(data_dir: str, workdir: str, notes: str, kill_after_step: int, num_workers: int) -> None:
    """Run it."""

    def note_batch(self: TrainBatches) -> object:
        position = self.get_state()["next_step"]
        batch = original_next(self)
        digest = hashlib.sha256(b"".join(x.tobytes() for x in jax.tree.leaves(batch))).hexdigest()
        with Path(notes).open("a") as file:
            file.write(f"{position} {digest}\n")
        return batch

    def log(line: str) -> None:
        print(line, flush=True)
        if kill_after_step and line.startswith(f"step {kill_after_step:>2}/"):
            saved = Path(workdir) / "checkpoints" / str(SAVE_EVERY)
            while kill_after_step > SAVE_EVERY and not saved.is_dir():  # the save runs beside the training
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)

    original_next = TrainBatches.__next__
    TrainBatches.__next__ = note_batch
    runs.train_run(experiment(data_dir, num_workers), Path(workdir), log=log)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
