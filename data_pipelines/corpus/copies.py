"""Finds videos that are there under several names; `dataset` and `folder` call it.

A video and its copy tie in every ranking, and a copy in another split makes an evaluation unfair.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping

from clipbert_jax.errors import UserError
from data_pipelines.annotations.dataset import Records
from data_pipelines.corpus.video_source import VideoSource


def comparable(name: str) -> str:
    """Return a name as it is compared: macOS stores accents as characters of their own."""
    return unicodedata.normalize("NFC", name)


def same_bytes(source: VideoSource, names: Iterable[str]) -> dict[str, str]:
    """Return, for each file whose bytes an earlier one in the order of names has, that one.

    Only files of equal size are read.
    """
    of_size: dict[int, list[str]] = collections.defaultdict(list)
    for name in sorted(set(names)):
        of_size[source.size(name)].append(name)
    first_of: dict[str, str] = {}
    for size, group in of_size.items():
        if size and len(group) > 1:
            first_of |= _copies(source, group)
    return first_of


def _copies(source: VideoSource, names: list[str]) -> dict[str, str]:
    first: dict[bytes, str] = {}
    copies = {}
    for name in names:
        try:
            digest = hashlib.sha256(source.read(name)).digest()
        except (OSError, UserError):  # reported when its turn comes
            continue
        if first.setdefault(digest, name) != name:
            copies[name] = first[digest]
    return copies


def merged(records: Records, first_of: Mapping[str, str]) -> Records:
    """Return records in which every video has one id.

    Args:
      records: records by kind and split.
      first_of: for each id that is another name of a video or a copy of it, the id to keep.

    Raises:
      UserError: a video and its copy are in two splits.
    """
    seen: dict[str, tuple[str, str]] = {}
    for (_, split), of_split in records.items():
        for video_id in {record.video_id for record in of_split}:
            other, other_split = seen.setdefault(first_of.get(video_id, video_id), (video_id, split))
            if other_split != split and other != video_id:
                raise UserError(
                    f"{other!r} is in {other_split}, {video_id!r} in {split}, and they are the same video; a "
                    "fair evaluation keeps them apart: leave one of them out of the table"
                )
    return {
        key: [dataclasses.replace(r, video_id=first_of.get(r.video_id, r.video_id)) for r in of_split]
        for key, of_split in records.items()
    }


def lines_about(first_of: Mapping[str, str]) -> list[str]:
    """Return a line about each video that is there twice."""
    return [f"{other} is the same video as {first}: stored once" for other, first in first_of.items()]
