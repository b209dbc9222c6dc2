"""A damaged index is mended while it is searched, as far as it can be; the search goes on."""

import dataclasses
import errno
import io

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.workers.isolation import Failure
from experiments.search import encoding
from experiments.search import index as index_module
from experiments.search.lines import table
from experiments.search.page import write_search_page
from experiments.search.place import locked
from experiments.search.ranking import rank
from experiments.search.reading import Unreadable

from .conftest import NUM_CLIPS, OPTIONS, silently

NOTHING_IN_MEMORY = dataclasses.replace(OPTIONS, memory_bytes=0)


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


DAMAGES = {
    "gone": ("npy", None),
    "empty": ("npy", lambda data: b""),
    "cut off": ("npy", lambda data: data[:-10]),
    "zeros": ("npy", lambda data: bytes(len(data))),
    "other clips": ("npy", lambda data: saved(np.load(io.BytesIO(data))[1:])),
    "other tokens": ("npy", lambda data: saved(np.load(io.BytesIO(data))[:, 1:])),
    "other type": ("npy", lambda data: saved(np.load(io.BytesIO(data)).astype(np.float32))),
    "pictures gone": ("strip", None),
    "pictures cut off": ("strip", lambda data: data[:-10]),
}


@pytest.mark.parametrize(("suffix", "change"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_encoded_again(suffix, change, search, model, read_names, capsys):
    before = search()
    expected = rank(before, model, ["a ball"]).rankings
    (path,) = (before.root / "videos").rglob(f"{before.known('a.mp4').content}.{suffix}")
    whole = path.read_bytes()
    path.unlink() if change is None else path.write_bytes(change(whole))
    for left in (before.root / "scores").iterdir():
        left.unlink()
    read_names.clear()
    index = search()
    assert read_names == []
    found = rank(index, model, ["a ball"]).rankings
    assert read_names == ["a.mp4"]
    assert "1 video(s) of the index are damaged or gone: they are encoded again" in capsys.readouterr().err
    assert path.read_bytes() == whole
    assert [hit.name for hit in found[0].hits] == [hit.name for hit in expected[0].hits]
    assert index.store.pictures(index.known("a.mp4").content, NUM_CLIPS).shape[0] == NUM_CLIPS


def test_pictures_that_are_damaged_are_made_again_where_scores_are_known(search, model, read_names):
    index = search()
    rank(index, model, ["a ball"])
    (path,) = (index.root / "videos").rglob(f"{index.known('a.mp4').content}.strip")
    path.write_bytes(b"")
    read_names.clear()
    assert rank(index, model, ["a ball"]).num_scored == 0
    assert read_names == ["a.mp4"]
    assert path.stat().st_size


def kept_file(index, name, suffix):
    (path,) = (index.root / "videos").rglob(f"{index.known(name).content}.{suffix}")
    return path


def found_names(ranked):
    return sorted(hit.name for hit in ranked.rankings[0].hits)


def test_mending_reads_nothing_but_what_is_damaged(search, model, folder, videos, read_names):
    index = search(NOTHING_IN_MEMORY)
    kept_file(index, "a.mp4", "npy").unlink()
    (folder / "copy.mp4").write_bytes(videos[0])
    (folder / "new.mp4").write_bytes(videos[3])
    read_names.clear()
    assert found_names(rank(index, model, ["a ball"])) == ["a.mp4", "b.MP4", "sub/c.mp4"]
    assert read_names == ["a.mp4"]
    index.update(model, log=lambda line: None)
    assert read_names == ["a.mp4", "new.mp4"]


def test_mending_ends_when_the_search_does(search, model, read_names):
    index = search(dataclasses.replace(NOTHING_IN_MEMORY, batch_size=1))
    for path in (index.root / "videos").rglob("*.npy"):
        path.unlink()
    read_names.clear()

    def stop(num_videos):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank(index, model, ["a ball"], on_progress=stop)
    assert len(read_names) == 2  # one is kept while the next is encoded
    assert len(found_names(rank(index, model, ["a ball"]))) == 3


def test_what_is_damaged_is_left_out_while_another_search_writes(search, model, monkeypatch, capsys):
    monkeypatch.setattr(index_module, "_MEND_WAIT_SECONDS", 0.01)
    index = search(NOTHING_IN_MEMORY)
    kept_file(index, "a.mp4", "npy").unlink()
    with locked(index.place, silently):
        assert found_names(rank(index, model, ["a ball"])) == ["b.MP4", "sub/c.mp4"]
    assert "what is damaged is left out until the next update" in capsys.readouterr().err
    assert index.unreadable == {"a.mp4": "what the index has of it is damaged"}
    index.update(model, log=silently)
    assert found_names(rank(index, model, ["a ball"])) == ["a.mp4", "b.MP4", "sub/c.mp4"]


@pytest.mark.parametrize(
    "outcome", [Unreadable(reason="no frame decodes"), Failure("too slow", may_pass=True)]
)
def test_a_video_that_cannot_be_read_again_is_shown_without_pictures(
    outcome, search, model, tmp_path, monkeypatch
):
    index = search(NOTHING_IN_MEMORY)
    expected = rank(index, model, ["a ball"])
    kept_file(index, "a.mp4", "strip").write_bytes(b"")
    monkeypatch.setattr(encoding, "read", lambda item: outcome)
    found = rank(index, model, ["a ball"])
    assert found.rankings == expected.rankings
    write_search_page(tmp_path / "page.html", index, found, cost="")
    page = (tmp_path / "page.html").read_text()
    assert "1. a.mp4" in page or "2. a.mp4" in page or "3. a.mp4" in page
    assert page.count("<img") == 2 * NUM_CLIPS
    assert kept_file(index, "a.mp4", "npy").exists()
    assert len(rank(search(), model, ["a star"]).rankings[0].hits) == 3


@pytest.mark.parametrize(
    "outcome", [Unreadable(reason="no frame decodes"), Failure("too slow", may_pass=True)]
)
def test_a_video_whose_tokens_are_gone_for_good_is_left_out(outcome, search, model, monkeypatch):
    index = search(NOTHING_IN_MEMORY)
    rank(index, model, ["a ball"])
    kept_file(index, "a.mp4", "npy").unlink()
    monkeypatch.setattr(encoding, "read", lambda item: outcome)
    found = rank(index, model, ["a ball"])
    assert found_names(found) == ["b.MP4", "sub/c.mp4"]
    assert index.unreadable == {"a.mp4": outcome.reason}
    only_a = dataclasses.replace(found.rankings[0], hits=())
    assert len([*table(dataclasses.replace(found, rankings=(only_a,)))]) == 1


def test_a_damaged_index_that_cannot_be_written_to_is_said(search, model, monkeypatch):
    index = search(dataclasses.replace(OPTIONS, memory_bytes=0))
    for path in (index.root / "videos").rglob("*.npy"):
        path.unlink()

    def refuse(place, log, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(place / "lock"))

    monkeypatch.setattr(index_module, "locked", refuse)
    with pytest.raises(
        UserError, match=r"cannot be kept in .* \(Permission denied\): name a folder .* --index"
    ):
        rank(index, model, ["a ball"])
