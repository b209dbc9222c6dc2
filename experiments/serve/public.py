"""What of a reason may leave this machine: sentences without its paths and without advice for commands.

Before: reasons and errors of the commands, which speak to whoever started them; after: `Refusal` and JSON.
"""

from __future__ import annotations

import functools
import re
import sys

from data_pipelines.terminal_text import printable

_SYSTEM_ERROR = re.compile(r"\[Errno -?\d+\] (?P<reason>[^:]+)(: .*)?", re.DOTALL)
_PATH = re.compile(r"""(^|[\s'"“(=:,])(~?/|[A-Za-z]:\\)[^\s/]""")
_OPTION = re.compile(r"(^|\s)--[a-z]")
_SERVE_OPTIONS = re.compile(r"--(worker-memory-gib|max-seconds|max-upload-mb)\b")
"""Of our own command: whoever started the server can do something about it."""

_FIELD_OPTIONS = re.compile(r"--(answer|options|texts)\b")
"""Of other commands, where our forms have fields."""


@functools.lru_cache(maxsize=4096)
def public_reason(reason: str) -> str:
    """Return why a file cannot be used, as everybody may read it; what is left out is logged once."""
    if reason.startswith("a link to "):
        return "a link to something that is not there"
    if found := _SYSTEM_ERROR.fullmatch(reason):
        return printable(found["reason"])
    if _is_private(reason):
        print(f"a file cannot be used: {printable(reason)}", file=sys.stderr, flush=True)
        return "it cannot be read, and the server's log says why"
    return printable(reason)


def public_sentence(error: Exception) -> str:
    """Return what is said of an error of a command, which is logged if not all of it can be said."""
    said = _FIELD_OPTIONS.sub(r"\1", str(error))
    if not said or _is_private(said):
        print(f"refused: {printable(said)}", file=sys.stderr, flush=True)
        return "The model cannot be asked this, and the server's log says why."
    return said[0].upper() + said[1:] + ("" if said.endswith((".", "?", "!")) else ".")


def _is_private(said: str) -> bool:
    return _PATH.search(said) is not None or _OPTION.search(_SERVE_OPTIONS.sub("", said)) is not None
