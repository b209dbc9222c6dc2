"""Computes the box of each object in each frame of a synthetic video from its plan.

`experiments.pointing` and the notebooks use it to measure whether a model looks at the object that it names.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.synthetic.drawing import Event, painted_box, sprite
from data_pipelines.synthetic.video import VideoPlan, layout

_SAME_TIME_SECONDS = 1e-3
"""Tolerance of times, which files keep in whole ticks; frames are at least fifty times as far apart."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ObjectTrack:
    """The boxes of an object in the frames that show it."""

    event: Event
    frame_numbers: Int[np.ndarray, " f"]
    times: Float[np.ndarray, " f"]
    """Seconds after the first frame of the video."""
    boxes: Float[np.ndarray, "f 4"]
    """Left, top, right and bottom in pixels of the video, right and bottom excluded. A box bounds the
    pixels that are painted noticeably."""

    def boxes_at(
        self, times: Float[np.ndarray, " m"]
    ) -> tuple[Bool[np.ndarray, " m"], Float[np.ndarray, "m 4"]]:
        """Return whether the frames at these times show the object, and its boxes, or zeros."""
        nearest = abs(times[:, None] - self.times).argmin(axis=1)
        is_shown = abs(times - self.times[nearest]) < _SAME_TIME_SECONDS
        return is_shown, np.where(is_shown[:, None], self.boxes[nearest], 0.0)


def object_boxes(plan: VideoPlan) -> list[ObjectTrack]:
    """Return the track of each object in a video, in the order of its events."""
    planned = layout(plan)
    frame_hw = planned.background.shape[0], planned.background.shape[1]
    tracks = []
    for placed in planned.events:
        picture = sprite(placed.event)
        boxes = [painted_box(frame_hw, picture, p.centre, p.scale, p.angle) for p in placed.places]
        numbers = placed.first_frame + np.arange(len(placed.places))
        tracks.append(
            ObjectTrack(
                event=placed.event,
                frame_numbers=numbers,
                times=numbers / float(planned.rate),
                boxes=np.array(boxes, dtype=np.float64),
            )
        )
    return tracks
