"""Configs with names of earlier versions."""

from clipbert_jax.renames import ADDED, FIELDS, VALUES, first_names, present_names

OLD = {
    "data": {"sampling_rule": "ours", "vocab": "released", "mixture": [["ours", 1.0]]},
    "task": {"name": "retrieval", "ranking_rule": "released"},
    "optimizer": {"schedule_rule": "released"},
    "data_sha256": "ours",
}


def test_old_values_become_present_ones_and_nothing_else_changes():
    assert present_names(OLD) == {
        "data": {"sampling_rule": "corrected", "vocab": "released", "mixture": [["ours", 1.0]]},
        "task": {"name": "retrieval", "ranking_rule": "original"},
        "optimizer": {"schedule_rule": "original", "head_multiplier": 1.0, "pixel_encoder_milestones": []},
        "data_sha256": "ours",
    }
    assert present_names(present_names(OLD)) == present_names(OLD)


def test_fingerprints_keep_the_first_names():
    assert first_names(present_names(OLD)) == OLD == first_names(OLD)


def test_every_row_is_undone():
    for path, name in FIELDS.items():
        assert first_names(present_names(nested(path, 1))) == nested(path, 1)
        assert present_names(nested(path, 1)) == nested((*path[:-1], name), 1)
    for path, names in VALUES.items():
        for old, new in names.items():
            assert _value(present_names(nested(path, old)), path) == new
    for path, value in ADDED.items():
        without = nested(path[:-1], {})
        assert _value(present_names(without), path) == value
        assert first_names(present_names(without)) == without
        assert _value(present_names(nested(path, "given")), path) == "given"
        assert _value(first_names(nested(path, "given")), path) == "given"


def _value(config, path):
    for key in path:
        config = config[key]
    return config


def test_what_is_not_a_config_stays():
    for value in (None, [], "ours", {"data": "ours"}, {"data": {"sampling_rule": ["ours"]}}):
        assert present_names(value) == value


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value
