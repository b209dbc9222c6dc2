"""`clipbert probe`: writes a page that shows where a model looked in a video, and what mattered."""

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
    from experiments.probe.views import ProbePage
    from experiments.runs.load_run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Write an HTML page that shows where a model looked in a video and what its answer depends on.

    The page shows the attention of every layer and head over the frames, word by word; the score of each
    clip; how the score changes without each word, region, clip and head; and how faithful attention is to
    these changes. It is a single file that works offline.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`, or a model directory."""
    video: Annotated[Positional[Path], arg(metavar="VIDEO")]
    """Video, image or GIF."""
    text: str
    """Text that may describe the video, or a question, in quotes."""
    options: tuple[str, ...] = ()
    """Options of a multiple-choice question, each in quotes."""
    answer: str | None = None
    """Answer or option to probe; default: the one that the model gives."""
    num_clips: int = 4
    """Number of clips, spread over the whole video."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint to use; default: the best on validation, or the newest without validation."""
    out: Path = Path("probe.html")
    """Page to write."""
    figures: Path | None = None
    """Directory to write PNG figures to as well."""

    def run(self) -> None:
        """Probe, write the page, and print its path.

        Raises:
          UserError: the run or video is missing, or the model cannot be asked this.
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
        from experiments.probe.probe_video import make_page, probe_facts, probed_clips
        from experiments.runtime.progress import Progress

        progress, done = Progress("probing", total=None, unit="clips"), 0

        def on_progress(num: int) -> None:
            nonlocal done
            done += num
            progress.update(done)

        return make_page(
            model,
            probed_clips(model, video, num_clips=self.num_clips),
            self.text,
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
