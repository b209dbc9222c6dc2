"""Work of `clipbert convert`: other models' weights become a model directory, or ours an original checkpoint.

It prints where every array went, and refuses what does not fit: weights that load in part would show only in
the scores.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.pretrained.directory import (
    CONFIG,
    Vocabulary,
    check_new_directory,
    file_sha256,
    read_config,
    write_model,
)
from clipbert_jax.pretrained.load import load
from clipbert_jax.pretrained.registry import check_name, register
from clipbert_jax.tasks.task import AnswerTask
from clipbert_jax.text_files import parsed_json, read_text, text_lines
from clipbert_jax.weights.flat import WeightsMismatchError, flat_parameters
from clipbert_jax.weights.formats.refusals import listed
from clipbert_jax.weights.formats.torch_writer import write_torch_file
from clipbert_jax.weights.import_weights import (
    HEAD,
    Fitted,
    ImportedFile,
    fit,
    import_file,
    without_other_head,
)
from clipbert_jax.weights.names.original_names import to_original, to_original_name, unread_by_original
from data_pipelines.tokenizer import load_tokenizer
from experiments.configs import EXPERIMENTS
from experiments.experiment import Experiment, from_json, to_json
from experiments.input_checks import suggestion
from experiments.runs.resolve import DATA_SHA256
from experiments.runtime.progress import say

_WORDS = "text_encoder/word_embeddings/embedding"


def convert_to_clipbert_jax(
    files: Sequence[Path],
    out: Path,
    *,
    experiment: str | None,
    vocab: Path | None,
    answers: Path | None,
    allow_missing: Sequence[str],
    name: str | None,
) -> None:
    """Write a model directory with the weights of files; the arguments are the options of `clipbert convert`.

    Raises:
      UserError: a file cannot be read, the weights do not fit, or the vocabulary is missing.
    """
    check_new_directory(out)
    if name is not None:
        check_name(name)
    chosen = _experiment(experiment)
    tokenizer = load_tokenizer(_vocabulary(vocab, files))
    labels = _read_answers(answers, chosen)
    imported = [import_file(path, chosen.model.pixel_encoder) for path in files]
    chosen = _with_sizes(chosen, imported, len(tokenizer.tokens), len(labels), files)
    _check_answers(answers, labels, chosen)
    fresh = _fresh(chosen)
    imported = without_other_head(imported, fresh)
    for file in imported:
        _print_table(file)
    fitted = fit(imported, fresh, allow_missing=allow_missing)
    _print_rest(imported, fitted)
    origin = {"experiment": experiment or _DEFAULT}
    for file in imported:
        # With its folder, as many files are called model.safetensors; a longer path would describe this
        # machine.
        source = Path(file.path.resolve().parent.name) / file.path.name
        origin[f"source: {source}"] = f"{file.source}, sha256 {file_sha256(file.path)}"
    if fitted.new:
        origin["drawn at random"] = ", ".join(fitted.new)
    write_model(
        out,
        config=to_json(chosen),
        parameters=fitted.parameters,
        vocabulary=Vocabulary(tokens=tokenizer.tokens, letter_rules=tokenizer.letter_rules, answers=labels),
        origin=origin,
    )
    say(f"model in {out}: use it as RUN, or with --init.model")
    if name is not None:
        register(name, out)
        say(f"named {name}")


def convert_to_torch(model: Path, out: Path) -> None:
    """Write a state dict with the original's names, which its code loads key for key.

    Raises:
      UserError: the model does not exist, or the file cannot be written.
    """
    if out.exists():
        raise UserError(f"--out {out} exists already: choose a new file")
    pretrained = load(model)
    try:
        state = to_original(pretrained.parameters)
    except WeightsMismatchError as error:
        raise UserError(f"{model} cannot be written with the original's names: {error}") from error
    table = Table("clipbert_jax", "shape", "original", box=None, header_style="bold")
    for ours, array in pretrained.parameters.items():
        renamed = to_original_name(ours)
        table.add_row(ours, str(tuple(array.shape)), renamed[0] if renamed else "")
    _print(table)
    unread = unread_by_original(state)
    write_torch_file(out, {**state, **unread})
    say(
        f"{len(state) + len(unread)} tensors in {out}, {len(unread)} of them zeros that the original never "
        "reads: torch.load(..., weights_only=True) gives the state dict"
    )


_DEFAULT = "coco_vg/pretraining_original"


def _experiment(name: str | None) -> Experiment:
    """Return an experiment by its name, or the experiment of a run or model directory."""
    if name is not None and name not in EXPERIMENTS and Path(name).is_dir():
        values = read_config(Path(name))
        values.pop(DATA_SHA256, None)
        return from_json(values, Path(name) / CONFIG)
    if name is not None and name not in EXPERIMENTS:
        raise UserError(f"there is no experiment {name!r}: {suggestion(name, EXPERIMENTS)}")
    return EXPERIMENTS[name or _DEFAULT]()


def _vocabulary(vocab: Path | None, files: Sequence[Path]) -> Path:
    if vocab is not None:
        return vocab
    beside = [path.parent / "vocab.txt" for path in files if (path.parent / "vocab.txt").is_file()]
    if not beside:
        raise UserError(
            "no vocab.txt lies beside these files: give it with --vocab (for the released models, that of "
            "bert-base-uncased)"
        )
    return beside[0]


def _with_sizes(
    experiment: Experiment,
    files: Sequence[ImportedFile],
    num_tokens: int,
    num_labels: int,
    paths: Sequence[Path],
) -> Experiment:
    """Fill in the number of words, which the files decide, and of answers, which the labels decide.

    A head in the files does not decide it, as it may be another task's with the same names.
    """
    shapes = {name: array.shape for file in files for name, array in file.arrays.items()}
    fusion, task = experiment.model.fusion, experiment.task
    num_words = shapes[_WORDS][0] if _WORDS in shapes else fusion.vocab_size or num_tokens
    if num_tokens > num_words:
        raise UserError(
            f"the vocabulary has {num_tokens:,} tokens, but {paths[0]} has rows for {num_words:,}: give this "
            "model's vocabulary with --vocab"
        )
    model = dataclasses.replace(experiment.model, fusion=dataclasses.replace(fusion, vocab_size=num_words))
    if isinstance(task, AnswerTask):
        task = task.with_num_answers(num_labels)
    return dataclasses.replace(experiment, model=model, task=task)


def _read_answers(path: Path | None, experiment: Experiment) -> tuple[str, ...]:
    task = experiment.task
    if not isinstance(task, AnswerTask):
        return ()
    if path is None or not path.is_file():
        raise UserError(
            f"a model of {experiment.task_name} needs --answers FILE, the meanings of its outputs: a JSON "
            "list, or one answer a line"
        )
    return tuple(read_answers(path))


def _check_answers(path: Path | None, labels: Sequence[str], experiment: Experiment) -> None:
    task = experiment.task
    if not isinstance(task, AnswerTask):
        return
    if len(labels) > task.num_answers:
        raise UserError(f"{path} has {len(labels)} answers, but the head has {task.num_answers} outputs")
    if len(labels) < task.num_answers:
        num_others = task.num_answers - len(labels)
        say(f"{path} has {len(labels)} answers: the other {num_others} outputs have no meaning")


def read_answers(path: Path) -> list[str]:
    """Return answers in the order of a head's outputs.

    Raises:
      UserError: the file is broken or empty, does not give their order, or has an answer twice.
    """
    text = read_text(path)
    try:
        values = parsed_json(text, path)
    except UserError:
        if text.lstrip().startswith(("{", "[")):  # the lines of JSON that was cut off are not answers
            raise
        values = text_lines(text)
    if isinstance(values, dict):  # answer -> number, the format of the original
        numbers = list(values.values())
        if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
            raise UserError(f"{path} must number its answers from 0 to {len(numbers) - 1}, each once")
        values = sorted(values, key=values.__getitem__)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{path} must hold a list of answers, or a number for each answer")
    if not values:
        raise UserError(f"{path} has no answers: give the file of this model")
    if twice := [answer for answer, number in collections.Counter(values).items() if number > 1]:
        raise UserError(f"{path} has answers twice ({listed(twice)}): give each output a different answer")
    return values


def _fresh(experiment: Experiment) -> dict[str, jax.Array]:
    """Return the model's initial weights."""
    model = ClipBert(experiment.model, experiment.task.head, rngs=nnx.Rngs(experiment.train.seed))
    return flat_parameters(model)


def _print_table(file: ImportedFile) -> None:
    say(f"{file.path}: {file.source}, {len(file.lines)} arrays")
    table = Table("name", "shape", "goes to", box=None, header_style="bold")
    for line in file.lines:
        table.add_row(*map(Text, (line.name, str(line.shape), line.target)))  # names may look like markup
    _print(table)
    for note in file.notes:
        say(note)


def _print_rest(files: Sequence[ImportedFile], fitted: Fitted) -> None:
    lines = [line for file in files for line in file.lines]
    num_used = sum(line.is_used for line in lines)
    num_ignored = sum(not line.is_used and not line.is_unknown for line in lines)
    for name in fitted.new:
        say(f"new: {name}, drawn at random")
    for sentence in fitted.lines:
        say(sentence)
    for file in files:
        if any(name.startswith(HEAD) for name in file.arrays):
            say(f"the head is from {file.path}: its shapes fit, but a file does not name its task")
    say(f"{num_used} arrays used, {num_ignored} ignored by rule, 0 unused, {len(fitted.new)} new")


def _print(table: Table) -> None:
    console = Console()
    width = None if console.is_terminal else 200  # files and pipes have no width
    Console(width=width).print(table)
