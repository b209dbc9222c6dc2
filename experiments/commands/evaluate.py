"""Commands that evaluate, convert and report: their options, with the help of each.

Each is a dataclass whose fields are the options; what it does, and JAX, is imported when it runs, so that
help comes at once. Commands with more to say have modules of their own, such as `predict.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a model on a split; write results.json, predictions, and what else there is.

    Retrieval scores every caption against every video; the other tasks ask each video its own questions.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`."""
    num_clips: tuple[int, ...] = (8,)
    """Clips per video, spread over the whole video; several numbers share one pass over the videos."""
    split: Literal["train", "validation", "test"] = "test"
    task: str | None = None
    """Evaluation, if it is not that of the task it was trained on: a model of retrieval or pretraining can do
    multiple_choice too, one of pretraining also retrieval."""
    data_dir: Path | None = None
    """Data directory; by default the one that the run was trained on."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint; by default the best on validation if there was any, else the newest."""
    batch_size: int = 8
    """Videos scored at once, over all devices, which share them evenly; changes the speed only."""
    texts_per_call: int = 64
    """Texts scored at once, at most: fewer if the clips are many; changes the speed only."""
    num_workers: int = 0
    """Processes that decode."""
    decode_timeout: float = 60.0
    """Seconds after which a worker is stuck in a video and starts again, or, the second time, says so."""
    out: Path | None = None
    """Directory of the result files; by default the run directory."""

    def run(self) -> None:
        """Evaluate and print the table."""
        from experiments.runs.evaluate_run import evaluate
        from experiments.runtime.compilation_cache import use_compilation_cache
        from experiments.runtime.processes import joined_processes

        with joined_processes():
            use_compilation_cache()
            evaluate(**vars(self))
