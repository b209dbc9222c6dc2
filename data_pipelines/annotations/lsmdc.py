"""LSMDC: clips of films with a sentence of their audio description."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from data_pipelines.annotations.dataset import Annotations, PublicDataset, check_disjoint, numbered_repeats
from data_pipelines.annotations.files import read_table_without_header
from data_pipelines.annotations.records import Caption

_COLUMNS = ("clip", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")
_PUBLISHED = {"test": {"sentences": 1_000}}
"""Counts of the challenge's public test; editions of the other files differ."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lsmdc(PublicDataset):
    """LSMDC: 118,000 clips of 202 films, a sentence each (Rohrbach et al., IJCV 2017).

    LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and LSMDC16_challenge_1000_publictect.csv (sic; the
    retrieval test of 1,000 clips) come, with a password for the videos, from
    https://sites.google.com/site/describingmovies/download.

    Videos are named FILM/CLIP.avi, for example
    0001_American_Beauty/0001_American_Beauty_00.00.51.926-00.00.54.129.avi; only CLIP counts.
    """

    train: Path | None = None
    """LSMDC16_annos_training.csv."""
    validation: Path | None = None
    """LSMDC16_annos_val.csv."""
    test: Path | None = None
    """LSMDC16_challenge_1000_publictect.csv."""

    def read(self) -> Annotations:
        """Read the sentences."""
        nouns = ("sentences", "clips")
        records, facts = self.read_splits("LSMDC", Caption, _read_captions, _PUBLISHED, nouns=nouns)
        return Annotations(records=records, facts=(*facts, check_disjoint("LSMDC", records)))


def _read_captions(path: Path, split: str) -> list[Caption]:
    rows = read_table_without_header(path, _COLUMNS)
    clips = [row.text("clip") for row in rows]
    return [
        Caption(id=id_, video_id=clip, text=row.text("sentence"))
        for id_, clip, row in zip(numbered_repeats(clips), clips, rows, strict=True)
    ]
