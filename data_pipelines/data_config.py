"""Settings of the data: their place, the clips, and the processes that decode."""

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
    """Place of the data, clips, texts, and decoding."""

    data_dir: str
    """Data directory, made by `clipbert prepare`."""
    mixture: tuple[tuple[str, float], ...] = ()
    """Data directories to train on together, each followed by its weight in the examples."""
    num_clips: int = 8
    """Number of clips per video in training."""
    num_frames: int = 2
    """Number of frames per clip."""
    fps: float = 2.0
    """Frames per second within a clip."""
    sampling: Sampling = "random"
    """Places of training clips: random ones at each step, or uniform ones spread over the video."""
    sampling_rule: SamplingRule = "corrected"
    """Rule that chooses frames: by time, or with `original` by the original's arithmetic."""
    size: int = 448
    """Longer side of frames in pixels; the shorter side is padded."""
    max_text_length: int = 20
    """Largest number of tokens per text, [CLS] and [SEP] included; longer texts are cut."""
    text_buckets: tuple[int, ...] = ()
    """Shorter lengths for padded texts: a training batch takes the smallest that holds its texts."""
    num_workers: int = 0
    """Number of processes that decode; 0 decodes in threads of this process."""
    num_threads: int = 2
    """Number of threads that decode if num_workers is 0."""
    num_prefetch: int = 4
    """Number of batches prepared ahead, in all or per worker; workers prepare at least 4 each."""
    decode_timeout_seconds: float = 60.0
    """Time limit for decoding one video, after which a worker counts as stuck; at most 250."""
    on_stuck: OnStuck = "restart"
    """Reaction to a stuck worker: restart all workers at the same batch, once for each video, or stop.
    Without workers a stuck video ends the run, as threads cannot be ended."""
    worker_memory_gib: float = 2.0
    """Memory limit of a worker for decoding a video."""
    vocab: str | None = None
    """File vocab.txt or folder of a tokenizer; default: that of the data directory."""

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
"""Least memory of a worker: with less, libraries abort or wait for ever instead of reporting an error."""


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
