"""Export: a trained model as one function of arrays, which `jax.export` turns into a program.

Frames and texts of a fixed shape go in; probabilities after the consensus come out. The stored weights
(bfloat16, or int8 with scales) are arguments of the function. So a program has a few hundred kilobytes, and
programs of several shapes share one file of weights. `experiments.conversion.export` calls it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Shaped

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import model_shapes
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.tasks.task import Task

ComputeDtype = Literal["float32", "bfloat16"]
WeightsKind = Literal["float", "int8"]

BACKEND_OF_PLATFORM = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}
"""Platform names of `jax.export` -> those of kernel choices."""

Predict = Callable[[Parameters, jax.Array, jax.Array, jax.Array], jax.Array]
"""(stored weights, frames [b k t h w 3], text ids [b n l], mask [b n l]) -> what `Task.predict` returns."""

StoredWeights = dict[str, np.ndarray]
"""Arrays by the model's names; an int8 array has its scales beside it."""

_WORD_TABLE = "text_encoder/word_embeddings/embedding"
_MOST = 127


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputShape:
    """Shape of the inputs of an exported program."""

    num_videos: int
    num_clips: int
    num_frames: int
    size: int
    """Number of pixels on a side."""
    num_texts: int
    """Number of texts per video."""
    text_length: int

    def structs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return frames, text ids and text mask as shapes."""
        clips = (self.num_videos, self.num_clips, self.num_frames, self.size, self.size, 3)
        texts = (self.num_videos, self.num_texts, self.text_length)
        return (
            jax.ShapeDtypeStruct(clips, np.uint8),
            jax.ShapeDtypeStruct(texts, np.int32),
            jax.ShapeDtypeStruct(texts, np.bool_),
        )


# ---- The function -----------------------------------------------------------------------------------------


def make_predict(
    config: ClipBertConfig, task: Task, *, platforms: Sequence[str], num_answers: int = 0
) -> Predict:
    """Return the function of a model, with the kernels that suit each platform.

    It holds the model once for each platform; compilation keeps the one that runs.

    Args:
      config: config of the model, with the `compute_dtype` of the program.
      task: task of the model.
      platforms: keys of `BACKEND_OF_PLATFORM`.
      num_answers: size of the answer vocabulary, if the task has one.
    """
    functions = {
        name: _predict_on(config, task, export_kernel_choices(name), num_answers) for name in platforms
    }
    if len(functions) == 1:
        return next(iter(functions.values()))
    return lambda *arrays: jax.lax.platform_dependent(*arrays, **functions)


def export_kernel_choices(platform: str) -> KernelChoices:
    """Return the kernels for a platform in an exported program.

    They exclude the attention of cuDNN: `jax.export` gives no guarantee for such calls, tracing them needs
    the GPU and its cuDNN, and GPUs support different shapes.
    """
    kernels = default_kernel_choices(BACKEND_OF_PLATFORM[platform])
    return dataclasses.replace(kernels, has_fused_attention=False)


def _predict_on(config: ClipBertConfig, task: Task, kernels: KernelChoices, num_answers: int) -> Predict:
    model_def, _, _ = model_shapes(config, task.head, kernels)

    def predict(
        weights: Parameters, frames: jax.Array, text_ids: jax.Array, text_mask: jax.Array
    ) -> jax.Array:
        output = model_def.merge(restore_weights(weights))(frames, text_ids, text_mask)
        return task.predict(output.scores, jnp.any(text_mask, axis=-1), num_answers)

    return predict


def export_program(
    predict: Predict, weights: Mapping[str, Any], shape: InputShape, *, platforms: Sequence[str]
) -> jax.export.Exported:
    """Export the function for platforms that this machine need not have.

    Source locations are left out: they would put paths of this machine into the program.
    """
    option = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, option)
    structs = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}

    def clipbert(weights: Parameters, frames: jax.Array, text_ids: jax.Array, text_mask: jax.Array) -> Any:
        return predict(weights, frames, text_ids, text_mask)

    jax.config.update(option, 0)
    try:
        return jax.export.export(jax.jit(clipbert), platforms=list(platforms))(structs, *shape.structs())
    finally:
        jax.config.update(option, limit)


# ---- Weights ----------------------------------------------------------------------------------------------


def store_weights(parameters: Parameters, *, dtype: ComputeDtype, kind: WeightsKind) -> StoredWeights:
    """Return the weights as they are stored.

    `int8` stores kernels and the word table as whole numbers with a float32 scale per output channel or word.
    The other arrays have the data type `dtype`. Vectors, such as biases and the statistics of norms, are
    always float32: they are small, and differences of them matter.
    """
    stored: StoredWeights = {}
    for name, parameter in parameters.items():
        array = np.asarray(parameter, np.float32)
        if kind == "int8" and is_quantized(name):
            stored[name], stored[scale_name(name)] = quantize(array, axis=0 if name == _WORD_TABLE else -1)
        elif dtype == "bfloat16" and array.ndim > 1:
            stored[name] = array.astype(ml_dtypes.bfloat16)
        else:
            stored[name] = array
    return stored


def restore_weights(stored: Mapping[str, Any]) -> Parameters:
    """Return the parameters from stored weights; traced in the program."""
    return {
        name: array.astype(jnp.float32) * stored[scale_name(name)] if array.dtype == jnp.int8 else array
        for name, array in stored.items()
        if not name.endswith(_SCALE)
    }


_SCALE = ":scale"


def scale_name(name: str) -> str:
    """Return the name of the scales of an int8 array."""
    return name + _SCALE


def is_quantized(name: str) -> bool:
    """Return whether `int8` quantises this array: a kernel of a product or convolution, or the word table."""
    return name.endswith("/kernel") or name == _WORD_TABLE


def quantize(
    array: Float[np.ndarray, "*shape"], *, axis: int
) -> tuple[Shaped[np.ndarray, "*shape"], Float[np.ndarray, "*ones"]]:
    """Return whole numbers from -127 to 127, and the scale of each index along `axis`."""
    others = tuple(place for place in range(array.ndim) if place != axis % array.ndim)
    largest = np.abs(array).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / _MOST, 1).astype(np.float32)
    return np.rint(array / scale).astype(np.int8), scale


# ---- How far a program is from the float32 one ------------------------------------------------------------


def compare(
    task: Task,
    expected: Float[np.ndarray, "m n *answers"],
    found: Float[np.ndarray, "m n *answers"],
    is_text: Bool[np.ndarray, "m n"],
) -> dict[str, float | int]:
    """Return how far predictions differ, and the share of decisions that are the same.

    A decision is the best text or option of a video, the best answer to a question, or the rounded count. For
    matching also the share of pairs of a video's texts that stand in the same order.
    """
    differences = np.abs(found - expected)[is_text]
    agreement: dict[str, float | int] = {
        "num_videos": len(is_text),
        "num_texts": int(is_text.sum()),
        "max_difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
        "same_decisions": float(np.mean(task.decisions(expected, is_text) == task.decisions(found, is_text))),
    }
    if task.answer_form == "match":
        is_pair = np.triu(np.ones((is_text.shape[1],) * 2, bool), 1) & is_text[:, :, None] & is_text[:, None]
        if is_pair.any():
            agreement["same_order"] = float((_order(expected) == _order(found))[is_pair].mean())
    return agreement


def _order(predicted: np.ndarray) -> np.ndarray:
    return np.sign(predicted[:, :, None] - predicted[:, None, :])
