"""What a request may ask for, at most; docs/serve.md says it to users."""

from __future__ import annotations

import dataclasses

MAX_TEXTS = 16
"""Texts or questions of a request, and options of a question."""
MAX_CHARACTERS = 1000
"""Of a text; a model reads some tens of tokens."""
MAX_NAME_CHARACTERS = 200
"""Of the name of an upload, and of what names are looked for by."""
MAX_TOP = 50
"""Videos found for a text."""
MAX_SHOWN_VIDEOS = 60
"""Videos to choose from on a page; more are found by name."""
MAX_LISTED_VIDEOS = 10_000
"""Videos that the API lists."""

MAX_BODY_BYTES = 128 << 10
"""Of a request that brings no video, and of what comes beside a video."""
CHUNK_SECONDS = 30.0
"""For the next bytes of a body to come."""
BODY_SECONDS = 1800.0
"""For all of a body to come."""
MAX_CONNECTIONS = 64
"""At the same time; a request beyond is told so."""
MAX_OPEN_CONNECTIONS = 2 * MAX_CONNECTIONS
"""At the same time; those beyond are closed without a word."""
HEADER_SECONDS = 20.0
"""For the head of a request to come, on a connection that waits for one."""

MAX_WAITING = 6
"""Requests to the model that wait for the one that it works on."""
MAX_WAITING_FOR_INDEX = 6
"""Searches that wait for the index; they keep no question waiting."""
MAX_SEARCH_SECONDS = 1800.0
"""For a search: of a large folder, the first one for a text takes long without an accelerator."""
MAX_FINISHED = 40
"""Results that can be looked at again; older ones are gone."""
MAX_UPLOADS = 10
"""Uploaded videos that are kept: more than there can be requests, so that none loses its video."""
MAX_UPLOADING = 3
"""Uploads that come in at the same time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Those that whoever starts the server chooses."""

    upload_bytes: int
    """Of an uploaded video."""
    seconds: float
    """For a video to be decoded; for a probe as well."""
    memory_gib: float
    """Of the process that decodes, which must hold the whole file."""

    def body_bytes(self, *, may_upload: bool) -> int:
        """Return how large a request may be."""
        return MAX_BODY_BYTES + (self.upload_bytes if may_upload else 0)
