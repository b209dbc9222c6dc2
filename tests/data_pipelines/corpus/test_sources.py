from __future__ import annotations

import pickle
import tarfile
import zipfile

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.corpus.sources import open_source

FILES = {"b.mp4": b"bb", "a/c d.mp4": b"\0\xff", "a/ü.gif": b"gif!"}


def make_folder(path):
    for name, data in {**FILES, ".hidden": b"x", "__MACOSX/b.mp4": b"x", "a/._b.mp4": b"x"}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def make_zip(path, folder):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return path


def make_tar(path, folder, mode="w"):
    with tarfile.open(path, mode) as archive:
        archive.add(folder, ".")
    return path


def make_list(path, folder):
    path.write_text("".join(f"{folder.name}/{name}\n\n" for name in FILES))
    return path


def make_lmdb(path, folder):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        for name, data in FILES.items():
            transaction.put(name.encode(), data)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "lmdb", "list"])
def test_files_come_out_by_name_in_any_process(kind, tmp_path):
    folder = make_folder(tmp_path / "folder")
    source = open_source(
        {
            "folder": lambda: folder,
            "zip": lambda: make_zip(tmp_path / "v.zip", folder),
            "tar": lambda: make_tar(tmp_path / "v.tar", folder),
            "lmdb": lambda: make_lmdb(tmp_path / "lmdb", folder),
            "list": lambda: make_list(tmp_path / "v.txt", folder),
        }[kind]()
    )
    prefix = "folder/" if kind == "list" else ""
    assert source.names == tuple(sorted(prefix + name for name in FILES))
    sent = pickle.dumps(source)
    assert len(sent) < 500
    for some in (source, pickle.loads(sent)):
        for name, data in FILES.items():
            assert some.read(prefix + name) == data
            assert some.size(prefix + name) == len(data)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_links_are_followed_and_those_that_lead_nowhere_are_unreadable_files(kind, tmp_path):
    videos = tmp_path / "videos"
    (videos / "real").mkdir(parents=True)
    (videos / "real" / "a.mp4").write_bytes(b"video")
    (videos / "again").symlink_to("real")
    (videos / "real" / "round").symlink_to("..")
    (videos / "soft.mp4").symlink_to("hard.mp4")
    (videos / "hard.mp4").hardlink_to(videos / "real" / "a.mp4")
    (videos / "dangling.mp4").symlink_to("nowhere")
    source = open_source(make_tar(tmp_path / "v.tar", videos) if kind == "tar" else videos)
    below_link = ("again/a.mp4",) if kind == "folder" else ()
    assert source.names == (*below_link, "dangling.mp4", "hard.mp4", "real/a.mp4", "soft.mp4")
    for name in {*source.names} - {"dangling.mp4"}:
        assert (source.read(name), source.size(name)) == (b"video", 5)
    assert source.size("dangling.mp4") == 0
    with pytest.raises(UserError, match=r"dangling.mp4.* is a link to nowhere"):
        source.read("dangling.mp4")


def test_a_list_may_name_hidden_files(tmp_path):
    make_folder(tmp_path / ".cache")
    assert open_source(make_list(tmp_path / "v.txt", tmp_path / ".cache")).names == tuple(
        sorted(f".cache/{name}" for name in FILES)
    )


def test_names_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "caf\udce9.mp4").write_bytes(b"")
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "lmdb")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"caf\xe9.mp4", b"video")
    for source in (tmp_path / "folder", tmp_path / "lmdb"):
        with pytest.raises(UserError, match=r"'caf\\udce9.mp4', which is not UTF-8; rename"):
            open_source(source)


def test_what_is_no_source_is_explained(tmp_path):
    folder = make_folder(tmp_path / "folder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.zip").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "damaged.tar").write_bytes(b"no tar " * 100)
    (tmp_path / "video.mp4").write_bytes(b"")
    (tmp_path / "list.txt").write_text("folder/b.mp4\nfolder/gone.mp4\n")
    whole = make_tar(tmp_path / "whole.tar", folder).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: whole.index(b"gif!") + 1])
    (tmp_path / "no_end.tar").write_bytes(whole[: whole.rindex(b"gif!") + 512])
    (tmp_path / "two.tar").write_bytes(whole + whole)
    header = whole.index(b"./b.mp4")
    (tmp_path / "flipped.tar").write_bytes(whole[: header + 2] + b"?" + whole[header + 3 :])
    (tmp_path / "latin.txt").write_bytes("ü.mp4\n".encode("latin-1"))
    make_tar(tmp_path / "small.tar.gz", folder, "w:gz")
    with zipfile.ZipFile(tmp_path / "outside.zip", "w") as archive:
        archive.writestr("../b.mp4", b"")
    for name, message in {
        "nowhere": "no videos at .*nowhere; give --videos",
        "empty": "no videos in .*empty",
        "damaged.zip": "damaged.zip is damaged or not a zip file",
        "damaged.tar": "damaged.tar is damaged or not a plain tar",
        "cut.tar": "cut.tar is (truncated|damaged)",
        "no_end.tar": "no_end.tar is truncated",
        "two.tar": "two.tar continues after its end at byte",
        "flipped.tar": "flipped.tar is (damaged|truncated)",
        "latin.txt": "latin.txt is not UTF-8 text",
        "small.tar.gz": "compressed tar, which cannot be read at random; unpack it",
        "video.mp4": "video.mp4 is not a folder, .zip",
        "list.txt": r"list.txt line 2: the file 'folder/gone.mp4'",
        "outside.zip": r"'../b.mp4', which points outside",
    }.items():
        with pytest.raises(UserError, match=message):
            open_source(tmp_path / name)


def test_a_damaged_or_encrypted_member_is_named(tmp_path):
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.mp4", b"content")
        archive.writestr("b.mp4", b"secret")
    data = bytearray(path.read_bytes())
    data[data.index(b"content")] ^= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1  # the flag of encryption
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(UserError, match=r"a.mp4 in .*v.zip is damaged"):
        source.read("a.mp4")
    with pytest.raises(UserError, match=r"b.mp4 in .*v.zip is encrypted"):
        source.read("b.mp4")
