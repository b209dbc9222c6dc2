"""Where the objects of the synthetic videos are, frame by frame: what no annotation says, but the plan knows.

For measuring whether a model looks at what it talks about. `video_corpus.read_plans` gives the plans.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.synthetic.drawing import Event, painted_box, sprite
from data_pipelines.synthetic.video import VideoPlan, layout

_SAME_TIME_SECONDS = 1e-3
"""Files keep times in whole ticks; frames are at least fifty times as far apart."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ObjectTrack:
    """An object of a video, in the frames that show it."""

    event: Event
    frame_numbers: Int[np.ndarray, " f"]
    times: Float[np.ndarray, " f"]
    """Seconds after the first frame of the video."""
    boxes: Float[np.ndarray, "f 4"]
    """Left, top, right and bottom in pixels of the video; the right and the bottom edge are no longer in it.
    They bound the pixels that are painted noticeably."""

    def boxes_at(
        self, times: Float[np.ndarray, " m"]
    ) -> tuple[Bool[np.ndarray, " m"], Float[np.ndarray, "m 4"]]:
        """Return whether the object is shown by the frames of these times, and its boxes, or zeros."""
        nearest = abs(times[:, None] - self.times).argmin(axis=1)
        is_shown = abs(times - self.times[nearest]) < _SAME_TIME_SECONDS
        return is_shown, np.where(is_shown[:, None], self.boxes[nearest], 0.0)


def object_boxes(plan: VideoPlan) -> list[ObjectTrack]:
    """Return where each object of a video is, in the order of its events."""
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
