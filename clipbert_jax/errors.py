"""Exceptions that commands print as a sentence without a traceback."""

from __future__ import annotations

import errno


class UserError(Exception):
    """Bad input: the message names the file, key or option and the remedy, in one clear sentence."""


class TemporaryError(UserError):
    """A fault that may be gone when the same command is started again, such as storage that hangs."""


_TEMPORARY = frozenset(
    {
        errno.EIO,  # also of network filesystems that have given up for now
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
    }
)


def is_temporary(error: BaseException) -> bool:
    """Tell whether starting the same command again may help."""
    return isinstance(error, TemporaryError) or (isinstance(error, OSError) and error.errno in _TEMPORARY)
