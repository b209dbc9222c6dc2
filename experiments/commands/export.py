"""`clipbert export`: its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model as StableHLO with its weights: files that run without this package, on other devices too.

    Inputs have a fixed shape. How far the files are from the model in float32 is measured and written down.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`."""
    out: Path
    """Directory to write to: new or empty."""
    batch_size: int = 1
    """Videos of a call."""
    num_clips: int = 8
    """Clips of a video, spread over the whole of it."""
    num_texts: int | None = None
    """Texts of each video in a call; by default 1, for multiple choice as many as questions have options."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic, and of the weights unless they are int8."""
    weights: Literal["float", "int8"] = "float"
    """int8 keeps kernels and the word table in a quarter of the bytes of float32; the program multiplies them
    out."""
    platforms: tuple[str, ...] = ()
    """One or more of cpu, cuda and tpu, which need not be here; by default the one of this machine."""
    num_compared: int = 32
    """Videos that the files and the model in float32 are compared on, at most."""
    data_dir: Path | None = None
    """Data directory of these videos, of its validation split or else test; by default the run's. Without
    data, they are random."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint; by default the best on validation if there was any, else the newest."""
    overwrite: bool = False
    """Replace an export that is in the directory."""

    def run(self) -> None:
        """Export, compare and print."""
        from experiments.conversion.export import export
        from experiments.runtime.compilation_cache import use_compilation_cache

        use_compilation_cache()
        export(**vars(self))
