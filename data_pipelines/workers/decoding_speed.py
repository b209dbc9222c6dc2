"""Estimates how many cores training needs for decoding; the training loop prints it when it waits for input.

`heartbeat` measures the cost of a video; the loop knows how many videos per second it could use.
"""

from __future__ import annotations

import math
import os

from data_pipelines.data_config import DataConfig

_COMPACT = "prepare the data with --storage compact, which decodes several times faster"


def num_usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_needed_cores(core_seconds_per_video: float, videos_per_second: float) -> int:
    """Return the number of cores that decode this many videos per second."""
    return max(1, math.ceil(core_seconds_per_video * videos_per_second))


def explain_wait(config: DataConfig, core_seconds_per_video: float | None, videos_per_second: float) -> str:
    """Return one line on the reason why training waits for input, and the remedy.

    Args:
      config: settings of the decoders.
      core_seconds_per_video: cost of decoding; None if no video is decoded yet.
      videos_per_second: number of videos per second that training could use.
    """
    if core_seconds_per_video is None:
        return "input is the bottleneck: the decoders have just started"
    kind, count = ("workers", config.num_workers) if config.num_workers else ("threads", config.num_threads)
    needed, usable = num_needed_cores(core_seconds_per_video, videos_per_second), num_usable_cores()
    line = (
        f"input is the bottleneck: decoding takes {core_seconds_per_video:.2g} core-seconds a video, so "
        f"{videos_per_second:.3g} videos/s need {needed} core(s)"
    )
    if needed > usable:
        return f"{line}, and there are {usable}: {_COMPACT}"
    if needed > count:
        return f"{line} (now {count} {kind}): set --data.num-workers {needed}, or {_COMPACT}"
    return (
        f"{line}, but the {count} {kind} are slower: they wait for storage, or for cores that other "
        "programs use"
    )
