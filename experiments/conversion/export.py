"""Work of `clipbert export`: a trained model as files that run without this package, compared with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from safetensors.numpy import save_file

from clipbert_jax.errors import UserError
from clipbert_jax.export import (
    BACKEND_OF_PLATFORM,
    ComputeDtype,
    InputShape,
    Predict,
    StoredWeights,
    WeightsKind,
    compare,
    export_program,
    make_predict,
    store_weights,
)
from clipbert_jax.pretrained.directory import ANSWERS, file_sha256
from clipbert_jax.training.saved_checkpoint import WhichStep
from experiments.conversion import run_exported
from experiments.conversion.export_description import describe, summary
from experiments.conversion.export_inputs import Trial, find_records, make_trial
from experiments.input_checks import MAX_CLIPS, check_range
from experiments.runs.load_run import Run, load_run
from experiments.runs.machine_checks import check_writable
from experiments.runtime.progress import Progress, say
from experiments.runtime.provenance import write_json

PROGRAM, WEIGHTS, CONFIG, SCRIPT = "model.stablehlo", "weights.safetensors", "config.json", "run_exported.py"
_FILES = (PROGRAM, WEIGHTS, CONFIG, SCRIPT, ANSWERS, "vocab.txt", "tokenizer_config.json")
_MB = 1e6

Function = Callable[..., np.ndarray]
"""Function from the inputs of a call to predictions."""


def export(
    run_dir: Path,
    *,
    out: Path,
    batch_size: int = 1,
    num_clips: int = 8,
    num_texts: int | None = None,
    dtype: ComputeDtype = "float32",
    weights: WeightsKind = "float",
    platforms: Sequence[str] = (),
    num_compared: int = 32,
    data_dir: Path | None = None,
    step: WhichStep = None,
    overwrite: bool = False,
) -> None:
    """Write a run's model for inputs of a fixed shape, and compare it with the model in float32.

    `config.json` is written last: a directory without it is incomplete.

    Raises:
      UserError: run or data are missing, options contradict each other, or the directory is not empty.
    """
    check_range("--batch-size", batch_size, 1)
    check_range("--num-clips", num_clips, 1, MAX_CLIPS)
    check_range("--num-compared", num_compared, 1)
    platforms = _checked_platforms(platforms)
    _check_out(out, is_overwritten=overwrite)
    run = load_run(run_dir, step=step)
    tried_dir = _tried_dir(run, data_dir)
    shape = InputShape(
        num_videos=batch_size,
        num_clips=num_clips,
        num_frames=run.experiment.data.num_frames,
        size=run.experiment.data.size,
        num_texts=_num_texts(run, num_texts, tried_dir),
        text_length=run.experiment.data.max_text_length,
    )
    stored = store_weights(run.scorer.parameters, dtype=dtype, kind=weights)
    start = time.perf_counter()
    exported = export_program(_predict(run, dtype, platforms), stored, shape, platforms=platforms)
    seconds = {"export": time.perf_counter() - start}
    _write_model(run, exported, stored, out)
    here = jax.export.default_export_platform()
    function = run_exported.load(out) if here in platforms else _jitted(_predict(run, dtype, [here]), stored)
    trial = make_trial(run, shape, tried_dir, num_compared)
    agreement, seconds_of_calls = _measure(run, function, trial)
    description = describe(run, exported, shape, dtype=dtype, weights=weights)
    made_up = run_exported.made_up_inputs(description["inputs"], run.tokenizer.vocab_size)
    config = {
        **description,
        "sha256": {name: file_sha256(out / name) for name in (PROGRAM, WEIGHTS)},
        "megabytes": {name: (out / name).stat().st_size / _MB for name in (PROGRAM, WEIGHTS)},
        "seconds": {**seconds, **seconds_of_calls},
        "agreement": {
            "with": "the same checkpoint in float32, compiled here",
            "of": "the exported program" if here in platforms else f"the same arithmetic compiled for {here}",
            "inputs": trial.source,
            **agreement,
        },
        "self_check": {"device": jax.devices()[0].device_kind, "output": function(*made_up).tolist()},
    }
    write_json(out / CONFIG, config)
    for line in summary(config, out):
        say(line)


# ---- Checks -----------------------------------------------------------------------------------------------


def _checked_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    known = ", ".join(BACKEND_OF_PLATFORM)
    for platform in platforms:
        if platform not in BACKEND_OF_PLATFORM:
            hint = "; NVIDIA GPUs are cuda" if platform == "gpu" else ""
            raise UserError(f"--platforms knows {known}, not {platform}{hint}")
    if platforms:
        return tuple(dict.fromkeys(platforms))
    here = jax.export.default_export_platform()
    if here not in BACKEND_OF_PLATFORM:
        raise UserError(
            f"models cannot be exported for {here}, this machine's platform: give --platforms of {known}"
        )
    return (here,)


def _check_out(out: Path, *, is_overwritten: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a directory")
    if out.is_dir() and any(out.iterdir()):
        if not is_overwritten:
            raise UserError(
                f"--out {out} is not empty: choose another directory, or replace an export with --overwrite"
            )
        if not (out / PROGRAM).is_file():
            raise UserError(
                f"--out {out} holds something other than an export, which --overwrite does not replace: "
                "choose another directory"
            )
    check_writable(out)


def _tried_dir(run: Run, data_dir: Path | None) -> str:
    """Return the data directory of the inputs for the comparison."""
    if data_dir is None:
        return run.experiment.data.sources[0][0]
    if not find_records(run.experiment.task, str(data_dir))[1]:
        raise UserError(
            f"--data-dir {data_dir} has no validation or test records of {run.experiment.task_name}: give "
            "another, or leave the option out for the run's own"
        )
    return str(data_dir)


def _num_texts(run: Run, wanted: int | None, data_dir: str) -> int:
    """Return the number of texts per video in a call."""
    if run.experiment.task.answer_form != "choice":
        check_range("--num-texts", 1 if wanted is None else wanted, 1)
        return wanted or 1
    if wanted is None:
        _, questions = find_records(run.experiment.task, data_dir)
        if not questions:
            raise UserError(
                f"--num-texts must give the largest number of options, as {data_dir} has no questions"
            )
        return max(len(question.options) for question in questions)
    if wanted < 2:
        raise UserError(f"--num-texts is the number of competing options: at least 2, not {wanted}")
    return wanted


# ---- The model --------------------------------------------------------------------------------------------


def _predict(run: Run, dtype: ComputeDtype, platforms: Sequence[str]) -> Predict:
    model = dataclasses.replace(run.experiment.model, compute_dtype=dtype)
    return make_predict(model, run.experiment.task, platforms=platforms, num_answers=len(run.answers))


def _jitted(predict: Predict, stored: StoredWeights) -> Function:
    weights, compiled = jax.device_put(stored), jax.jit(predict)
    return lambda *inputs: np.asarray(compiled(weights, *inputs))


def _write_model(run: Run, exported: jax.export.Exported, stored: StoredWeights, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    (out / PROGRAM).write_bytes(exported.serialize())
    save_file(stored, out / WEIGHTS)
    run.tokenizer.save(out)
    if run.answers:
        (out / ANSWERS).write_text(json.dumps(run.answers, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(run_exported.__file__, out / SCRIPT)


# ---- How far it is from the float32 model -----------------------------------------------------------------


def _measure(run: Run, function: Function, trial: Trial) -> tuple[dict[str, Any], dict[str, float]]:
    """Return how well a function agrees with the model in float32, and the seconds that it takes."""
    here = jax.export.default_export_platform()
    in_float32 = store_weights(run.scorer.parameters, dtype="float32", kind="float")
    reference = _jitted(_predict(run, "float32", [here]), in_float32)
    progress = Progress("comparing", total=len(trial.is_text), unit="videos")
    expected, found, seconds, num_done = [], [], [], 0
    for num_videos, batch in trial.batches():
        expected.append(reference(*batch)[:num_videos])
        said = []
        for call in trial.calls(batch):
            start = time.perf_counter()
            said.append(function(*call))
            seconds.append(time.perf_counter() - start)
        found.append(np.concatenate(said, axis=1)[:num_videos])
        num_done += num_videos
        progress.update(num_done)
    predictions = np.concatenate(expected), np.concatenate(found)
    if not all(np.isfinite(predicted).all() for predicted in predictions):
        raise UserError(
            f"{run.workdir} gives predictions that are not finite, at step {run.step}: choose another --step"
        )
    return compare(run.experiment.task, *predictions, trial.is_text), {
        "compile_and_first_call": seconds[0],
        "call": float(np.median(seconds[1:] or seconds)),
    }
