"""The pixel encoder against the original's, stage by stage (golden case 01)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.models.heads import PretrainingHeadConfig
from clipbert_jax.models.pixel_encoder import grid_size
from tests.goldens import golden

CASES = {"square": 1e-12, "nonsquare": 1e-12, "odd_grid": 1e-12, "not_multiple_of_32": 1e-12}
# The original resized these frames in float32, whatever came after.
CASES |= {"padded_wide": 5e-5, "padded_tall": 5e-5}
STAGES = ["stem", "res2", "res3", "res4", "res5"]


@pytest.fixture(scope="module")
def encoder64():
    with jax.enable_x64(True):
        yield golden.model(PretrainingHeadConfig(), "pretrain")


def _check(model, name, dtype, tolerance):
    case = golden.load_case("01_cnn")
    inputs, reference = golden.part(case, f"in/{name}/"), golden.part(case, f"f64/{name}/")
    if "frames_raw" in inputs:
        frames = golden.resized_frames(inputs["frames_raw"], int(inputs["max_img_size"]), dtype)
    else:
        frames = golden.frames(inputs["frames"])
    outputs = golden.run(
        model.pixel_encoder, jnp.asarray(frames.reshape(-1, *frames.shape[-3:])), method="features"
    )
    for stage in STAGES:
        output = np.moveaxis(np.asarray(outputs[stage]), -1, 1)  # values are indexed in NCHW order
        assert output.shape == tuple(inputs[f"{stage}_shape"])
        statistics = np.array([output.mean(), output.std(ddof=1), (output == 0).mean()])
        # One value may sit on the other side of a ReLU.
        np.testing.assert_allclose(
            statistics, reference[f"{stage}_mean_std_zerofrac"], rtol=tolerance, atol=2 / output.size
        )
        golden.assert_close(
            output.reshape(-1)[inputs[f"{stage}_index"]], reference[f"{stage}_values"], tolerance, stage
        )
        if f"{stage}_full" in reference:
            golden.assert_close(output, reference[f"{stage}_full"], tolerance, stage)
    grid = reference["grid"]
    assert grid_size(model.config.pixel_encoder, *frames.shape[2:4]) == grid.shape[2:4]
    golden.assert_close(outputs["grid"], grid.reshape(-1, *grid.shape[2:]), tolerance, "grid")


@pytest.mark.parametrize("name", CASES)
def test_every_stage_equals_the_original(encoder64, name):
    _check(encoder64, name, "float64", CASES[name])


def test_float32_stays_within_tolerance():
    model = golden.model(PretrainingHeadConfig(), "pretrain", dtype="float32")
    _check(model, "not_multiple_of_32", "float32", 1e-4)
