"""Several processes of one command: they find each other, and when one dies the others end too.

On TPU pods, under Slurm and Open MPI, and on Kubernetes JAX knows by itself who belongs together. Elsewhere
environment variables say so: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
JAX_PROCESS_ID.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from clipbert_jax.errors import UserError
from clipbert_jax.training.interruption import CONTINUE_EXIT_CODE

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

HEARTBEAT_SECONDS = 40
"""A process that has not been heard of for so long is dead; the others end soon after."""

_LAST_SECONDS = 3600
"""How long a process waits at its end for those that still write results; the dead are noticed anyway."""

_LOST = re.compile(
    r"Gloo|NCCL|[Hh]eartbeat|UNAVAILABLE|DEADLINE|coordination service|Connection (closed|reset)"
)
"""What errors say when another process has gone."""


@contextlib.contextmanager
def joined_processes() -> Iterator[None]:
    """Run the block as one of several processes, if there are several; to be entered before JAX is used.

    What ends one process ends it at once, so that the others notice and end too, all with an exit code that
    says whether to start them again.

    Raises:
      UserError: the environment variables name no processes.
    """
    if not _initialize() or jax.process_count() == 1:
        yield
        return
    _explain_abort()
    try:
        yield
    except BaseException as error:
        _end(error)


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
        if "should be defined" in str(error) or "must be defined" in str(error):
            return False  # JAX has found no cluster
        raise
    except RuntimeError as error:
        if "must be called before" in str(error):
            return False  # in a notebook or a test, where JAX is in use already
        print(
            f"clipbert: the processes did not come together ({str(error).splitlines()[0]}): start the same "
            "command on all hosts, and let them reach the first one",
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
        raise UserError(f"{' and '.join(missing)} must be set too, where {' and '.join(values)} is")
    address, count, index = (values[name] for name in _VARIABLES)
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise UserError(
            f"JAX_PROCESS_ID={index} must be a number from 0 on and below JAX_NUM_PROCESSES={count}"
        )
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address} must be host:port of process 0")
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }


def _end(error: BaseException) -> None:
    """Say why this process ends, and end it without waiting for the others."""
    sentence, code = _describe(error)
    if sentence:
        _say(sentence)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _describe(error: BaseException) -> tuple[str, int]:
    """Return what to say, and the exit code."""
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, UserError | OSError):
        return str(error), 2
    if isinstance(error, ValueError | RuntimeError) and _LOST.search(str(error)):
        return _lost(str(error).splitlines()[0]), CONTINUE_EXIT_CODE
    traceback.print_exception(error)
    return "ends after this error, and the others with it", 1


def _lost(why: str) -> str:
    return (
        f"another process is gone ({why[:300]}), so this one ends with exit code {CONTINUE_EXIT_CODE}; the "
        "log of the other says why. The same command goes on from the newest checkpoint."
    )


def _say(sentence: str) -> None:
    print(f"clipbert: process {jax.process_index()} of {jax.process_count()}: {sentence}", file=sys.stderr)


def _explain_abort() -> None:
    """Let this process end with a sentence when JAX aborts it because another one is not heard of any more.

    JAX does so in a thread of its own, where Python's signal handlers do not run: a handler of C is needed.
    """

    def explain(number: int) -> None:
        _say(_lost("it has not been heard of, as JAX says above"))
        os._exit(CONTINUE_EXIT_CODE)

    _explain_abort.handler = handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)  # type: ignore[attr-defined]
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
