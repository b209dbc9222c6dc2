"""A writer of annotation files in their original formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes text, JSON, or (for .jsonl) JSON lines, and returns the path."""

    def write_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        if not isinstance(content, str):
            lines = [json.dumps(line) for line in content] if name.endswith(".jsonl") else None
            content = "\n".join(lines) + "\n" if lines else json.dumps(content)
        path.write_text(content, encoding="utf-8")
        return path

    return write_file
