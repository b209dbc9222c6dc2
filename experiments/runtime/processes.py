"""Several processes of one command: they find each other, and if one dies the others end too.

On TPU pods, under Slurm and Open MPI, and on Kubernetes JAX finds the processes by itself. Elsewhere set the
environment variables JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
Commands that may run as several processes call it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import hashlib
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipbert_jax.errors import (
    CONTINUE_EXIT_CODE,
    TemporaryError,
    UserError,
    explain_full_device,
    is_temporary,
)
from clipbert_jax.training.coordination import (
    EndNotice,
    announce_end,
    end_notice,
    is_of_lost_process,
    on_end_notice,
    process_count,
    process_index,
    store,
)

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

HEARTBEAT_SECONDS = 40
"""Time without a sign of life after which a process counts as dead; the others end soon after."""

_LAST_SECONDS = 3600
"""Time that a process waits at its end for others that still write results; dead ones are noticed anyway."""

_num_said = itertools.count()
"""Number of texts that process 0 has sent; all processes count alike."""

_STAY_SECONDS = 2.0
"""Time that a failing process stays, so that the others can read why it ends."""


@contextlib.contextmanager
def joined_processes(*, has_notices: bool = False) -> Iterator[None]:
    """Run the block as one of several processes, if there are several; enter it before JAX is used.

    An error in one process ends all of them with the same exit code, so that a launcher may look at any of
    them to decide on a restart. If one is killed, the others notice it and ask for a restart.

    Args:
      has_notices: whether the block handles SIGTERM; else the signal ends a process.

    Raises:
      UserError: the environment variables are wrong or incomplete.
    """
    if not _initialize() or process_count() == 1:
        yield
        return
    _explain_abort()  # before anything asks JAX for devices, as that waits for the other processes
    if not has_notices:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would keep it for a check that never comes
    is_over = threading.Event()
    on_end_notice(_end_with_others, is_over)
    try:
        yield
    except BaseException as error:
        _end(error)
    else:
        # Wait here for the others, in case one of them fails.
        with contextlib.suppress(Exception):  # a lost process changes nothing for this one, which is done
            store().wait_at_barrier("clipbert/done", 1000 * _LAST_SECONDS)
        is_over.set()


def on_first_process(act: Callable[[], None]) -> None:
    """Call a function on process 0 alone; its error is raised on all processes.

    Raises:
      UserError: the function raised it.
    """
    problem = ""
    if jax.process_index() == 0:
        try:
            act()
        except UserError as error:
            problem = f"{is_temporary(error):d}{error}"
    if jax.process_count() > 1:
        problem = _as_first_process_says(problem)
    if problem:
        raise (TemporaryError if problem[0] == "1" else UserError)(problem[1:])


def _as_first_process_says(text: str) -> str:
    """Return the text of process 0 on all processes; a collective would not wait long enough."""
    key = f"clipbert/first/{next(_num_said)}"
    if jax.process_index() == 0:
        store().key_value_set(key, text)
        return text
    return store().blocking_key_value_get(key, 1000 * _LAST_SECONDS)


def processes_of_this_host() -> int:
    """Return the number of processes on this host, which share its memory and its disk."""
    if jax.process_count() == 1:
        return 1
    own = np.frombuffer(hashlib.sha256(socket.gethostname().encode()).digest()[:4], np.uint32)
    return int((multihost_utils.process_allgather(own).ravel() == own).sum())


def _initialize() -> bool:
    """Join the other processes; return whether there is a cluster."""
    if jax.distributed.is_initialized():
        return True
    try:
        jax.distributed.initialize(
            **_from_environment(),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_LAST_SECONDS,
        )
    except ValueError as error:
        if "should be defined" not in str(error) and "must be defined" not in str(error):
            raise
        # JAX has found no cluster.
        if os.environ.get(_VARIABLES[0]):
            raise _missing(_VARIABLES[1:], _VARIABLES[:1]) from None
        return False
    except RuntimeError as error:
        if "must be called before" in str(error):
            return False  # in a notebook or a test, where JAX is in use already
        print(
            f"clipbert: the processes did not find each other ({str(error).splitlines()[0]}): start the same "
            "command on all hosts, which must reach the first one",
            file=sys.stderr,
            flush=True,
        )
        os._exit(CONTINUE_EXIT_CODE)  # an orderly end would wait for the others
    return True


def _from_environment() -> dict[str, Any]:
    values = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    if not values or set(values) == {_VARIABLES[0]}:  # JAX reads the address by itself
        return {}
    missing = [name for name in _VARIABLES if name not in values]
    if missing:
        raise _missing(missing, list(values))
    address, count, index = (values[name] for name in _VARIABLES)
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise UserError(f"JAX_PROCESS_ID={index} must be at least 0 and below JAX_NUM_PROCESSES={count}")
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address} must be host:port of process 0")
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }


def _missing(names: Sequence[str], given: Sequence[str]) -> UserError:
    return UserError(f"{' and '.join(given)} needs {' and '.join(names)}: set them too")


def _end(error: BaseException) -> None:
    """Say why this process ends, tell the others, and end without waiting for them."""
    code = 1
    try:
        sentence, code = _describe(error)
        if isinstance(error, Exception) and not is_of_lost_process(error):
            code = _announce(sentence, code)
        if sentence:
            _say(sentence)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        _exit(code)


def _exit(code: int) -> NoReturn:
    """End at once; process 0 last, as it has the store with the notice."""
    if process_index() == 0:
        time.sleep(_STAY_SECONDS)
    os._exit(code)


def _describe(error: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit code of an error."""
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if is_of_lost_process(error):  # perhaps because a third one has failed
        notice = end_notice()
        if notice is not None:
            return _quote(notice), notice.exit_code
        return _lost(str(error).splitlines()[0]), CONTINUE_EXIT_CODE
    if isinstance(error, UserError | OSError):
        return str(error), CONTINUE_EXIT_CODE if is_temporary(error) else 2
    sentence = explain_full_device(error)
    if sentence is not None:
        return sentence, 2
    traceback.print_exception(error)
    return f"ends after {type(error).__name__}: {error}", 1


def _announce(sentence: str, code: int) -> int:
    """Tell the other processes, and return the code that all end with: that of the first to fail."""
    notice = announce_end(sentence, code)
    if notice.process == process_index():
        time.sleep(_STAY_SECONDS)
    return notice.exit_code


def _end_with_others(notice: EndNotice) -> None:
    """End this process soon after another one has failed, with the same code."""
    if notice.is_hang:
        return  # the watchdog ends this process, once the stacks are written
    with contextlib.suppress(OSError, ValueError):
        _say(_quote(notice))
        sys.stdout.flush()
        sys.stderr.flush()
    _exit(notice.exit_code)


def _quote(notice: EndNotice) -> str:
    return f"ends, as process {notice.process} says: {notice.sentence}"


def _lost(why: str) -> str:
    return (
        f"another process is gone ({why[:300]}), so this one ends with exit code {CONTINUE_EXIT_CODE}; the "
        "log of the other says why. The same command goes on from the newest checkpoint."
    )


def _say(sentence: str) -> None:
    print(f"clipbert: process {process_index()} of {process_count()}: {sentence}", file=sys.stderr)


def _explain_abort() -> None:
    """Have this process end with a sentence when JAX aborts it, because another one gives no sign of life.

    JAX does so in a thread of its own, where Python's signal handlers do not run: it takes a handler of C.
    That thread also completes the calls to the key-value store, so that a call from here would wait for ever;
    `_end_with_others` reads the notice of another process long before JAX misses a heartbeat.
    """

    def explain(number: int) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        _say(_lost("it gives no sign of life, as JAX says above, unless this process itself has crashed"))
        os._exit(CONTINUE_EXIT_CODE)

    _explain_abort.handler = handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)  # type: ignore[attr-defined]
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
