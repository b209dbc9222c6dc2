"""`clipbert export`: its options and its help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model as StableHLO with its weights, which runs without this package, on other devices too.

    Inputs have a fixed shape. The command measures how far the export is from the float32 model.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`, or a model directory."""
    out: Path
    """Directory to write to, new or empty."""
    batch_size: int = 1
    """Number of videos per call."""
    num_clips: int = 8
    """Number of clips per video, spread over the whole video."""
    num_texts: int | None = None
    """Number of texts per video in a call; default: 1, or for multiple choice the number of options."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the computation, and of weights that are not int8."""
    weights: Literal["float", "int8"] = "float"
    """Storage of weights; int8 takes a quarter of the bytes of float32 for kernels and the word table."""
    platforms: tuple[str, ...] = ()
    """Platforms to compile for: cpu, cuda, tpu. They need not be present. Default: that of this machine."""
    num_compared: int = 32
    """Largest number of videos to compare the export with the float32 model on."""
    data_dir: Path | None = None
    """Data directory of these videos (validation, or else test); default: that of the run.
    Without data the videos are random."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint to use; default: the best on validation, or the newest without validation."""
    overwrite: bool = False
    """Replace an export in that directory."""

    def run(self) -> None:
        """Export, compare and print."""
        from experiments.conversion.export import export
        from experiments.runtime.compilation_cache import use_compilation_cache

        use_compilation_cache()
        export(**vars(self))
