"""`make demo`: generates videos, trains and evaluates a small ClipBERT on a laptop, and writes a page.

It does what `clipbert prepare`, `train` and `evaluate` do. An interrupted demo continues where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipbert_jax.errors import UserError
from clipbert_jax.prediction import match_texts
from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.clips import sample_clips
from data_pipelines.corpus.reader import open_corpus
from experiments.commands.prepare import PrepareDemo
from experiments.configs import demo_retrieval
from experiments.demo.report import Query, write_report
from experiments.experiment import Experiment
from experiments.reports.cards import Card, found_card
from experiments.reports.page import SHOWN_SIZE, jpeg_data_uri
from experiments.reports.words import clip_times
from experiments.runs.evaluate_run import Evaluated, evaluate
from experiments.runs.load_run import Run, load_run
from experiments.runs.train_run import train_run
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.runtime.progress import say

NUM_CLIPS = (1, 2, 4, 8)
NUM_QUERIES = 6
NUM_RANKED = 3
NUM_MOMENTS = 4


def demo(experiment: Experiment, workdir: Path) -> None:
    """Prepare the data if they are missing, train, evaluate with 1, 2, 4 and 8 clips, write the report."""
    start = time.perf_counter()
    data_dir = Path(experiment.data.data_dir)
    if data_dir.exists():
        say(f"==> 1/4 Videos: those in {data_dir}")
    else:
        say("==> 1/4 Videos")
        PrepareDemo(data_dir=data_dir).run()
    say(f"==> 2/4 Training ({experiment.train.num_steps} steps of {experiment.train.batch_size} videos)")
    train_run(experiment, workdir)
    say("==> 3/4 Evaluation: every test caption against every test video")
    evaluated = evaluate(workdir, num_clips=NUM_CLIPS, num_workers=0)
    say("==> 4/4 Report")
    run = load_run(workdir)
    write_report(
        workdir / "report.html",
        title="ClipBERT learns to find videos by text",
        command="make demo",
        history=[record for record in read_metrics(workdir) if "loss" in record],
        results=by_direction(json.loads((workdir / "results.json").read_text())),
        queries=list(example_queries(run, evaluated, num_clips=NUM_CLIPS[-1])),
    )
    say(f"done in {time.perf_counter() - start:.0f} s; look at")
    say(f"  {workdir / 'results.json'}")
    say(f"  {workdir / 'report.html'}")


def by_direction(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return {direction: {number of clips: metrics}} and the factors of the run."""
    nested: dict[str, Any] = {"run": results["run"]}
    for count, metrics in results["metrics"].items():
        for name, value in metrics.items():
            direction, metric = name.split("/")
            nested.setdefault(direction, {}).setdefault(count, {})[metric] = value
    return nested


def example_queries(run: Run, evaluated: Evaluated, *, num_clips: int) -> Iterator[Query]:
    """Yield evenly chosen captions with the videos that rank highest for them."""
    predictions = list(evaluated.evaluator.predictions(evaluated.reduced[num_clips]))
    for row in np.unique(np.linspace(0, len(predictions) - 1, NUM_QUERIES, dtype=int)):
        caption = predictions[row]
        ranking = [
            ranked_video(
                run,
                video["video_id"],
                caption["text"],
                is_correct=video["video_id"] == caption["video_id"],
                num_clips=num_clips,
            )
            for video in caption["videos"][:NUM_RANKED]
        ]
        yield Query(text=caption["text"], expected_video_id=caption["video_id"], ranking=ranking)


def ranked_video(run: Run, video_id: str, text: str, *, is_correct: bool, num_clips: int) -> Card:
    """Score one text against one video again, and return the card with what each clip says."""
    data, task = run.experiment.data, run.experiment.task
    video = open_corpus(data.data_dir).read(video_id)
    clips = sample_clips(video, data, num_clips=num_clips, one_clip="middle", shown_size=SHOWN_SIZE)
    (match,) = match_texts(run.scorer, task, clips.frames, [text], *run.encode_texts([text]))
    times = clip_times([(times[0], times[-1]) for times in clips.times.tolist()])
    card = found_card(video_id, match.probability, match.clip_probabilities, times, is_right=is_correct)
    return card.with_pictures([jpeg_data_uri(frame) for frame in clips.shown[:, 0]], most=NUM_MOMENTS)


if __name__ == "__main__":
    try:
        use_compilation_cache()
        demo(demo_retrieval.experiment(), Path("runs/demo"))
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("demo: interrupted; `make demo` continues", file=sys.stderr)
        sys.exit(130)
