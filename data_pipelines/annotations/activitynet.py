"""ActivityNet Captions as paragraph retrieval: all sentences of a video, in order, are one text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.dataset import Annotations, PublicDataset, check_disjoint
from data_pipelines.annotations.files import AnnotationEntry, read_object
from data_pipelines.annotations.records import Caption

_PUBLISHED = {"train": 10_009, "val_1": 4_917, "val_2": 4_885}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activitynet(PublicDataset):
    """ActivityNet Captions: 20,000 web videos of 2 minutes, as paragraphs (Krishna et al., ICCV 2017).

    train.json, val_1.json and val_2.json are in captions.zip of
    https://cs.stanford.edu/people/ranjaykrishna/densevid. The videos are those of http://activity-net.org.

    Videos are named v_ and their YouTube id, for example v_QOlSCBRmfWY.mp4; the v_ may be missing.

    The captions of the official test split were never published, so papers, ClipBERT among them, report on
    val_1: it becomes the split `test`. val_2 has other sentences for the same videos; if given, it becomes
    `validation`. Choose with it, but do not train on it.
    """

    train: Path | None = None
    """train.json."""
    val_1: Path | None = None
    """val_1.json."""
    val_2: Path | None = None
    """val_2.json, if you want a validation split."""

    def read(self) -> Annotations:
        """Read the paragraphs."""
        files = {"train": ("train", self.train), "val_1": ("test", self.val_1)}
        files["val_2"] = ("validation", self.val_2)
        records: dict[tuple[type, str], list[Caption]] = {}
        facts: list[str] = []
        for name, (split, path) in files.items():
            if path is None:
                continue
            captions = records[Caption, split] = _paragraphs(path)
            found, published = {"videos": len(captions)}, {"videos": _PUBLISHED[name]}
            line = self.check(path, f"ActivityNet Captions' {name}", found, published)
            facts.append(f"{line} ({split})")
        for split in ("validation", "test"):
            pair = {key: records[key] for key in ((Caption, "train"), (Caption, split)) if key in records}
            if len(pair) == 2:
                facts.append(f"train and {split}: {check_disjoint('ActivityNet Captions', pair)}")
        file_stems = {c.video_id: (c.video_id[2:],) for captions in records.values() for c in captions}
        return Annotations(records=records, file_stems=file_stems, facts=tuple(facts))


def _paragraphs(path: Path) -> list[Caption]:
    whole = read_object(path)
    captions = []
    for video_id, value in whole.fields.items():
        if not video_id.startswith("v_") or not isinstance(value, dict):
            raise whole.bad(video_id, "named v_... and have `sentences`; is it another file?", value)
        sentences = AnnotationEntry(f"{path}: {video_id}", value).texts("sentences", may_be_empty=True)
        paragraph = " ".join(filter(None, sentences))
        if not paragraph:
            raise UserError(f"{path}: {video_id} has no sentence; fill it or remove the video")
        captions.append(Caption(id=video_id, video_id=video_id, text=paragraph))
    return captions
