"""Runs launch scripts among stand-ins for the programs of clusters (`stand_ins/`) and for `clipbert`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

LAUNCH = Path(__file__).parents[3] / "experiments" / "launch"
STAND_INS = Path(__file__).parent / "stand_ins"

OPTIONS = ["train", "demo/retrieval", "--workdir", "/shared/my runs/$HOME 'a'", "--data-dir", '/shared/"b"']
"""What a shell would take apart if it were not quoted."""

Attempt = dict[str, list[str] | dict[str, str]]


class Cluster:
    """Runs scripts, and knows what the stand-ins have noted."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.notes.mkdir()
        programs = folder / "programs"
        programs.mkdir()
        (programs / "python3").symlink_to(sys.executable)
        self.variables = {
            "PATH": f"{STAND_INS}:{programs}:/usr/bin:/bin",
            "NOTES": str(self.notes),
            "HOME": str(folder),
        }
        self.clipbert_does(0)

    def clipbert_does(self, *orders: int | str) -> None:
        """Order what each process does at each attempt, and then on: "wait", or an exit code."""
        self.note("orders", json.dumps(orders))

    def note(self, name: str, text: str) -> None:
        """Tell the stand-ins something."""
        (self.notes / name).write_text(text)

    def noted(self, name: str) -> str:
        """Return what a stand-in has noted; nothing if it did not."""
        path = self.notes / name
        return path.read_text() if path.exists() else ""

    def start(self, *command: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            list(map(str, command)),
            env=self.variables | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *command: str | Path, **variables: str) -> tuple[int, str]:
        """Return exit code and output of a command."""
        process = self.start(*command, **variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def attempts(self) -> dict[str, list[Attempt]]:
        """Return arguments and variables of each attempt of each process of `clipbert`, by its number."""
        return {
            folder.name.removeprefix("clipbert-"): [
                json.loads(path.read_text())
                for path in sorted(folder.iterdir(), key=lambda path: int(path.name))
            ]
            for folder in sorted(self.notes.glob("clipbert-*"))
        }

    def num_attempts(self) -> list[int]:
        """Return how often each process of `clipbert` was started."""
        return [len(attempts) for attempts in self.attempts().values()]

    def wait_for(self, *names: str) -> None:
        """Wait until stand-ins have noted all of this."""
        give_up = time.monotonic() + 20
        while not all((self.notes / name).exists() for name in names):
            assert time.monotonic() < give_up, f"no {names}"
            time.sleep(0.02)
