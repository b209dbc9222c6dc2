"""A folder of videos, with what should not be in it, and a server that has it."""

from __future__ import annotations

import pytest

from data_pipelines.corpus.reader import open_corpus
from tests.experiments.untrained import untrained_run

from .serving import serving

NASTY = "<script>alert(1)</script>.mp4"


@pytest.fixture(scope="session")
def video(data_dir):
    """Bytes of a video."""
    return open_corpus(data_dir).read("test_00000").data


@pytest.fixture(scope="session")
def folder(data_dir, tmp_path_factory):
    """Three videos, a broken one, a link inside and one that leads out."""
    corpus = open_corpus(data_dir)
    base = tmp_path_factory.mktemp("served")
    path = base / "videos"
    (path / "sub").mkdir(parents=True)
    (path / "a.mp4").write_bytes(corpus.read("test_00001").data)
    # A name with a slash would be a folder.
    (path / "sub" / NASTY.replace("/", "_")).write_bytes(corpus.read("test_00002").data)
    (path / "broken.mp4").write_bytes(corpus.read("test_00003").data[:900])
    (base / "secret.mp4").write_bytes(corpus.read("test_00004").data)
    (path / "out.mp4").symlink_to(base / "secret.mp4")
    (path / "inside.mp4").symlink_to(path / "a.mp4")
    return path


@pytest.fixture(scope="session")
def served(data_dir, folder, tmp_path_factory):
    """A server with a model of retrieval."""
    run = untrained_run("retrieval", data_dir, scale=0.5)
    with serving(run, folder, place=tmp_path_factory.mktemp("index")) as server:
        yield server
