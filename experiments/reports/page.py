"""Writes pages from templates: all values are escaped, and a page needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from clipbert_jax.atomic_files import write_whole

_FOLDER = Path(__file__).parent
SHOWN_SIZE = 160
"""Longer side of a frame in pixels, about twice the size on pages, so that it is sharp on dense screens."""


def write_page(path: Path, template: Path, *, scripts: Sequence[Path] = (), **values: Any) -> None:
    """Write a filled-in template whole or not at all; make its folder."""
    write_whole(path, filled_in(template, scripts=scripts, **values))


def filled_in(template: Path, *, scripts: Sequence[Path] = (), **values: Any) -> str:
    """Return the page that a template becomes.

    The page tells the browser to load nothing, and to run only these scripts, joined.
    """
    text = joined(scripts)
    page = templates(template.parent).get_template(template.name)
    return page.render(script=text, script_hash=sha256_of(text), **values)


def joined(scripts: Sequence[Path]) -> str:
    """Return script files as one text."""
    return "\n".join(script.read_text(encoding="utf-8") for script in scripts)


def templates(*folders: Path) -> jinja2.Environment:
    """Return the templates of reports and of other folders; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["zip"] = zip
    return environment


def sha256_of(script: str) -> str:
    """Return the hash by which a content security policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def flatten(factors: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return one row per leaf: {"train.batch_size": "32"}."""
    rows: dict[str, str] = {}
    for name, value in factors.items():
        if isinstance(value, Mapping):
            rows |= flatten(value, f"{prefix}{name}.")
        else:
            is_list = isinstance(value, list | tuple)
            rows[f"{prefix}{name}"] = ", ".join(map(str, value)) if is_list else str(value)
    return rows


def jpeg_data_uri(frame: np.ndarray, *, max_side: int = SHOWN_SIZE) -> str:
    """Return a uint8 RGB frame as an inline JPEG, made smaller if a side is longer than `max_side`."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(frame, max_side=max_side)).decode()


def jpeg_bytes(frame: np.ndarray, *, max_side: int | None = None) -> bytes:
    """Return a uint8 RGB frame as JPEG, made smaller if a side is longer than `max_side`."""
    frame = np.ascontiguousarray(frame)  # OpenCV takes no mirrored views
    height, width = frame.shape[:2]
    if max_side is not None and max(height, width) > max_side:
        shrink = max_side / max(height, width)
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    is_encoded, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not is_encoded:
        raise ValueError(f"OpenCV could not encode a frame of shape {frame.shape} as JPEG.")
    return jpeg.tobytes()
