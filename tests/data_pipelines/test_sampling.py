from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.decoding.video import FrameIndex, Health, Video
from data_pipelines.sampling import choose_frames, clip_starts, shown_frames


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


def video_of(frame_times, *, duration: float | None = None, start_time: float = 0.0) -> Video:
    frame_times = np.asarray(frame_times, float)
    index = FrameIndex(
        frame_times=frame_times,
        key_frames=np.zeros(1, np.int64),
        first_pts=round(start_time * 1000),
        width=8,
        height=8,
        rotation=0,
        is_reflected=False,
        duration=float(frame_times[-1] + 0.1 if duration is None else duration),
    )
    return Video(video_id="a", data=b"", index=index, health=Health(verdict="ok", start_time=start_time))


RANDOM_TIMES = np.concatenate([[0.0], np.cumsum(np.random.default_rng(1).exponential(0.2, 60))])
FRAME_TIMES = {
    "constant": np.arange(100) / 25,
    "variable": RANDOM_TIMES,
    "a long pause": np.array([0.0, 0.1, 0.2, 30.0, 30.1]),
    "one frame": np.array([0.0]),
    "two frames": np.array([0.0, 0.04]),
}
CASES = [
    pytest.param(
        times, clips, frames, fps, sampling, rule, id=f"{name}-{clips}x{frames}@{fps}-{sampling}-{rule}"
    )
    for name, times in FRAME_TIMES.items()
    for clips, frames, fps in [(1, 1, 1.0), (8, 2, 2.0), (3, 4, 60.0), (5, 3, 0.1)]
    for sampling in ("random", "uniform")
    for rule in ("corrected", "original")
]


@pytest.mark.parametrize(("times", "num_clips", "num_frames", "fps", "sampling", "rule"), CASES)
def test_frames_are_of_the_video_and_in_order(times, num_clips, num_frames, fps, sampling, rule):
    options = {
        "num_clips": num_clips,
        "num_frames": num_frames,
        "fps": fps,
        "sampling": sampling,
        "rule": rule,
    }
    chosen = choose_frames(video_of(times), **options, rng=np.random.default_rng(0))
    assert chosen.indices.shape == chosen.times.shape == chosen.wanted_times.shape == (num_clips, num_frames)
    assert ((chosen.indices >= 0) & (chosen.indices < len(times))).all()
    assert (np.diff(chosen.indices, axis=1) >= 0).all()
    assert (chosen.wanted_times >= 0).all()
    np.testing.assert_array_equal(chosen.times, times[chosen.indices])
    late = video_of(times, start_time=7.5)
    again = choose_frames(late, **options, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again.indices, chosen.indices)


@pytest.mark.parametrize("times", [FRAME_TIMES["constant"], RANDOM_TIMES])
def test_a_shown_frame_is_the_one_on_the_screen_at_the_wanted_time(times):
    chosen = choose_frames(
        video_of(times), num_clips=8, num_frames=4, fps=3.0, sampling="random", rng=np.random.default_rng(0)
    )
    following = np.append(times, np.inf)[chosen.indices + 1]
    assert (chosen.times <= chosen.wanted_times + 1e-6).all()
    assert (chosen.wanted_times < following).all()


def test_the_released_rule_counts_frames_where_ours_counts_seconds():
    """In a video that pauses, the original's middle lies elsewhere."""
    video = video_of(FRAME_TIMES["a long pause"], duration=30.2)
    options = {"num_clips": 1, "num_frames": 1, "fps": 1.0, "sampling": "uniform"}
    assert choose_frames(video, **options).indices.tolist() == [[2]]
    # A third of the way, 10 s; the first frame at or after it.
    assert choose_frames(video, **options, rule="original").indices.tolist() == [[3]]


def test_random_clips_by_the_released_rule_are_uniform_over_the_video():
    video = video_of(FRAME_TIMES["constant"], duration=4.0)
    chosen = choose_frames(
        video,
        num_clips=3000,
        num_frames=1,
        fps=1.0,
        sampling="random",
        rule="original",
        rng=np.random.default_rng(0),
    )
    np.testing.assert_allclose(np.quantile(chosen.indices, [0.1, 0.5, 0.9]), [7.5, 37.5, 67.5], atol=2.5)
