"""What a user decides about the data: where they are, how clips are taken, and who decodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from clipbert_jax.config_checks import check_range, option_name
from clipbert_jax.errors import UserError
from data_pipelines.sampling import Sampling, SamplingRule
from data_pipelines.tokenizer import Tokenizer, load_tokenizer

OnStuck = Literal["restart", "stop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data are and how clips are taken from them."""

    data_dir: str
    """Made by a prepare command."""
    mixture: tuple[tuple[str, float], ...] = ()
    """Train on several data directories, each followed by its weight: its share of the examples."""
    num_clips: int = 8
    """Clips per video in training."""
    num_frames: int = 2
    """Frames per clip."""
    fps: float = 2.0
    """Frames per second within a clip."""
    sampling: Sampling = "random"
    """Where the clips of training lie: random ones anew each time, or uniform ones spread over the video."""
    sampling_rule: SamplingRule = "corrected"
    """`corrected` chooses frames by time; `original` repeats the original's arithmetic."""
    size: int = 448
    """Pixels of the longer side."""
    max_text_length: int = 20
    """Tokens, [CLS] and [SEP] included; longer texts are cut."""
    text_buckets: tuple[int, ...] = ()
    """Shorter lengths that texts may be padded to: a training batch takes the least that holds its texts."""
    num_workers: int = 0
    """Processes that decode; 0 decodes in threads of this one."""
    num_threads: int = 2
    """Threads that decode when there are no workers."""
    num_prefetch: int = 4
    """Batches ready ahead: in all without workers, else for each of them (at least 4)."""
    decode_timeout_seconds: float = 60.0
    """A worker that decodes one video for longer is stuck; at most 250."""
    on_stuck: OnStuck = "restart"
    """`restart` starts the workers anew, once for each video, and goes on at the same batch. Without workers
    a stuck video ends the run: threads cannot be ended."""
    worker_memory_gib: float = 2.0
    """What decoding a video may take of a worker's memory."""
    vocab: str | None = None
    """vocab.txt or tokenizer folder; that of the data directory by default."""

    def load_tokenizer(self) -> Tokenizer:
        """Return the tokenizer that texts go through."""
        return load_tokenizer(self.vocab or Path(self.data_dir) / "vocab.txt")

    @property
    def sources(self) -> tuple[tuple[str, float], ...]:
        """Data directories to train on, and their weights."""
        return self.mixture or ((self.data_dir, 1.0),)

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Lengths that texts of a training batch may have, rising.

        Raises:
          UserError: a bucket that is too short or too long.
        """
        for length in self.text_buckets:
            if not 2 <= length <= self.max_text_length:
                raise UserError(
                    f"--data.text-buckets are lengths from 2 to --data.max-text-length "
                    f"{self.max_text_length}, not {length}"
                )
        return tuple(sorted({*self.text_buckets, self.max_text_length}))

    def batch_bytes(self, num_videos: int, num_clips: int) -> int:
        """Return the size of the frames of a batch."""
        return num_videos * num_clips * self.num_frames * self.size * self.size * 3


_LEAST = {"num_workers": 0, "num_threads": 1, "num_prefetch": 1}

_MAX_DECODE_TIMEOUT_SECONDS = 250.0
"""Two attempts at a video end before training gives up waiting for a batch."""

_MIN_WORKER_MEMORY_GIB = 0.5
"""With less memory libraries abort or wait for ever, instead of reporting that there is none."""


def check_data_config(config: DataConfig) -> None:
    """Refuse settings that cannot load data.

    Raises:
      UserError: names the first such option.
    """
    from clipbert_jax.pretrained.checks import INPUT_RANGES  # late: workers do without these imports

    for name, least in _LEAST.items():
        check_range(option_name("data", name), getattr(config, name), least)
    for name, (least, most) in INPUT_RANGES.items():
        check_range(option_name("data", name), getattr(config, name), least, most)
    check_range("--data.worker-memory-gib", config.worker_memory_gib, _MIN_WORKER_MEMORY_GIB)
    if not 0 < config.decode_timeout_seconds <= _MAX_DECODE_TIMEOUT_SECONDS:
        raise UserError(
            f"--data.decode-timeout-seconds must be above 0 and at most {_MAX_DECODE_TIMEOUT_SECONDS:g}, not "
            f"{config.decode_timeout_seconds:g}"
        )
