from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.sampling import clip_starts, shown_frames


def test_random_clips_are_independent_and_uniform_over_the_video():
    rng = np.random.default_rng(0)
    starts = np.stack([
        clip_starts(10.0, num_clips=2, clip_seconds=2.0, sampling="random", rng=rng) for _ in range(4000)
    ])  # fmt: skip
    assert starts.min() >= 0.0
    assert starts.max() <= 8.0
    np.testing.assert_allclose(np.quantile(starts, [0.1, 0.5, 0.9]), [0.8, 4.0, 7.2], atol=0.15)
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.05
    assert (starts[:, 0] > starts[:, 1]).mean() == pytest.approx(0.5, abs=0.03)  # not sorted


def test_random_clips_depend_on_the_generator_alone():
    draw = lambda seed: clip_starts(  # noqa: E731
        9.0, num_clips=4, clip_seconds=1.0, sampling="random", rng=np.random.default_rng(seed)
    )
    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).all()
    with pytest.raises(ValueError, match="needs rng"):
        clip_starts(9.0, num_clips=4, clip_seconds=1.0, sampling="random")


def test_uniform_clips_are_centred_in_equal_parts_of_the_video():
    starts = clip_starts(12.0, num_clips=4, clip_seconds=1.0, sampling="uniform")
    np.testing.assert_allclose(starts + 0.5, [1.5, 4.5, 7.5, 10.5])


def test_uniform_clips_stay_inside_the_video():
    starts = clip_starts(4.0, num_clips=4, clip_seconds=2.0, sampling="uniform")
    np.testing.assert_allclose(starts, [0.0, 0.5, 1.5, 2.0])


@pytest.mark.parametrize("sampling", ["random", "uniform"])
def test_short_videos_repeat_their_last_frame(sampling):
    rng = np.random.default_rng(0)
    starts = clip_starts(0.5, num_clips=3, clip_seconds=4.0, sampling=sampling, rng=rng)
    indices, times = shown_frames(np.array([0.0, 0.25]), starts, num_frames=4, fps=1.0)
    np.testing.assert_array_equal(indices, [[0, 1, 1, 1]] * 3)
    np.testing.assert_array_equal(times, [[0.0, 0.25, 0.25, 0.25]] * 3)


def test_the_frame_on_the_screen_is_the_last_one_shown_before():
    frame_times = np.array([0.0, 0.1, 0.2, 1.0, 1.1])  # a pause in between
    indices, times = shown_frames(frame_times, np.array([0.05, 0.15]), num_frames=3, fps=2.0)
    np.testing.assert_array_equal(indices, [[0, 2, 3], [1, 2, 4]])
    np.testing.assert_array_equal(times, frame_times[indices])


def test_rounding_does_not_miss_a_frame():
    frame_times = np.arange(30) / 10
    indices, _ = shown_frames(frame_times, np.array([0.1 + 0.2 - 1e-9]), num_frames=2, fps=10.0)
    np.testing.assert_array_equal(indices, [[3, 4]])
