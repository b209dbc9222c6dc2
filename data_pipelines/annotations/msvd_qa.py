"""MSVD-QA: open questions on the clips of MSVD."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.answers import OpenQuestionDataset
from data_pipelines.annotations.dataset import Annotations
from data_pipelines.annotations.files import AnnotationEntry, read_objects, read_text
from data_pipelines.annotations.records import OpenQuestion

_PUBLISHED = {
    "train": {"questions": 30_933},
    "validation": {"questions": 6_415},
    "test": {"questions": 13_157},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MsvdQa(OpenQuestionDataset):
    """MSVD-QA: 50,505 open questions on the MSVD clips (Xu et al., ACM Multimedia 2017).

    train_qa.json, val_qa.json and test_qa.json: https://github.com/xudejing/video-question-answering links to
    them (MSVD-QA.zip, which also has youtube_mapping.txt).

    Videos are named vid1.avi to vid1970.avi in MSVD-QA.zip. MSVD itself names them by YouTube id, such as
    -4wsuPCjDBc_5_15.avi: give --youtube-mapping if your files, or your data directory, have those names.
    """

    train: Path | None = None
    """train_qa.json."""
    validation: Path | None = None
    """val_qa.json."""
    test: Path | None = None
    """test_qa.json."""
    youtube_mapping: Path | None = None
    """youtube_mapping.txt: lines such as `-4wsuPCjDBc_5_15 vid1`."""

    def read(self) -> Annotations:
        """Read the questions."""
        clip_of = _read_mapping(self.youtube_mapping) if self.youtube_mapping else {}
        annotations = self.read_questions(
            "MSVD-QA",
            lambda path, split: [_question(entry, clip_of) for entry in read_objects(path)],
            _PUBLISHED,
        )
        file_stems = {clip: (video,) for video, clip in clip_of.items()}
        return dataclasses.replace(annotations, file_stems=file_stems)


def _read_mapping(path: Path) -> dict[str, str]:
    """Return vid1 -> name of the clip."""
    clip_of = {}
    for number, line in enumerate(read_text(path, "mapping of names").split("\n"), start=1):
        if line.strip():
            names = line.split()
            if len(names) != 2 or not names[1].startswith("vid"):
                raise UserError(
                    f"{path} line {number} must be like `-4wsuPCjDBc_5_15 vid1`, not {line[:60]!r}"
                )
            clip_of[names[1]] = names[0]
    return clip_of


def _question(entry: AnnotationEntry, clip_of: dict[str, str]) -> OpenQuestion:
    video_id = f"vid{entry.integer('video_id')}"
    if clip_of and video_id not in clip_of:
        raise UserError(f"{entry.where}: --youtube-mapping has no {video_id}; is it complete?")
    question = entry.text("question")
    return OpenQuestion(
        id=entry.text("id"),
        video_id=clip_of.get(video_id, video_id),
        question=question,
        answer=entry.text("answer"),
        question_type=question.split()[0].lower(),
    )
