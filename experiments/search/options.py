"""Settings of a search index: the commands fill them in, `index` and `encoding` follow them."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Settings of an index. Only the number of clips changes the results; the others change the speed."""

    place: Path | None = None
    """Folder of the indexes; default: `.clipbert_index` in the searched folder."""
    num_clips: int = 8
    """Number of clips per video, spread over the whole video."""
    num_workers: int = 0
    """Number of processes that decode; 0 decodes in this process, which a broken file can then crash."""
    worker_memory_gib: float = 4.0
    """Memory limit of a worker, which must hold the whole file and some frames."""
    decode_timeout: float | None = None
    """Time limit for one video in seconds; None sets it by its size and its frames."""
    batch_size: int = 8
    """Largest number of videos that are encoded at once."""
    memory_bytes: int = 2 << 30
    """Largest size of the tokens that stay in memory for the next search."""
    retry: bool = False
    """Whether to try unreadable files again although they have not changed."""
