"""`clipbert predict`: its options, and the loop over videos."""

from __future__ import annotations

import dataclasses
import json as json_format
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from data_pipelines.terminal_text import printable
from experiments.input_checks import MAX_CLIPS, check_out_directory, check_range

if TYPE_CHECKING:
    from data_pipelines.decoding.video import Video
    from experiments.runs.load_run import Run

_STEM_BYTES = 80
"""Longest part of a video's name in the name of its page; file systems limit names to 255 bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Ask a model about videos: whether texts describe them, or what answers a question, clip by clip.

    Models for retrieval and pretraining take texts. Models for question answering and counting take
    questions. Models for multiple choice take a question and --options. If some of several videos cannot be
    read, the others are answered, and the exit code is 2.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`, or a model directory."""
    videos: Annotated[Positional[tuple[str, ...]], arg(metavar="[VIDEO ...]")] = ()
    """Video files; images and GIFs count as videos."""
    texts: tuple[str, ...]
    """One or more texts or questions, each in quotes."""
    options: tuple[str, ...] = ()
    """Options of a multiple choice, each in quotes."""
    list_file: Annotated[Path | None, arg(name="list", metavar="FILE")] = None
    """Text file with the path of a video on each line, relative to the current directory."""
    num_clips: int = 8
    """Number of clips per video, spread over the whole video."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint to use; default: the best on validation, or the newest without validation."""
    explain: Path | None = None
    """Directory for a `clipbert probe` page about each video and text, with the same number of clips."""
    json: bool = False
    """Print JSON instead of a table: the answers of one VIDEO, or a list `videos` of several."""

    def run(self) -> None:
        """Predict and print.

        Raises:
          UserError: there is no such run, or the model cannot answer such texts. A video that cannot be read
            among others, and a page that cannot be written, are raised at the end.
        """
        check_range("--num-clips", self.num_clips, 1, MAX_CLIPS)
        paths = _paths(self.videos, self.list_file)
        if self.explain is not None:
            check_out_directory("--explain", self.explain)
        if (problem := _problem(paths[0])) and not any(path.is_file() for path in paths):
            raise UserError(f"{paths[0]} {problem}: give the path of a video file after the run")
        from experiments.prediction.ask import check_question, model_texts, notes
        from experiments.runs.load_run import load_run
        from experiments.runtime.compilation_cache import use_compilation_cache

        use_compilation_cache()
        model = load_run(self.run_dir, step=self.step)
        check_question(model, self.texts, self.options)
        for note in notes(model, model_texts(self.texts, self.options)):
            print(printable(note), file=sys.stderr)
        pages = (
            None if self.explain is None else _AnswerPages(self.explain, model, self.options, self.num_clips)
        )
        answers = self._answers(model, paths, pages)
        if self.json:
            print(json_format.dumps(self._facts(model) | self._as_json(answers), indent=2))
        if problems := [*_unread(answers), *(pages.problems[:1] if pages else ())]:
            raise UserError("; ".join(problems))

    @property
    def _is_single(self) -> bool:
        return len(self.videos) == 1 and self.list_file is None

    def _answers(self, run: Run, paths: Sequence[Path], pages: _AnswerPages | None) -> list[dict[str, Any]]:
        """Return the answers of each video, or the reason why it has none, and print them one by one."""
        from experiments.prediction.lines import lines

        answers = []
        for number, path in enumerate(paths, 1):
            video, answer = self._answer(run, path)
            if pages is not None and video is not None:
                pages.write(video, number, answer["texts"])
            answers.append(answer)
            if not self.json:
                consensus = f"{self.num_clips} clip(s), {run.experiment.task.consensus} of their scores"
                print("\n".join(lines(answer, consensus)), flush=True)
        return answers

    def _answer(self, run: Run, path: Path) -> tuple[Video | None, dict[str, Any]]:
        """Return a video and its answers, or nothing and the reason why it cannot be read."""
        from experiments.prediction.ask import ask_video, open_file

        try:
            video = open_file(path)
            asked = ask_video(run, video, self.texts, self.options, num_clips=self.num_clips)
        except (UserError, OSError) as error:
            if self._is_single:
                raise
            reason = _problem(path) or getattr(error, "reason", str(error))
            return None, {"video": str(path), "error": reason}
        return video, {"video": str(path), **dataclasses.asdict(asked)}

    def _facts(self, run: Run) -> dict[str, Any]:
        task = run.experiment.task
        facts = {"run": str(self.run_dir), "step": run.step, "task": run.experiment.task_name}
        return facts | {"consensus": task.consensus, "num_clips": self.num_clips}

    def _as_json(self, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return answers[0] if self._is_single else {"videos": answers}


class _AnswerPages:
    """Writes pages about videos and texts; a page that cannot be written does not stop the answers."""

    def __init__(self, folder: Path, run: Run, options: Sequence[str], num_clips: int) -> None:
        self._folder, self._run, self._options, self._num_clips = folder, run, options, num_clips
        self.problems: list[str] = []

    def write(self, video: Video, video_number: int, entries: Sequence[dict[str, Any]]) -> None:
        """Write a page about each text, and add its path to the entry."""
        stem = _short_stem(video.video_id)
        for number, entry in enumerate(entries, 1):
            page = self._folder / f"{video_number}-{number}-{stem}.html"
            try:
                self._write(video, entry["text"], page)
                entry["page"] = str(page)
            except OSError as error:
                reason = error.strerror or str(error)
                self.problems.append(
                    f"--explain {page} cannot be written ({reason}): make room, or choose another place"
                )
            except UserError as error:
                self.problems.append(f"--explain cannot make {page}: {error}")

    def _write(self, video: Video, text: str, page: Path) -> None:
        from experiments.probe.probe_page import write_probe_page
        from experiments.probe.probe_video import make_page, probe_facts, probed_clips

        facts = probe_facts(self._run, self._num_clips)
        clips = probed_clips(self._run, video, num_clips=self._num_clips)
        write_probe_page(page, make_page(self._run, clips, text, options=self._options, facts=facts))


def _short_stem(name: str) -> str:
    """Return the start of a file's name, short enough to be part of another name."""
    return os.fsencode(Path(name).stem)[:_STEM_BYTES].decode("utf-8", "ignore")


def _unread(answers: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence on the videos that could not be read, if there are any."""
    if bad := [answer for answer in answers if "error" in answer]:
        first = f"{printable(bad[0]['video'])}: {printable(bad[0]['error'])}"
        yield f"{len(bad)} of {len(answers)} videos could not be read, first {first}"


def _paths(videos: Sequence[str], list_file: Path | None) -> list[Path]:
    """Return the paths of all videos.

    Raises:
      UserError: there are none; one is a web address; the list cannot be read.
    """
    paths = [*videos]
    if list_file is not None:
        paths += _lines_of(list_file)
    for path in paths:
        if re.match(r"\w+:/", path):
            raise UserError(
                f"{path} is a web address: download the video first, and give the path of the file"
            )
    if not paths:
        what = "give the path of a video file after the run, or --list with a file of paths"
        raise UserError(what if list_file is None else f"--list {list_file} is empty: {what}")
    return [Path(path) for path in paths]


def _lines_of(list_file: Path) -> list[str]:
    try:
        lines = list_file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--list {list_file} cannot be read ({error}): give a UTF-8 text file with a path on each line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _problem(path: Path) -> str:
    """Return what is wrong with the path of a file; empty if it is a file."""
    return "" if path.is_file() else "is a directory" if path.is_dir() else "does not exist"
