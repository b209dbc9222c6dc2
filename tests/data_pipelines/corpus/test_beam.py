"""Needs the extra `beam`, in an environment of its own: `make test-beam`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.corpus.folder import prepare_folder
from data_pipelines.corpus.ingest import IngestOptions
from data_pipelines.corpus.shards import ShardedWork

ON_BEAM = IngestOptions(
    beam=("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing")
)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def videos(tmp_path, encode_video) -> Path:
    """70 videos, so three shards; one cannot be read."""
    path = tmp_path / "videos"
    path.mkdir()
    for number in range(70):
        data = encode_video(num_frames=1 + number % 3, size=(32, 32))
        (path / f"{number:02d}.mp4").write_bytes(b"no video" if number == 40 else data)
    return path


def test_without_beam_the_message_says_what_to_install(videos, tmp_path):
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"Apache Beam is not installed; .*\[beam\]"):
            prepare_folder(videos, None, tmp_path / "data", options=ON_BEAM)


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_builds_the_same_bytes(videos, tmp_path):
    pytest.importorskip("apache_beam")
    local = prepare_folder(videos, None, tmp_path / "local", num_workers=1)
    on_beam = prepare_folder(videos, None, tmp_path / "beam", options=ON_BEAM)
    assert str(on_beam) == str(local)
    assert "40.mp4" in str(on_beam)
    assert files_below(tmp_path / "beam") == files_below(tmp_path / "local")


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_goes_on_with_what_is_there(videos, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    prepare_folder(videos, None, tmp_path / "local", num_workers=1)
    finish = ShardedWork.finish

    def cut(self):
        for path in self.work_dir.glob("shard-00001*"):
            path.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardedWork, "finish", cut)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(videos, None, tmp_path / "data", num_workers=1)
    monkeypatch.setattr(ShardedWork, "finish", finish)
    kept = tmp_path / "data.partial" / "data.ingest" / "shard-00000.array_record"
    before = kept.stat().st_mtime_ns

    def note(self):
        assert kept.stat().st_mtime_ns == before
        return finish(self)

    monkeypatch.setattr(ShardedWork, "finish", note)
    prepare_folder(videos, None, tmp_path / "data", options=ON_BEAM)
    assert files_below(tmp_path / "data") == files_below(tmp_path / "local")


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_workers_may_know_the_folder_by_another_name(videos, tmp_path):
    pytest.importorskip("apache_beam")
    (tmp_path / "mount").mkdir()
    (tmp_path / "bucket").symlink_to(tmp_path / "mount")
    options = dataclasses.replace(ON_BEAM, beam_dir=str(tmp_path / "bucket"))
    assert prepare_folder(videos, None, tmp_path / "mount" / "data", options=options).num_videos == 69
    wrong = dataclasses.replace(ON_BEAM, beam_dir=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"--beam-dir must be what workers call"):
        prepare_folder(videos, None, tmp_path / "mount" / "other", options=wrong)


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_a_remote_folder_lists_and_reads_its_files(videos):
    pytest.importorskip("apache_beam")
    from data_pipelines.corpus.remote_folder import RemoteFolder

    (videos / ".hidden.mp4").write_bytes(b"")
    folder = RemoteFolder(videos)
    assert folder.names == tuple(f"{number:02d}.mp4" for number in range(70))
    assert folder.read("40.mp4") == b"no video"
    assert folder.size("40.mp4") == 8
    assert RemoteFolder(Path("gs://bucket/videos")).uri == "gs://bucket/videos"
