"""Requests to the model: one after the other in a thread of their own, so that the server stays responsive.

A request submits a job, which has its own address; its page shows the progress and then the result.
"""

from __future__ import annotations

import collections
import dataclasses
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

from clipbert_jax.errors import UserError
from experiments.serve.limits import MAX_FINISHED, MAX_WAITING
from experiments.serve.refusal import RequestRefused, as_sentence

Kind = Literal["search", "ask", "probe"]


class Stopped(Exception):  # noqa: N818, nothing is wrong
    """The result is no longer wanted."""


@dataclasses.dataclass(eq=False)
class Job:
    """One request to the model."""

    kind: Kind
    work: Callable[[Job], Any]
    """Runs in the thread of the model, returns the result, and writes its progress to `line`."""
    asked: Any = None
    """The question, for the page of the result."""
    video_id: str = ""
    """Id of the video that it is about, which must stay until the job ends."""
    seconds: float | None = None
    """Time limit; None for no limit."""
    id: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(16))
    state: Literal["preparing", "waiting", "running", "done", "failed"] = "preparing"
    line: str = ""
    result: Any = None
    problem: RequestRefused | None = None
    began: float = 0.0
    on_drop: Callable[[], None] = lambda: None
    """Called when the result is dropped."""
    is_stopped: bool = False
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def is_ended(self) -> bool:
        """Whether there is a result, or a problem."""
        return self.state in ("done", "failed")

    def check(self) -> None:
        """End the work if it was stopped or takes too long."""
        if self.is_stopped:
            raise Stopped
        if self.seconds is not None and time.monotonic() - self.began > self.seconds:
            less = "fewer texts" if self.kind == "search" else "fewer clips, or raise --max-seconds"
            raise RequestRefused(422, f"This took longer than {self.seconds:g} s: take {less}.")

    def fail(self, problem: RequestRefused) -> None:
        """End it without a result."""
        self.problem, self.state = problem, "failed"
        self.ended.set()


class Workroom:
    """The thread of the model, with the jobs that wait for it and those that are done."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        """Held by the thread that uses the model."""
        self._jobs: dict[str, Job] = {}
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: Job | None = None
        self._is_open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def admit(self, job: Job) -> Job:
        """Give a job its address; `enqueue` follows, perhaps later.

        Raises:
          RequestRefused: too many jobs wait.
        """
        with self._changed:
            if sum(other.state in ("waiting", "running") for other in self._jobs.values()) > MAX_WAITING:
                raise RequestRefused(
                    503, f"{MAX_WAITING} requests already wait for the model: try again in a moment."
                )
            self._jobs[job.id] = job
            self._drop_oldest()
        return job

    def enqueue(self, job: Job) -> Job:
        """Let a job wait for its turn."""
        with self._changed:
            if not self._is_open:
                job.fail(_stopped())
            if not job.is_ended:  # it may have been stopped
                job.state = "waiting"
                self._waiting.append(job)
                self._changed.notify_all()
        return job

    def find(self, job_id: str, *kinds: Kind) -> Job:
        """Return a job by its address.

        Raises:
          RequestRefused: there is no such job, or its result was dropped.
        """
        job = self._jobs.get(job_id)
        if job is None or (kinds and job.kind not in kinds):
            raise RequestRefused(404, "There is no such result any more: ask again.")
        return job

    def stop(self, job: Job) -> None:
        """Take a job out of the queue; a running one ends at its next check."""
        with self._changed:
            job.is_stopped = True
            if job.state in ("preparing", "waiting"):
                job.fail(_stopped())
            if job in self._waiting:
                self._waiting.remove(job)

    def sentence(self, job: Job) -> str:
        """Return the progress of a job in words."""
        if job.problem is not None:
            return job.problem.sentence
        if job.state == "done":
            return "Done."
        if job.state == "running":
            return job.line or "The model is working."
        with self._changed:
            before = self._waiting.index(job) if job in self._waiting else None
            before = before if before is None else before + (self._running is not None)
        if before is None:
            return job.line or "Waiting."
        return f"Waiting behind {before} other request{'s' if before != 1 else ''}."

    @property
    def num_under_way(self) -> int:
        """Number of jobs that have not ended."""
        with self._changed:
            return sum(not job.is_ended for job in self._jobs.values())

    @property
    def videos_in_use(self) -> set[str]:
        """Ids of the videos of jobs that have not ended."""
        with self._changed:
            return {job.video_id for job in self._jobs.values() if not job.is_ended}

    def close(self) -> None:
        """End the thread; its job has some seconds to stop."""
        with self._changed:
            self._is_open = False
            for job in self._jobs.values():
                job.is_stopped = True
                if job.state in ("preparing", "waiting"):
                    job.fail(_stopped())
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout=5.0)
        for job in self._jobs.values():
            job.on_drop()

    def _drop_oldest(self) -> None:
        ended = [job for job in self._jobs.values() if job.is_ended]
        for job in ended[: max(0, len(ended) - MAX_FINISHED)]:
            del self._jobs[job.id]
            job.on_drop()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            with self.turn:
                job.began = time.monotonic()
                self._do(job)
            self._running = None
            job.ended.set()

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._is_open)
            if not self._is_open:
                return None
            self._running = self._waiting.popleft()
            self._running.state = "running"
            return self._running

    def _do(self, job: Job) -> None:
        try:
            job.result = job.work(job)
        except RequestRefused as problem:
            job.fail(problem)
        except Stopped:
            job.fail(_stopped())
        except UserError as error:
            job.fail(RequestRefused(422, as_sentence(error)))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            job.fail(RequestRefused(500, "The server could not do this; its log says why."))
        else:
            job.state = "done"


def _stopped() -> RequestRefused:
    return RequestRefused(409, "This was stopped.")
