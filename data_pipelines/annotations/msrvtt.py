"""MSR-VTT captions, from the authors' videodatainfo files and the lists of the retrieval protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from clipbert_jax.errors import UserError
from data_pipelines.annotations.dataset import Annotations, PublicDataset, check_disjoint, num_videos
from data_pipelines.annotations.files import AnnotationEntry, read_object, read_table
from data_pipelines.annotations.records import Caption

Protocol = Literal["full", "7k", "9k"]

_PUBLISHED = {
    "train": {"videos": 6_513, "sentences": 130_260},
    "validation": {"videos": 497, "sentences": 9_940},
    "test": {"videos": 2_990, "sentences": 59_800},
}
_SPLIT_OF = {"train": "train", "validate": "validation", "test": "test"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Msrvtt(PublicDataset):
    """MSR-VTT: 10,000 web videos of 10 to 30 s, 20 captions each (Xu et al., CVPR 2016).

    train_val_videodatainfo.json and test_videodatainfo.json came with the challenge at
    http://ms-multimedia-challenge.com; that site is gone. A commonly used mirror is the release page of
    https://github.com/ArrowLuo/CLIP4Clip: its msrvtt_data.zip has MSRVTT_data.json (all 10,000 videos in one
    file, in place of the other two), MSRVTT_train.9k.csv and MSRVTT_JSFUSION_test.csv (the 1k-A test list).

    Videos are named video0.mp4 to video9999.mp4.

    Protocols:
      full  train 6,513, validation 497, test 2,990 videos, all captions.
      7k    train on the 7,010 videos of train and validation, test on 1k-A.
      9k    train on 9,000 videos, test on 1k-A.

    1k-A are 1,000 test videos with one caption each. 7k and 9k have no validation split. ClipBERT reports
    results for 7k, later work mostly for 9k.
    """

    videodatainfo: tuple[Path, ...]
    """train_val_videodatainfo.json and test_videodatainfo.json, or MSRVTT_data.json."""
    protocol: Protocol = "7k"
    """Videos of each split, as listed above."""
    test_csv: Path | None = None
    """MSRVTT_JSFUSION_test.csv (1k-A), for 7k and 9k."""
    train_csv: Path | None = None
    """MSRVTT_train.9k.csv, for 9k."""

    def read(self) -> Annotations:
        """Read the captions of the protocol."""
        self._check_options()
        sentences: dict[str, list[Caption]] = {split: [] for split in _PUBLISHED}
        facts: list[str] = []
        for path in self.videodatainfo:
            for split, captions in self._read_sentences(path, facts).items():
                sentences[split] += captions
        self._check_splits(sentences)
        if self.protocol == "full":
            records = dict(sentences)
        else:
            records = {"train": self._train(sentences, facts), "test": self._read_1k_a(facts)}
        by_kind = {(Caption, split): captions for split, captions in records.items() if captions}
        facts.append(check_disjoint(f"protocol {self.protocol}", by_kind))
        return Annotations(records=by_kind, facts=tuple(facts))

    def _check_options(self) -> None:
        needed = {"full": (), "7k": ("test_csv",), "9k": ("test_csv", "train_csv")}[self.protocol]
        for name in ("test_csv", "train_csv"):
            option = f"--{name.replace('_', '-')}"
            if name in needed and getattr(self, name) is None:
                raise UserError(f"--protocol {self.protocol} needs {option}; --help says where to get it")
            if name not in needed and getattr(self, name) is not None:
                raise UserError(f"--protocol {self.protocol} does not use {option}; leave it out")

    def _check_splits(self, sentences: Mapping[str, Sequence[Caption]]) -> None:
        """Refuse files without the needed splits; for 9k, `_train` compares them with its list."""
        needed = {"full": ("train", "validation", "test"), "7k": ("train", "validation"), "9k": ()}
        without = [split for split in needed[self.protocol] if not sentences[split]]
        if without and not self.allow_partial:
            raise UserError(
                f"--videodatainfo has no {without[0]} videos; give train_val_videodatainfo.json and "
                "test_videodatainfo.json, or MSRVTT_data.json"
            )

    def _read_sentences(self, path: Path, facts: list[str]) -> dict[str, list[Caption]]:
        """Return the captions of a videodatainfo file by split, counts checked."""
        whole = read_object(path)
        split_of: dict[str, str] = {}
        for video in whole.entries("videos"):
            if video.text("split") not in _SPLIT_OF:
                raise video.bad("split", "train, validate or test", video.text("split"))
            split_of[video.text("video_id")] = _SPLIT_OF[video.text("split")]
        captions: dict[str, list[Caption]] = {split: [] for split in _PUBLISHED}
        for sentence in whole.entries("sentences"):
            caption = _caption(sentence)
            if caption.video_id not in split_of:
                raise UserError(
                    f"{sentence.where} is about {caption.video_id!r}, which `videos` does not list"
                )
            captions[split_of[caption.video_id]].append(caption)
        for split, of_split in captions.items():
            found = {"videos": list(split_of.values()).count(split), "sentences": len(of_split)}
            if any(found.values()):
                line = self.check(path, f"MSR-VTT's {split} split", found, _PUBLISHED[split])
                facts.append(f"{line} ({split})")
        return captions

    def _train(self, sentences: dict[str, list[Caption]], facts: list[str]) -> list[Caption]:
        if self.train_csv is None:
            return sentences["train"] + sentences["validation"]
        wanted = {row.text("video_id") for row in read_table(self.train_csv, ["video_id"])}
        facts.append(
            self.check(self.train_csv, "the 9k training list", {"videos": len(wanted)}, {"videos": 9_000})
        )
        chosen = [c for captions in sentences.values() for c in captions if c.video_id in wanted]
        missing = len(wanted) - num_videos(chosen)
        if missing and not self.allow_partial:
            raise UserError(
                f"{missing:,} videos of {self.train_csv} have no captions in --videodatainfo; give both the "
                "train_val and the test file, or MSRVTT_data.json"
            )
        return chosen

    def _read_1k_a(self, facts: list[str]) -> list[Caption]:
        assert self.test_csv is not None  # _check_options
        rows = read_table(self.test_csv, ["key", "video_id", "sentence"])
        captions = [
            Caption(id=row.text("key"), video_id=row.text("video_id"), text=row.text("sentence"))
            for row in rows
        ]
        found = {"videos": num_videos(captions), "sentences": len(captions)}
        facts.append(
            self.check(self.test_csv, "the 1k-A test list", found, {"videos": 1_000, "sentences": 1_000})
        )
        return captions


def _caption(sentence: AnnotationEntry) -> Caption:
    return Caption(
        id=sentence.text("sen_id"), video_id=sentence.text("video_id"), text=sentence.text("caption")
    )
