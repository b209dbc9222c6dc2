"""Limits of requests; docs/serve.md tells them to users."""

from __future__ import annotations

import dataclasses

MAX_TEXTS = 16
"""Texts or questions of a request, and options of a question."""
MAX_CHARACTERS = 1000
"""Characters of a text; a model reads some tens of tokens."""
MAX_NAME_CHARACTERS = 200
"""Characters of the name of an upload, and of a part of a name to find."""
MAX_TOP = 50
"""Videos found for a text."""
MAX_SHOWN_VIDEOS = 60
"""Videos to choose from on a page; the others are found by name."""
MAX_LISTED_VIDEOS = 10_000
"""Videos that the API lists."""
MAX_UNREADABLE = 200
"""Unreadable files that a page names."""

MAX_FIELDS = 64
"""Fields of a form."""
MAX_BODY_BYTES = 128 << 10
"""Bytes of a request without a video, and of each field beside a video."""
MAX_CONNECTIONS = 64
"""Connections at the same time; further requests are told to try again."""

MAX_WAITING = 6
"""Requests that wait for the model behind the one that it works on."""
MAX_WAITING_FOR_INDEX = 6
"""Searches that wait for the index; questions about a video do not wait for them."""
MAX_SEARCH_SECONDS = 1800.0
"""Duration of a search; the first one for a text in a large folder is slow without an accelerator."""
MAX_FINISHED = 40
"""Results that can be looked at again."""
MAX_UPLOADS = 10
"""Uploaded videos that are kept: more than there can be requests, so that no request loses its video."""
MAX_UPLOADING = 3
"""Uploads at the same time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits that are options of the command."""

    upload_bytes: int
    """Size of an uploaded video."""
    seconds: float
    """Duration of decoding a video, and of a probe."""
    memory_gib: float
    """Memory of the process that decodes, which must hold the whole file."""

    def body_bytes(self, *, may_upload: bool) -> int:
        """Return the largest size of a request."""
        return MAX_BODY_BYTES + (self.upload_bytes if may_upload else 0)
