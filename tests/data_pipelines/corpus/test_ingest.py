from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.corpus import folder, ingest, shards
from data_pipelines.corpus.folder import prepare_folder
from data_pipelines.corpus.ingest import IngestOptions, new_data_dir
from data_pipelines.corpus.reader import open_corpus, videos_sha256
from data_pipelines.corpus.storage import Compact, Frames
from data_pipelines.workers.isolation import Failure


class PowerCut(BaseException):
    """Nothing handles it."""


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def videos(tmp_path, encode_video) -> Path:
    """70 videos, so three shards; some cannot be read."""
    path = tmp_path / "videos"
    path.mkdir()
    for number in range(70):
        data = encode_video(num_frames=1 + number % 3, size=(32, 32))
        (path / f"{number:02d}.mp4").write_bytes(b"no video" if number in (5, 40) else data)
    return path


def prepare(videos: Path, data_dir: Path, **options) -> str:
    options = IngestOptions(**{"num_workers": 0, **options})
    return str(prepare_folder(videos, None, data_dir, options=options))


def test_a_build_broken_at_any_write_goes_on_to_the_same_bytes(videos, tmp_path, monkeypatch):
    report = prepare(videos, tmp_path / "whole")
    whole = files_below(tmp_path / "whole")
    assert len([name for name in whole if "array_record-" in name]) == 3
    original = Path.replace
    num_broken = 0
    for stop_before in range(100):
        num_left = stop_before

        def replace(path, target):
            nonlocal num_left
            if num_left == 0:
                raise PowerCut
            num_left -= 1
            return original(path, target)

        data_dir = tmp_path / "broken"
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            try:
                prepare(videos, data_dir)
            except PowerCut:
                num_broken += 1
                assert not data_dir.exists()
        if not data_dir.exists():
            continue  # the partial folder is taken up by the next attempt, which is broken later
        break
    assert num_broken > 3
    assert files_below(data_dir) == whole
    assert not (tmp_path / "broken.partial").exists()
    assert "05.mp4" in report


def test_the_fingerprint_of_the_videos_is_of_what_they_hold(videos, tmp_path, monkeypatch, encode_video):
    def fingerprint(name, **options):
        prepare(videos, tmp_path / name, **options)
        return videos_sha256(tmp_path / name)

    first = fingerprint("first")
    assert len(first) == 64
    with monkeypatch.context() as patched:
        patched.setattr(shards, "MIN_VIDEOS_PER_SHARD", 50)
        (videos / "05.mp4").unlink()  # could not be read
        assert fingerprint("in other shards") == first
    assert fingerprint("as frames", storage=Frames()) != first
    (videos / "07.mp4").write_bytes(encode_video(num_frames=9, size=(32, 32)))
    assert fingerprint("one replaced") != first
    ids = [(tmp_path / name / "video_ids.json").read_text() for name in ("first", "one replaced")]
    assert ids[0] == ids[1]


def test_finished_shards_are_not_made_again(videos, tmp_path, monkeypatch):
    original = shards.ShardedWork.finish

    def cut(self):
        raise PowerCut

    monkeypatch.setattr(shards.ShardedWork, "finish", cut)
    with pytest.raises(PowerCut):
        prepare(videos, tmp_path / "data")
    monkeypatch.setattr(shards.ShardedWork, "finish", original)
    monkeypatch.setattr(shards.ShardedWork, "write", cut)
    prepare(videos, tmp_path / "data")
    assert len(open_corpus(tmp_path / "data")) == 68


@pytest.mark.slow
def test_killed_builds_go_on_to_the_same_bytes(tmp_path, encode_video):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(130):  # five shards
        data = encode_video(num_frames=30 + number % 7, size=(160, 120))
        (videos / f"{number:03d}.mp4").write_bytes(data)
    code = (
        "import sys; from data_pipelines.corpus.folder import prepare_folder\n"
        "prepare_folder(sys.argv[1], None, sys.argv[2], num_workers=2)"
    )

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", code, str(videos), str(tmp_path / name)]
        return subprocess.Popen(command, start_new_session=True)

    began = time.monotonic()
    assert start("whole").wait() == 0
    seconds = time.monotonic() - began
    whole = files_below(tmp_path / "whole")
    rng = random.Random(0)
    num_finished = []
    for number in range(10):
        process = start(f"data{number}")
        time.sleep(seconds * (number + rng.random()) / 10)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        num_finished.append(len(list(tmp_path.glob(f"data{number}.partial/data.ingest/shard-*.json"))))
        if not (tmp_path / f"data{number}").exists():
            assert start(f"data{number}").wait() == 0
        assert files_below(tmp_path / f"data{number}") == whole
        assert not (tmp_path / f"data{number}.partial").exists()
    print(f"shards finished when killed: {num_finished}")
    assert len(set(num_finished)) > 2


def test_the_last_steps_may_be_broken_too(videos, tmp_path, monkeypatch):
    prepare(videos, tmp_path / "whole")
    for module, name in ((shards, "write_metadata"), (folder, "write_summary"), (Path, "rename")):
        data_dir = tmp_path / name

        def cut(*arguments, **options):
            raise PowerCut

        with monkeypatch.context() as patched:
            patched.setattr(module, name, cut)
            with pytest.raises(PowerCut):
                prepare(videos, data_dir)
        assert not data_dir.exists()
        prepare(videos, data_dir)
        assert files_below(data_dir) == files_below(tmp_path / "whole")


def test_a_kill_around_the_last_rename_costs_no_data(videos, tmp_path, monkeypatch):
    data_dir = tmp_path / "data"
    prepare(videos, data_dir)
    whole = files_below(data_dir)
    original = Path.rename

    def killed_between(path, target):
        if path.name == "data" and path.parent.name == "data.partial":
            raise PowerCut
        return original(path, target)

    def killed_after(path, **options):
        if Path(path).name == "data.partial":
            raise PowerCut

    for module, name, cut in ((Path, "rename", killed_between), (ingest.shutil, "rmtree", killed_after)):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, cut)
            with pytest.raises(PowerCut):
                replace(videos, data_dir)
        with pytest.raises(UserError, match="already exists"):  # the old data or the new
            prepare(videos, data_dir)
        assert files_below(data_dir) == whole
        replace(videos, data_dir)
        assert files_below(data_dir) == whole
        assert not (tmp_path / "data.partial").exists()


def replace(videos: Path, data_dir: Path) -> None:
    prepare_folder(videos, None, data_dir, num_workers=0, overwrite=True)


def test_an_unfinished_shard_is_made_again(videos, tmp_path, monkeypatch):
    prepare(videos, tmp_path / "whole")
    original = shards.write_shard

    def cut_within(path, records):
        if "00001" in path.name:
            return original(path, cut_after_five(records))
        return original(path, records)

    def cut_after_five(records):
        yield from itertools.islice(records, 5)
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_shard", cut_within)
        with pytest.raises(PowerCut):
            prepare(videos, tmp_path / "data")
    work = tmp_path / "data.partial" / "data.ingest"
    assert sorted(path.name for path in work.glob("shard-*")) == [
        "shard-00000.array_record",
        "shard-00000.json",
    ]
    prepare(videos, tmp_path / "data")
    assert files_below(tmp_path / "data") == files_below(tmp_path / "whole")


def test_an_unfinished_build_of_other_videos_is_refused(videos, tmp_path, monkeypatch):
    def cut(self):
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(shards.ShardedWork, "finish", cut)
        with pytest.raises(PowerCut):
            prepare(videos, tmp_path / "data")
    with pytest.raises(UserError, match=r"data.partial holds an unfinished ingest of other videos"):
        prepare(videos, tmp_path / "data", storage=Frames())
    monkeypatch.setattr(ingest, "_versions", lambda: {"av": "99"})
    with pytest.raises(UserError, match="other versions of libraries"):
        prepare(videos, tmp_path / "data")
    assert (tmp_path / "data.partial").exists()


@dataclasses.dataclass(frozen=True)
class Item:
    video_id: str


def crash(item: Item) -> Failure:
    """Die as a decoder may; a function of a module, as workers import it."""
    if item.video_id == "bad":
        os.abort()
    if item.video_id == "stuck":
        time.sleep(60)
    return Failure("as it should")


def test_a_video_that_kills_or_stops_its_decoder_is_one_bad_video(tmp_path):
    items = [Item(name) for name in ("a", "bad", "b", "stuck", "c")]
    with new_data_dir(tmp_path / "data") as new_dir:
        report = ingest.build_shards(new_dir, crash, items, [], IngestOptions(num_workers=2), 5.0)
    reasons = dict(report.unreadable)
    assert "crashed" in reasons["bad"]
    assert "5 s" in reasons["stuck"]
    assert [reasons[name] for name in "abc"] == ["as it should"] * 3


def test_what_the_machine_may_have_caused_is_tried_again_on_going_on(videos, tmp_path, monkeypatch):
    prepare(videos, tmp_path / "whole")
    original_entry, original_finish = ingest.entry_of_file, shards.ShardedWork.finish

    def overloaded(file):
        if file.video_id == "07.mp4":
            return Failure("took longer than 60 s", may_pass=True)
        return original_entry(file)

    def cut(self):
        raise PowerCut

    monkeypatch.setattr(ingest, "entry_of_file", overloaded)
    monkeypatch.setattr(shards.ShardedWork, "finish", cut)
    with pytest.raises(PowerCut):
        prepare(videos, tmp_path / "data")
    monkeypatch.setattr(ingest, "entry_of_file", original_entry)
    monkeypatch.setattr(shards.ShardedWork, "finish", original_finish)
    prepare(videos, tmp_path / "data")
    assert files_below(tmp_path / "data") == files_below(tmp_path / "whole")


def test_a_full_disk_is_said_and_loses_nothing(videos, tmp_path, monkeypatch):
    prepare(videos, tmp_path / "whole")
    original = shards.write_shard

    def fill(path, records):
        if "00002" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, records)

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_shard", fill)
        with pytest.raises(UserError, match=r"is full; free some space"):
            prepare(videos, tmp_path / "data")
    prepare(videos, tmp_path / "data")
    assert files_below(tmp_path / "data") == files_below(tmp_path / "whole")


def test_bytes_do_not_depend_on_workers(videos, tmp_path):
    prepare(videos, tmp_path / "a")
    prepare(videos, tmp_path / "b", num_workers=2)
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def test_bad_videos_are_listed_or_end_everything(videos, tmp_path):
    report = prepare(videos, tmp_path / "data")
    assert "68 videos stored as original" in report
    table = (tmp_path / "data" / "unreadable.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in table] == ["video_id", "05.mp4", "40.mp4"]
    with pytest.raises(UserError, match=r"cannot read the video 05.mp4"):
        prepare(videos, tmp_path / "other", on_error="error")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("form", [Compact(size=16), Frames(fps=2.0)])
def test_forms_keep_what_was_found_in_the_original(form, videos, tmp_path):
    report = prepare(videos, tmp_path / "data", storage=form)
    assert f"stored as {type(form).__name__.lower()}" in report
    corpus = open_corpus(tmp_path / "data")
    assert corpus.read("02.mp4").health.verdict == "ok"
    assert any("stored as" in note for note in corpus.read("02.mp4").health.notes)


def test_two_builds_never_share_a_folder(tmp_path):
    with (
        new_data_dir(tmp_path / "data"),
        pytest.raises(UserError, match=r"another process is building .*data.partial"),
        new_data_dir(tmp_path / "data"),
    ):
        pass
