"""`clipbert doctor`: its options, and what it prints."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from experiments.input_checks import check_decode_timeout, check_out_file, check_range

if TYPE_CHECKING:
    from data_pipelines.corpus.doctor import Diagnosis

COLLECTION_SUFFIXES = (".zip", ".tar", ".txt", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Files that hold or list others; any other file is itself examined."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor:
    """Decode videos completely and list what is wrong or unusual; exit code 1 if not all are ok."""

    path: Annotated[Positional[Path], arg(metavar="PATH")]
    """File, folder, zip, tar, LMDB folder, .txt list of paths, or data directory."""
    out: Path | None = None
    """File for the full table, .tsv or .json.
    In the printed table `turn` is the rotation in degrees (m: mirrored), `took` the seconds it took."""
    num_workers: int = 2
    """Number of processes that decode."""
    decode_timeout: float | None = None
    """Time limit for one video, in seconds; default: by its size and its frames."""

    def run(self) -> None:
        """Examine, print, write."""
        from data_pipelines.corpus.doctor import printable, write_table
        from experiments.reports.doctor_table import header, line, summary, terminal_width

        check_range("--num-workers", self.num_workers, 0)
        check_decode_timeout(self.decode_timeout)
        if self.out is not None:
            check_out_file(self.out, (".tsv", ".json"))
        examined = _examined(self.path, self.num_workers, self.decode_timeout)
        findings = []
        width = terminal_width()
        print(header(width))
        for finding in examined:
            findings.append(finding)
            print(line(finding, width), flush=True)
        print(summary(findings))
        if self.out is not None:
            write_table(findings, self.out)
            print(f"wrote {printable(str(self.out))}")
        if any(finding.health.verdict != "ok" for finding in findings):
            sys.exit(1)


def _examined(path: Path, num_workers: int, decode_timeout: float | None) -> Iterator[Diagnosis]:
    from data_pipelines.corpus.doctor import OneFile, examine_corpus, examine_source
    from data_pipelines.corpus.sources import open_source

    if (path / "video_ids.json").is_file():
        from data_pipelines.corpus.reader import open_corpus  # late: brings TFDS

        corpus = open_corpus(path)
        return examine_corpus(corpus, num_workers=num_workers, decode_timeout=decode_timeout)
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give a file, folder, archive, list or data directory")
    is_collection = path.is_dir() or path.name.lower().endswith(COLLECTION_SUFFIXES)
    source = open_source(path) if is_collection else OneFile(path)
    return examine_source(source, num_workers=num_workers, decode_timeout=decode_timeout)
