"""The `clipbert` command: parses the command line and runs one of `experiments/commands`.

A command is a dataclass: its fields are the options, and their docstrings the help. Only this file makes a
command line of them, with `tyro`. A user's mistake ends in one sentence and exit code 2.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import itertools
import operator
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from clipbert_jax.errors import CONTINUE_EXIT_CODE, UserError, explain_full_device, is_temporary
from data_pipelines.terminal_text import printable_lines
from experiments.input_checks import suggestion
from experiments.old_names import OF_EXPERIMENTS, OLD_EXPERIMENTS, replace_old_names

COMMANDS = {
    "prepare": "experiments.commands.prepare:PrepareCommand",
    "train": "experiments.commands.train:Train",
    "estimate": "experiments.commands.estimate:Estimate",
    "evaluate": "experiments.commands.evaluate:Evaluate",
    "predict": "experiments.commands.predict:Predict",
    "search": "experiments.commands.search:Search",
    "probe": "experiments.commands.probe:Probe",
    "serve": "experiments.commands.serve:Serve",
    "export": "experiments.commands.export:Export",
    "convert": "experiments.commands.convert:Convert",
    "report": "experiments.commands.report:Report",
    "runs": "experiments.commands.runs:Runs",
    "explain-sampling": "experiments.commands.explain_sampling:ExplainSampling",
    "doctor": "experiments.commands.doctor:Doctor",
}
"""Command -> its class. Only the called one is imported, as importing JAX takes seconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 after a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with errors_as_sentences():
        arguments, replaced = _with_present_names(arguments)
        for old, new in replaced.items():
            print(f"clipbert: {old} is now called {new}", file=sys.stderr)
        check_experiment_name(arguments)
        with _one_column():
            command = parse(arguments)
        command.run()


@contextlib.contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn errors of the user or the machine into a sentence and an exit code."""
    try:
        yield
    except (UserError, OSError) as error:  # of the system: a full disk, a directory that may not be written
        if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        _complain(error, str(error))
        sys.exit(CONTINUE_EXIT_CODE if is_temporary(error) else 2)
    except RuntimeError as error:
        sentence = explain_full_device(error)
        if sentence is None:
            raise
        _complain(error, sentence)
        sys.exit(2)
    except KeyboardInterrupt as error:
        _complain(error, "interrupted")
        sys.exit(130)


def parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments describe."""
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS and not name.startswith("-"):
        raise UserError(f"there is no command {name!r}: {suggestion(name, COMMANDS)}")
    if name not in COMMANDS:
        every = [_listed(name) for name in COMMANDS]
        any_of_them: Any = functools.reduce(operator.or_, every)
        return tyro.cli(
            any_of_them,
            prog="clipbert",
            description="Train and use video-and-language models. `clipbert COMMAND --help` says more.",
            args=arguments,
        )
    place = _place_of_experiment(arguments)
    if place is None:
        return tyro.cli(
            _command(name),
            prog=f"clipbert {name}",
            args=arguments[1:],
            config=(tyro.conf.CascadeSubcommandArgs,),
        )
    return _parse_experiment(name, arguments[1:place], arguments[place], arguments[place + 1 :])


def _command(name: str) -> Any:
    module, kind = COMMANDS[name].split(":")
    return getattr(importlib.import_module(module), kind)


def _listed(name: str) -> Any:
    """Return a command with the first sentence of its help, for the list of all commands."""
    command = _command(name)
    summary, _, _ = (inspect.getdoc(command) or "").partition("\n\n")
    return Annotated[command, subcommand(name, description=" ".join(summary.split()))]


def _parse_experiment(command: str, before: Sequence[str], name: str, after: Sequence[str]) -> Any:
    """Return a command for an experiment, with the settings of the experiment as defaults."""
    from experiments.commands.experiment_choice import docstring
    from experiments.configs import EXPERIMENTS

    required = {"train": "workdir", "estimate": "device"}
    default = _command(command)(experiment=EXPERIMENTS[name](), **{required[command]: tyro.MISSING})
    return tyro.cli(
        type(default),
        prog=f"clipbert {command} {name}",
        description=docstring(name),
        default=default,
        args=[*before, *after],
        config=(tyro.conf.AvoidSubcommands,),
    )


def _place_of_experiment(arguments: Sequence[str]) -> int | None:
    """Return the place of the experiment's name in the arguments of `train` or `estimate`."""
    if not arguments or arguments[0] not in OF_EXPERIMENTS:
        return None
    from experiments.configs import EXPERIMENTS

    places = [place for place, word in enumerate(arguments) if word in EXPERIMENTS]
    # A run directory may have such a name too.
    after_no_option = [place for place in places if not arguments[place - 1].startswith("-")]
    return next(iter([*after_no_option, *places]), None)


def _with_present_names(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Replace old names, also that of an experiment after an option without a value."""
    present, replaced = replace_old_names(arguments)
    place = next((place for place, word in enumerate(present) if word in OLD_EXPERIMENTS), None)
    is_of_experiment = bool(present) and present[0] in OF_EXPERIMENTS
    if place is not None and is_of_experiment and _place_of_experiment(present) is None:
        old, new = present[place], OLD_EXPERIMENTS[present[place]]
        return [*present[:place], new, *present[place + 1 :]], {**replaced, old: new}
    return present, replaced


@contextlib.contextmanager
def _one_column() -> Iterator[None]:
    """Print help in one column: tyro sets groups of options side by side on a wide terminal."""
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
    """Print what went wrong, and the notes of the error."""
    lines = [f"clipbert: {sentence}", *getattr(error, "__notes__", ())]
    print("\n".join(map(printable_lines, lines)), file=sys.stderr)


def check_experiment_name(arguments: Sequence[str]) -> None:
    """Refuse a missing or unknown name of an experiment, and suggest the nearest.

    Raises:
      UserError: the name is missing or unknown.
    """
    if not arguments or arguments[0] not in OF_EXPERIMENTS or {"-h", "--help"} & set(arguments):
        return
    from experiments.configs import EXPERIMENTS

    if any(name in arguments for name in EXPERIMENTS):
        return
    known = ", ".join(EXPERIMENTS)
    # The first word that is not an option or the value of an option.
    pairs = itertools.pairwise(arguments)
    given = next(
        (now for before, now in pairs if not now.startswith("-") and not before.startswith("-")), None
    )
    if given is None:
        raise UserError(
            f"name an experiment, for example `clipbert {arguments[0]} demo/retrieval`; the experiments are "
            f"{known}"
        )
    raise UserError(f"there is no experiment {given!r}: {suggestion(given, EXPERIMENTS)}")


if __name__ == "__main__":
    main()
