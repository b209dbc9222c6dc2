"""`clipbert explain-sampling`: its options, its table and its picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from experiments.input_checks import MAX_CLIPS, check_out_file, check_range

if TYPE_CHECKING:
    from data_pipelines.decoding.video import Video
    from data_pipelines.sampling import ChosenFrames

_MAX_FRAMES = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplainSampling:
    """Show which frames of a video make its clips: print their times and draw them."""

    video: Annotated[Positional[Path], arg(metavar="VIDEO")]
    """Video file."""
    num_clips: int = 8
    """Number of clips."""
    num_frames: int = 2
    """Number of frames per clip."""
    fps: float = 2.0
    """Frames per second within a clip."""
    sampling: Literal["random", "uniform"] = "uniform"
    """Places of the clips: random as in training, or uniform as in evaluation."""
    rule: Literal["corrected", "original"] = "corrected"
    """Rule that chooses frames: by time, or with `original` by the original's arithmetic."""
    seed: int = 0
    """Seed of random clips."""
    out: Path = Path("sampling.png")
    """Picture to write: .png, .svg or .pdf."""

    def run(self) -> None:
        """Choose frames, print the table, draw the picture."""
        self._check()
        import numpy as np

        from data_pipelines.clips import sample_clips
        from data_pipelines.data_config import DataConfig
        from data_pipelines.decoding.examine import examine_video
        from experiments.reports.sampling_figure import SHOWN_SIZE, draw

        config = DataConfig(
            data_dir="", num_frames=self.num_frames, fps=self.fps, sampling_rule=self.rule, size=SHOWN_SIZE
        )
        video = examine_video(self.video)
        clips = sample_clips(
            video,
            config,
            num_clips=self.num_clips,
            sampling=self.sampling,
            rng=np.random.default_rng(self.seed),
            shown_size=SHOWN_SIZE,
        )
        facts = f"{self.video.name}: {describe(video)}"
        print(facts)
        print(table(clips.chosen))
        draw(video, clips, title=f"{facts}\n{self._settings()}", path=self.out)
        print(f"picture: {self.out}")

    def _settings(self) -> str:
        seed = f", seed {self.seed}" if self.sampling == "random" else ""
        rule = ", the original's rule" if self.rule == "original" else ""
        return (
            f"{_count(self.num_clips, f'{self.sampling} clip')} of {_count(self.num_frames, 'frame')} at "
            f"{self.fps:g} fps"
            f"{seed}{rule}"
        )

    def _check(self) -> None:
        check_range("--num-clips", self.num_clips, 1, MAX_CLIPS)
        check_range("--num-frames", self.num_frames, 1, _MAX_FRAMES)
        check_range("--seed", self.seed, 0)
        if not 0 < self.fps < float("inf"):
            raise UserError(f"--fps must be above 0, not {self.fps:g}")
        if not self.video.is_file():
            what = "is a directory" if self.video.is_dir() else "does not exist"
            raise UserError(f"{self.video} {what}: give the path of a video file")
        check_out_file(self.out, (".png", ".svg", ".pdf"))


def describe(video: Video) -> str:
    """Return the facts of a video that matter to sampling, in a line."""
    index, health = video.index, video.health
    count = len(index.frame_times)
    fps = health.fps or (count / index.duration if index.duration else 0.0)
    facts = [
        f"{index.duration:.2f} s",
        _count(count, "frame"),
        f"{fps:.4g} fps{' (variable)' if health.is_variable_rate else ''}",
        f"{index.width}x{index.height}",
        _count(len(index.key_frames), "key frame"),
    ]
    if index.rotation or index.is_reflected:
        facts.append(f"rotation {index.rotation}°{' and reflected' if index.is_reflected else ''}")
    if health.start_time:
        facts.append(f"starts at {health.start_time:.3g} s")
    if not health.has_duration:
        facts.append("no duration in the header")
    return ", ".join([*facts, *health.notes])


def table(chosen: ChosenFrames) -> str:
    """Return a line for each frame: when it was wanted, which is shown, and how far that is off."""
    lines = ["clip   wanted at   frame   shown at   difference"]
    for clip, columns in enumerate(zip(chosen.wanted_times, chosen.indices, chosen.times, strict=True), 1):
        for number, (wanted, index, shown) in enumerate(zip(*columns, strict=True)):
            lines.append(
                f"{clip if number == 0 else '':>4} {wanted:>9.3f} s {index:>7} {shown:>8.3f} s "
                f"{shown - wanted:>+10.3f} s"
            )
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
