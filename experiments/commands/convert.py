"""`clipbert convert`: its options and its help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Turn weights of the original, BERT or ResNet-50 into a model, or a model into such a checkpoint.

    The command lists what becomes of every array, and refuses arrays that do not fit. It needs no PyTorch,
    and runs nothing that is in a file.
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE")]
    """Checkpoints (.pt, .pth, .bin, .pkl, .safetensors) that together hold a model.
    With --to torch: a run or model directory."""
    out: Path
    """Directory to create for the model; with --to torch the file to create."""
    to: Literal["clipbert_jax", "torch"] = "clipbert_jax"
    """Format to write; `torch` is a state dict with the original's names."""
    experiment: str | None = None
    """Experiment, run or model directory with the task, head, clips and texts; default: pretraining."""
    vocab: Path | None = None
    """File vocab.txt; default: the one beside a checkpoint."""
    answers: Path | None = None
    """Answers that the outputs of the head stand for: a JSON list, or one answer per line."""
    allow_missing: tuple[str, ...] = ()
    """Patterns of names that may be missing, such as 'visual_embedding/*'; their weights are random."""
    name: str | None = None
    """Name to register the model under, for `clipbert_jax.load`."""

    def run(self) -> None:
        """Convert."""
        from experiments.conversion.convert import convert_to_clipbert_jax, convert_to_torch

        if self.to == "torch":
            if len(self.files) != 1:
                raise UserError("--to torch takes one run or model directory")
            convert_to_torch(self.files[0], self.out)
            return
        convert_to_clipbert_jax(
            self.files,
            self.out,
            experiment=self.experiment,
            vocab=self.vocab,
            answers=self.answers,
            allow_missing=self.allow_missing,
            name=self.name,
        )
