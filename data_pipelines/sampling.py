"""Stage 3 of the corridor: which frames make the clips of a video; pure functions over frame times.

A clip is `num_frames` frames, 1/`fps` seconds apart, so it is num_frames/fps seconds long. Working with
times rather than frame numbers makes variable frame rates and start offsets a matter of course.
Before: the frame times in the corpus; after: `decode.read_frames`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Sampling = Literal["random", "uniform"]
"""`random`: starts drawn independently (training); `uniform`: spread over the whole video (evaluation)."""

_TOLERANCE_SECONDS = 1e-6
"""A frame this little after the wanted time is taken as shown: 0.1 + 0.2 is not 0.3."""


def clip_starts(
    duration: float,
    *,
    num_clips: int,
    clip_seconds: float,
    sampling: Sampling,
    rng: np.random.Generator | None = None,
) -> Float[np.ndarray, " k"]:
    """Return when each clip starts, in seconds after the first frame.

    random: uniform over [0, duration - clip_seconds], each clip for itself, so clips may overlap (the
    original's training). uniform: clip i of N is centred at duration * (i + 1/2) / N, moved inside the video;
    unlike the original's, these clips see its end too. All clips of a video shorter than a clip start at 0.

    Args:
      duration: seconds from the first frame to the end of the last.
      num_clips: how many starts.
      clip_seconds: num_frames / fps.
      sampling: random or uniform.
      rng: needed by `random` only.
    """
    last_start = max(0.0, duration - clip_seconds)
    if sampling == "random":
        if rng is None:
            raise ValueError("random sampling needs rng=")
        return rng.uniform(0.0, last_start, num_clips)
    centres = duration * (np.arange(num_clips) + 0.5) / num_clips
    return np.clip(centres - clip_seconds / 2, 0.0, last_start)


def shown_frames(
    frame_times: Float[np.ndarray, " f"],
    starts: Float[np.ndarray, " k"],
    *,
    num_frames: int,
    fps: float,
) -> tuple[Int[np.ndarray, "k t"], Float[np.ndarray, "k t"]]:
    """Return the frames of each clip and their times in seconds.

    The frame at a time is the one on the screen then: the last with frame_time <= time. After the end of the
    video its last frame repeats.
    """
    times = starts[:, None] + np.arange(num_frames) / fps
    indices = np.searchsorted(frame_times, times + _TOLERANCE_SECONDS, side="right") - 1
    indices = np.clip(indices, 0, len(frame_times) - 1)
    return indices, frame_times[indices]
