"""Reference values of the original ClipBERT, and the synthetic weights they were computed with.

`<case>.npz` holds inputs `in/...` and outputs `f64/...`, computed once in float64 with the original
PyTorch code (commit a118b02) and these weights; `manifest.json` describes every case. Weights are never
stored: each parameter has its own random stream, found from its name alone, and goes through the
checkpoint converter on its way into a model.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from clipbert_jax.config import ClipBertConfig, FusionConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import HeadConfig, make_head
from clipbert_jax.weights.flat import load_flat_parameters
from tests.clipbert_jax.weights.names.original_weights import from_original

_FOLDER = Path(__file__).parent


def load_case(name: str) -> dict[str, np.ndarray]:
    with np.load(_FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def manifest() -> dict:
    return json.loads((_FOLDER / "manifest.json").read_text())


def state_dict_layout() -> dict:
    return json.loads((_FOLDER / "state_dict_layout.json").read_text())


def part(case: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in case.items() if name.startswith(prefix)}


def config(size: str = "small", compute_dtype: str = "float64") -> ClipBertConfig:
    values = manifest()[f"{size}_config"]
    fusion = FusionConfig(
        hidden_size=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        intermediate_size=values["intermediate_size"],
        vocab_size=values["vocab_size"],
        max_text_length=values["max_position_embeddings"],
        max_grid_rows=values["max_grid_row_position_embeddings"],
        max_grid_columns=values["max_grid_col_position_embeddings"],
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )
    return ClipBertConfig(fusion=fusion, compute_dtype=compute_dtype)


def model(head: HeadConfig, head_name: str, *, size: str = "small", dtype: str = "float64") -> ClipBert:
    """Return a model with the synthetic weights; float64 needs `jax.enable_x64`."""
    settings = config(size, dtype)
    model = nnx.eval_shape(lambda: ClipBert(settings, head, rngs=nnx.Rngs(0)))
    _load(model, head_name, "weights_full" if size == "full" else "weights")
    return model


def replace_head(model: ClipBert, head: HeadConfig, head_name: str) -> None:
    """Give a small model another head with its synthetic weights; faster than a new model."""
    model.head = nnx.eval_shape(lambda: make_head(head, model.config, rngs=nnx.Rngs(0)))
    _load(model, head_name, "weights")


def _load(model: ClipBert, head_name: str, prefix: str) -> None:
    state = original_weights(f"{prefix}_base", f"{prefix}_head_{head_name}")
    load_flat_parameters(model, from_original(state))


def original_weights(base: str, head: str) -> dict[str, np.ndarray]:
    """Return an original checkpoint with synthetic values, after checking their fingerprints."""
    state = _base_weights(base) | _draw(_entries(head))
    aliases = {entry["key"]: entry["of"] for entry in _entries(head) if entry["dist"] == "alias"}
    return state | {name: state[source] for name, source in aliases.items()}


@functools.cache
def _base_weights(base: str) -> dict[str, np.ndarray]:
    return _draw(_entries(base))


def _entries(name: str) -> list[dict]:
    return json.loads((_FOLDER / f"{name}.json").read_text())["params"]


def _draw(entries: list[dict]) -> dict[str, np.ndarray]:
    return {entry["key"]: _array(entry) for entry in entries if entry["dist"] in ("normal", "uniform")}


def _array(entry: dict, seed: int = 0) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}:{entry['key']}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    a, b, shape = entry["a"], entry["b"], tuple(entry["shape"])
    is_normal = entry["dist"] == "normal"
    array = a + b * rng.standard_normal(shape) if is_normal else a + (b - a) * rng.random(shape)
    array = array.astype("<f4")
    fingerprint = hashlib.sha256(array.tobytes()).hexdigest()[:12]
    assert fingerprint == entry["fingerprint"][str(seed)], f"{entry['key']} was drawn differently"
    return array


def run(module: nnx.Module, *args: object, method: str = "__call__") -> Any:
    """Call a method jitted, with the weights as arguments: as constants they would be folded for seconds."""
    graphdef, state = nnx.split(module)
    call = jax.jit(lambda state, *args: getattr(nnx.merge(graphdef, state), method)(*args))
    return call(state, *args)


def frames(array: np.ndarray) -> np.ndarray:
    """Turn the original's (B, T, C, H, W) into [b t h w c]."""
    return np.moveaxis(array, 2, -1)


def resized_frames(array: np.ndarray, size: int, dtype: str) -> jax.Array:
    """Resize the longer side to `size` and pad to a square, in floats, as the original did on the fly."""
    raw = frames(array)
    height, width = (side * size // max(raw.shape[2:4]) for side in raw.shape[2:4])
    shape = (*raw.shape[:2], height, width, 3)
    resized = jax.image.resize(jnp.asarray(raw, dtype), shape, "linear", antialias=False)
    return jnp.pad(resized, ((0, 0), (0, 0), (0, size - height), (0, size - width), (0, 0)))


def assert_close(actual: jax.Array, reference: np.ndarray, tolerance: float, name: str = "") -> None:
    """Compare the largest error with the reference's root mean square."""
    assert actual.shape == reference.shape, f"{name}: {actual.shape} is not {reference.shape}"
    error = np.abs(np.asarray(actual, np.float64) - reference).max()
    scale = np.sqrt(np.mean(reference**2))
    assert error <= tolerance * scale, f"{name}: error {error / scale:.1e} of the rms"
