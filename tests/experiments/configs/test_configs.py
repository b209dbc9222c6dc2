"""Every experiment can be trained: its commands parse, its model takes its batches, its docstring is true."""

import collections
import dataclasses
import functools
import pkgutil
import re
import shlex

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from clipbert_jax.batch import Batch
from clipbert_jax.models.model_def import split_model
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.optimizer import make_optimizer
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.step import TrainState, make_train_step
from experiments import cli, configs
from experiments.commands.experiment_choice import docstring
from experiments.commands.train import Train
from experiments.configs import EXPERIMENTS
from experiments.experiment import Experiment, InitConfig, make_model, to_json
from experiments.runs.experiment_checks import check_experiment

PRESETS = [name.removesuffix("_corrected") for name in EXPERIMENTS if name.endswith("_corrected")]
FULL_SIZE = [name for name, make in EXPERIMENTS.items() if make().model.fusion.hidden_size == 768]

# The original's released settings: clips, frames, fps (images have none), size, batch on one GPU,
# accumulation, texts of one video, learning rate, epochs, text length.
ORIGINAL = {
    "coco_vg/pretraining": (1, 1, None, 768, 32, 2, 2, 5e-5, 40, 30),
    "msrvtt/retrieval": (8, 2, 2, 448, 16, 1, 2, 5e-5, 20, 20),
    "didemo/retrieval": (8, 2, 2, 448, 8, 4, 2, 5e-5, 20, 100),
    "activitynet/retrieval": (4, 2, 1, 448, 16, 2, 2, 5e-5, 80, 100),
    "msrvtt/qa": (8, 2, 2, 448, 16, 1, 1, 5e-5, 10, 100),
    "tgif/action": (1, 1, 1, 768, 16, 1, 5, 5e-5, 15, 25),
    "tgif/transition": (1, 1, 1, 768, 16, 1, 5, 5e-5, 15, 25),
    "tgif/frameqa": (1, 1, 1, 768, 16, 1, 1, 5e-5, 15, 25),
    "vqa/v2": (1, 1, None, 768, 32, 1, 2, 1e-4, 5, 20),
}


def sections(name):
    """Return the parts of a docstring by their headings, each on one line."""
    parts = re.split(r"^(\w+):\s+", docstring(name), flags=re.MULTILINE)
    return {heading: " ".join(text.split()) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def commands(name):
    """Return the arguments of every `clipbert` command of a docstring."""
    text = docstring(name).replace("\\\n", " ")
    lines = re.findall(r"^(?:Command: )?\s+clipbert (.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


@functools.cache
def parse(*arguments):
    cli.check_experiment_name(arguments)
    return cli.parse(arguments)


def fields(values, prefix=""):
    """Return the fields of nested dicts by their dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def test_every_config_is_registered_by_the_name_of_its_file():
    files = {module.name for module in pkgutil.iter_modules(configs.__path__)} - {"bases"}
    assert files == {
        name.replace("/", "_").removesuffix("_corrected").removesuffix("_original") for name in EXPERIMENTS
    }
    for name, make in EXPERIMENTS.items():
        file = make.__module__.removeprefix("experiments.configs.")
        assert name.replace("/", "_") == (
            file if make.__name__ == "experiment" else f"{file}_{make.__name__}"
        )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_docstring_says_how_with_what_and_what_to_expect(name):
    wanted = {"Command", "Hardware", "Expect"}
    wanted |= set() if name.startswith("demo/") else {"Data"}
    wanted |= {"Preset"} if name.endswith(("_corrected", "_original")) else set()
    assert wanted <= sections(name).keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_command_of_the_docstring_is_one(name):
    verbs = collections.Counter(arguments[0] for arguments in commands(name))
    assert verbs.keys() == {"prepare", "train", "evaluate"}
    said = re.findall(r"clipbert (?:prepare|train|evaluate|predict) ", sections(name)["Command"])
    assert len(said) == verbs.total()
    parsed = [parse(*arguments) for arguments in commands(name)]
    (train,) = (command for command in parsed if isinstance(command, Train))
    assert ["train", name] in [arguments[:2] for arguments in commands(name)]
    # The options of the command are what the experiment has anyway, but for workers.
    data = dataclasses.replace(train.experiment.data, num_workers=0)
    config = EXPERIMENTS[name]()
    assert str(train.data_dir) == config.data.data_dir or name.startswith("folder/")
    assert dataclasses.replace(train.experiment, data=data) == config


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_models_are_the_original_s_in_bfloat16(name):
    experiment = EXPERIMENTS[name]()
    fusion, train = experiment.model.fusion, experiment.train
    assert (fusion.num_layers, fusion.vocab_size) == (12, 30522)  # bert-base-uncased
    assert experiment.model.pixel_encoder.stage_blocks == (3, 4, 6, 3)
    assert experiment.model.compute_dtype == "bfloat16"
    assert train.num_epochs > 0
    assert train.batch_size % (8 * train.num_accumulation_steps) == 0
    is_pretraining = isinstance(experiment.task, Pretraining)
    assert experiment.init == InitConfig(model=None if is_pretraining else "runs/pretraining")


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_released_preset_has_the_released_settings(name):
    experiment = EXPERIMENTS[f"{name}_original"]()
    data, train, optimizer = experiment.data, experiment.train, experiment.optimizer
    assert optimizer.transformer_learning_rate == optimizer.pixel_encoder_learning_rate
    fps = ORIGINAL[name][2] and data.fps
    assert ORIGINAL[name] == (
        data.num_clips,
        data.num_frames,
        fps,
        data.size,
        train.batch_size / 8 / train.num_accumulation_steps,
        train.num_accumulation_steps,
        num_texts(experiment),
        optimizer.transformer_learning_rate,
        train.num_epochs,
        data.max_text_length,
    )
    pools = "mean" if name.startswith(("tgif", "vqa", "coco")) else "log_sum_exp"
    assert experiment.task.consensus == pools
    assert optimizer.max_grad_norm == (2.0 if name == "vqa/v2" else 5.0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (0.9, 0.98, 1e-3)
    if isinstance(experiment.task, OpenEndedQA | ImageQA):
        at_least = {"msrvtt/qa": 1500, "tgif/frameqa": 1540, "vqa/v2": 3129}
        assert experiment.task.num_answers == at_least[name]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_differ_in_what_the_docstring_says(name):
    corrected, original = (
        fields(to_json(EXPERIMENTS[f"{name}_{preset}"]())) for preset in ("corrected", "original")
    )
    differing = {field for field in corrected | original if corrected.get(field) != original.get(field)}
    said = re.findall(
        r"\b(?:model|task|data|optimizer|train|init)\.[\w.]*\w", sections(f"{name}_original")["Preset"]
    )
    assert f"{name}_corrected" in sections(f"{name}_original")["Preset"]
    assert sorted(said) == sorted(differing)
    quirks = {
        "data.sampling_rule": "original",
        "optimizer.algorithm": "adamw_original",
        "optimizer.schedule_rule": "original",
        "train.accumulation": "sum" if original["train.num_accumulation_steps"] > 1 else "mean",
        "task.ranking_rule": "original",
        "task.masked_lm_on": "all",
        "task.masked_lm_average": "all",
        "task.masking.may_replace_by_special": True,
    }
    assert original | {field: value for field, value in quirks.items() if field in original} == original


def test_presets_are_of_the_same_experiments():
    assert set(ORIGINAL) == set(PRESETS)
    assert {f"{name}_original" for name in PRESETS} == {
        name for name in EXPERIMENTS if name.endswith("_original")
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_settings_fit_each_other(name):
    check_experiment(EXPERIMENTS[name]())


# One full-size experiment of each task; the others have other numbers, and the demos are small.
TRACED = {type(EXPERIMENTS[name]().task): name for name in [*FULL_SIZE, *(f"{x}_original" for x in ORIGINAL)]}


@pytest.mark.parametrize(
    "name",
    [name if name in TRACED.values() else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS],
)
def test_one_step_traces(name):
    trace_one_step(program_of(EXPERIMENTS[name](), is_shallow=name in FULL_SIZE))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco_vg/pretraining_original", "msrvtt/retrieval_original"])
def test_one_step_of_the_whole_model_traces(name):
    trace_one_step(program_of(EXPERIMENTS[name](), is_shallow=False))


def program_of(experiment, *, is_shallow):
    """Return the experiment without what changes no shape, so that equal programs are traced once.

    Shallow models have the widths and sizes of the experiment's, but one layer and one block in each stage:
    tracing all of them takes four times as long.
    """
    model, task = experiment.model, experiment.task
    if is_shallow:
        stages = model.pixel_encoder.stage_blocks
        model = dataclasses.replace(
            model,
            fusion=dataclasses.replace(model.fusion, num_layers=1),
            pixel_encoder=dataclasses.replace(model.pixel_encoder, stage_blocks=(1,) * len(stages)),
        )
    # What the data decide.
    if model.fusion.vocab_size == 0:
        model = dataclasses.replace(model, fusion=dataclasses.replace(model.fusion, vocab_size=300))
    if isinstance(task, OpenEndedQA | ImageQA) and task.num_answers == 0:
        task = dataclasses.replace(task, num_answers=1000)
    return dataclasses.replace(
        experiment,
        model=model,
        task=task,
        data=dataclasses.replace(
            experiment.data, data_dir="", mixture=(), fps=1.0, sampling_rule="corrected"
        ),
        optimizer=dataclasses.replace(
            experiment.optimizer,
            transformer_learning_rate=1.0,
            pixel_encoder_learning_rate=1.0,
            max_grad_norm=1.0,
        ),
        train=dataclasses.replace(
            experiment.train, num_epochs=0.0, num_steps=10, num_validations=0, num_validation_clips=1
        ),
        init=InitConfig(),
    )


@functools.cache
def trace_one_step(experiment: Experiment) -> None:
    """Trace the train step on shapes alone, and check what comes out."""
    train = experiment.train
    model_def, params, frozen = split_model(nnx.eval_shape(lambda: make_model(experiment)))
    optimizer = make_optimizer(experiment.optimizer, num_steps=train.num_steps)
    state = TrainState(
        params=params,
        frozen=frozen,
        opt_state=jax.eval_shape(optimizer.init, params),
        step=jax.ShapeDtypeStruct((), jnp.int32),
    )
    step = make_train_step(
        model_def,
        experiment.task,
        optimizer,
        make_mesh(),
        dataclasses.replace(train, ema_decay=0.0),
    )
    next_state, metrics = jax.eval_shape(
        lambda state, arrays: step(state, Batch(**arrays)), state, batch_shapes(experiment)
    )
    assert jax.tree.structure(next_state) == jax.tree.structure(state)
    assert shapes_of(next_state) == shapes_of(state)
    assert {metric.shape for metric in metrics.values()} == {()}
    assert {"loss", "grad_norm"} <= metrics.keys()
    assert metrics["loss"].dtype == jnp.float32


def shapes_of(tree):
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def batch_shapes(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the arrays that the data pipeline makes for an experiment."""
    data, task, b, n = experiment.data, experiment.task, experiment.train.batch_size, num_texts(experiment)
    texts = (b, n, data.max_text_length)
    shapes = {
        "frames": ((b, data.num_clips, data.num_frames, data.size, data.size, 3), jnp.uint8),
        "text_ids": (texts, jnp.int32),
        "text_mask": (texts, jnp.bool_),
        "text_valid": ((b, n), jnp.bool_),
        "example_mask": ((b,), jnp.bool_),
    }
    match task:
        case MultipleChoiceQA():
            shapes["labels"] = ((b,), jnp.int32)
        case ImageQA():
            shapes["labels"] = ((b, n, task.num_answers), jnp.float32)
        case _:
            shapes["labels"] = ((b, n), jnp.int32)
    if isinstance(task, Pretraining):
        shapes["token_labels"] = (texts, jnp.int32)
    return {name: jax.ShapeDtypeStruct(*of_array) for name, of_array in shapes.items()}


def num_texts(experiment: Experiment) -> int:
    """Return the texts of one video."""
    task = experiment.task
    match task:
        case Retrieval():
            return 1 + task.num_negatives
        case MultipleChoiceQA():
            return 5
        case Pretraining():
            return task.num_captions
        case OpenEndedQA() | ImageQA() | CountQA():
            return task.num_questions
