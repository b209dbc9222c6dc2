"""Time `clipbert search`: making an index, and queries in one process and in new ones.

    python -m benchmarks.bench_search                     # the demo's model, untrained, and 200 videos
    python -m benchmarks.bench_search --run runs/demo     # a trained one; weights do not change the times
    python -m benchmarks.bench_search --num-videos 20     # seconds

Each part is a process of its own, the first with an empty directory of compiled programs. A JSON and a
Markdown file go to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import ROOT, run_child
from benchmarks.first_step import AS_COMMANDS_DO
from benchmarks.report import table
from data_pipelines.decoding_speed import num_usable_cores

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "av", "opencv-python-headless")
TEXTS = ("a drop , a moon and a ball", "a star and a leaf", "a sun")
"""As long as those that the demo is trained on."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, write both files, and return the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_search", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--run", type=Path, help="run or model directory; by default the demo's, untrained")
    parser.add_argument("--num-videos", type=int, default=200)
    parser.add_argument("--num-clips", type=int, default=8)
    parser.add_argument("--num-workers", type=int, help="processes that decode (default: one per core)")
    parser.add_argument("--out", type=Path, help="file without suffix (default: in benchmarks/results/)")
    parser.add_argument("--session", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.session:
        run_dir, folder = options.session
        found = session(run_dir, folder, options.num_clips, options.num_workers)
        print(json.dumps(found))
        return found
    with tempfile.TemporaryDirectory(prefix="clipbert-bench-") as scratch:
        record = {**_circumstances(arguments), **_measured(options, Path(scratch))}
    print(markdown(record))
    _write(record, options.out)
    return record


def session(run_dir: Path, folder: Path, num_clips: int, num_workers: int | None) -> dict[str, Any]:
    """Index a folder and query it, as a process that stays alive does; return seconds."""
    from experiments.search.index import Index, IndexOptions
    from experiments.search.model import SearchModel
    from experiments.search.ranking import rank

    workers = num_usable_cores() if num_workers is None else num_workers
    options = IndexOptions(num_clips=num_clips, num_workers=workers)
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[what] = time.perf_counter() - start

    with contextlib.redirect_stdout(sys.stderr):
        model = SearchModel(run_dir)
        with timed("load"):
            assert model.run is not None
        with timed("index"):
            index = Index.open_or_update(model, folder, options)
        for what, text in (("first_query", TEXTS[0]), ("other_query", TEXTS[1]), ("known_query", TEXTS[1])):
            with timed(what):
                rank(index, model, [text])
        with timed("unchanged_index"):
            Index.open_or_update(model, folder, options)
    stored = sum(path.stat().st_size for path in index.root.rglob("*") if path.is_file())
    return {
        "num_indexed": len(index.entries),
        "num_workers": workers,
        "index_bytes": stored,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
    }


def _measured(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return what the session and new processes take."""
    run_dir = options.run.resolve() if options.run else scratch / "model"
    write_videos(scratch, options.num_videos, model_dir=None if options.run else run_dir)
    environment = {**AS_COMMANDS_DO, "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled")}
    numbers = ["--num-clips", str(options.num_clips)]
    if options.num_workers is not None:
        numbers += ["--num-workers", str(options.num_workers)]
    places = [str(run_dir), str(scratch / "videos")]
    command = [sys.executable, "-m", "benchmarks.bench_search", *numbers, "--session", *places]
    found = run_child(command, environment=environment)
    if "problem" in found:
        raise RuntimeError(f"{found['problem']}\n{found.get('stderr', '')}")

    def process_seconds(program: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *program],
            cwd=ROOT,
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
        return round(time.perf_counter() - start, 4)

    search = ["-m", "experiments.cli", "search", *places]
    found["seconds"] |= {
        "process_new_text": process_seconds([*search, TEXTS[2], "--json", *numbers]),
        "process_known_text": process_seconds([*search, TEXTS[2], "--json", *numbers]),
        "process_imports": process_seconds(["-c", "import experiments.cli"]),
    }
    return {"num_videos": options.num_videos, "num_clips": options.num_clips, **found}


def write_videos(scratch: Path, count: int, *, model_dir: Path | None) -> None:
    """Write generated videos as files, and a model of the demo with its first weights if it is wanted."""
    from data_pipelines.corpus.builder import open_corpus
    from data_pipelines.corpus.embedded import prepare_embedded

    data_dir = scratch / "data"
    prepare_embedded(data_dir, num_train=max(1, count - 8), num_validation=4, num_test=4, num_workers=0)
    corpus, videos = open_corpus(data_dir), scratch / "videos"
    videos.mkdir()
    for video_id in corpus.ids[:count]:
        (videos / f"{video_id}.mp4").write_bytes(corpus.read(video_id).data)
    if model_dir is not None:
        _write_model(model_dir, data_dir)


def _write_model(folder: Path, data_dir: Path) -> None:
    from clipbert_jax.model_directory import Vocabulary, write_model
    from clipbert_jax.models.skeleton import split_model
    from experiments.configs import EXPERIMENTS
    from experiments.experiment import make_model, to_json
    from experiments.resolve import resolve

    demo = EXPERIMENTS["demo/retrieval"]()
    data = dataclasses.replace(demo.data, data_dir=str(data_dir))
    experiment = resolve(dataclasses.replace(demo, data=data))
    _, trainable, frozen = split_model(make_model(experiment))
    tokenizer = data.load_tokenizer()
    write_model(
        folder,
        config=to_json(experiment),
        parameters={name: np.asarray(array) for name, array in {**trainable, **frozen}.items()},
        vocabulary=Vocabulary(tokens=tokenizer.tokens, is_lower_case=tokenizer.is_lower_case),
        origin={},
    )


def markdown(record: dict[str, Any]) -> str:
    """Return what was measured, with ratios."""
    seconds, count = record["seconds"], record["num_indexed"]
    pairs = count * record["num_clips"]
    rows = [
        ("load the model", "load", ""),
        ("index", "index", f"{count / seconds['index']:.1f} videos/s"),
        ("first query: compile and score", "first_query", f"{pairs / seconds['first_query']:,.0f} pairs/s"),
        ("another text", "other_query", f"{pairs / seconds['other_query']:,.0f} pairs/s"),
        ("the same text again", "known_query", _times(seconds["other_query"], seconds["known_query"])),
        ("look through the unchanged folder", "unchanged_index", ""),
        ("new process, another text", "process_new_text", ""),
        (
            "new process, the same text again",
            "process_known_text",
            _times(seconds["process_new_text"], seconds["process_known_text"]),
        ),
        ("of that, imports of `clipbert`", "process_imports", ""),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n\n".join(
        [
            f"# Search ({record['date'][:10]})",
            f"`{record['command']}` with {record['cores']} cores; {versions}. {count} videos of 5 s, "
            f"{record['num_clips']} clips of each, {record['num_workers']} workers; the index takes "
            f"{record['index_bytes'] / count / 1e3:.0f} kB a video. A pair is one of a clip and a text.",
            table(["what", "seconds", ""], [[what, f"{seconds[key]:.2f}", more] for what, key, more in rows]),
        ]
    )


def _times(slower: float, faster: float) -> str:
    return f"{slower / faster:,.1f} times as fast"


def _circumstances(arguments: list[str] | None) -> dict[str, Any]:
    given = sys.argv[1:] if arguments is None else arguments
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.bench_search", *given]),
        "cores": num_usable_cores(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _write(record: dict[str, Any], out: Path | None) -> None:
    out = out or RESULTS / f"{record['date'][:10]}_search"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    out.with_suffix(".md").write_text(markdown(record) + "\n")
    print(f"Wrote {out.with_suffix('.json')} and {out.with_suffix('.md')}")


if __name__ == "__main__":
    main()
