"""Sources of original files, as names and bytes: a folder, an archive, an LMDB folder or a list of paths.

`ingest` and `doctor` read files by name in worker processes; a source that is sent there travels as its path.
"""

from __future__ import annotations

import functools
import lzma
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from clipbert_jax.errors import UserError
from data_pipelines.corpus.video_source import OpenedSource, StoredVideos, head_of

_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def open_source(path: str | Path) -> OpenedSource:
    """Open a folder, .zip, .tar, LMDB folder (extra `lmdb`), or a .txt list of paths, one a line.

    A URI such as gs://bucket/videos is a folder that Apache Beam reads (extra `beam`).

    Hidden files and those that macOS adds to archives are left out, unless a list names them. Links to files
    and folders are followed; a dangling link is a file that cannot be read. A compressed tar is refused: it
    has no random access, and compression does not make videos smaller.

    Raises:
      UserError: the path does not exist, is empty, damaged or of another kind, or a listed file is missing.
    """
    if re.match(r"\w+:/", str(path)):
        from data_pipelines.corpus.remote_folder import RemoteFolder  # late: an extra

        return RemoteFolder(path)
    path = Path(path).absolute()
    if not path.exists():
        raise UserError(f"no videos at {path}; give --videos a folder, .zip, .tar, LMDB folder or .txt list")
    source = _kind(path)(path)
    if not source.names:
        raise UserError(f"no videos in {path}; put files such as .mp4, .webm or .mkv there")
    return source


def _kind(path: Path) -> type[StoredVideos]:
    name = path.name.lower()
    if path.is_dir():
        return _Lmdb if (path / "data.mdb").is_file() else _Folder
    if name.endswith(_COMPRESSED_TARS):
        raise UserError(
            f"{path} is a compressed tar, which cannot be read at random; unpack it, or make it a plain .tar"
        )
    kinds: Mapping[str, type[StoredVideos]] = {".zip": _Zip, ".tar": _Tar, ".txt": _List}
    if path.suffix.lower() not in kinds:
        raise UserError(
            f"{path} is not a folder, .zip, .tar, LMDB folder or .txt list of paths; give one of these"
        )
    return kinds[path.suffix.lower()]


class _Folder(StoredVideos):
    def _all_names(self) -> set[str]:
        return set(_files_below(self.path, "", frozenset()))

    def size(self, name: str) -> int:
        path = self.path / name
        return path.stat().st_size if path.exists() else 0

    def head(self, name: str) -> bytes:
        return head_of(self.path / name)

    def read(self, name: str) -> bytes:
        path = self.path / name
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a link to {path.readlink()}, which does not exist")
        return path.read_bytes()


def _files_below(folder: Path, prefix: str, inside: frozenset[Path]) -> Iterator[str]:
    """Yield names of files, also through links; a folder that links back into itself is entered once."""
    inside |= {folder.resolve()}
    for path in folder.iterdir():
        if path.is_dir():
            if path.resolve() not in inside:
                yield from _files_below(path, f"{prefix}{path.name}/", inside)
        elif path.is_file() or path.is_symlink():
            yield prefix + path.name


class _List(StoredVideos):
    @functools.cached_property
    def _paths(self) -> dict[str, Path]:
        """Return the file of each name; a name is the listed path without a leading `/` and `..`."""
        paths: dict[str, Path] = {}
        try:
            lines = self.path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path} is not UTF-8 text; save it as UTF-8") from error
        for number, line in enumerate(lines, start=1):
            if not (text := line.strip()):
                continue
            file = self.path.parent / text
            if not file.is_file():
                raise UserError(
                    f"{self.path} line {number}: the file {text!r} does not exist; correct or remove the line"
                )
            name = PurePosixPath(*(part for part in PurePosixPath(text).parts if part not in ("/", "..")))
            if name.as_posix() in paths:
                raise UserError(f"{self.path} line {number} names {name} again; remove one of the lines")
            paths[name.as_posix()] = file
        return paths

    def _all_names(self) -> set[str]:
        return set(self._paths)

    def _is_wanted(self, name: str) -> bool:
        return True  # the user listed it

    def size(self, name: str) -> int:
        return self._paths[name].stat().st_size

    def read(self, name: str) -> bytes:
        return self._paths[name].read_bytes()


class _Zip(StoredVideos):
    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.path} is damaged or not a zip file ({error}); copy it again") from error

    def _all_names(self) -> set[str]:
        return {info.filename for info in self._archive.infolist() if not info.is_dir()}

    def size(self, name: str) -> int:
        return self._archive.getinfo(name).file_size

    def read(self, name: str) -> bytes:
        if self._archive.getinfo(name).flag_bits & 1:
            raise UserError(f"{name} in {self.path} is encrypted; make the archive without a password")
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
            raise UserError(f"{name} in {self.path} is damaged ({error})") from error


class _Tar(StoredVideos):
    @functools.cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:
        """Return files and the targets of links; the later of two with one name counts, as when unpacked."""
        try:
            with tarfile.open(self.path, "r:") as archive:
                members = {posixpath.normpath(m.name): m for m in archive.getmembers()}
                self._check_end(archive.offset)
        except tarfile.TarError as error:
            raise UserError(
                f"{self.path} is damaged or not a plain tar file ({error}); copy it again"
            ) from error
        targets = {name: _link_target(member, members) for name, member in members.items()}
        return {name: target for name, target in targets.items() if target.isreg() or _is_link(target)}

    def _check_end(self, offset: int) -> None:
        """Refuse a truncated or concatenated archive: `tarfile` would silently read its first part."""
        with self.path.open("rb") as file:
            file.seek(offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise UserError(f"{self.path} is truncated or damaged from byte {offset:,} on; copy it again")
            while rest := file.read(2**20):
                if rest.count(0) < len(rest):
                    raise UserError(
                        f"{self.path} continues after its end at byte {offset:,}, as if joined to another; "
                        "give --videos a folder with its content"
                    )

    def _all_names(self) -> set[str]:
        return set(self._members)

    def size(self, name: str) -> int:
        return self._members[name].size

    def read(self, name: str) -> bytes:
        member = self._members[name]
        if _is_link(member):
            raise UserError(
                f"{name} in {self.path} is a link to {member.linkname}, which is not in it; make the archive "
                "with what links lead to (tar --dereference)"
            )
        with self.path.open("rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.issym() or member.islnk()


def _link_target(member: tarfile.TarInfo, members: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo:
    """Return the final target of a link, or the last link if its target is missing; else the member."""
    for _ in members:  # links may go round in circles
        folder = posixpath.dirname(member.name) if member.issym() else ""
        name = posixpath.normpath(posixpath.join(folder, member.linkname))
        if not _is_link(member) or name not in members:
            break
        member = members[name]
    return member


@functools.lru_cache(maxsize=4)
def _lmdb_environment(path: Path) -> Any:
    """Open an LMDB folder; a process may open it only once."""
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is an LMDB folder; to read it, run `pip install clipbert_jax[lmdb]`"
        ) from error
    try:
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=1)
    except lmdb.Error as error:
        raise UserError(f"the LMDB folder {path} cannot be read ({error}); copy it again") from error


class _Lmdb(StoredVideos):
    """An LMDB folder as the original made it: the key is the name, the value the bytes of the file."""

    @property
    def _environment(self) -> Any:
        return _lmdb_environment(self.path)

    def _all_names(self) -> set[str]:
        with self._environment.begin() as transaction:
            keys = transaction.cursor().iternext(values=False)
            return {key.decode("utf-8", "surrogateescape") for key in keys}

    def size(self, name: str) -> int:
        with self._environment.begin(buffers=True) as transaction:
            return len(transaction.get(name.encode()))

    def read(self, name: str) -> bytes:
        with self._environment.begin() as transaction:
            return transaction.get(name.encode())
