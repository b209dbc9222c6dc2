"""A folder of videos, and a model of random weights that searches it."""

from __future__ import annotations

import os

import pytest

from data_pipelines.corpus.reader import open_corpus
from experiments.search import encoding
from experiments.search.index import Index
from experiments.search.model import SearchModel
from experiments.search.options import IndexOptions
from tests.experiments.untrained import untrained_run

NUM_CLIPS = 3
OPTIONS = IndexOptions(num_clips=NUM_CLIPS, batch_size=2)

SCRIPT = "<script>alert(1)<:script>.mp4"
NASTY = "new\nline \x1b[31mred.mp4"
NO_UTF8 = os.fsdecode(b"latin-\xfc.mp4")
SPACES = "sub/ü mit Leerzeichen.mp4"


def silently(line):
    """Log nothing."""


@pytest.fixture(scope="session")
def model(data_dir):
    """Retrieval of random weights that are wide enough to tell videos apart."""
    return SearchModel.of(untrained_run("retrieval", data_dir, scale=0.5))


@pytest.fixture(scope="session")
def videos(data_dir):
    """Bytes of 5 videos."""
    corpus = open_corpus(data_dir)
    return [corpus.read(f"test_{number:05}").data for number in range(5)]


@pytest.fixture
def folder(tmp_path, videos):
    """3 videos, one of them in a subfolder."""
    path = tmp_path / "videos"
    (path / "sub").mkdir(parents=True)
    for name, data in zip(("a.mp4", "b.MP4", "sub/c.mp4"), videos, strict=False):
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def nasty(folder, videos):
    """The folder with names that terminals and browsers could take for something else."""
    for name, data in zip((SCRIPT, NASTY, NO_UTF8, SPACES), [*videos[3:], *videos], strict=False):
        (folder / name).write_bytes(data)
    (folder / f"bad {SCRIPT}").write_bytes(b"no video")
    return folder


@pytest.fixture
def read_names(monkeypatch):
    """Return the names of files that were read, in their order."""
    names = []
    read = encoding.read_clips

    def noted(item):
        names.append(item.path.name)
        return read(item)

    monkeypatch.setattr(encoding, "read_clips", noted)
    return names


@pytest.fixture
def search(model, folder):
    """Return a function that opens or updates the index of the folder."""

    def update(options=OPTIONS, *, model=model, log=silently):
        return Index.open_or_update(model, folder, options, log=log)

    return update
