"""Time `clipbert search`: making an index, queries in one process, and the command as people run it.

    python -m benchmarks.bench_search                     # the demo's model, untrained, and 200 videos
    python -m benchmarks.bench_search --run runs/demo     # a trained one; weights do not change the times
    python -m benchmarks.bench_search --num-videos 20     # seconds

Generated videos are small and short, so a few of 480p, as from a camera, are indexed too. Each part is a
process of its own; the session and the first command begin with an empty directory of compiled programs each.
A JSON and a Markdown file go to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import struct
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
from benchmarks.record import circumstances, default_out, table, versions_line, write_record
from data_pipelines.workers.decoding_speed import num_usable_cores

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "av", "opencv-python-headless")
TEXTS = ("a drop, a moon and a ball", "a star and a leaf")
"""Queries, as long as the texts that the demo is trained on."""
LARGE_HW = (480, 640)
LARGE_SECONDS = 30
_LARGE_RATE = 30


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, write both files, and return the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_search", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--run", type=Path, help="run or model directory; by default the demo's, untrained")
    parser.add_argument("--num-videos", type=int, default=200)
    parser.add_argument("--num-480p", type=int, default=12, help="videos of 480p")
    parser.add_argument("--num-clips", type=int, default=8)
    parser.add_argument("--num-workers", type=int, help="processes that decode (default: one per core)")
    parser.add_argument("--out", type=Path, help="file without suffix (default: in benchmarks/results/)")
    parser.add_argument("--session", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.session:
        run_dir, folder, large = options.session
        found = session(run_dir, folder, large, options.num_clips, options.num_workers)
        print(json.dumps(found))
        return found
    with tempfile.TemporaryDirectory(prefix="clipbert-bench-") as scratch:
        record = {
            **circumstances("bench_search", arguments, PACKAGES),
            "cores": num_usable_cores(),
            **_measured(options, Path(scratch)),
        }
    print(markdown(record))
    out = options.out or default_out(record, "search")
    write_record(record, markdown(record), out)
    print(f"Wrote {out}.json and {out}.md")
    return record


def session(
    run_dir: Path, folder: Path, large: Path, num_clips: int, num_workers: int | None
) -> dict[str, Any]:
    """Index a folder and query it, as a process that stays alive does; then index large videos.

    Returns:
      Seconds of each, and what there was.
    """
    from experiments.search.index import Index
    from experiments.search.model import SearchModel
    from experiments.search.options import IndexOptions
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
        with timed("index_480p"):
            num_large = len(Index.open_or_update(model, large, options).entries)
    stored = sum(path.stat().st_size for path in index.root.rglob("*") if path.is_file())
    return {
        "num_indexed": len(index.entries),
        "num_480p": num_large,
        "num_workers": workers,
        "index_bytes": stored,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
    }


def _measured(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return what the session and the commands take."""
    run_dir = options.run.resolve() if options.run else scratch / "model"
    write_videos(scratch, options.num_videos, model_dir=None if options.run else run_dir)
    write_large_videos(scratch / "large", options.num_480p)
    environment = {**AS_COMMANDS_DO, "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled")}
    numbers = ["--num-clips", str(options.num_clips)]
    if options.num_workers is not None:
        numbers += ["--num-workers", str(options.num_workers)]
    places = [str(run_dir), str(scratch / "videos")]
    command = [sys.executable, "-m", "benchmarks.bench_search", *numbers]
    command += ["--session", *places, str(scratch / "large")]
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

    environment["JAX_COMPILATION_CACHE_DIR"] = str(scratch / "compiled by commands")
    search = ["-m", "experiments.cli", "search", *places, *numbers]
    search += ["--json", "--index", str(scratch / "index")]
    found["seconds"] |= {
        "first_command": process_seconds([*search, "--", TEXTS[0]]),
        "second_command": process_seconds([*search, "--", TEXTS[1]]),
        "same_command": process_seconds([*search, "--", TEXTS[1]]),
        "process_imports": process_seconds(["-c", "import experiments.cli"]),
    }
    return {"num_videos": options.num_videos, "num_clips": options.num_clips, **found}


def write_videos(scratch: Path, count: int, *, model_dir: Path | None) -> None:
    """Write generated videos as files, and a model of the demo with its first weights if it is wanted."""
    from data_pipelines.corpus.reader import open_corpus
    from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos

    data_dir = scratch / "data"
    prepare_synthetic_videos(
        data_dir, num_train=max(1, count - 8), num_validation=4, num_test=4, num_workers=0
    )
    corpus, videos = open_corpus(data_dir), scratch / "videos"
    videos.mkdir()
    for video_id in corpus.ids[:count]:
        (videos / f"{video_id}.mp4").write_bytes(corpus.read(video_id).data)
    if model_dir is not None:
        _write_model(model_dir, data_dir)


def write_large_videos(folder: Path, count: int) -> None:
    """Write H.264 files of 480p, whose pictures are the same but whose bytes are not."""
    import av

    folder.mkdir()
    height, width = LARGE_HW
    # Blocks that move, as objects do, with the noise of a camera.
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (height // 40, width // 20, 3), np.int16)
    wide = np.kron(blocks, np.ones((40, 40, 1), np.int16))
    noise = rng.integers(-6, 7, (height, width, 3), np.int16)
    path = folder / "0.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_LARGE_RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(LARGE_SECONDS * _LARGE_RATE):
            moved = np.roll(wide, -2 * number, axis=1)[:, :width] + np.roll(noise, 7 * number, axis=0)
            pixels = moved.clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    for number in range(1, count):
        # Else they would be copies, of which one is read.
        unused_box = struct.pack(">I4sI", 12, b"free", number)
        (folder / f"{number}.mp4").write_bytes(data + unused_box)


def _write_model(folder: Path, data_dir: Path) -> None:
    from clipbert_jax.models.model_def import split_model
    from clipbert_jax.pretrained.directory import Vocabulary, write_model
    from experiments.configs import EXPERIMENTS
    from experiments.experiment import make_model, to_json
    from experiments.runs.resolve import resolve

    demo = EXPERIMENTS["demo/retrieval"]()
    data = dataclasses.replace(demo.data, data_dir=str(data_dir))
    experiment = resolve(dataclasses.replace(demo, data=data))
    _, trainable, frozen = split_model(make_model(experiment))
    tokenizer = data.load_tokenizer()
    write_model(
        folder,
        config=to_json(experiment),
        parameters={name: np.asarray(array) for name, array in {**trainable, **frozen}.items()},
        vocabulary=Vocabulary(tokens=tokenizer.tokens, letter_rules=tokenizer.letter_rules),
        origin={},
    )


def markdown(record: dict[str, Any]) -> str:
    """Return what was measured, with ratios."""
    seconds, count, large = record["seconds"], record["num_indexed"], record["num_480p"]
    pairs = count * record["num_clips"]
    rows = [
        ("load the model", "load", ""),
        ("index", "index", f"{count / seconds['index']:.1f} videos/s"),
        (
            f"index {large} videos of {LARGE_HW[1]}x{LARGE_HW[0]}, {LARGE_SECONDS} s each",
            "index_480p",
            f"{large / seconds['index_480p']:.1f} videos/s",
        ),
        ("first query: compile and score", "first_query", f"{pairs / seconds['first_query']:,.0f} pairs/s"),
        ("another text", "other_query", f"{pairs / seconds['other_query']:,.0f} pairs/s"),
        ("the same text again", "known_query", _times(seconds["other_query"], seconds["known_query"])),
        ("look through the unchanged folder", "unchanged_index", ""),
        ("first command: index and first query", "first_command", ""),
        ("second command: another text", "second_command", ""),
        (
            "third command: the same text again",
            "same_command",
            _times(seconds["second_command"], seconds["same_command"]),
        ),
        ("of that, imports of `clipbert`", "process_imports", ""),
    ]
    return "\n\n".join(
        [
            f"# Search ({record['date'][:10]})",
            f"`{record['command']}` with {record['cores']} cores; {versions_line(record)}. {count} videos "
            "of 4 to 12 s "
            f"and 128x96 pixels at most, {record['num_clips']} clips of each, {record['num_workers']} "
            f"workers; the index takes {record['index_bytes'] / count / 1e3:.0f} kB a video. A pair is one "
            "of a clip and a text.",
            table(["what", "seconds", ""], [[what, f"{seconds[key]:.2f}", more] for what, key, more in rows]),
        ]
    )


def _times(slower: float, faster: float) -> str:
    return f"{slower / faster:,.1f} times as fast"


if __name__ == "__main__":
    main()
