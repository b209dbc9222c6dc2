from __future__ import annotations

import av
import numpy as np
import pytest

from data_pipelines.decoding.pixels import HLG, PQ, RgbConverter, over_white, tone_map


def grey_frame(level: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    planes = np.full((24, 16), 128, np.uint8)
    planes[:16] = level
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    return frame.reformat(format=pixel_format)


def test_alpha_is_laid_over_white():
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    expected = [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]]
    assert over_white(pixels).tolist() == expected


def test_a_frame_with_alpha_is_told_by_its_format():
    pixels = np.zeros((16, 16, 4), np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
    assert (RgbConverter((16, 16), 0)(frame) == 255).all()


def test_the_range_is_the_one_that_the_frame_names():
    frame = grey_frame(235)
    assert RgbConverter((16, 16), 0)(frame).min() == 255
    frame.color_range = 2  # full
    assert abs(int(RgbConverter((16, 16), 0)(frame).max()) - 235) <= 1


def test_the_matrix_is_the_one_that_the_frame_names():
    planes = np.full((24, 16), 128, np.uint8)
    planes[20:] = 200  # much red difference
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    reds = {}
    for colorspace in (5, 1):  # BT.601, BT.709
        frame.colorspace = colorspace
        reds[colorspace] = RgbConverter((16, 16), 0)(frame)[8, 8].astype(int)
    luma = (128 - 16) * 255 / 219
    for colorspace, factor in ((5, 1.596), (1, 1.793)):
        assert abs(reds[colorspace][0] - min(255, luma + factor * 72)) <= 2
    green = {5: 0.813, 1: 0.533}
    for colorspace, factor in green.items():
        assert abs(reds[colorspace][1] - (luma - factor * 72)) <= 2


def level_of_pq(candela: float) -> int:
    power = (candela / 10000) ** (2610 / 16384)
    signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    return round(signal * 65535)


@pytest.mark.parametrize(
    ("candela", "linear"), [(0, 0), (50.75, 0.25), (101.5, 0.5), (1000, 1.0), (4000, 1.0)]
)
def test_pq_becomes_light_relative_to_white_with_a_soft_shoulder(candela, linear):
    shown = tone_map(np.full((1, 1, 3), level_of_pq(candela), np.uint16), PQ)[0, 0].astype(int)
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055 if linear > 0.0031308 else 12.92 * linear)
    assert np.abs(shown - expected).max() <= 2


def test_hlg_reference_white_is_as_bright_as_that_of_pq():
    hlg = tone_map(np.full((1, 1, 3), round(0.75 * 65535), np.uint16), HLG).astype(int)
    pq = tone_map(np.full((1, 1, 3), level_of_pq(203), np.uint16), PQ).astype(int)
    assert np.abs(hlg - pq).max() <= 2


def test_tone_mapping_rises_and_keeps_the_hue():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    grey = tone_map(np.repeat(ramp[None, :, None], 3, axis=2), PQ)
    assert (np.diff(grey[0, :, 0].astype(int)) >= 0).all()
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    red = tone_map(np.array([[[40000, 20000, 20000]]], np.uint16), PQ)[0, 0]
    assert red[0] > red[1]
    assert red[0] > red[2]
