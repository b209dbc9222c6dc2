"""Errors of the readers of weight files, and safe quotes of what a stranger wrote."""

from __future__ import annotations

from collections.abc import Sequence

GET_AGAIN = "copy or download it again"
SAVE_AS_STATE_DICT = "save `model.state_dict()` with torch.save or safetensors, and give that file"
SAVE_WITHOUT_CODE = "do not open it elsewhere unless you trust its maker, and ask for a safetensors file"


class Refusal(Exception):  # noqa: N818 -- some refused files are sound, and merely of another kind
    """A file that is not read; `reason` continues a sentence that begins with its name, `remedy` ends it."""

    def __init__(self, reason: str, remedy: str = GET_AGAIN):
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy


def quoted(text: object, most: int = 80) -> str:
    """Return a stranger's text for a message, without control characters and cut to `most` letters."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in str(text)[: most + 1])
    return printable if len(printable) <= most else printable[:most] + "..."


def listed(names: Sequence[str]) -> str:
    """Return the first eight names for a message."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(quoted, names[:8])) + more


def indented(problems: Sequence[str]) -> str:
    """Return the first 50 problems for a message, one a line."""
    more = [f"and {len(problems) - 50:,} more"] if len(problems) > 50 else []
    return "\n".join(f"  {problem}" for problem in [*problems[:50], *more])
