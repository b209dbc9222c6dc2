"""Errors that commands print as a sentence without a traceback, and what the system's errors mean."""

from __future__ import annotations

import errno
import re
from pathlib import Path

CONTINUE_EXIT_CODE = 75
"""Exit code of a command that continues when it is started again; `EX_TEMPFAIL` of sysexits.h."""


class UserError(Exception):
    """Bad input: the message names the file, key or option and the remedy, in one clear sentence."""


class TemporaryError(UserError):
    """A problem that may be gone when the same command is started again, such as storage that hangs."""


_TEMPORARY = frozenset(
    {
        errno.EIO,  # network file systems raise it when they give up for now
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
    }
)


def unwritable(
    path: Path, error: OSError, remedy: str = "look at the space and the permissions there"
) -> UserError:
    """Return the error to raise for a file or directory that could not be written."""
    kind = TemporaryError if is_temporary(error) else UserError
    return kind(f"{path} cannot be written ({error.strerror or error}): {remedy}")


def is_temporary(error: BaseException) -> bool:
    """Return whether starting the same command again may help."""
    if isinstance(error, TemporaryError):
        return True
    number = os_error_number(error)
    return number in _TEMPORARY or (number is None and isinstance(error, TimeoutError))


def os_error_number(error: BaseException) -> int | None:
    """Return the system's number of a file error, if it has one.

    TensorStore, which writes the arrays of checkpoints, raises a ValueError with the number in its text.
    """
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"os_error_code='(\d+)'", str(error))
    return int(said[1]) if said else None


def explain_full_device(error: BaseException) -> str | None:
    """Return problem and remedy if an error of JAX says that a device has too little memory."""
    said = str(error)
    is_of_memory = re.search(r"RESOURCE_EXHAUSTED.*(memory|alloc)", said, re.DOTALL | re.IGNORECASE)
    if not (isinstance(error, RuntimeError) and is_of_memory):
        return None
    return (
        f"the memory of a device is too small ({said.strip().splitlines()[0][:300]}): train with a larger "
        "--train.num-accumulation-steps, with --train.remat full, fewer --train.clips-per-pass or a smaller "
        "--train.batch-size, which `clipbert estimate` finds; other commands need less with a smaller "
        "--batch-size or fewer clips"
    )
