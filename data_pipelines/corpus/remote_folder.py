"""A folder of videos at a URI, read through Apache Beam."""

# pyright: reportMissingImports=false
# The extra is not among the development tools: it needs an environment of its own.

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from data_pipelines.decoding.signatures import NUM_SIGNATURE_BYTES


class RemoteFolder:
    """A `VideoSource` that workers reach by a URI, such as `gs://bucket/videos`."""

    def __init__(self, uri: str | Path):
        # A path has lost one of its slashes.
        self.uri = re.sub(r"^(\w+):/+", r"\1://", str(uri)).rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.uri,)

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        import_beam()
        from apache_beam.io.filesystems import FileSystems

        (match,) = FileSystems.match([f"{self.uri}/**"])
        sizes = {file.path[len(self.uri) + 1 :]: file.size_in_bytes for file in match.metadata_list}
        if not sizes:
            raise UserError(f"no videos in {self.uri}; put files such as .mp4, .webm or .mkv there")
        return sizes

    @property
    def names(self) -> tuple[str, ...]:
        """Names below the URI, separated by '/' and sorted, without hidden ones."""
        return tuple(sorted(name for name in self._sizes if not _is_hidden(name)))

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of hidden files."""
        return tuple(sorted(name for name in self._sizes if _is_hidden(name)))

    def head(self, name: str) -> bytes:
        """Return the first bytes of a file."""
        from apache_beam.io.filesystems import FileSystems

        with FileSystems.open(f"{self.uri}/{name}", "application/octet-stream", "uncompressed") as file:
            return file.read(NUM_SIGNATURE_BYTES)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        from apache_beam.io.filesystems import FileSystems

        with FileSystems.open(f"{self.uri}/{name}", "application/octet-stream", "uncompressed") as file:
            return file.read()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def import_beam() -> Any:
    """Return Apache Beam, or say how to install it."""
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            "Apache Beam is not installed; make an environment with pip install '.[beam]'"
        ) from error
    return apache_beam
