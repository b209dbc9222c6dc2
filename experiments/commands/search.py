"""`clipbert search`: finds the videos in a folder that a text describes, and the best moment of each."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_format
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from data_pipelines.terminal_text import printable
from experiments.input_checks import MAX_CLIPS, check_decode_timeout, check_out_file, check_range, check_utf8

if TYPE_CHECKING:
    from experiments.search.index import Index
    from experiments.search.model import SearchModel
    from experiments.search.options import IndexOptions
    from experiments.search.ranking import Ranked

_DEFAULT_PAGE = Path("clipbert-search.html")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Find videos in a folder by text, with a model trained for retrieval or pretraining.

    The first search encodes every video and keeps the result in an index. Later searches encode only new
    files and score only new texts. Subfolders are searched too, but not hidden files and links to folders.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`, or a model directory."""
    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of videos, images and GIFs."""
    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT [TEXT ...]")]
    """Texts to search for, each in quotes."""
    top: int = 10
    """Number of videos to show for each text."""
    num_clips: int = 8
    """Number of clips per video, spread over the whole video; another number makes another index."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint to use; default: the best on validation, or the newest without validation."""
    index: Path | None = None
    """Folder of the index; default: .clipbert_index in DIR."""
    out: Path | None = None
    """HTML page of the results; default: ./clipbert-search.html, or no page with --json."""
    json: bool = False
    """Print JSON instead of a table."""
    num_workers: int | None = None
    """Number of processes that decode; default: one per core."""
    worker_memory_gib: float = 4.0
    """Memory limit of each process, which must hold a whole file."""
    decode_timeout: float | None = None
    """Time limit for one video, in seconds; default: by its size and its frames."""
    batch_size: int = 8
    """Number of videos encoded at once; changes only the speed."""
    retry: bool = False
    """Try unreadable files again although they have not changed."""

    def run(self) -> None:
        """Index, rank, print, write the page.

        Raises:
          UserError: the run or folder is missing, the model does not match texts, or a text is empty.
        """
        out = self._checked_out()
        from experiments.search.index import Index
        from experiments.search.lines import as_json, cost_line, index_lines, table
        from experiments.search.model import SearchModel

        start = time.perf_counter()
        model = SearchModel(self.run_dir, step=self.step)
        with contextlib.redirect_stdout(sys.stderr):  # the output is the result alone
            index = Index.open_or_update(model, self.folder, self._options(), log=_say)
            index_seconds = time.perf_counter() - start - model.load_seconds
            for line in index_lines(index):
                _say(line)
            ranked = self._rank(index, model)
        cost = cost_line(index, ranked, index_seconds)
        if self.json:
            print(json_format.dumps(as_json(index, ranked, index_seconds), indent=2))
        else:
            print("\n".join([*table(ranked), cost]))
        if out is not None:
            from experiments.search.page import write_search_page

            write_search_page(out, index, ranked, cost=cost)
            _say(f"page: {printable(str(out))}")

    def _rank(self, index: Index, model: SearchModel) -> Ranked:
        from experiments.search.ranking import rank
        from experiments.search.store import DamagedIndexError

        try:
            return rank(index, model, self.texts, top=self.top)
        except DamagedIndexError as error:
            index.update(model, log=_say, damage=error)
            return rank(index, model, self.texts, top=self.top)

    def _checked_out(self) -> Path | None:
        check_range("--top", self.top, 1)
        check_range("--num-clips", self.num_clips, 1, MAX_CLIPS)
        check_range("--batch-size", self.batch_size, 1)
        check_range("--worker-memory-gib", self.worker_memory_gib, 0.5)
        check_decode_timeout(self.decode_timeout)
        if self.num_workers is not None:
            check_range("--num-workers", self.num_workers, 0)
        check_utf8(self.texts)
        if not all(text.strip() for text in self.texts):
            raise UserError("a text to search for must not be empty")
        out = self.out or (None if self.json else _DEFAULT_PAGE)
        if out is not None:
            check_out_file(out, (".html", ".htm"))
        return out

    def _options(self) -> IndexOptions:
        from data_pipelines.workers.decoding_speed import num_usable_cores
        from experiments.search.options import IndexOptions

        return IndexOptions(
            place=self.index,
            num_clips=self.num_clips,
            num_workers=num_usable_cores() if self.num_workers is None else self.num_workers,
            worker_memory_gib=self.worker_memory_gib,
            decode_timeout=self.decode_timeout,
            batch_size=self.batch_size,
            retry=self.retry,
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
