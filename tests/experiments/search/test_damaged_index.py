"""A damaged index is said in one line and built again; nothing else is touched."""

import dataclasses
import io

import numpy as np
import pytest

from experiments.cli import main
from experiments.search.ranking import rank
from experiments.search.store import DamagedIndexError

from .conftest import NUM_CLIPS, OPTIONS, silently


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
    "pictures of another kind": ("strip", lambda data: b"no JPEG\xff\xd9"),
}


@pytest.mark.parametrize(("suffix", "change"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_built_again(suffix, change, search, model, read_names):
    expected = rank(search(), model, ["a ball"]).rankings
    index = search()
    (path,) = (index.root / "videos").rglob(f"{index.entries['b.MP4'].content}.{suffix}")
    whole = path.read_bytes()
    path.unlink() if change is None else path.write_bytes(change(whole))
    for left in (index.root / "scores").iterdir():
        left.unlink()
    read_names.clear()
    with pytest.raises(DamagedIndexError) as error:
        rank(index, model, ["a ball"])
    index.update(model, log=silently, damage=error.value)
    assert read_names == ["a.mp4", "b.MP4", "c.mp4"]
    assert path.read_bytes() == whole
    assert rank(index, model, ["a ball"]).rankings == expected


@pytest.fixture
def command(run_dir, folder, tmp_path):
    """Return a function that searches by a trained run, and lists the files that the index then has."""

    def run():
        main(["search", *map(str, (run_dir, folder, "a ball", "--num-workers", 0, "--num-clips", NUM_CLIPS))])
        return {path for path in (folder / ".clipbert_index").rglob("*") if path.is_file()}

    return run


def test_the_command_says_so_in_one_line_and_goes_on(command, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    files = command()
    other = folder / ".clipbert_index" / "0123456789abcdef" / "about.json"
    other.parent.mkdir()
    other.write_text("{}")
    said = capsys.readouterr()
    for suffix, sentence in ((".strip", "the index is damaged ("), (".npz", "scores of a text are damaged")):
        next(path for path in files if path.suffix == suffix).write_bytes(b"not what it was")
        assert command() == files | {other}
        again = capsys.readouterr()
        assert again.out.splitlines()[:4] == said.out.splitlines()[:4]
        assert again.err.count(sentence) == 1


def test_damaged_lines_cost_their_files_another_reading(search, read_names):
    index = search()
    manifest = index.root / "manifest.jsonl"
    lines = manifest.read_text().split("\n")
    manifest.write_text("\n".join(line[:-5] if '"a.mp4"' in line else line for line in lines))
    read_names.clear()
    said = []
    assert search(log=said.append).entries == index.entries
    assert read_names == ["a.mp4"]
    assert said == ["1 line(s) of the index are damaged: their files are read again"]


def test_an_index_of_an_earlier_version_is_read(search, read_names):
    """It noted the memory that was too little for a file, which nothing reads any more."""
    index = search()
    manifest = index.root / "manifest.jsonl"
    entry = (
        '{"name": "x.mp4", "size": 1, "mtime_ns": 2, "content": "%s", "reason": "needed more than 1 GiB", '
    )
    manifest.write_text(manifest.read_text() + entry % ("ab" * 32) + '"short_memory_gib": 1.0}\n')
    read_names.clear()
    again = search()
    assert (again.entries, again.changes.num_gone, read_names) == (index.entries, 1, [])


def test_nothing_stays_in_memory_of_a_damaged_index(search, model):
    index = search()
    content = index.entries["a.mp4"].content
    kept = index.store.tokens(content)
    index.update(model, log=silently, damage=DamagedIndexError(index.root, content, "broken"))
    assert index.store.tokens(content) is not kept
    assert len(index.entries) == 3
    assert search(OPTIONS).changes.num_read == 0


def test_what_another_search_has_deleted_is_not_damage(search, model, folder, read_names):
    """Only the files that are gone are forgotten: nothing is encoded again."""
    index = search(dataclasses.replace(OPTIONS, memory_bytes=0))
    (folder / "b.MP4").unlink()
    search()
    read_names.clear()
    with pytest.raises(DamagedIndexError) as error:
        rank(index, model, ["a ball"])
    said = []
    index.update(model, log=said.append, damage=error.value)
    assert (read_names, said) == ([], [])
    assert sorted(hit.name for hit in rank(index, model, ["a ball"]).rankings[0].hits) == [
        "a.mp4",
        "sub/c.mp4",
    ]
