"""What decides a score decides the name of the index, and nothing else does."""

import dataclasses

import pytest

from clipbert_jax.tokenizer_files import LetterRules
from data_pipelines.tokenizer import Tokenizer
from experiments.search import model as model_module
from experiments.search.model import SearchModel, fingerprint
from tests.experiments.untrained import untrained_run


@pytest.fixture(scope="module")
def run(data_dir):
    return untrained_run("retrieval", data_dir)


def with_data(run, **changes):
    data = dataclasses.replace(run.experiment.data, **changes)
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, data=data))


def with_consensus(run, consensus):
    task = dataclasses.replace(run.experiment.task, consensus=consensus)
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, task=task))


def with_words(run, tokens, **rules):
    return dataclasses.replace(run, tokenizer=Tokenizer(tokens, LetterRules(**rules)))


def with_one_other_parameter(run):
    scorer = run.scorer
    name = min(scorer.parameters)
    other = scorer.parameters[name].copy()
    other.flat[0] += 1
    changed = object.__new__(type(scorer))
    changed.__dict__.update(scorer.__dict__)
    changed.parameters = {**scorer.parameters, name: other}
    return dataclasses.replace(run, scorer=changed)


DECISIVE = {
    "consensus": lambda run: with_consensus(run, "max"),
    "fps": lambda run: with_data(run, fps=run.experiment.data.fps + 1),
    "size": lambda run: with_data(run, size=run.experiment.data.size + 32),
    "num_frames": lambda run: with_data(run, num_frames=run.experiment.data.num_frames + 1),
    "sampling_rule": lambda run: with_data(run, sampling_rule="original"),
    "max_text_length": lambda run: with_data(run, max_text_length=run.experiment.data.max_text_length + 1),
    "another word": lambda run: with_words(run, [*run.tokenizer.tokens[:-1], "gnu"]),
    "letters": lambda run: with_words(run, run.tokenizer.tokens, is_lower_case=False),
    "accents": lambda run: with_words(run, run.tokenizer.tokens, strips_accents=False),
    "Chinese": lambda run: with_words(run, run.tokenizer.tokens, splits_chinese=False),
    "parameters": with_one_other_parameter,
}


@pytest.mark.parametrize("what", DECISIVE)
def test_what_decides_a_score_changes_the_fingerprint(what, run):
    assert fingerprint(DECISIVE[what](run)) != fingerprint(run)


def test_what_does_not_stays_out(run):
    other = with_data(run, num_workers=7, num_clips=5)
    assert fingerprint(dataclasses.replace(other, step=9)) == fingerprint(run)


def test_another_schema_makes_another_fingerprint_though_the_run_is_noted(run_dir, tmp_path, monkeypatch):
    before = SearchModel(run_dir).facts(tmp_path).fingerprint
    unloaded = SearchModel(run_dir)
    assert unloaded.facts(tmp_path).fingerprint == before
    assert "run" not in vars(unloaded)
    monkeypatch.setattr(model_module, "SCHEMA_VERSION", model_module.SCHEMA_VERSION + 1)
    assert SearchModel(run_dir).facts(tmp_path).fingerprint != before
