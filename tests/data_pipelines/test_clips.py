"""Clips of a video: decoded once, for the model and for people; errors name the video."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines import clips as clips_module
from data_pipelines.clips import sample_clips
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import UnreadableVideo

CONFIG = DataConfig(data_dir="", num_frames=2, fps=4.0, size=64)


@pytest.fixture
def num_decoded(monkeypatch) -> list[int]:
    """How many frames each call of the decoder was asked for."""
    counts, read = [], clips_module.read_frames
    monkeypatch.setattr(
        clips_module, "read_frames", lambda *given: counts.append(len(given[1])) or read(*given)
    )
    return counts


def test_frames_for_people_are_those_of_the_model_without_padding(encode_video, num_decoded):
    video = examine_video(encode_video(num_frames=30, size=(96, 72)), video_id="v")
    clips = sample_clips(video, CONFIG, num_clips=3, shown_size=48)
    assert len(num_decoded) == 1
    assert clips.frames.shape == (3, 2, 64, 64, 3)
    assert clips.shown.shape == (3, 2, 36, 48, 3)
    small = sample_clips(video, dataclasses.replace(CONFIG, size=48), num_clips=3)
    np.testing.assert_array_equal(clips.shown, small.frames[:, :, :36])
    assert small.shown.size == 0
    np.testing.assert_array_equal(clips.times, video.index.frame_times[clips.chosen.indices])


def test_several_numbers_of_clips_come_from_decoding_once(encode_video, num_decoded):
    video = examine_video(encode_video(num_frames=30))
    together = sample_clips(video, CONFIG, num_clips=[1, 4])
    assert len(num_decoded) == 1
    for count, part in ((1, slice(0, 1)), (4, slice(1, 5))):
        alone = sample_clips(video, CONFIG, num_clips=count)
        np.testing.assert_array_equal(together.frames[part], alone.frames)
        np.testing.assert_array_equal(together.times[part], alone.times)


@pytest.mark.parametrize("fault", [MemoryError(), UnreadableVideo("x", "cannot allocate memory")])
def test_frames_that_do_not_fit_into_memory_get_a_sentence(encode_video, monkeypatch, fault):
    fault.__cause__ = MemoryError()

    def fail(*given):
        raise fault

    monkeypatch.setattr(clips_module, "read_frames", fail)
    video = examine_video(encode_video(num_frames=2), video_id="a")
    with pytest.raises(UserError, match=r"video a .*memory.*--data.worker-memory-gib") as refused:
        sample_clips(video, CONFIG, num_clips=1)
    assert isinstance(refused.value.__cause__, MemoryError)


def test_errors_name_the_video(encode_video):
    video = examine_video(encode_video(num_frames=30), video_id="a")
    with pytest.raises(UserError, match=r"video a: .*--data.size"):
        sample_clips(video, dataclasses.replace(CONFIG, size=1), num_clips=1)
    cut = dataclasses.replace(video, data=video.data[:500])
    with pytest.raises(UnreadableVideo, match="the video a"):
        sample_clips(cut, CONFIG, num_clips=1)
