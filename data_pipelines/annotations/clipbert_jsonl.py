"""The original ClipBERT's own annotation files: JSON lines, with `ans2label` for answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from clipbert_jax.errors import UserError
from data_pipelines.annotations.answers import question_vocabulary, read_ans2label
from data_pipelines.annotations.dataset import Annotations, PublicDataset, Records, numbered_repeats
from data_pipelines.annotations.files import AnnotationEntry, read_objects
from data_pipelines.annotations.images import coco_id, file_stems, visual_genome_id
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion

Task = Literal["retrieval", "pretraining", "multiple_choice", "open_question", "count", "vqa"]
KIND_OF: Mapping[str, type] = {
    "retrieval": Caption,
    "pretraining": Caption,
    "multiple_choice": MultipleChoice,
    "open_question": OpenQuestion,
    "count": Count,
    "vqa": SoftQuestion,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipbertJsonl(PublicDataset):
    """The original ClipBERT's own files: one JSON object a line, as it hosted them until 2022 (CVPR 2021).

    https://github.com/jayleicn/ClipBERT says how its download scripts arranged them, under txt_db/. The
    files are no longer hosted, so this command is for users with a copy. Others start from the public
    annotations: `clipbert prepare msrvtt`, `tgif_qa`, `vqa` ...

    Keys by task:
      retrieval        caption, clip_name, sen_id
      pretraining      caption, and coco_id or vg_id
      multiple_choice  gif_name, question, options, answer (position or text)
      open_question    video_id (or gif_name), question, answer, answer_type
      count            gif_name, question, answer
      vqa              image_id, question, question_id, labels, answer_type

    MSRVTT-MC is multiple_choice with clip_name (or video, vid_id), caption (or options), answer. labels are
    {answer: score}.

    Videos are named as in clip_name, gif_name or video_id; COCO and Visual Genome images as those do.
    No counts were published for these files, so they are printed and not compared.
    """

    task: Task
    train: Path | None = None
    """train.jsonl."""
    validation: Path | None = None
    """val.jsonl."""
    test: Path | None = None
    """test.jsonl."""
    ans2label: Path | None = None
    """train_ans2label.json or trainval_ans2label.json, for open_question and vqa."""

    def read(self) -> Annotations:
        """Read the records of a task."""
        kind = KIND_OF[self.task]
        records, facts = self.read_splits(
            "ClipBERT",
            kind,
            lambda path, split: _read(path, split, _MAKE_OF[self.task]),
            {},
            nouns=(f"{self.task.replace('_', ' ')} records", "videos"),
        )
        answers: tuple[str, ...] = ()
        if kind in (OpenQuestion, SoftQuestion) and records:
            answers, lines = self._answers(records)
            facts += lines
        images = {record.video_id for of_split in records.values() for record in of_split}
        is_images = self.task in ("pretraining", "vqa")
        return Annotations(
            records=records,
            answers={kind: answers} if answers else {},
            file_stems=file_stems(images) if is_images else {},
            facts=tuple(facts),
        )

    def _answers(self, records: Records) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.ans2label is None:
            raise UserError(f"--task {self.task} needs the file of answers and labels; give --ans2label")
        if self.task == "open_question":
            return question_vocabulary(records, self.ans2label, 1, allow_partial=self.allow_partial)
        answers = read_ans2label(self.ans2label, allow_partial=self.allow_partial)
        return answers, (f"{len(answers):,} answers, labels as in {self.ans2label.name}",)


def _read(path: Path, split: str, make: Callable[[AnnotationEntry, str], Any]) -> list[Any]:
    records = [make(entry, f"{split}_{number:06d}") for number, entry in enumerate(read_objects(path))]
    ids = numbered_repeats(record.id for record in records)
    return [dataclasses.replace(record, id=id_) for record, id_ in zip(records, ids, strict=True)]


def _first(entry: AnnotationEntry, *keys: str) -> str:
    return next((key for key in keys if key in entry), keys[0])


def _id(entry: AnnotationEntry, default: str) -> str:
    key = _first(entry, "question_id", "qid", "sen_id", "vid_id")
    return entry.text(key) if key in entry else default


def _video(entry: AnnotationEntry) -> str:
    key = _first(entry, "gif_name", "clip_name", "video_id", "video", "vid_id")
    name = entry.text(key)
    return name.removesuffix(".mp4").removesuffix(".gif")


def _retrieval(entry: AnnotationEntry, default: str) -> Caption:
    id_ = entry.text("sen_id") if "sen_id" in entry else default
    return Caption(id=id_, video_id=_video(entry), text=entry.text("caption"))


def _pretraining(entry: AnnotationEntry, default: str) -> Caption:
    if "vg_id" in entry:
        return Caption(
            id=default, video_id=visual_genome_id(entry.integer("vg_id")), text=entry.text("caption")
        )
    return Caption(id=default, video_id=_coco(entry, "coco_id"), text=entry.text("caption"))


def _choice(entry: AnnotationEntry, default: str) -> MultipleChoice:
    key = "options" if "options" in entry else "caption"
    options = entry.texts(key)
    if len(options) < 2:
        raise entry.bad(key, "two texts or more", options)
    answer = entry.value("answer")
    if isinstance(answer, str) and answer in options:
        position = options.index(answer)
    else:
        position = entry.position("answer", len(options))
    question = entry.text("question", may_be_empty=True) if "question" in entry else ""
    return MultipleChoice(
        id=_id(entry, default),
        video_id=_video(entry),
        question=question,
        options=options,
        answer_index=position,
    )


def _open_question(entry: AnnotationEntry, default: str) -> OpenQuestion:
    return OpenQuestion(
        id=_id(entry, default),
        video_id=_video(entry),
        question=entry.text("question"),
        answer=entry.text("answer"),
        question_type=entry.text("answer_type") if "answer_type" in entry else "",
    )


def _count(entry: AnnotationEntry, default: str) -> Count:
    if entry.integer("answer") < 0:
        raise entry.bad("answer", "a count", entry.integer("answer"))
    return Count(
        id=_id(entry, default),
        video_id=_video(entry),
        question=entry.text("question"),
        count=entry.integer("answer"),
    )


def _vqa(entry: AnnotationEntry, default: str) -> SoftQuestion:
    scores = entry.value("labels") if "labels" in entry else {}
    are_scores = isinstance(scores, dict) and all(
        type(score) in (int, float) and 0 <= score <= 1 for score in scores.values()
    )
    if not are_scores:
        raise entry.bad("labels", "answers with scores from 0 to 1", scores)
    return SoftQuestion(
        id=_id(entry, default),
        video_id=_coco(entry, "image_id"),
        question=entry.text("question"),
        answer_scores={answer: float(score) for answer, score in scores.items() if score > 0},
        answer_type=entry.text("answer_type") if "answer_type" in entry else "",
    )


def _coco(entry: AnnotationEntry, key: str) -> str:
    name = entry.text(key)
    if name.startswith("vg_") and name[3:].isdigit():
        return visual_genome_id(int(name[3:]))
    try:
        return coco_id(name)
    except ValueError:
        raise entry.bad(key, "a COCO image id or a vg_... id", name) from None


_MAKE_OF: Mapping[str, Callable[[AnnotationEntry, str], Any]] = {
    "retrieval": _retrieval,
    "pretraining": _pretraining,
    "multiple_choice": _choice,
    "open_question": _open_question,
    "count": _count,
    "vqa": _vqa,
}
