from __future__ import annotations

import dataclasses
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.corpus.doctor import (
    Diagnosis,
    examine_record,
    examine_records,
    examine_source,
    printable,
    write_table,
)
from data_pipelines.corpus.storage import Compact, Frames, store
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import Health, Video, as_stored
from tests.data_pipelines.decoding.numbered_video import numbered_video

NASTY = [
    "a\nb.mp4",
    "tab\there.mp4",
    "<script>alert(1)</script>.mp4",
    "\x1b[31mred\x1b[0m.mp4",
    "bytes\udcff.mp4",
    "turned\u202e4pm.mp4",
    "back\\slash.mp4",
]


@dataclasses.dataclass(frozen=True)
class Shelf:
    """A source of files in memory; some names do as they say."""

    files: dict[str, bytes]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.files))

    def size(self, name: str) -> int:
        return len(self.files[name])

    def read(self, name: str) -> bytes:
        if name == "crash":
            os.abort()
        if name == "gone":
            raise UserError("gone is no longer there")
        return self.files[name]


@pytest.fixture(scope="module")
def video(encode_video) -> Video:
    return examine_video(encode_video(num_frames=8), video_id="v")


def test_every_file_gets_a_finding_in_order(video: Video) -> None:
    shelf = Shelf(
        {"b.mp4": video.data, "crash": b"12", "empty.mp4": b"", "gone": b"1", "a.mp4": video.data[:300]}
    )
    findings = list(examine_source(shelf, num_workers=2))
    assert [finding.name for finding in findings] == ["a.mp4", "b.mp4", "crash", "empty.mp4", "gone"]
    truncated, sound, crash, empty, gone = findings
    assert (sound.health.verdict, sound.num_bytes, sound.width, sound.height) == (
        "ok",
        len(video.data),
        64,
        48,
    )
    assert sound.health.num_frames == 8
    assert sound.duration == pytest.approx(0.8)
    assert sound.decode_seconds > 0
    assert {f.health.verdict for f in (truncated, crash, empty, gone)} == {"unreadable"}
    assert crash.health.reason == "the decoder crashed (signal 6)"
    assert crash.num_bytes == 2
    assert "empty" in empty.health.reason
    assert gone.health.reason == "gone is no longer there"


@pytest.mark.parametrize("form", [None, Compact(), Frames()])
def test_sound_records_are_ok(video: Video, form: Compact | Frames | None) -> None:
    stored = store(video, form) if form else video
    finding = examine_record(stored)
    assert (finding.health.verdict, finding.health.reason) == ("ok", "")
    if form:
        assert finding.health.notes[-1].startswith("stored as")


def test_records_that_differ_from_their_index_are_damaged(video: Video) -> None:
    index = dataclasses.replace(video.index, frame_times=video.index.frame_times + 0.5, rotation=90)
    other = Video(video_id="other", data=video.data, index=index, health=video.health)
    findings = list(examine_records([video, other, video], num_workers=1))
    assert [finding.health.verdict for finding in findings] == ["ok", "damaged", "ok"]
    assert findings[1].health.reason == "its bytes and its stored frame_times, rotation differ"


def test_records_that_no_longer_decode_are_damaged(video: Video) -> None:
    frames = store(video, Frames(fps=10.0))
    for stored in (video, frames):
        broken = Video(
            video_id="v", data=stored.data[: len(stored.data) // 2], index=stored.index, health=stored.health
        )
        finding = examine_record(broken)
        assert finding.health.verdict == "damaged"
        assert finding.health.reason


@pytest.mark.parametrize("name", NASTY)
def test_names_cannot_break_the_table(name: str, tmp_path: Path) -> None:
    health = Health(
        verdict="damaged",
        reason=f"why\n{name}",
        damaged_ranges=((0.5, 1.0), (2.0, 3.25)),
        notes=("a", "b\tc"),
    )
    findings = [Diagnosis(name=name, num_bytes=1, health=health)] * 2
    write_table(findings, tmp_path / "table.tsv")
    lines = (tmp_path / "table.tsv").read_bytes().decode("utf-8").split("\n")
    assert [line.count("\t") for line in lines] == [len(findings[0].fields()) - 1] * 3 + [0]
    cells = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))
    assert all(cell.isprintable() for cell in cells.values())
    assert cells["damaged_ranges_seconds"] == "0.5-1.0; 2.0-3.25"
    assert cells["notes"] == "a; b\\tc"
    write_table(findings, tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text())[1]["name"] == name


def test_printable_names_stay_apart() -> None:
    assert printable("a\nb") == r"a\nb"
    assert printable(r"a\nb") == r"a\\nb"
    assert printable("Übung 学习 🎬.mp4") == "Übung 学习 🎬.mp4"


def test_the_table_of_nothing_is_empty(tmp_path: Path) -> None:
    write_table([], tmp_path / "table.tsv")
    assert (tmp_path / "table.tsv").read_text() == ""


def test_finding_of_an_image(encode_video) -> None:
    findings = list(examine_source(Shelf({"one.mp4": encode_video(num_frames=1)}), num_workers=1))
    assert findings[0].health.num_frames == 1
    assert np.isfinite(findings[0].duration)


def test_a_record_of_an_earlier_version_has_the_shape_that_is_stored() -> None:
    def set_up(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    video = examine_video(numbered_video(range(3), set_up=set_up), video_id="v")
    assert video.index.width == 128
    old = dataclasses.replace(video, index=as_stored(video.index))
    assert examine_record(old).health.verdict == "ok"
    wrong = dataclasses.replace(video, index=dataclasses.replace(old.index, width=66))
    assert examine_record(wrong).health.verdict == "damaged"
