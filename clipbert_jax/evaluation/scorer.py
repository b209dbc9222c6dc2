"""Scorer: a model on some devices, which encodes videos and scores texts against them in compiled programs.

`score` calls it, and decides which texts meet which videos. Videos are split over the devices of all
processes; texts are on every device. Videos do not depend on each other, so devices exchange nothing: each
runs the program of one device on its share of the videos. All processes make the same calls. Each brings its
own videos, and gets the scores of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from clipbert_jax.evaluation.text_buckets import BUCKET_LENGTHS
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.model_def import ModelDef, Parameters
from clipbert_jax.training.sharding import VIDEOS, batch_sharding, make_mesh, replicated

Reduce = Callable[[ClipBertOutput], dict[str, jax.Array]]
"""Output of the model for [b k n] -> arrays [b n ...]; traced under `jax.jit`, once for each length of texts.
Shapes of the arrays may not depend on that length."""

Scores = dict[int, dict[str, jax.Array]]
"""Result of `Reduce` by number of clips."""

MakeProgram = Callable[[ModelDef, Mesh, Reduce, Sequence[int]], Callable[..., Scores]]
"""`tile_program` or `query_program`."""

_EVERYWHERE, _SPLIT = PartitionSpec(), VIDEOS


class Scorer:
    """Encodes and scores with the parameters of one model."""

    def __init__(
        self,
        model_def: ModelDef,
        parameters: Parameters,
        *,
        mesh: Mesh | None = None,
        bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
    ) -> None:
        """Take a model; it is put on the devices when it is first needed.

        Args:
          model_def: structure of the model.
          parameters: parameters of the model, on the host or on devices.
          mesh: devices; by default those of all processes.
          bucket_lengths: lengths that texts are cut to; without any, texts keep their length.
        """
        self.mesh = mesh or make_mesh()
        self.bucket_lengths = tuple(bucket_lengths)
        self.parameters = parameters
        self._model_def = model_def
        self._encode = encode_program(model_def, self.mesh)
        self._programs: dict[tuple[MakeProgram, Reduce, tuple[int, ...]], Callable[..., Scores]] = {}

    @property
    def num_devices(self) -> int:
        """Number of devices that videos are split over, of all processes."""
        return self.mesh.size

    @property
    def parameters(self) -> Parameters:
        """Parameters as given; they can be replaced."""
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._placed: Parameters | None = None

    def encode(self, frames: UInt8[np.ndarray, "b k t h w 3"]) -> Float[jax.Array, "rows k v d"]:
        """Return visual tokens, filled up to a multiple of the number of devices.

        Each of several processes gives its own frames, equally many; their rows follow each other.
        """
        missing = -len(frames) % (self.num_devices // jax.process_count())
        if missing:
            frames = np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), frames.dtype)])
        placed = jax.make_array_from_process_local_data(batch_sharding(self.mesh), frames)
        return self._encode(self._parameters_on_devices(), placed)

    def compiled(
        self, make_program: MakeProgram, reduce: Reduce, num_clips: Sequence[int]
    ) -> Callable[..., Scores]:
        """Return a program with the parameters of the model; the same `reduce` is compiled once.

        Args:
          make_program: `tile_program` or `query_program`.
          reduce: function that reduces the scores.
          num_clips: numbers of clips that follow each other along k.
        """
        key = (make_program, reduce, tuple(num_clips))
        if key not in self._programs:
            self._programs[key] = make_program(self._model_def, self.mesh, reduce, num_clips)
        program = self._programs[key]
        return lambda *arrays: program(self._parameters_on_devices(), *arrays)

    def put_everywhere(self, array: Shaped[np.ndarray, "*shape"]) -> Shaped[jax.Array, "*shape"]:
        """Copy an array that all processes have to every device."""
        return _put(array, replicated(self.mesh))

    def put_split(self, array: Shaped[np.ndarray, "*shape"]) -> Shaped[jax.Array, "*shape"]:
        """Split an array that all processes have over the devices, as videos are split."""
        return _put(array, batch_sharding(self.mesh))

    def _parameters_on_devices(self) -> Parameters:
        if self._placed is not None:
            return self._placed
        everywhere = replicated(self.mesh)
        self._placed = placed = {
            name: array if _is_placed(array, everywhere) else _put(array, everywhere)
            for name, array in self._parameters.items()
        }
        return placed


def _is_placed(array: Any, sharding: NamedSharding) -> bool:
    """Return whether an array is whole on every device, as training keeps it."""
    return isinstance(array, jax.Array) and array.sharding.is_equivalent_to(sharding, array.ndim)


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    """Place an array that all processes have. `jax.device_put` would synchronise the processes."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array)[index])


def encode_program(model_def: ModelDef, mesh: Mesh) -> Callable[..., jax.Array]:
    """Return the jitted (parameters, frames [b k t h w 3]) -> visual tokens [b k v d]."""

    def encode(parameters: Parameters, frames: jax.Array) -> jax.Array:
        return model_def.merge(parameters).encode_video(frames)

    mapped = _on_each_device(encode, mesh, (_EVERYWHERE, _SPLIT))
    return jax.jit(mapped)


def tile_program(
    model_def: ModelDef, mesh: Mesh, reduce: Reduce, num_clips: Sequence[int]
) -> Callable[..., Scores]:
    """Return the jitted function that scores a tile: some texts, each against some encoded videos.

    It takes parameters, visual tokens [b k v d], text ids [n l] and text mask [n l]. The texts are repeated
    for the videos on the device.
    """

    def score(
        parameters: Parameters,
        visual_tokens: Float[jax.Array, "b k v d"],
        ids: Int[jax.Array, "n l"],
        mask: Bool[jax.Array, "n l"],
    ) -> Scores:
        ids, mask = (jnp.broadcast_to(x, (visual_tokens.shape[0], *x.shape)) for x in (ids, mask))
        output = model_def.merge(parameters).score_texts(visual_tokens, ids, mask)
        return _reduce_each_count(output, reduce, num_clips)

    mapped = _on_each_device(score, mesh, (_EVERYWHERE, _SPLIT, _EVERYWHERE, _EVERYWHERE))
    return _jitted_for_hosts(mapped, mesh)


def query_program(
    model_def: ModelDef, mesh: Mesh, reduce: Reduce, num_clips: Sequence[int]
) -> Callable[..., Scores]:
    """Return the jitted function that scores texts of some queries, each against the video it is asked of.

    It takes parameters, the visual tokens of two batches of videos, for each query the place of its video
    among those that its device has of the first and then of the second batch [q], text ids [q n l] and text
    mask.
    """

    def score(
        parameters: Parameters,
        earlier: Float[jax.Array, "b k v d"],
        latest: Float[jax.Array, "c k v d"],
        rows: Int[jax.Array, " q"],
        ids: Int[jax.Array, "q n l"],
        mask: Bool[jax.Array, "q n l"],
    ) -> Scores:
        visual_tokens = jnp.concatenate([earlier, latest])[rows]
        output = model_def.merge(parameters).score_texts(visual_tokens, ids, mask)
        return _reduce_each_count(output, reduce, num_clips)

    return _jitted_for_hosts(_on_each_device(score, mesh, (_EVERYWHERE, *[_SPLIT] * 5)), mesh)


def _on_each_device(
    function: Callable[..., Any], mesh: Mesh, in_specs: tuple[PartitionSpec, ...]
) -> Callable[..., Any]:
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=_SPLIT, check_vma=False)


def _jitted_for_hosts(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Return the jitted function, whose results every process can fetch: of several each has all of them."""
    return jax.jit(function, out_shardings=replicated(mesh) if jax.process_count() > 1 else None)


def _reduce_each_count(output: ClipBertOutput, reduce: Reduce, num_clips: Sequence[int]) -> Scores:
    """Reduce the clips of each number of clips alone."""
    ends = np.cumsum(num_clips).tolist()
    return {
        count: reduce(jax.tree.map(lambda x, start=end - count, end=end: x[:, start:end], output))
        for count, end in zip(num_clips, ends, strict=True)
    }
