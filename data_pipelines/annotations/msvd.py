"""MSVD captions (also called YouTube2Text): short clips, about 40 sentences each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.dataset import Annotations, PublicDataset, check_disjoint
from data_pipelines.annotations.files import read_object, read_text
from data_pipelines.annotations.records import Caption

_PUBLISHED = {"train": 1_200, "validation": 100, "test": 670}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Msvd(PublicDataset):
    """MSVD: 1,970 YouTube clips of 10 s with 80,000 English captions (Chen and Dolan, ACL 2011).

    https://www.cs.utexas.edu/~ml/clamp/videoDescription has the clips (YouTubeClips.tar). The captions are a
    JSON object {clip: [sentence, ...]}. The split is given by train_list.txt, val_list.txt and test_list.txt,
    one clip a line; commonly taken from msvd_data.zip on the release page of
    https://github.com/ArrowLuo/CLIP4Clip.

    Videos are named by YouTube id, start and end in seconds, for example -4wsuPCjDBc_5_15.avi.
    """

    captions: Path
    """JSON: {"-4wsuPCjDBc_5_15": ["a squirrel ...", ...], ...}."""
    train: Path | None = None
    """train_list.txt."""
    validation: Path | None = None
    """val_list.txt."""
    test: Path | None = None
    """test_list.txt."""

    def read(self) -> Annotations:
        """Read the captions of the clips in the lists."""
        whole = read_object(self.captions)
        records: dict[tuple[type, str], list[Caption]] = {}
        facts: list[str] = []
        for split, path in self.given_files.items():
            clips = [line.strip() for line in read_text(path, "list of clips").split("\n") if line.strip()]
            without = [clip for clip in clips if clip not in whole]
            if without and not self.allow_partial:
                raise UserError(
                    f"{self.captions} has no captions for {len(without):,} of the {len(clips):,} clips in "
                    f"{path}, {without[0]!r} first: it is truncated, or another file"
                )
            facts.append(
                self.check(path, f"MSVD's {split} split", {"clips": len(clips)}, {"clips": _PUBLISHED[split]})
            )
            captions = records[Caption, split] = [
                Caption(id=f"{clip}#{number}", video_id=clip, text=text)
                for clip in clips
                if clip in whole
                for number, text in enumerate(whole.texts(clip))
            ]
            facts.append(f"{split}: {len(captions):,} captions")
        if not records:
            raise UserError("MSVD's splits are lists of clips; give --train, --validation or --test")
        facts.append(check_disjoint("MSVD", records))
        return Annotations(records=records, facts=tuple(facts))
