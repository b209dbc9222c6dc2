"""Groups, algorithms, clipping and checks of the optimizer, on models of a few numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training.optimizer import (
    OptimizerConfig,
    check_optimizer_config,
    is_decayed,
    make_optimizer,
    make_schedules,
    parameter_group,
)

GRID, STAGE, QUERY, BIAS = (
    "pixel_encoder/grid_encoder/kernel",
    "pixel_encoder/stages/res3/0/conv1/kernel",
    "fusion/layers/0/query/kernel",
    "fusion/layers/0/query/bias",
)
# All rates are 1 throughout.
PLAIN = OptimizerConfig(
    schedule="constant",
    transformer_learning_rate=1.0,
    pixel_encoder_learning_rate=1.0,
    weight_decay=0.0,
    max_grad_norm=0.0,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fusion/layers/0/query/kernel", True),
        ("text_encoder/word_embeddings/embedding", True),
        ("fusion/layers/0/query/bias", False),
        ("head/decoder_bias", False),
        ("fusion/layers/0/output_layer_norm/scale", False),
    ],
)
def test_biases_and_norms_do_not_decay(name, expected):
    assert is_decayed(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (GRID, "grid_encoder"),
        (STAGE, "pixel_encoder"),
        (QUERY, "transformer"),
        ("visual_embedding/row_embeddings/embedding", "transformer"),
        ("head/output/kernel", "transformer"),
    ],
)
def test_groups(name, expected):
    assert parameter_group(name, PLAIN) == expected


def test_a_head_with_a_rate_of_its_own_is_a_group():
    config = dataclasses.replace(PLAIN, head_multiplier=3.0, weight_decay=0.5)
    assert parameter_group("head/output/kernel", config) == "head"
    assert parameter_group(QUERY, config) == "transformer"
    names = (QUERY, BIAS, "head/output/kernel", "head/output/bias")
    params = {name: jnp.array([1.0]) for name in names}
    end = train(config, params, [{name: jnp.array([1.0]) for name in names}])
    changes = [float(end[name][0]) - 1 for name in names]
    assert changes == pytest.approx([-1.5, -1.0, -4.5, -3.0], rel=1e-5)  # decay has the multiplier too


def test_a_checkpoint_has_no_group_for_a_head_without_a_rate_of_its_own():
    state = make_optimizer(PLAIN, num_steps=2).init({"head/output/kernel": jnp.zeros(1)})
    assert "head" not in str(jax.tree.structure(state[-1])).replace("head/output/kernel", "")


def train(config, params, history):
    """Apply a gradient after the other; return the parameters."""
    optimizer = make_optimizer(config, num_steps=100)
    state = optimizer.init(params)
    for grads in history:
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def first_update(config, value, gradient):
    """Return the first update of a model in which all weights and gradients are equal."""
    params = {name: jnp.array([value]) for name in (GRID, STAGE, QUERY, BIAS)}
    end = train(config, params, [{name: jnp.array([gradient]) for name in params}])
    return {name: float(array[0]) - value for name, array in end.items()}


@pytest.mark.parametrize("algorithm", ["adamw", "adamw_original"])
def test_groups_have_their_own_learning_rate_and_decay(algorithm):
    config = dataclasses.replace(
        PLAIN,
        algorithm=algorithm,
        pixel_encoder_learning_rate=0.01,
        transformer_learning_rate=0.002,
        grid_encoder_multiplier=3.0,
        weight_decay=0.5,
        pixel_encoder_weight_decay=0.25,
        eps=0.0,
    )
    updates = first_update(config, 2.0, 3.0)
    rates = {GRID: 0.03, STAGE: 0.01, QUERY: 0.002, BIAS: 0.002}
    decays = {GRID: 0.25, STAGE: 0.25, QUERY: 0.5, BIAS: 0.0}
    for name, rate in rates.items():
        # The first step of Adam is the sign of the gradient. Decay is that of the weight before or after it.
        decayed = 2.0 - rate if algorithm == "adamw_original" else 2.0
        assert updates[name] == pytest.approx(-rate - rate * decays[name] * decayed, rel=1e-4), name


def test_decay_of_the_pixel_encoder_is_the_common_one_by_default():
    updates = first_update(dataclasses.replace(PLAIN, weight_decay=0.5, eps=0.0), 2.0, 3.0)
    assert updates[STAGE] == updates[GRID] == updates[QUERY] == pytest.approx(-1 - 0.5 * 2, rel=1e-5)


def test_original_algorithm_is_the_formula_of_its_source():
    # Numbers at which eps and the decay of the updated weight are visible.
    config = dataclasses.replace(
        PLAIN,
        algorithm="adamw_original",
        transformer_learning_rate=0.3,
        weight_decay=0.4,
        eps=0.5,
        schedule="inverse_sqrt",
        warmup_share=0.0,
    )
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    with jax.enable_x64(True):
        history = [{QUERY: jnp.asarray(grad)} for grad in gradients]
        actual = train(config, {QUERY: jnp.ones(3)}, history)[QUERY]
    np.testing.assert_allclose(actual, _original(config, np.ones(3), gradients), rtol=1e-12)


def _original(config, weight, gradients):
    mean = square = np.zeros_like(weight)
    for step, grad in enumerate(gradients, start=1):
        rate = config.transformer_learning_rate / np.sqrt(step)
        mean = config.beta1 * mean + (1 - config.beta1) * grad
        square = config.beta2 * square + (1 - config.beta2) * grad**2
        size = rate * np.sqrt(1 - config.beta2**step) / (1 - config.beta1**step)
        weight = weight - size * mean / (np.sqrt(square) + config.eps)
        weight = weight - rate * config.weight_decay * weight
    return weight


def test_default_algorithm_is_the_one_of_optax():
    config = dataclasses.replace(PLAIN, transformer_learning_rate=0.3, weight_decay=0.4, eps=0.5)
    history = [{QUERY: grad} for grad in np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)]
    params = expected = {QUERY: jnp.ones(3)}
    adamw = optax.adamw(0.3, b1=config.beta1, b2=config.beta2, eps=0.5, weight_decay=0.4)
    state = adamw.init(expected)
    for grads in history:
        updates, state = adamw.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(train(config, params, history)[QUERY], expected[QUERY], rtol=1e-6)


def proportional_updates(grads, **settings):
    """Return updates that are proportional to the clipped gradient, as eps is large."""
    config = dataclasses.replace(PLAIN, eps=1e3, **settings)
    optimizer = make_optimizer(config, num_steps=100)
    params = {name: jnp.zeros(1) for name in grads}
    updates = optimizer.update(grads, optimizer.init(params), params)[0]
    return np.concatenate([updates[name] for name in grads])


@pytest.mark.parametrize("algorithm", ["adamw", "adamw_original"])
@pytest.mark.parametrize(("max_grad_norm", "factor"), [(1.0, 1 / 50), (60.0, 1.0), (0.0, 1.0)])
def test_gradients_are_clipped_by_their_global_norm(algorithm, max_grad_norm, factor):
    grads = {QUERY: jnp.array([30.0]), STAGE: jnp.array([40.0])}
    scaled = {name: grad * factor for name, grad in grads.items()}
    clipped = proportional_updates(grads, algorithm=algorithm, max_grad_norm=max_grad_norm)
    expected = proportional_updates(scaled, algorithm=algorithm)
    np.testing.assert_allclose(clipped, expected, rtol=1e-5)
    assert np.linalg.norm(clipped) > 0


@pytest.mark.parametrize(("algorithm", "factor"), [("adamw", 1 / 5), ("adamw_original", 1 / 6)])
def test_original_clipping_adds_a_millionth_to_the_norm(algorithm, factor):
    grads = {QUERY: jnp.array([3e-6]), STAGE: jnp.array([4e-6])}
    clipped = proportional_updates(grads, algorithm=algorithm, max_grad_norm=1e-6)
    np.testing.assert_allclose(clipped, proportional_updates(grads, algorithm=algorithm) * factor, rtol=1e-5)


def test_schedules_follow_the_config():
    config = dataclasses.replace(
        PLAIN,
        transformer_learning_rate=2.0,
        grid_encoder_multiplier=10.0,
        schedule="multi_step",
        milestones=(0.25, 0.5),
        schedule_rule="original",
    )
    rates = {
        group: [float(rate(count)) for count in (0, 1, 3)]
        for group, rate in make_schedules(config, 8).items()
    }
    assert rates == {
        "transformer": [2.0, 1.0, 0.25],
        "pixel_encoder": [1.0, 0.5, 0.125],
        "grid_encoder": [10.0, 5.0, 1.25],
    }


def test_the_pixel_encoder_may_have_a_schedule_of_its_own():
    config = dataclasses.replace(
        PLAIN,
        schedule="linear",
        warmup_share=0.0,
        grid_encoder_multiplier=2.0,
        head_multiplier=10.0,
        pixel_encoder_schedule="multi_step",
        pixel_encoder_milestones=(0.5,),
    )
    rates = {
        group: [float(rate(count)) for count in (0, 3)] for group, rate in make_schedules(config, 4).items()
    }
    assert rates == {
        "transformer": [0.75, 0.0],
        "head": [7.5, 0.0],
        "pixel_encoder": [1.0, 0.5],
        "grid_encoder": [2.0, 1.0],
    }


def test_warmup_share_reaches_the_schedule():
    schedules = make_schedules(OptimizerConfig(transformer_learning_rate=1.0, warmup_share=0.5), 8)
    assert [float(schedules["transformer"](count)) for count in (0, 3, 5)] == [0.25, 1.0, 0.5]


@pytest.mark.parametrize(("rule", "rate"), [("corrected", 0.0), ("original", 3e-8)])
def test_the_multiplier_applies_after_the_floor(rule, rate):
    config = OptimizerConfig(schedule_rule=rule, grid_encoder_multiplier=3.0)
    assert float(make_schedules(config, 10)["grid_encoder"](9)) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"transformer_learning_rate": -1e-5},
            r"--optimizer.transformer-learning-rate .*not -1e-05",
        ),
        ({"pixel_encoder_learning_rate": float("nan")}, "--optimizer.pixel-encoder-learning-rate .*not nan"),
        ({"grid_encoder_multiplier": -1.0}, "--optimizer.grid-encoder-multiplier "),
        ({"weight_decay": float("inf")}, "--optimizer.weight-decay .*not inf"),
        ({"pixel_encoder_weight_decay": -0.1}, "--optimizer.pixel-encoder-weight-decay "),
        ({"eps": -1e-6}, "--optimizer.eps "),
        ({"max_grad_norm": -1.0}, "--optimizer.max-grad-norm "),
        ({"beta1": 1.0}, "--optimizer.beta1 must be less than 1"),
        ({"beta2": 1.5}, "--optimizer.beta2 must be less than 1"),
        ({"warmup_share": 1.5}, "--optimizer.warmup-share .*from 0 to 1"),
        ({"schedule": "multi_step"}, "--optimizer.milestones must be given"),
        ({"milestones": (0.5,)}, "--optimizer.milestones must be left out"),
        ({"schedule": "multi_step", "milestones": (0.5, 0.5)}, "rising shares .*not 0.5 0.5"),
        ({"schedule": "multi_step", "milestones": (0.0, 0.5)}, "between 0 and 1"),
        ({"schedule": "multi_step", "milestones": (0.5, 1.0)}, "between 0 and 1"),
        ({"schedule": "multi_step", "milestones": (3.0, 6.0)}, "between 0 and 1"),
        ({"head_multiplier": -1.0}, "--optimizer.head-multiplier "),
        ({"pixel_encoder_schedule": "multi_step"}, "--optimizer.pixel-encoder-milestones must be given"),
        ({"pixel_encoder_milestones": (0.5,)}, "--optimizer.pixel-encoder-milestones must be left out"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    config = OptimizerConfig(**settings)
    with pytest.raises(UserError, match=message):
        check_optimizer_config(config)
    with pytest.raises(UserError, match=message):
        make_optimizer(config, num_steps=10)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warmup_share": 1.0, "weight_decay": 0.0, "max_grad_norm": 0.0, "grid_encoder_multiplier": 0.0},
        {"schedule": "multi_step", "milestones": (0.3, 0.6, 0.9)},
        {"algorithm": "adamw_original", "schedule": "inverse_sqrt", "schedule_rule": "original"},
    ],
)
def test_possible_settings_are_not(settings):
    check_optimizer_config(OptimizerConfig(**settings))
