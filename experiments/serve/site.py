"""All that the pages of a server share: the model, the videos, the index, the thread that works."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.task import MatchTask
from data_pipelines.clips import VideoClips
from data_pipelines.terminal_text import printable
from experiments.prediction.ask import one_clip_of
from experiments.runs.load_run import Run
from experiments.search.catalog import IndexOptions
from experiments.serve.decoding import BrokenVideo, ClipReader, Thumbnails
from experiments.serve.index_keeper import IndexKeeper
from experiments.serve.jobs import Workroom
from experiments.serve.library import Library
from experiments.serve.limits import Limits
from experiments.serve.reading import VideoToRead
from experiments.serve.uploads import KnownVideo, Uploads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """What there is."""

    run: Run
    num_clips: int
    limits: Limits
    private: Path
    """Folder of uploads and results; only this user may look into it, and it is deleted at the end."""
    uploads: Uploads
    library: Library
    reader: ClipReader
    thumbnails: Thumbnails
    workroom: Workroom
    keeper: IndexKeeper | None
    """Where the model matches texts and there is a folder."""

    @property
    def model_name(self) -> str:
        """The last part of the path: the rest is nobody's business."""
        return printable(self.run.workdir.resolve().name)

    @property
    def is_matching(self) -> bool:
        """Whether the model says how well texts match, rather than answer questions."""
        return isinstance(self.run.experiment.task, MatchTask)

    @property
    def is_choice(self) -> bool:
        """Whether questions need options."""
        return isinstance(self.run.experiment.task, MultipleChoiceQA)

    @property
    def has_answers(self) -> bool:
        """Whether a probe may look at another answer than the model's own."""
        return not self.is_matching and not isinstance(self.run.experiment.task, CountQA)

    def clips_of(self, video: KnownVideo, *, num_clips: int, shown_size: int) -> VideoClips:
        """Return the clips of a video; in the thread of the model. An upload that cannot be read is deleted.

        Raises:
          RequestRefused: it is gone, or cannot be read.
        """
        path, state = self.library.opened(video)
        item = VideoToRead(
            path=path,
            name=video.name,
            num_bytes=state.st_size,
            mtime_ns=state.st_mtime_ns,
            config=self.run.experiment.data,
            num_clips=num_clips,
            one_clip=one_clip_of(self.run),
            shown_size=shown_size,
        )
        try:
            return self.reader.read(item)
        except BrokenVideo:
            if video.is_upload:  # nobody can do anything with it
                self.uploads.drop(video)
            raise


@contextlib.contextmanager
def open_site(
    run: Run,
    *,
    videos: Path | None,
    num_clips: int,
    limits: Limits,
    index_options: IndexOptions | None = None,
) -> Iterator[Site]:
    """Bring everything up, and clean up after it."""
    with tempfile.TemporaryDirectory(prefix="clipbert-serve-") as name:
        private = Path(name)
        options = index_options or IndexOptions(num_clips=num_clips)
        workroom = Workroom()
        uploads = Uploads(private, max_bytes=limits.upload_bytes, in_use=lambda: workroom.videos_in_use)
        library = Library(videos, uploads, left_out=options.place)
        reader = ClipReader(memory_gib=limits.memory_gib, seconds=limits.seconds)
        thumbnails, keeper = Thumbnails(), None
        if videos is not None and isinstance(run.experiment.task, MatchTask):
            keeper = IndexKeeper(run, videos, options, workroom)
        try:
            yield Site(
                run=run,
                num_clips=num_clips,
                limits=limits,
                private=private,
                uploads=uploads,
                library=library,
                reader=reader,
                thumbnails=thumbnails,
                workroom=workroom,
                keeper=keeper,
            )
        finally:
            if keeper is not None:
                keeper.close()
            workroom.close()
            reader.close()
            thumbnails.close()
