"""The `clipbert` command: prepare data, train, evaluate, predict.

Commands are dataclasses, so that every field is an option with its docstring as help; `tyro` turns them into
the command line here and nowhere else. A user's mistake ends in one sentence and exit code 2.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from clipbert_jax.errors import UserError
from experiments.compilation_cache import use_compilation_cache
from experiments.configs import EXPERIMENTS
from experiments.doctor import Doctor
from experiments.explain_sampling import ExplainSampling
from experiments.prepare import PrepareCommand


def _docstring(experiment: str) -> str:
    """Return what the file of an experiment says: command, data, hardware, what to expect."""
    return inspect.getdoc(sys.modules[EXPERIMENTS[experiment].__module__]) or ""


TaskName = Literal["retrieval", "multiple_choice", "open_ended_qa", "image_qa", "count", "pretraining"]

ExperimentChoice = tyro.extras.subcommand_type_from_defaults(
    {name: make() for name, make in EXPERIMENTS.items()},
    {name: _docstring(name).partition("\n")[0] for name in EXPERIMENTS},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an experiment, or continue the run that is in the run directory."""

    experiment: Annotated[ExperimentChoice, arg(name="")]
    """What to train."""
    workdir: Path
    """The run directory: config, checkpoints, metrics."""
    data_dir: Path | None = None
    """Short for --data.data-dir."""

    def run(self) -> None:
        """Train."""
        from experiments.runs import train_run

        experiment = self.experiment
        if self.data_dir is not None:
            data = dataclasses.replace(experiment.data, data_dir=str(self.data_dir))
            experiment = dataclasses.replace(experiment, data=data)
        use_compilation_cache()
        train_run(experiment, self.workdir)


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

        use_compilation_cache()
        evaluate(**vars(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Say how probably each text describes one video, and which clip says so."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`."""
    video: Annotated[Positional[Path], arg(metavar="VIDEO")]
    """A video file."""
    texts: tuple[str, ...]
    """One or more texts, each in quotes."""
    num_clips: int = 8
    """Clips, spread over the whole video."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint; by default the best on validation if there was any, else the newest."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Predict and print."""
        from experiments.predict import predict

        use_compilation_cache()
        predict(**vars(self))


Command = (
    Annotated[PrepareCommand, subcommand("prepare")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[ExplainSampling, subcommand("explain-sampling")]
    | Annotated[Doctor, subcommand("doctor")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 after a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        check_experiment_name(arguments)
        introduce_experiment(arguments)
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="clipbert",
            description="ClipBERT: learn video and language end to end, from video files.",
            args=arguments,
            config=(tyro.conf.CascadeSubcommandArgs,),
        )
        command.run()
    except UserError as error:
        _complain(error, str(error))
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a full disk, a directory that may not be written
        _complain(error, str(error))
        sys.exit(2)
    except KeyboardInterrupt as error:
        _complain(error, "interrupted")
        sys.exit(130)


def _complain(error: BaseException, sentence: str) -> None:
    """Say what went wrong, and what is known of how to go on."""
    print("\n".join([f"clipbert: {sentence}", *getattr(error, "__notes__", ())]), file=sys.stderr)


def check_experiment_name(arguments: Sequence[str]) -> None:
    """Refuse `train` without one of the known experiments, with the nearest name.

    Raises:
      UserError: the name is missing or unknown.
    """
    if not arguments or arguments[0] != "train" or {"-h", "--help"} & set(arguments):
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
        raise UserError(f"say what to train, for example `clipbert train demo/retrieval`; there are {known}")
    nearest = difflib.get_close_matches(given, EXPERIMENTS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {known}"
    raise UserError(f"no experiment {given!r}; {hint}")


def introduce_experiment(arguments: Sequence[str]) -> None:
    """Print the docstring of an experiment as it is, above the options that `--help` lists."""
    if arguments and arguments[0] == "train" and {"-h", "--help"} & set(arguments):
        for name in (name for name in EXPERIMENTS if name in arguments):
            print(f"{_docstring(name)}\n")


if __name__ == "__main__":
    main()
