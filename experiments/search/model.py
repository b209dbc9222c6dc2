"""The model of a search, loaded only when something must be encoded or scored.

A fingerprint of everything that decides a score names its index. It is computed from the loaded parameters
and noted beside the index, with sizes and times of the files of the run: while these stay the same, a search
whose answer is known loads neither JAX nor the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError

if TYPE_CHECKING:
    from clipbert_jax.training.saved_checkpoint import WhichStep
    from experiments.runs.load_run import Run

SCHEMA_VERSION = 2
"""Version of the files of an index; a new version makes every index anew."""

_NOTES = "models.json"
_DECISIVE = ("config.json", "vocab.txt", "tokenizer_config.json", "validations.jsonl", "model.safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts about the model of a search."""

    run: str
    step: int
    task: str
    consensus: str
    fingerprint: str
    """Fingerprint of parameters, config, vocabulary, and the versions of this package and of the index."""


class SearchModel:
    """A model, given by the path of its run or already loaded."""

    def __init__(self, run_dir: Path, *, step: WhichStep = None, loaded: Run | None = None) -> None:
        self.run_dir = run_dir
        self._step: WhichStep = step
        self._loaded = loaded
        self.load_seconds = 0.0
        """Duration of loading, if it was loaded here."""
        self.has_ranked = False
        """Whether scoring has been compiled."""

    @classmethod
    def of(cls, run: Run) -> SearchModel:
        """Return the model of a loaded run."""
        return cls(run.workdir, step=run.step, loaded=run)

    @functools.cached_property
    def run(self) -> Run:
        """The loaded run.

        Raises:
          UserError: there is no run, or its model does not match texts.
        """
        run = self._loaded
        if run is None:
            start = time.perf_counter()
            from experiments.runs.load_run import load_run
            from experiments.runtime.compilation_cache import use_compilation_cache

            use_compilation_cache()
            run = load_run(self.run_dir, step=self._step)
            self.load_seconds = time.perf_counter() - start
        if run.experiment.task.answer_form != "match":
            raise UserError(
                f"{self.run_dir} is a model of {run.experiment.task_name}: search needs one that was trained "
                "for retrieval or pretraining"
            )
        return run

    def facts(self, notes_dir: Path) -> ModelFacts:
        """Return the facts noted in a directory if the run has not changed since; otherwise note them."""
        key, signature = f"{self.run_dir.resolve()} {self._step}", _signature(self.run_dir)
        path = notes_dir / _NOTES
        notes = _read_notes(path)
        if self._loaded is None and signature and notes.get(key, {}).get("signature") == signature:
            return ModelFacts(**{**notes[key]["facts"], "run": str(self.run_dir)})
        facts = self._computed_facts
        if self._loaded is None:
            notes[key] = {"signature": signature, "facts": dataclasses.asdict(facts)}
            with contextlib.suppress(OSError):  # a read-only index can still be searched
                write_whole(path, json.dumps(notes, indent=1).encode())
        return facts

    @functools.cached_property
    def _computed_facts(self) -> ModelFacts:
        return ModelFacts(
            run=str(self.run_dir),
            step=self.run.step,
            task=self.run.experiment.task_name,
            consensus=self.run.experiment.task.consensus,
            fingerprint=fingerprint(self.run),
        )


def fingerprint(run: Run) -> str:
    """Return a sha256 of everything that decides the score of a video and a text."""
    from clipbert_jax.config_json import config_to_json
    from clipbert_jax.renames import first_names

    config = first_names(config_to_json(run.experiment))
    sampled = ("num_frames", "fps", "size", "sampling_rule", "max_text_length")
    settings = {
        "versions": [SCHEMA_VERSION, version("clipbert_jax")],
        "model": config["model"],
        "task": config["task"],
        "data": {name: config["data"][name] for name in sampled},
        "vocabulary": [run.tokenizer.letter_rules.fingerprint, *run.tokenizer.tokens],
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for line in _described(run.scorer.parameters):
        digest.update(line)
    return digest.hexdigest()


def _described(parameters: Any) -> Iterator[bytes]:
    import numpy as np

    for name in sorted(parameters):
        array = np.asarray(parameters[name])
        yield f"{name} {array.dtype} {array.shape}\n".encode()
        yield array.tobytes()


def _signature(run_dir: Path) -> str:
    """Return a digest of names, sizes and times of the files of a model; empty if it is not a directory."""
    if not run_dir.is_dir():
        return ""  # a name in a registry or hub
    folders = [run_dir / "checkpoints"] if (run_dir / "checkpoints").is_dir() else []
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    paths += [run_dir / name for name in _DECISIVE if (run_dir / name).is_file()]
    found = [(os.fspath(path.relative_to(run_dir)), path.stat()) for path in sorted(paths)]
    lines = [f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in found]
    versions = [str(SCHEMA_VERSION), version("clipbert_jax")]
    return hashlib.sha256("\n".join([*versions, *lines]).encode()).hexdigest()


def _read_notes(path: Path) -> dict[str, Any]:
    """Return the notes; broken notes count as missing."""
    try:
        notes = json.loads(path.read_bytes())
        return {key: note for key, note in notes.items() if _is_note(note)}
    except (OSError, ValueError, AttributeError):
        return {}


def _is_note(note: Any) -> bool:
    names = {field.name for field in dataclasses.fields(ModelFacts)}
    return isinstance(note, dict) and isinstance(note.get("facts"), dict) and note["facts"].keys() == names
