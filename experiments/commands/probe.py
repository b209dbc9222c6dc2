"""`clipbert probe`: a page that shows what a model looked at in a video, and what it says without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from data_pipelines.terminal_text import printable
from experiments.input_checks import MAX_CLIPS, check_out_directory, check_out_file, check_range

if TYPE_CHECKING:
    from data_pipelines.decoding.video import Video
    from experiments.probe.probe_page import ProbePage
    from experiments.runs.load_run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Write one HTML page: where a model looked in a video, word by word, and what it says without it.

    Attention of every layer and head over the frames, what each clip says, what is lost without each word,
    place, clip and head, and how far attention and that agree. The page is one file that works offline.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`."""
    video: Annotated[Positional[Path], arg(metavar="VIDEO")]
    """A video file; images and GIFs are videos too."""
    text: str
    """A text that may describe the video, or a question, in quotes."""
    options: tuple[str, ...] = ()
    """For multiple choice: what can be chosen, each in quotes."""
    answer: str | None = None
    """Answer or option that is probed; by default the one that the model gives."""
    num_clips: int = 4
    """Clips, spread over the whole video."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint; by default the best on validation if there was any, else the newest."""
    out: Path = Path("probe.html")
    """The page."""
    figures: Path | None = None
    """Directory for PNG figures too."""

    def run(self) -> None:
        """Probe, write the page and say where.

        Raises:
          UserError: no such run or video, or nothing that this model can be asked.
        """
        check_range("--num-clips", self.num_clips, 1, MAX_CLIPS)
        check_out_file(self.out, (".html", ".htm"))
        if not self.video.is_file():
            what = "is a directory" if self.video.is_dir() else "does not exist"
            raise UserError(f"{self.video} {what}: give the path of a video file, after that of the run")
        if self.figures is not None:
            check_out_directory("--figures", self.figures)
        from experiments.prediction.ask import open_file
        from experiments.runs.load_run import load_run
        from experiments.runtime.compilation_cache import use_compilation_cache

        use_compilation_cache()
        video = open_file(self.video)
        page = self._page(load_run(self.run_dir, step=self.step), video)
        self._write(page)

    def _page(self, model: Run, video: Video) -> ProbePage:
        from experiments.probe.probe_video import make_page, probe_facts
        from experiments.runtime.progress import Progress

        progress, done = Progress("probing", total=None, unit="clips"), 0

        def on_progress(num: int) -> None:
            nonlocal done
            done += num
            progress.update(done)

        return make_page(
            model,
            video,
            self.text,
            num_clips=self.num_clips,
            options=self.options,
            answer=self.answer,
            facts=probe_facts(model, self.num_clips),
            on_progress=on_progress,
        )

    def _write(self, page: ProbePage) -> None:
        from experiments.probe.figures import write_probe_figures
        from experiments.probe.probe_page import write_probe_page

        for note in page.notes:
            print(f"note: {printable(note)}")
        write_probe_page(self.out, page)
        print(printable(str(self.out)))
        if self.figures is not None:
            for path in write_probe_figures(self.figures, page):
                print(printable(str(path)))
