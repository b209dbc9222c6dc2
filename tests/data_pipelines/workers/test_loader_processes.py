"""What worker processes of the loader leave behind: nothing, however the program ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path


def loader_script(data_dir: Path, body: str, num_workers: int) -> list[str]:
    """Return the command of a program whose body uses `batches`, made by workers."""
    head = f"""
        import multiprocessing, time
        from clipbert_jax.tasks.retrieval import Retrieval
        from data_pipelines.data_config import DataConfig
        from data_pipelines.loader import train_batches
        from data_pipelines.video_batches import video_batches
        def main():
            config = DataConfig(data_dir={str(data_dir)!r}, num_clips=1, size=32, num_workers={num_workers})
            batches = train_batches(config, Retrieval(), batch_size=2, seed=0)
    """
    lines = [textwrap.dedent(head), textwrap.indent(textwrap.dedent(body), "    ")]
    path = Path(data_dir).parent / "parent.py"
    path.write_text("".join(lines) + 'if __name__ == "__main__":\n    main()\n')
    return [sys.executable, str(path)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def test_closing_leaves_no_shared_memory_behind(data_dir):
    """Whatever lies ready in queues and workers; Python would complain of it at the end."""
    command = loader_script(
        data_dir,
        """
        kept = next(batches)
        time.sleep(1)  # until workers have nothing to do
        batches.close()
        videos = [f"test_{n:05}" for n in range(5)]
        kept = kept, list(video_batches(config, videos, batch_size=1, num_clips=[1]))
        assert not multiprocessing.active_children()
        time.sleep(1)  # Grain deletes in a thread
        """,
        num_workers=1,
    )
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    assert "leaked" not in done.stderr


def test_workers_die_with_a_killed_parent(data_dir):
    command = loader_script(
        data_dir,
        """
        next(batches), next(batches)
        print(*(p.pid for p in multiprocessing.active_children()), flush=True)
        time.sleep(60)
        """,
        num_workers=2,
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(_is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.1)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
