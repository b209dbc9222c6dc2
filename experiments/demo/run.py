"""`make demo`: generates videos, trains and evaluates a small ClipBERT on a laptop, and writes a page.

It does what `clipbert prepare`, `train`, `evaluate` and `report` do. An interrupted demo continues where it
stopped.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from clipbert_jax.errors import UserError
from experiments.commands.prepare import PrepareDemo
from experiments.configs import demo_retrieval
from experiments.experiment import Experiment
from experiments.reports.run_report import write_run_report
from experiments.reports.run_summary import read_run
from experiments.runs.evaluate_run import evaluate
from experiments.runs.train_run import train_run
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.runtime.progress import say

NUM_CLIPS = (1, 2, 4, 8)


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
    evaluate(workdir, num_clips=NUM_CLIPS, num_workers=0)
    say("==> 4/4 Report")
    write_run_report(read_run(workdir), workdir / "report.html")
    say(f"done in {time.perf_counter() - start:.0f} s; look at")
    say(f"  {workdir / 'results.json'}")
    say(f"  {workdir / 'report.html'}")


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
