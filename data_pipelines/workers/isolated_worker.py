"""The worker process of `isolation`, and the messages that it sends to its parent.

It imports little, because it starts again after every crash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import select
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from data_pipelines.decoding.work import WORK


@dataclasses.dataclass(frozen=True)
class Started:
    """The worker has received its item, and the clock starts."""


@dataclasses.dataclass(frozen=True)
class Advanced:
    """The function goes on."""

    num_pixels: int
    """Number of pixels to decode, as far as is known."""


@dataclasses.dataclass(frozen=True)
class Done:
    """The function returned a value or raised an error."""

    value: Any
    error: Exception | None = None


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """The item does not fit into memory, or the function raised MemoryError."""


Message = Started | Advanced | Done | OutOfMemory


def serve(file_descriptor: int, memory_limit_gib: float) -> None:
    """Run the calls that come through the pipe until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    limit = int(memory_limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(file_descriptor)
    threading.Thread(target=_end_with_parent, args=(file_descriptor,), daemon=True).start()
    WORK.on_progress = lambda num_pixels: connection.send(Advanced(num_pixels))
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            try:
                function, item = connection.recv()
            except MemoryError:  # the rest of the item is still in the pipe, so no call can follow
                connection.send(OutOfMemory())
                return
            _silence()
            WORK.begin()
            connection.send(Started())
            _send(connection, _outcome(function, item))


def _end_with_parent(file_descriptor: int) -> None:
    """End this process when the other end of its pipe closes, also in the middle of a call."""
    poll = select.poll()
    poll.register(file_descriptor, 0)  # hanging up is always reported
    poll.poll()
    os._exit(1)


def _silence() -> None:
    """Discard the output of decoders and the C library; the results say what a user should know."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)


def _outcome(function: Callable[[Any], Any], item: Any) -> Message:
    try:
        return Done(function(item))
    except Exception as error:
        if _is_out_of_memory(error):
            return OutOfMemory()
        error.add_note("In a worker process:\n" + traceback.format_exc())
        return Done(None, error)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether memory ran out, also if another error replaced the original one."""
    while error is not None:
        # OpenCV's error is not a MemoryError.
        if isinstance(error, MemoryError) or "OutOfMemoryError" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _send(connection: Connection, outcome: Message) -> None:
    try:
        connection.send(outcome)
    except MemoryError:
        connection.send(OutOfMemory())
    except BrokenPipeError:
        raise
    except Exception as error:  # the outcome cannot be pickled
        text = "".join(traceback.format_exception(error))
        connection.send(Done(None, RuntimeError(f"the result cannot leave the worker process: {text}")))
