"""`clipbert convert`: its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Make a model of weights of others: of the original, BERT, ResNet-50; or a checkpoint of the original.

    Says what becomes of every array, and refuses what does not fit. Needs no PyTorch, and runs nothing that a
    file says.
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE")]
    """Checkpoints (.pt, .pth, .bin, .pkl, .safetensors), together all of a model; for --to torch a run or
    model."""
    out: Path
    """New directory of the model; for --to torch the new file."""
    to: Literal["clipbert_jax", "torch"] = "clipbert_jax"
    """Torch: a state dict with the original's names."""
    experiment: str | None = None
    """Whose task, head, clips and texts the model has, such as msrvtt/retrieval_original, or a run or model
    directory; pretraining by default."""
    vocab: Path | None = None
    """vocab.txt; by default the one beside a file."""
    answers: Path | None = None
    """What the outputs of a head for questions mean: a JSON list, or one a line."""
    allow_missing: tuple[str, ...] = ()
    """Patterns of names that may be drawn anew, such as 'visual_embedding/*'."""
    name: str | None = None
    """Register the model under this name, for `clipbert_jax.load`."""

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
