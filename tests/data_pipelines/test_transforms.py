from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.transforms import check_aspect_ratio, resize_and_pad, resized_hw

GOLDEN = np.load(Path(__file__).parent / "goldens" / "07b_resize_pad.npz")
CASES = sorted({name.split("/")[1] for name in GOLDEN.files if name.startswith("in/")})


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_the_original_ones_rounded(case):
    frames = GOLDEN[f"in/{case}/frames"].transpose(0, 2, 3, 1)
    size = int(GOLDEN[f"in/{case}/max_size"])
    expected = GOLDEN[f"f64/{case}/padded"].transpose(0, 2, 3, 1)
    ours = resize_and_pad(frames, size)
    assert ours.dtype == np.uint8
    assert np.abs(ours - expected).max() <= 0.5 + 1 / 256  # rounding to levels
    height, width = GOLDEN[f"in/{case}/resized_hw"]
    assert not ours[:, height:].any()
    assert not ours[:, :, width:].any()


@pytest.mark.parametrize("row", GOLDEN["meta/sizes"].tolist(), ids=str)
def test_sizes_are_the_original_ones(row):
    height, width, size, *expected = row
    if 0 in expected:
        with pytest.raises(UserError, match=f"{width}x{height} pixels vanish at size {size}"):
            resized_hw(height, width, size)
    else:
        assert resized_hw(height, width, size) == tuple(expected)


@pytest.mark.parametrize("row", GOLDEN["meta/aspects"].tolist(), ids=str)
def test_too_long_pictures_are_those_of_the_original(row):
    height, width, is_refused = row
    if is_refused:
        with pytest.raises(UserError, match=f"{width}x{height} pixels have an aspect ratio of"):
            check_aspect_ratio(height, width)
    else:
        check_aspect_ratio(height, width)
