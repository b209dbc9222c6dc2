"""ClipBERT in JAX: video-and-language models trained end to end from raw pixels.

The library takes arrays and gives arrays. It opens no video and knows no dataset: that is
`data_pipelines`. Commands and experiments are in `experiments`. Read `models/clipbert.py` first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipbert_jax.model_registry import Registered
    from clipbert_jax.pretrained import Pretrained


def load(path_or_name: str | Path, **options: Any) -> Pretrained:
    """Load a trained model: a run, a model directory, a name of `list_pretrained`, or an id of a hub.

    See `clipbert_jax.pretrained.load`.
    """
    from clipbert_jax import pretrained  # imports JAX, which the weights' readers do without

    return pretrained.load(path_or_name, **options)


def list_pretrained() -> dict[str, Registered]:
    """Return the models that have a name on this machine."""
    from clipbert_jax import model_registry

    return model_registry.registered()
