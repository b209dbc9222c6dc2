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
from data_pipelines.corpus.embedded import Level, prepare_embedded
from data_pipelines.corpus.folder import prepare_folder
from experiments.configs import EXPERIMENTS
from experiments.progress import Progress, say

ExperimentChoice = tyro.extras.subcommand_type_from_defaults(
    {name: make() for name, make in EXPERIMENTS.items()},
    {name: inspect.getdoc(sys.modules[make.__module__]) or "" for name, make in EXPERIMENTS.items()},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareDemo:
    """Generate the embedded corpus: H.264 videos of short events, with captions and questions."""

    data_dir: Path = Path("data/demo")
    """Where; must not exist yet."""
    level: Level = "easy"
    """What videos are told apart by: objects, then coloured shapes, then what those do."""
    num_train: int = 800
    """Videos of the train split."""
    num_validation: int = 64
    num_test: int = 100
    seed: int = 0
    num_workers: int = 2
    """Processes; the result does not depend on it."""
    overwrite: bool = False
    """Replace an older data directory."""

    def run(self) -> None:
        """Prepare and say what there is."""
        num_videos = self.num_train + self.num_validation + self.num_test
        progress = Progress(f"generated in {self.data_dir}", total=num_videos, unit="videos")
        prepare_embedded(**vars(self), on_progress=progress.update)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareFolder:
    """Build a corpus from a folder of your videos and a csv or jsonl file of captions."""

    videos: Path
    """Folder with the video files."""
    annotations: Path
    """CSV with columns `video` and `caption` (optional: `split`, `id`), or JSON lines with the same keys."""
    data_dir: Path
    """Where the corpus goes; must not exist yet."""
    vocab: Path | None = None
    """A vocab.txt or tokenizer folder; by default a vocabulary is made from the captions."""
    num_workers: int = 2
    """Processes that check the videos."""
    overwrite: bool = False
    """Replace an older data directory."""

    def run(self) -> None:
        """Prepare and print the report."""
        report = prepare_folder(
            self.videos,
            self.annotations,
            self.data_dir,
            vocab=self.vocab,
            num_workers=self.num_workers,
            overwrite=self.overwrite,
            on_progress=Progress("checked", total=None, unit="videos").update,
        )
        say(f"{self.data_dir}: {report}")


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
        train_run(experiment, self.workdir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score every caption against every video of a split; write results.json and the scores."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`."""
    num_clips: tuple[int, ...] = (8,)
    """Clips per video, spread over the whole video; several numbers are evaluated one after the other."""
    split: Literal["train", "validation", "test"] = "test"
    data_dir: Path | None = None
    """Data directory; by default the one that the run was trained on."""
    step: int | None = None
    """Checkpoint; by default the newest."""
    batch_size: int = 8
    """Videos scored at once; changes the speed only."""
    texts_per_call: int = 64
    """Captions scored at once; changes the speed only."""
    num_workers: int = 0
    """Processes that decode."""
    out: Path | None = None
    """Directory of the result files; by default the run directory."""

    def run(self) -> None:
        """Evaluate and print the table."""
        from experiments.evaluate import evaluate

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
    step: int | None = None
    """Checkpoint; by default the newest."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Predict and print."""
        from experiments.predict import predict

        predict(**vars(self))


Prepare = Annotated[PrepareDemo, subcommand("demo")] | Annotated[PrepareFolder, subcommand("folder")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareCommand:
    """Build a data directory: videos, annotations, vocabulary."""

    source: Annotated[Prepare, arg(name="")]

    def run(self) -> None:
        """Prepare."""
        self.source.run()


Command = (
    Annotated[PrepareCommand, subcommand("prepare")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 after a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        check_experiment_name(arguments)
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="clipbert",
            description="ClipBERT: learn video and language end to end, from video files.",
            args=arguments,
            config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes),
        )
        command.run()
    except UserError as error:
        print(f"clipbert: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a full disk, a directory that may not be written
        print(f"clipbert: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("clipbert: interrupted", file=sys.stderr)
        sys.exit(130)


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


if __name__ == "__main__":
    main()
