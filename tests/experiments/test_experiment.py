"""Configs survive the way to JSON and back, and refuse what they do not know."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training.run_directory import list_differences
from experiments.configs import EXPERIMENTS
from experiments.experiment import FREE_FIELDS, from_json, to_json
from experiments.runs.resolve import data_sha256

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
        group, field, *_ = name.split(".")
        assert field in values[group]


def mixed(*sources):
    demo = EXPERIMENTS["demo/retrieval"]()
    mixture = tuple((str(path), weight) for path, weight in sources)
    return replace(demo, data=replace(demo.data, data_dir=mixture[0][0], mixture=mixture))


def test_a_run_on_a_mixture_may_move_with_its_data_and_keeps_its_weights(data_dir, images_dir, tmp_path):
    there = mixed((data_dir, 2.0), (images_dir, 1.0))
    places = [shutil.copytree(path, tmp_path / path.name) for path in (data_dir, images_dir)]
    here = mixed((places[0], 2.0), (places[1], 1.0))
    assert list_differences(to_json(there), to_json(here), free=FREE_FIELDS) == []
    assert data_sha256(there) == data_sha256(here)
    other = mixed((places[0], 2.0), (places[1], 3.0))
    differences = list_differences(to_json(there), to_json(other), free=FREE_FIELDS)
    assert differences == ["data.mixture.1.1: 1.0 there, 3.0 now"]
    swapped = mixed((places[1], 2.0), (places[0], 1.0))
    assert data_sha256(swapped) != data_sha256(there)


def test_other_pixels_under_the_same_names_are_other_data(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "copy")
    expected = data_sha256(mixed((data_dir, 1.0)))
    assert data_sha256(mixed((copy, 1.0))) == expected
    (copy / "videos.sha256").write_text("of the same videos in another form")
    assert data_sha256(mixed((copy, 1.0))) != expected
