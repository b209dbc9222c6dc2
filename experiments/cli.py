"""The `clipbert` command: prepare data, train, evaluate, predict, search.

Commands are dataclasses, so that every field is an option with its docstring as help; `tyro` turns them into
the command line here and nowhere else. A user's mistake ends in one sentence and exit code 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from clipbert_jax.errors import UserError, is_temporary
from clipbert_jax.training.interruption import CONTINUE_EXIT_CODE
from clipbert_jax.training.logging_config import ProfileConfig
from data_pipelines.printable import printable_lines
from experiments.compilation_cache import use_compilation_cache
from experiments.configs import EXPERIMENTS
from experiments.doctor import Doctor
from experiments.estimate import Estimate
from experiments.experiment_choice import ExperimentChoice, docstring
from experiments.explain_sampling import ExplainSampling
from experiments.predict import Predict
from experiments.prepare import PrepareCommand
from experiments.probe import Probe
from experiments.processes import joined_processes
from experiments.search.command import Search
from experiments.serve.command import Serve

OF_EXPERIMENTS = ("train", "estimate")
"""Commands that take the name of an experiment and all its options."""

TaskName = Literal["retrieval", "multiple_choice", "open_ended_qa", "image_qa", "count", "pretraining"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an experiment, or continue the run that is in the run directory."""

    experiment: Annotated[ExperimentChoice, arg(name="")]
    """What to train."""
    workdir: Path
    """The run directory: config, checkpoints, metrics."""
    data_dir: Path | None = None
    """Short for --data.data-dir."""
    profile: bool = False
    """Take a trace of some steps into RUN/profile, for xprof, TensorBoard or Perfetto."""
    traced: Annotated[ProfileConfig, arg(name="profile")] = ProfileConfig()
    """Any of these options takes a trace too."""

    def run(self) -> None:
        """Train."""
        from experiments.runs import train_run

        experiment = self.experiment
        if self.data_dir is not None:
            data = dataclasses.replace(experiment.data, data_dir=str(self.data_dir))
            experiment = dataclasses.replace(experiment, data=data)
        with joined_processes(has_notices=True):
            use_compilation_cache()
            train_run(experiment, self.workdir, profile=self._profile_config())

    def _profile_config(self) -> ProfileConfig | None:
        numbers = (self.traced.first_step, self.traced.num_steps)
        if any(number is not None and number < 1 for number in numbers):
            raise UserError("--profile.first-step and --profile.num-steps are numbers from 1 on")
        return self.traced if self.profile or self.traced != ProfileConfig() else None


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
        from experiments.evaluate import evaluate

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
        from experiments.reports.run_report import write_run_report
        from experiments.run_summary import read_run

        out = self.out or self.run_dir / "run-report.html"
        if out.is_dir():
            raise UserError(f"--out {out} is a directory: give the name of a file")
        write_run_report(read_run(self.run_dir), out)
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


Command = (
    Annotated[PrepareCommand, subcommand("prepare")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Estimate, subcommand("estimate")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Search, subcommand("search")]
    | Annotated[Probe, subcommand("probe")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Runs, subcommand("runs")]
    | Annotated[ExplainSampling, subcommand("explain-sampling")]
    | Annotated[Doctor, subcommand("doctor")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 after a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with errors_as_sentences():
        check_experiment_name(arguments)
        with _one_column():
            command = parse(arguments)
        command.run()


@contextlib.contextmanager
def errors_as_sentences() -> Iterator[None]:
    """End the program with a sentence and an exit code where the user, or the machine, can do something."""
    try:
        yield
    except (UserError, OSError) as error:  # of the system: a full disk, a directory that may not be written
        if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        _complain(error, str(error))
        sys.exit(CONTINUE_EXIT_CODE if is_temporary(error) else 2)
    except KeyboardInterrupt as error:
        _complain(error, "interrupted")
        sys.exit(130)


def parse(arguments: Sequence[str]) -> Any:
    """Return the command; help and hints are about the experiment that is named, if one is."""
    place = _place_of_experiment(arguments)
    if place is None:
        return tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="clipbert",
            description="ClipBERT: learn video and language end to end, from video files.",
            args=arguments,
            config=(tyro.conf.CascadeSubcommandArgs,),
        )
    command, name = arguments[0], arguments[place]
    defaults = {
        "train": lambda: Train(experiment=EXPERIMENTS[name](), workdir=tyro.MISSING),
        "estimate": lambda: Estimate(experiment=EXPERIMENTS[name](), device=tyro.MISSING),
    }
    default = defaults[command]()
    return tyro.cli(
        type(default),
        prog=f"clipbert {command} {name}",
        description=docstring(name),
        default=default,
        args=[*arguments[1:place], *arguments[place + 1 :]],
        config=(tyro.conf.AvoidSubcommands,),
    )


def _place_of_experiment(arguments: Sequence[str]) -> int | None:
    """Return where the name of an experiment stands that is to be trained or estimated."""
    if not arguments or arguments[0] not in OF_EXPERIMENTS:
        return None
    places = [place for place, word in enumerate(arguments) if word in EXPERIMENTS]
    # A run directory may have such a name too.
    after_no_option = [place for place in places if not arguments[place - 1].startswith("-")]
    return next(iter([*after_no_option, *places]), None)


@contextlib.contextmanager
def _one_column() -> Iterator[None]:
    """Let help read from top to bottom: on a wide terminal groups of options would stand side by side."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(shutil.get_terminal_size().columns, 110))
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _complain(error: BaseException, sentence: str) -> None:
    """Say what went wrong, and what is known of how to go on."""
    lines = [f"clipbert: {sentence}", *getattr(error, "__notes__", ())]
    print("\n".join(map(printable_lines, lines)), file=sys.stderr)


def check_experiment_name(arguments: Sequence[str]) -> None:
    """Refuse a command that takes an experiment without a known one, with the nearest name.

    Raises:
      UserError: the name is missing or unknown.
    """
    if not arguments or arguments[0] not in OF_EXPERIMENTS or {"-h", "--help"} & set(arguments):
        return
    if any(name in arguments for name in EXPERIMENTS):
        return
    known = ", ".join(EXPERIMENTS)
    # Not an option, nor the value of one.
    pairs = itertools.pairwise(arguments)
    given = next(
        (now for before, now in pairs if not now.startswith("-") and not before.startswith("-")), None
    )
    if given is None:
        raise UserError(
            f"say what to {arguments[0]}, for example `clipbert {arguments[0]} demo/retrieval`; there are "
            f"{known}"
        )
    nearest = difflib.get_close_matches(given, EXPERIMENTS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {known}"
    raise UserError(f"no experiment {given!r}; {hint}")


if __name__ == "__main__":
    main()
