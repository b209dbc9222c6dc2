"""What errors say when another process of the same training has gone."""

from __future__ import annotations

import re

_SAID = re.compile(
    r"Gloo|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|coordination service|[Bb]arrier|Connection (closed|reset)"
    r"|NCCL.*(remote|peer|[Cc]onnection|[Tt]imeout|[Tt]imed out|abort)"
)


def is_of_lost_process(error: BaseException) -> bool:
    """Tell whether an error of JAX, or of what stands on it, is about another process that has gone."""
    return isinstance(error, ValueError | RuntimeError) and _SAID.search(str(error)) is not None
