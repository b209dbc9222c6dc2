"""How the processes of one run end together: the first one that fails tells the others through JAX's store.

The store lives in process 0, and is lost with it. `watchdog.py` and the commands of several processes use it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import Callable
from typing import Any

from jax._src import distributed  # the only way to the key-value store of the processes

from clipbert_jax.errors import os_error_number

_KEY = "clipbert/end"
_POLL_SECONDS = 0.5

_LOST_PROCESS = re.compile(
    r"Gloo|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|coordination service|[Bb]arrier|Connection (closed|reset)"
    r"|NCCL.*(remote|peer|[Cc]onnection|[Tt]imeout|[Tt]imed out|abort)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndNotice:
    """Why a process ends, for the other processes."""

    process: int
    """Index of the process that ends."""
    exit_code: int
    sentence: str
    is_hang: bool = False
    """Whether it made no progress, so that the others probably hang too and have stacks to write."""


def store() -> Any:
    """Return the client of the key-value store that all processes share."""
    return distributed.global_state.client


def process_index() -> int:
    """Return the index of this process; unlike `jax.process_index` it waits for no other process."""
    return distributed.global_state.process_id or 0


def process_count() -> int:
    """Return the number of processes; unlike `jax.process_count` it waits for no other process."""
    return distributed.global_state.num_processes or 1


def announce_end(sentence: str, exit_code: int, *, is_hang: bool = False) -> EndNotice:
    """Leave a notice for the other processes, and return the one that counts: the first."""
    own = EndNotice(process=process_index(), exit_code=exit_code, sentence=sentence, is_hang=is_hang)
    with contextlib.suppress(Exception):  # another process was first, or process 0 is gone
        store().key_value_set(_KEY, json.dumps(dataclasses.asdict(own)))
        return own
    return end_notice() or own


def end_notice() -> EndNotice | None:
    """Return the notice that another process has left, if there is one."""
    try:
        notice = EndNotice(**json.loads(store().key_value_try_get(_KEY)))
    except Exception:  # the store has an error for "no such key", and others once process 0 is gone
        return None
    return None if notice.process == process_index() else notice


def on_end_notice(act: Callable[[EndNotice], None], is_over: threading.Event) -> None:
    """Have a thread call `act` with the notice of another process, unless `is_over` is set before."""

    def listen() -> None:
        while not is_over.wait(_POLL_SECONDS):
            notice = end_notice()
            if notice is not None:
                act(notice)
                return

    threading.Thread(target=listen, name="end-notice", daemon=True).start()


def is_of_lost_process(error: BaseException) -> bool:
    """Tell whether an error of JAX, or of a library on top of it, is about another process that has gone.

    Orbax says of every failed barrier that it took too long; JAX's own error is the cause of that one.
    """
    if not isinstance(error, ValueError | RuntimeError | TimeoutError):
        return False
    if os_error_number(error) is not None:  # about a file, though that may be UNAVAILABLE too
        return False
    cause = error.__cause__
    return _LOST_PROCESS.search(str(error)) is not None or (cause is not None and is_of_lost_process(cause))
