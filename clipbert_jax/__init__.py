"""ClipBERT in JAX: video-and-language models trained end to end from raw pixels.

The library takes arrays and returns arrays. `data_pipelines` reads videos and datasets; `experiments` has the
commands. Read `models/clipbert.py` first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipbert_jax.pretrained.load import Pretrained
    from clipbert_jax.pretrained.registry import Registered


def load(path_or_name: str | Path, **options: Any) -> Pretrained:
    """Load a trained model: a run, a model directory, a name of `list_pretrained`, or a hub's id.

    See `clipbert_jax.pretrained.load.load`.
    """
    from clipbert_jax.pretrained.load import load as load_model  # late: imports JAX

    return load_model(path_or_name, **options)


def list_pretrained() -> dict[str, Registered]:
    """Return the models that have a name on this machine."""
    from clipbert_jax.pretrained.registry import registered

    return registered()
