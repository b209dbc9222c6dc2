"""Result files: every number together with all that it depends on."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

PACKAGES = ("clipbert_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "av", "numpy")


def environment() -> dict[str, Any]:
    """Return versions, device, command and time of this process."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
        "command": shlex.join(["clipbert", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)


def write_scores(
    path: Path,
    *,
    logits: np.ndarray,
    video_ids: tuple[str, ...],
    caption_ids: tuple[str, ...],
    texts: tuple[str, ...],
    video_of_text: np.ndarray,
) -> None:
    """Write a score matrix [videos, texts] with the names of its rows and columns (NumPy .npz)."""
    np.savez_compressed(
        path,
        match_logits=logits,
        video_ids=np.array(video_ids),
        caption_ids=np.array(caption_ids),
        texts=np.array(texts),
        video_of_text=video_of_text,
    )
