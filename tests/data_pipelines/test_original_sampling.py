from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.decoding.video import FrameIndex, Health, Video
from data_pipelines.original_sampling import ONE_CLIP, Header, original_frames, original_span, spread
from data_pipelines.sampling import choose_frames

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "07_frame_sampling.json").read_text())


def rows_of(name: str) -> list[dict]:
    """A row has None for what was not an argument of its call."""
    table = GOLDEN[name]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def test_reference_clips():
    for row in rows_of("get_start_end_idx"):
        header = Header(num_frames=row["video_size"], fps=1.0, duration=None)
        clip = (row["clip_idx"], row["num_clips"])
        assert (
            list(original_span(header, clip_length=float(row["clip_size"]), clip=clip)) == row["start_end"]
        ), row


def test_reference_positions():
    for row in rows_of("temporal_sampling"):
        found = spread(
            float(row["start_idx"]), float(row["end_idx"]), row["num_samples"], num_available=row["n_frames"]
        )
        assert found.tolist() == row["indices"], row


def reference_frames(row: dict, file: dict) -> list[int] | None:
    pts = np.arange(file["n_frames_in_file"]) * file["pts_per_frame"]
    # Without a duration the original decodes all and counts what came out.
    num_frames = file["container_frames"] if file["container_duration"] else len(pts)
    header = Header(num_frames=num_frames, fps=file["fps"], duration=file["container_duration"])
    strategy = row["sampling_strategy"]
    if strategy == "uniform":  # one clip over the whole video
        return spread(0.0, len(pts) - 1.0, row["num_frm"], num_available=len(pts)).tolist()
    clip = (row["clip_idx"], row["num_clips"]) if strategy is None else ONE_CLIP.get(strategy, "random")
    clip_length = row["num_frm"] / row["target_fps"] * header.fps
    span = original_span(
        header, clip_length=clip_length, clip=clip, rng=random.Random(row["python_random_seed"])
    )
    found = original_frames(
        pts,
        header,
        span,
        num_frames=row["num_frm"],
        safeguards_duration=bool(row["safeguard_duration"]),
    )
    return None if found is None else found.tolist()


def test_reference_frames_of_files():
    files, rows = rows_of("files"), rows_of("decode")
    assert len(rows) == 960
    for row in rows:
        assert reference_frames(row, files[row["file"]]) == row["indices"], (row, files[row["file"]])


def video_of(row_file: dict, *, start: float = 0.0) -> Video:
    num_frames, fps = row_file["n_frames_in_file"], row_file["fps"]
    index = FrameIndex(
        frame_times=np.arange(num_frames) / fps,
        key_frames=np.zeros(1, np.int64),
        first_pts=0,
        width=8,
        height=8,
        rotation=0,
        is_reflected=False,
        duration=num_frames / fps,
    )
    has_duration = row_file["container_duration"] is not None
    health = Health(verdict="ok", has_duration=has_duration, start_time=start)
    return Video(video_id="a", data=b"", index=index, health=health)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_videos_of_a_corpus_give_the_reference_frames(number):
    """By times in seconds rather than time stamps; files whose header is right."""
    file = rows_of("files")[number]
    clips = [r for r in rows_of("decode") if r["file"] == number and r["num_clips"]]
    assert len(clips) == 56
    for row in clips:
        if row["num_clips"] == 1:
            continue  # our one clip is the original's middle, below
        chosen = choose_frames(
            video_of(file, start=1.4),
            num_clips=row["num_clips"],
            num_frames=row["num_frm"],
            fps=float(row["target_fps"]),
            sampling="uniform",
            rule="original",
        )
        assert chosen.indices[row["clip_idx"]].tolist() == row["indices"], row
    for row in rows_of("decode"):
        if row["file"] == number and row["sampling_strategy"] in ONE_CLIP:
            chosen = choose_frames(
                video_of(file),
                num_clips=1,
                num_frames=row["num_frm"],
                fps=float(row["target_fps"]),
                sampling="uniform",
                rule="original",
                one_clip=row["sampling_strategy"],
            )
            assert chosen.indices.tolist() == [row["indices"]], row
