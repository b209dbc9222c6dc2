"""What the pages of a server share: the model, the videos, the index, and the thread of the model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from data_pipelines.clips import VideoClips
from data_pipelines.terminal_text import printable
from experiments.prediction.ask import one_clip_of
from experiments.reports.page import SHOWN_SIZE
from experiments.runs.load_run import Run
from experiments.search.folder import FileState
from experiments.search.options import IndexOptions
from experiments.search.reading import ClipRequest
from experiments.serve.decoding import BrokenVideo, ClipReader, Thumbnails
from experiments.serve.index_keeper import IndexKeeper
from experiments.serve.jobs import Workroom
from experiments.serve.library import Library
from experiments.serve.limits import Limits
from experiments.serve.uploads import KnownVideo, Uploads


class Site:
    """Everything that a server has; a context manager that ends it all."""

    def __init__(
        self,
        run: Run,
        *,
        videos: Path | None,
        num_clips: int,
        limits: Limits,
        index_options: IndexOptions | None = None,
    ) -> None:
        self.run, self.num_clips, self.limits = run, num_clips, limits
        options = index_options or IndexOptions(num_clips=num_clips)
        self._folder = tempfile.TemporaryDirectory(prefix="clipbert-serve-")
        self.private = Path(self._folder.name)
        """Folder of uploads and results; only this user can read it, and it is deleted at the end."""
        self.workroom = Workroom()
        self.uploads = Uploads(
            self.private, max_bytes=limits.upload_bytes, in_use=lambda: self.workroom.videos_in_use
        )
        self.library = Library(videos, self.uploads, left_out=options.place)
        self.reader = ClipReader(memory_gib=limits.memory_gib, seconds=limits.seconds)
        self.thumbnails = Thumbnails()
        self.keeper = (
            IndexKeeper(run, videos, options, self.workroom) if videos and self.is_matching else None
        )
        """The search index; None without a folder, or for a model that does not match texts."""

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.keeper is not None:
            self.keeper.close()
        self.workroom.close()
        self.reader.close()
        self.thumbnails.close()
        self._folder.cleanup()

    @property
    def model_name(self) -> str:
        """Last part of the path of the run."""
        return printable(self.run.workdir.resolve().name)

    @property
    def is_matching(self) -> bool:
        """Whether the model says how well texts match, instead of answering questions."""
        return self.run.experiment.task.answer_form == "match"

    @property
    def is_choice(self) -> bool:
        """Whether questions need options."""
        return self.run.experiment.task.answer_form == "choice"

    @property
    def has_answers(self) -> bool:
        """Whether a probe can look at another answer than the model's own."""
        return self.run.experiment.task.answer_form in ("choice", "answers")

    def clips_of(self, video: KnownVideo, *, num_clips: int, shown_size: int = SHOWN_SIZE) -> VideoClips:
        """Return the clips of a video; only for the thread of the model. An unreadable upload is deleted.

        Raises:
          RequestRefused: the video is gone or cannot be read.
        """
        path, state = self.library.opened(video)
        request = ClipRequest(
            path=path,
            name=video.name,
            state=FileState(size=state.st_size, mtime_ns=state.st_mtime_ns),
            config=self.run.experiment.data,
            num_clips=num_clips,
            one_clip=one_clip_of(self.run),
            shown_size=shown_size,
        )
        try:
            return self.reader.read(request)
        except BrokenVideo:
            if video.is_upload:
                self.uploads.drop(video)
            raise
