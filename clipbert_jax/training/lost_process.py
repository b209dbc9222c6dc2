"""What errors say when another process of the same training has gone."""

from __future__ import annotations

import re

from clipbert_jax.errors import os_error_number

_SAID = re.compile(
    r"Gloo|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|coordination service|[Bb]arrier|Connection (closed|reset)"
    r"|NCCL.*(remote|peer|[Cc]onnection|[Tt]imeout|[Tt]imed out|abort)"
)


def is_of_lost_process(error: BaseException) -> bool:
    """Tell whether an error of JAX, or of what stands on it, is about another process that has gone.

    Orbax says of every barrier that fails that it took too long, and has JAX's error as the cause.
    """
    if not isinstance(error, ValueError | RuntimeError | TimeoutError):
        return False
    if os_error_number(error) is not None:  # of a file, though that may be UNAVAILABLE too
        return False
    cause = error.__cause__
    return _SAID.search(str(error)) is not None or (cause is not None and is_of_lost_process(cause))
