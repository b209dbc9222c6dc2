"""`make findings`: trains and evaluates all runs, then writes the table and the plots.

Each run has its own directory below the output directory. The same command continues after an interruption:
it skips finished runs and resumes a stopped one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from clipbert_jax.errors import UserError
from data_pipelines.synthetic.image_corpus import prepare_synthetic_images
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.experiment import Experiment
from experiments.findings.conditions import CONDITIONS, FindingsScale, baseline, pretraining
from experiments.findings.report import write_reports
from experiments.runs.evaluate_run import evaluate
from experiments.runs.train_run import train_run
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.runtime.progress import say

FULL = FindingsScale()
QUICK = FindingsScale(num_seeds=1)
LARGE = FindingsScale(num_seeds=5, pretraining_steps=2400, num_steps=1200, batch_size=64)

NUM_CLIPS = (1, 2, 4, 8, 16)
"""Numbers of test clips of every evaluation."""

PRETRAINED = "pretrained"
NUM_TEST_VIDEOS = 120


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """A training run with its evaluation."""

    name: str
    seed: int
    workdir: Path
    make: Callable[[], Experiment]
    num_clips: tuple[int, ...] = NUM_CLIPS

    @property
    def results(self) -> Path:
        """Result file, which exists once the job is done."""
        return self.workdir / "results.json"


def findings(scale: FindingsScale, out: Path) -> None:
    """Do all jobs that are not done yet, then write findings.json, findings.md and the plots.

    Raises:
      UserError: the directory holds findings of another scale.
    """
    _claim(scale, out)
    videos, images = _prepare_data(out / "data")
    jobs = list(_jobs(scale, out / "runs", str(videos), str(images)))
    left = [job for job in jobs if not job.results.exists()]
    say(f"==> {len(jobs)} runs, {len(jobs) - len(left)} of them done already")
    start = time.perf_counter()
    for number, job in enumerate(left, start=1):
        line = _do(job)
        seconds = (time.perf_counter() - start) / number
        minutes_left = seconds * (len(left) - number) / 60
        say(f"[{len(jobs) - len(left) + number}/{len(jobs)}] {line}  about {minutes_left:.0f} min left")
    results = {
        name: {job.seed: json.loads(job.results.read_text()) for job in jobs if job.name == name}
        for name in CONDITIONS
    }
    for path in write_reports(results, scale, out):
        say(f"wrote {path}")


def _jobs(scale: FindingsScale, runs: Path, videos: str, images: str) -> Iterator[TrainingJob]:
    """Yield the jobs seed by seed, pretraining first, so that an unfinished set is balanced."""
    for seed in range(scale.num_seeds):
        first = runs / PRETRAINED / str(seed)
        yield TrainingJob(PRETRAINED, seed, first, lambda seed=seed: pretraining(scale, seed, images), (1,))
        for name, change in CONDITIONS.items():
            yield TrainingJob(
                name,
                seed,
                runs / name / str(seed),
                lambda seed=seed, first=first, change=change: change(
                    baseline(scale, seed, videos, str(first))
                ),
            )


def _do(job: TrainingJob) -> str:
    """Train and evaluate with a log file beside the run directory, and return a line about it."""
    start = time.perf_counter()
    job.workdir.parent.mkdir(parents=True, exist_ok=True)
    log = job.workdir.with_name(f"{job.workdir.name}.log")
    with log.open("a") as file, contextlib.redirect_stdout(file):
        train_run(job.make(), job.workdir)
        evaluated = evaluate(job.workdir, num_clips=job.num_clips)
    jax.clear_caches()  # the next run compiles its own programs, or finds them on disk
    most = max(job.num_clips)
    headline = evaluated.evaluator.headline
    value = evaluated.evaluations[most].metrics[headline]
    seconds = time.perf_counter() - start
    return f"{job.name}, seed {job.seed}: {headline} {value:.1f} with {most} clip(s), {seconds:.0f} s"


def _prepare_data(data: Path) -> tuple[Path, Path]:
    videos, images = data / "videos", data / "images"
    if not videos.exists():
        say("==> generating videos")
        prepare_synthetic_videos(videos, num_test=NUM_TEST_VIDEOS)
    if not images.exists():
        say("==> generating images")
        prepare_synthetic_images(images)
    return videos, images


def _claim(scale: FindingsScale, out: Path) -> None:
    """Create the output directory, or refuse one of another scale."""
    path = out / "scale.json"
    wanted = dataclasses.asdict(scale)
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if found != wanted:
            raise UserError(f"{out} holds findings of another scale ({found}): choose another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make findings", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one seed: about 15 minutes on 2 cores")
    size.add_argument("--large", action="store_true", help="five seeds of longer runs: for a GPU")
    parser.add_argument(
        "--out", type=Path, help="output directory (default: runs/findings, or runs/findings-quick)"
    )
    options = parser.parse_args()
    name = "-quick" if options.quick else "-large" if options.large else ""
    scale = QUICK if options.quick else LARGE if options.large else FULL
    try:
        use_compilation_cache()
        findings(scale, options.out or Path(f"runs/findings{name}"))
    except UserError as error:
        print(f"findings: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("findings: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
