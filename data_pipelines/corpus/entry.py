"""The unit that builds of a corpus pass on: a stored video and its origin."""

from __future__ import annotations

import dataclasses

from data_pipelines.corpus.storage import StoredVideo


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CorpusEntry:
    """A video as the corpus stores it, and the file that it came from."""

    video: StoredVideo
    source_name: str
    source_sha256: str
