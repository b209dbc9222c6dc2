"""A video as the corpus stores it, and the file that it came from."""

from __future__ import annotations

import dataclasses

from data_pipelines.corpus.storage import StoredVideo


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CorpusEntry:
    """A video as it goes into the corpus, and where it came from."""

    video: StoredVideo
    source_name: str
    source_sha256: str
