"""Configs survive the way to JSON and back, and refuse what they do not know."""

import json
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from experiments.configs import EXPERIMENTS
from experiments.experiment import FREE_FIELDS, from_json, to_json

SOURCE = Path("runs/a/config.json")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_survives_json(name):
    experiment = EXPERIMENTS[name]()
    values = to_json(experiment)
    assert json.loads(json.dumps(values)) == values
    assert from_json(values, SOURCE) == experiment


def test_an_unknown_field_is_refused_by_name():
    values = to_json(EXPERIMENTS["demo/retrieval"]())
    values["train"]["num_step"] = 3
    with pytest.raises(UserError, match=r"runs/a/config.json .*num_step"):
        from_json(values, SOURCE)


def test_a_missing_part_and_a_wrong_choice_are_refused():
    values = to_json(EXPERIMENTS["demo/retrieval"]())
    del values["optimizer"]
    values["task"]["consensus"] = "median"
    with pytest.raises(UserError, match=r"(?s)consensus.*optimizer|optimizer.*consensus"):
        from_json(values, SOURCE)


def test_free_fields_exist():
    values = to_json(EXPERIMENTS["demo/retrieval"]())
    for name in FREE_FIELDS:
        group, field = name.split(".")
        assert field in values[group]
