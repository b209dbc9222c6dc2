"""Time reading the frames of clips: our reader, the original's strategy, and one plain sequential decode.

    python -m benchmarks.bench_data

Everything is measured in turn in one run on the same files, in seconds of CPU time, so that the ratios hold
on a busy machine too: one core, one FFmpeg thread. All readers return RGB at native size; the plain decode,
the floor, converts nothing. Results go to `benchmarks/results/` as JSON and as a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float

from benchmarks.record import circumstances, default_out, processor, versions_line, write_record
from benchmarks.synthetic_videos import Source, encode_source
from data_pipelines.corpus.storage import Compact, Frames, StorageForm, store
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import Video
from data_pipelines.sampling import Sampling, clip_starts, shown_frames
from data_pipelines.transforms import resize_and_pad

PACKAGES = ("av", "opencv-python-headless", "numpy")
NUM_FRAMES = 2
FPS = 2.0
SIZE = 448
"""Pixels of the longer side in the model, and in `compact`."""

FLOOR, PEER, OURS = "one plain decode", "open, seek, decode per clip", "ours"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """Which clips are read."""

    name: str
    num_clips: int
    sampling: Sampling


WORKLOADS = (
    Workload(name="training, 8 random clips x 2 frames", num_clips=8, sampling="random"),
    Workload(name="evaluation, 16 uniform clips x 2 frames", num_clips=16, sampling="uniform"),
)
FORMS: dict[str, StorageForm] = {"compact": Compact(size=SIZE), "frames": Frames(fps=4.0)}
SOURCES = tuple(
    Source(width=width, height=height, gop=gop)
    for width, height in ((320, 240), (854, 480), (1280, 720))
    for gop in (250, 30)
)
QUICK = (Source(width=320, height=240, gop=250),)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure every source, print the table, write it, and return the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_data", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small source, two rounds")
    parser.add_argument("--num-videos", type=int, default=2, help="per source")
    parser.add_argument("--num-rounds", type=int, default=3, help="each reads every video anew")
    parser.add_argument("--out", type=Path, help="file without suffix (default: in benchmarks/results/)")
    options = parser.parse_args(arguments)
    sources, num_videos, num_rounds = SOURCES, options.num_videos, options.num_rounds
    if options.quick:
        sources, num_videos, num_rounds = QUICK, 1, 2
    rows = []
    for source in sources:
        rows += measure(source, num_videos=num_videos, num_rounds=num_rounds)
        print(markdown(rows[-len(WORKLOADS) :], with_header=source is sources[0]), flush=True)
    record = {
        **circumstances("bench_data", arguments, PACKAGES),
        "device": {"kind": platform.machine(), "processor": processor()},
        "ffmpeg": av.ffmpeg_version_info,
        "unit": "videos per second of CPU time, one core; RGB at native size",
        "forms": {name: dataclasses.asdict(form) for name, form in FORMS.items()},
        "measurements": rows,
    }
    if options.out or not options.quick:
        out = options.out or default_out(record, "data")
        write_record(record, page(record), out)
        print(f"Wrote {out}.json and {out}.md")
    return record


def measure(source: Source, *, num_videos: int, num_rounds: int) -> list[dict[str, Any]]:
    """Return, for every workload, videos per second and core of every reader, and sizes of the forms."""
    lengths = np.linspace(10, 25, num_videos)
    originals = [examine_video(encode_source(source, seconds=s, seed=i)) for i, s in enumerate(lengths)]
    stored = {name: [store(video, form) for video in originals] for name, form in FORMS.items()}
    return [
        {
            "source": source.name,
            "workload": workload.name,
            "videos_per_second_per_core": _rates(workload, originals, stored, num_rounds),
            "kilobytes_per_video": {
                name: round(float(np.mean([len(video.data) for video in videos])) / 1e3, 1)
                for name, videos in ({"original": originals} | stored).items()
            },
        }
        for workload in WORKLOADS
    ]


def _rates(
    workload: Workload, originals: list[Video], stored: dict[str, list[Any]], num_rounds: int
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for number in range(num_rounds + 1):
        for place, video in enumerate(originals):
            rng = np.random.default_rng([number, place])
            starts = _starts(workload, video, rng)
            for name, read in _readers(video, {k: v[place] for k, v in stored.items()}, starts):
                begin = time.process_time()
                read()
                if number:  # the first round warms up
                    seconds.setdefault(name, []).append(time.process_time() - begin)
    # Means over the videos, which differ in length; medians over the rounds.
    return {
        name: 1 / float(np.median(np.reshape(times, (num_rounds, -1)).mean(axis=1)))
        for name, times in seconds.items()
    }


def _starts(workload: Workload, video: Video, rng: np.random.Generator) -> Float[np.ndarray, " k"]:
    return clip_starts(
        video.index.duration,
        num_clips=workload.num_clips,
        clip_seconds=NUM_FRAMES / FPS,
        sampling=workload.sampling,
        rng=rng,
    )


def _readers(
    video: Video, forms: dict[str, Video], starts: Float[np.ndarray, " k"]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield FLOOR, lambda: decode_all(video.data)
    yield PEER, lambda: [read_clip(video.data, float(start)) for start in starts]
    yield OURS, lambda: _read_ours(video, starts)
    yield "ours, and resized", lambda: resize_and_pad(_read_ours(video, starts), SIZE)
    for name, form in forms.items():
        yield name, lambda form=form: _read_ours(form, starts)
        yield f"{name}, and resized", lambda form=form: resize_and_pad(_read_ours(form, starts), SIZE)


def _read_ours(video: Video, starts: Float[np.ndarray, " k"]) -> np.ndarray:
    indices, _ = shown_frames(video.index.frame_times, starts, num_frames=NUM_FRAMES, fps=FPS)
    return read_frames(video.data, np.unique(indices), video.index)


def decode_all(data: bytes) -> int:
    """Decode a file from start to end in one thread, convert nothing, and return the number of frames."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def read_clip(data: bytes, start_seconds: float) -> np.ndarray:
    """Return a clip's frames as the original does: open, seek, decode all up to its end, choose.

    Only the chosen frames are converted to RGB here.
    """
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        time_base = float(stream.time_base or 1)
        first = int(start_seconds / time_base)
        last = first + int(NUM_FRAMES / FPS / time_base)
        container.seek(first, backward=True, any_frame=False, stream=stream)
        window = []
        for frame in container.decode(stream):
            if (frame.pts or 0) > last:
                break
            if (frame.pts or 0) >= first:
                window.append(frame)
        chosen = np.linspace(0, len(window) - 1, NUM_FRAMES).astype(int)
        return np.stack([window[place].to_ndarray(format="rgb24") for place in chosen])


def markdown(rows: list[dict[str, Any]], *, with_header: bool = True) -> str:
    """Return rows of the table: videos per second and core, and ratios."""
    lines = []
    if with_header:
        columns = ["source", "workload", FLOOR, PEER, "ours", "ours / per clip", "ours / plain", "compact"]
        columns += ["compact / ours", "frames", "kB a video: original, compact, frames"]
        lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        rate, size = row["videos_per_second_per_core"], row["kilobytes_per_video"]
        cells = [row["source"], row["workload"], *(f"{rate[name]:.1f}" for name in (FLOOR, PEER, OURS))]
        cells += [f"{rate[OURS] / rate[PEER]:.1f}x", f"{rate[OURS] / rate[FLOOR]:.2f}x"]
        cells += [f"{rate['compact']:.1f}", f"{rate['compact'] / rate[OURS]:.1f}x", f"{rate['frames']:.1f}"]
        cells += [", ".join(f"{size[name]:.0f}" for name in ("original", "compact", "frames"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(record: dict[str, Any]) -> str:
    """Return the page of a record."""
    text = [
        f"# Reading clips ({record['date'][:10]})",
        f"`{record['command']}` on one core of {record['device']['processor']}; {versions_line(record)}, "
        f"FFmpeg {record['ffmpeg']}. Videos per second of CPU time, 10 to 25 s long, {FPS:g} frames a second "
        "within a clip; RGB at native size. `ours` reads the original bytes.",
        markdown(record["measurements"]),
    ]
    return "\n\n".join(text)


if __name__ == "__main__":
    main()
