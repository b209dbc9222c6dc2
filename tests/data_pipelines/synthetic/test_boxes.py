from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.decoding.decode import read_frames
from data_pipelines.synthetic.boxes import ObjectTrack, object_boxes
from data_pipelines.synthetic.drawing import SPRITE_SIDE, Event, painted_box, sprite
from data_pipelines.synthetic.texts import all_events, event_text
from data_pipelines.synthetic.video import VideoPlan, layout, make_video
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos, read_plans

NOTICEABLE_CHANGE = 40
"""Grey levels: more than the codec does to the background, less than any object."""
PIXELS_OUTSIDE, PIXELS_INSIDE = 2, 4
"""Colours are stored at half the resolution, and thin tips fade."""


def plan(level: str, number: int) -> VideoPlan:
    events = np.random.default_rng([7, number]).choice(np.array(all_events(level)), 3, replace=False)
    return VideoPlan(video_id=f"{level}_{number}", seed=11, events=tuple(events))


def changed_box(frame: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Find what is not background, independently of how it was drawn."""
    rows, columns = np.nonzero(abs(frame - background).max(axis=-1) > NOTICEABLE_CHANGE)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
@pytest.mark.parametrize("number", range(3))
def test_boxes_bound_what_is_to_be_seen_in_the_file(level, number):
    video, tracks = make_video(plan(level, number)), object_boxes(plan(level, number))
    frames = read_frames(video.data, np.arange(len(video.index.frame_times)), video.index).astype(int)
    shown = np.concatenate([track.frame_numbers for track in tracks])
    assert len(set(shown.tolist())) == len(shown), "one object at a time"
    background = np.median(np.delete(frames, shown, axis=0), axis=0)
    for track in tracks:
        np.testing.assert_allclose(video.index.frame_times[track.frame_numbers], track.times, atol=1e-3)
        for frame, box in zip(frames[track.frame_numbers], track.boxes, strict=True):
            outwards = (changed_box(frame, background) - box) * (-1, -1, 1, 1)
            assert -PIXELS_INSIDE <= outwards.min() <= outwards.max() <= PIXELS_OUTSIDE


def test_boxes_follow_what_spins_and_what_slides():
    boxes = VideoPlan(video_id="", seed=0, events=(Event(shape="box", colour="red"),) * 3)
    num_spinning = num_sliding = 0
    for number in range(12):
        moving = dataclasses.replace(boxes, video_id=str(number))
        for placed, track in zip(layout(moving).events, object_boxes(moving), strict=True):
            widths = track.boxes[:, 2] - track.boxes[:, 0]
            middles = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
            centres = np.array([place.centre for place in placed.places])
            np.testing.assert_allclose(middles, centres, atol=1.5)
            num_sliding += np.ptp(centres, axis=0).max() > 10
            if np.ptp([place.angle for place in placed.places]) > 300:
                num_spinning += 1
                assert widths.max() / widths.min() > 1.25, "a square is wider when it stands on a corner"
    assert min(num_spinning, num_sliding) > 3


def test_a_sprite_that_is_turned_by_half_a_right_angle_reaches_further():
    """A box fills 0.8 of its sprite; at 45 degrees it is sqrt(2) times as wide."""
    picture, centre = sprite(Event(shape="box")), (50.0, 40.0)
    side = 0.8 * SPRITE_SIDE
    for angle, width in ((0.0, side), (90.0, side), (45.0, side * 2**0.5)):
        left, top, right, bottom = painted_box((80, 100), picture, centre, 1.0, angle)
        assert right - left == pytest.approx(width, abs=1.5)
        assert bottom - top == pytest.approx(width, abs=1.5)
        assert (left + right) / 2 == pytest.approx(centre[0], abs=1.0)
        assert (top + bottom) / 2 == pytest.approx(centre[1], abs=1.0)


def test_boxes_are_asked_for_by_time():
    track = ObjectTrack(
        event=Event(shape="ball"),
        frame_numbers=np.array([3, 4]),
        times=np.array([0.3, 0.4]),
        boxes=np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]),
    )
    is_shown, boxes = track.boxes_at(np.array([0.4, 0.2, 0.30001, 0.5]))
    assert is_shown.tolist() == [True, False, True, False]
    assert boxes.tolist() == [[5, 6, 7, 8], [0] * 4, [1, 2, 3, 4], [0] * 4]


def test_plans_of_a_data_directory_are_those_it_was_made_from(data_dir):
    corpus = open_corpus(data_dir)
    for split, number in (("train", 10), ("validation", 5), ("test", 12)):
        plans = read_plans(data_dir, split)
        assert len(plans) == number
        assert make_video(plans[-1]).data == corpus.read(plans[-1].video_id).data
        texts = {caption.video_id: caption.text for caption in read_records(data_dir, Caption, split)}
        assert all(event_text(event) in texts[p.video_id] for p in plans for event in p.events)


def test_plans_depend_on_level_and_seed(tmp_path):
    counts = {"num_train": 1, "num_validation": 1, "num_test": 2}
    data = prepare_synthetic_videos(tmp_path / "data", level="hard", seed=5, num_workers=0, **counts)
    (_, last) = read_plans(data, "test")
    assert last.events[0].state is not None
    assert make_video(last).data == open_corpus(data).read(last.video_id).data


def test_plans_of_other_data_are_refused(tmp_path, data_dir):
    with pytest.raises(UserError, match="it has no prepare"):
        read_plans(tmp_path, "test")
    with pytest.raises(UserError, match="no split 'tset': choose from train, validation, test"):
        read_plans(data_dir, "tset")
    (tmp_path / "prepare.json").write_text('{"source": "folder"}')
    with pytest.raises(UserError, match="clipbert prepare demo"):
        read_plans(tmp_path, "test")
    (tmp_path / "prepare.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_plans(tmp_path, "test")


def test_what_chance_draws_stays_as_it_is():
    """Whoever has made videos before gets the same ones again."""
    planned = layout(VideoPlan(video_id="test_00000", seed=0, events=(Event(shape="ball"),) * 3))
    assert planned.background.shape == (80, 60, 3)
    assert planned.background[0, 0].tolist() == [98, 102, 92]
    assert (planned.rate, planned.num_frames, planned.is_long_gop) == (15, 98, False)
    assert [placed.first_frame for placed in planned.events] == [5, 35, 67]
    ends = [(*placed.places[-1].centre, placed.places[-1].angle) for placed in planned.events]
    expected = [(37.392, 39.333, 336.64), (21.392, 19.316, 10.093), (21.543, 31.987, -19.647)]
    np.testing.assert_allclose(ends, expected, atol=1e-3)
