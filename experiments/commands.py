"""Commands that evaluate, convert and report: their options, with the help of each.

Each is a dataclass whose fields are the options; what it does, and JAX, is imported when it runs, so that
help comes at once. Commands with more to say have modules of their own, such as `predict.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError

TaskName = Literal["retrieval", "multiple_choice", "open_ended_qa", "image_qa", "count", "pretraining"]


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
    task: TaskName | None = None
    """Evaluate as another task: a model of retrieval or pretraining can do multiple_choice too, one of
    pretraining also retrieval. By default as what it was trained for."""
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
        from experiments.compilation_cache import use_compilation_cache
        from experiments.evaluate import evaluate
        from experiments.processes import joined_processes

        with joined_processes():
            use_compilation_cache()
            evaluate(**vars(self))


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
        from experiments.compilation_cache import use_compilation_cache
        from experiments.export import export

        use_compilation_cache()
        export(**vars(self))


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
    to: Literal["ours", "torch"] = "ours"
    """Torch: a state dict with the original's names."""
    experiment: str | None = None
    """Whose task, head, clips and texts the model has, such as msrvtt/retrieval_released, or a run or model
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
        from experiments.convert import convert_to_ours, convert_to_torch

        if self.to == "torch":
            if len(self.files) != 1:
                raise UserError("--to torch takes one run or model directory")
            convert_to_torch(self.files[0], self.out)
            return
        convert_to_ours(
            self.files,
            self.out,
            experiment=self.experiment,
            vocab=self.vocab,
            answers=self.answers,
            allow_missing=self.allow_missing,
            name=self.name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page about a run: curves, results, samples, config, environment.

    Of a run that goes on, has ended or was killed. The page is one file, to be sent by mail or archived.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`."""
    out: Path | None = None
    """The file; RUN/run-report.html by default."""

    def run(self) -> None:
        """Write the page and say where."""
        from experiments.option_checks import check_out_directory
        from experiments.reports.run_report import write_run_report
        from experiments.run_summary import read_run

        out = self.out or self.run_dir / "run-report.html"
        if out.is_dir():
            raise UserError(f"--out {out} is a directory: give the name of a file")
        run = read_run(self.run_dir)
        check_out_directory("the folder of the page,", out.parent)
        write_run_report(run, out)
        print(out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """List the runs in a directory, or say in what some of them differ."""

    directory: Annotated[Positional[Path], arg(metavar="DIRECTORY")] = Path("runs")
    """Where to look, folders of folders included."""
    compare: tuple[str, ...] = ()
    """Runs, by the names of the list: settings in which they differ, and what came of it, side by side."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Print the table."""
        from experiments.run_list import compare_runs, list_runs

        if self.compare:
            compare_runs(self.directory, self.compare, as_json=self.json)
        else:
            list_runs(self.directory, as_json=self.json)
