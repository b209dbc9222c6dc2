"""DiDeMo as paragraph retrieval: all descriptions of a video together are one text."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

from data_pipelines.annotations.dataset import Annotations, PublicDataset, check_disjoint
from data_pipelines.annotations.files import read_objects
from data_pipelines.annotations.records import Caption

_PUBLISHED = {
    "train": {"descriptions": 33_005, "videos": 8_395},
    "validation": {"descriptions": 4_180, "videos": 1_065},
    "test": {"descriptions": 4_021, "videos": 1_004},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Didemo(PublicDataset):
    """DiDeMo: 10,464 Flickr videos, cut to 30 s, with 41,206 descriptions (Hendricks et al., ICCV 2017).

    train_data.json, val_data.json and test_data.json are in the folder data/ of
    https://github.com/LisaAnne/LocalizingMoments, which also says how to download the videos.

    Videos are named USER@N01_NUMBER_HASH with any suffix, for example
    35034348999@N01_6060447507_dc1a90b8ef.mov.

    The descriptions of a video are joined into one paragraph, as ClipBERT and others do.
    """

    train: Path | None = None
    """train_data.json."""
    validation: Path | None = None
    """val_data.json."""
    test: Path | None = None
    """test_data.json."""

    def read(self) -> Annotations:
        """Read the paragraphs."""
        records: dict[tuple[type, str], list[Caption]] = {}
        facts: list[str] = []
        file_stems: dict[str, tuple[str, ...]] = {}
        for split, path in self.given_files.items():
            descriptions, names = _descriptions(path)
            file_stems |= names
            records[Caption, split] = [
                Caption(id=video_id, video_id=video_id, text=" ".join(texts.values()))
                for video_id, texts in descriptions.items()
            ]
            found = {"descriptions": sum(map(len, descriptions.values())), "videos": len(descriptions)}
            facts.append(self.check(path, f"DiDeMo's {split} split", found, _PUBLISHED[split]))
        facts.append(check_disjoint("DiDeMo", records))
        return Annotations(records=records, file_stems=file_stems, facts=tuple(facts))


def _descriptions(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, tuple[str, ...]]]:
    """Return video id -> annotation id -> description, in the order of the file, and the file names of each.

    The authors' files name some videos twice, as .mov and as .mp4, and end some names in a dot.
    """
    found: dict[str, dict[str, str]] = {}
    names: dict[str, tuple[str, ...]] = {}
    for entry in read_objects(path):
        name = entry.text("video")
        video_id = _video_id(name)
        names[video_id] = tuple(dict.fromkeys((*names.get(video_id, ()), name, name.rstrip("."))))
        of_video = found.setdefault(video_id, {})
        annotation_id = entry.text("annotation_id")
        if annotation_id in of_video:
            raise entry.bad("annotation_id", "unique for a video", annotation_id)
        of_video[annotation_id] = entry.text("description")
    return found, names


def _video_id(name: str) -> str:
    """Return the name without its suffix: copies of the videos are often converted to mp4."""
    return name.removesuffix(PurePosixPath(name).suffix).rstrip(".")
