"""`clipbert evaluate`: its options and its help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a model on a split; write results.json and predictions.

    Retrieval scores every caption against every video. The other tasks ask each video its own questions.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`, or a model directory."""
    num_clips: tuple[int, ...] = (8,)
    """Number of clips per video, spread over the whole video; several numbers share one pass."""
    split: Literal["train", "validation", "test"] = "test"
    """Split of the data to evaluate on."""
    task: str | None = None
    """Task to evaluate; default: the task of the training.
    A model for retrieval or pretraining can also do multiple_choice, and a pretrained one retrieval."""
    data_dir: Path | None = None
    """Data directory; default: the one of the training."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint to use; default: the best on validation, or the newest without validation."""
    batch_size: int = 8
    """Number of videos scored at once on all devices together; changes the speed only."""
    texts_per_call: int = 64
    """Largest number of texts scored at once, fewer with many clips; changes the speed only."""
    num_workers: int = 0
    """Number of processes that decode; 0 decodes in this process."""
    decode_timeout: float = 60.0
    """Time limit for one video, in seconds: workers start again once, then the evaluation ends."""
    out: Path | None = None
    """Directory for the result files; default: the run directory."""

    def run(self) -> None:
        """Evaluate and print the table."""
        from experiments.runs.evaluate_run import evaluate
        from experiments.runtime.compilation_cache import use_compilation_cache
        from experiments.runtime.processes import joined_processes

        with joined_processes():
            use_compilation_cache()
            evaluate(**vars(self))
