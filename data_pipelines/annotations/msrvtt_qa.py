"""MSRVTT-QA and MSRVTT-MC: open questions, and choosing among five captions, on the videos of MSR-VTT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.answers import OpenQuestionDataset
from data_pipelines.annotations.dataset import Annotations, PublicDataset
from data_pipelines.annotations.files import AnnotationEntry, read_objects
from data_pipelines.annotations.records import MultipleChoice, OpenQuestion

_PUBLISHED = {
    "train": {"questions": 158_581},
    "validation": {"questions": 12_278, "videos": 497},
    "test": {"questions": 72_821},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MsrvttQa(OpenQuestionDataset):
    """MSRVTT-QA: 243,680 open questions on the MSR-VTT videos (Xu et al., ACM Multimedia 2017).

    train_qa.json, val_qa.json and test_qa.json: https://github.com/xudejing/video-question-answering links to
    them (MSRVTT-QA.zip). The jsonl files that ClipBERT used are read as well.

    Videos are those of MSR-VTT, video0.mp4 to video9999.mp4. To add the questions to a data directory that
    has them already, leave out --videos.

    Answers are the 1,500 most frequent ones of train, as in ClipBERT. Its checkpoints need the labels of its
    own file, train_ans2label.json: give --ans2label.
    """

    train: Path | None = None
    """train_qa.json, or ClipBERT's train.jsonl."""
    validation: Path | None = None
    """val_qa.json, or ClipBERT's val.jsonl."""
    test: Path | None = None
    """test_qa.json, or ClipBERT's test.jsonl."""
    num_answers: int = 1_500
    """Number of answers to take from train; not used with --ans2label."""

    def read(self) -> Annotations:
        """Read the questions."""
        return self.read_questions("MSRVTT-QA", _questions, _PUBLISHED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MsrvttMc(PublicDataset):
    """MSRVTT-MC: which of five captions belongs to a test video (Yu et al., ECCV 2018); 2,990 questions.

    https://github.com/yj-yu/lsmdc describes the task. The file is JSON lines as in ClipBERT's release, which
    its site no longer serves: `video` (or `clip_name`, `vid_id`), five `options` (or `caption`), `answer`,
    the position of the right one from 0, and `qid`.

    Videos are those of MSR-VTT, video7010.mp4 to video9999.mp4. It tests a retrieval model and has no train
    split. To add it to a data directory that has the videos, leave out --videos.
    """

    test: Path
    """The jsonl file with the questions."""

    def read(self) -> Annotations:
        """Read the questions."""
        records = [_choice(entry, str(number)) for number, entry in enumerate(read_objects(self.test))]
        found = {"questions": len(records)}
        fact = self.check(self.test, "MSRVTT-MC", found, {"questions": 2_990})
        return Annotations(records={(MultipleChoice, "test"): records}, facts=(fact,))


def _questions(path: Path, split: str) -> list[OpenQuestion]:
    entries = enumerate(read_objects(path))
    return [_question(entry, f"{split}_{number:06d}") for number, entry in entries]


def _question(entry: AnnotationEntry, default_id: str) -> OpenQuestion:
    video = entry.text("video_id")  # a number in the release of the authors
    question = entry.text("question")
    return OpenQuestion(
        id=entry.text("id") if "id" in entry else default_id,
        video_id=f"video{video}" if video.isdigit() else video,
        question=question,
        answer=entry.text("answer"),
        question_type=entry.text("answer_type") if "answer_type" in entry else question.split()[0].lower(),
    )


def _choice(entry: AnnotationEntry, default_id: str) -> MultipleChoice:
    key = next((key for key in ("video", "clip_name", "vid_id") if key in entry), "video")
    options = entry.texts("options" if "options" in entry else "caption")
    if len(options) != 5:
        raise UserError(f"{entry.where} has {len(options)} options; MSRVTT-MC has five")
    return MultipleChoice(
        id=entry.text("qid") if "qid" in entry else default_id,
        video_id=entry.text(key).removesuffix(".mp4"),
        question="",
        options=options,
        answer_index=entry.position("answer", len(options)),
    )
