"""The mesh of devices, and the rules that place arrays on it by their names.

    data     every device has its own videos and a copy of the parameters
    fsdp     the same, but the devices share one copy of parameters and optimizer state
    tensor   the devices share the products of the fusion (heads, inner width, vocabulary) for the same
             videos; in the pixel encoder, whose convolutions do not divide well, each has its own videos

The step is the same program on every mesh: XLA adds the collectives. Rules follow
Shoeybi et al., "Megatron-LM", 2019 (tensor), and Rajbhandari et al., "ZeRO", 2020 (fsdp).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from clipbert_jax.models.fusion import LayerSharding
from clipbert_jax.models.model_def import Parameters

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")

VIDEOS = PartitionSpec(AXES)
"""Spec of arrays whose first axis is videos: each device has some, in the order of the devices."""

_MIN_SHARDED_ELEMENTS = 1 << 14
"""Least size of an array that fsdp divides: gathering a smaller one costs more than it saves."""

_TENSOR_DIMENSION = {
    r"fusion/layers/\d+/(query|key|value|intermediate)/(kernel|bias)": -1,
    r"fusion/layers/\d+/(attention_output|output)/kernel": 0,
    r"text_encoder/word_embeddings/embedding": 0,
    r"head/decoder_bias": 0,
}
"""Names of parameters -> dimension that the tensor axis divides; it divides no others."""

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Division of the work over devices; the rest is data parallel. Changes no result."""

    fsdp: int = 1
    """Number of devices that share one copy of parameters and optimizer state, to save memory."""
    tensor: int = 1
    """Number of devices of a host that share the matrix products of the fusion; must divide its heads."""


def check_mesh(config: MeshConfig, num_devices: int, *, num_heads: int | None = None) -> None:
    """Refuse axes that do not divide the devices or the heads of the fusion.

    Raises:
      UserError: names the options.
    """
    if min(config.fsdp, config.tensor) < 1 or num_devices % (config.fsdp * config.tensor):
        raise UserError(
            f"--mesh.fsdp {config.fsdp} times --mesh.tensor {config.tensor} must divide the {num_devices} "
            "device(s)"
        )
    if num_heads is not None and num_heads % config.tensor:
        raise UserError(f"--mesh.tensor {config.tensor} must divide the {num_heads} heads of the fusion")


def make_mesh(devices: Sequence[jax.Device] | None = None, config: MeshConfig | None = None) -> Mesh:
    """Return the mesh over all devices of all processes, or over the given ones.

    Devices are in the order of their processes, so that a process has consecutive rows of a batch.

    Raises:
      UserError: the axes do not divide the devices, or the tensor axis would reach beyond a process.
    """
    devices = sorted(devices if devices is not None else jax.devices(), key=_process_and_id)
    config = config or MeshConfig()
    num_local = min(
        sum(device.process_index == index for device in devices)
        for index in {device.process_index for device in devices}
    )
    check_mesh(config, len(devices))
    if num_local % config.tensor:
        raise UserError(
            f"--mesh.tensor {config.tensor} must divide the {num_local} device(s) of a process, as they "
            "exchange every layer"
        )
    return Mesh(np.asarray(devices).reshape(-1, config.fsdp, config.tensor), AXES)


def _process_and_id(device: Any) -> tuple[int, int]:
    """Return the sort key of a device: TPU pods number devices by place, not by process."""
    return device.process_index, device.id


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: videos split over all devices."""
    return NamedSharding(mesh, VIDEOS)


def parameter_sharding(name: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Return the sharding of a parameter, or of an array of the optimizer that belongs to it.

    Args:
      name: flat name, such as `fusion/layers/0/query/kernel`.
      shape: shape of the array.
      mesh: mesh of `make_mesh`.

    Raises:
      UserError: the size of that dimension is not a multiple of the tensor axis.
    """
    spec: list[str | None] = [None] * len(shape)
    num_tensor, num_fsdp = mesh.shape[TENSOR], mesh.shape[FSDP]
    dimension = _tensor_dimension(name)
    if num_tensor > 1 and dimension is not None:
        spec[dimension] = _checked_tensor(name, shape[dimension], num_tensor)
    if num_fsdp > 1 and math.prod(shape) >= _MIN_SHARDED_ELEMENTS:
        free = [i for i, size in enumerate(shape) if spec[i] is None and size % num_fsdp == 0]
        if free:
            spec[max(free, key=lambda i: shape[i])] = FSDP
    while spec and spec[-1] is None:  # as XLA writes it, so that the next step is not compiled again
        spec.pop()
    return NamedSharding(mesh, PartitionSpec(*spec))


def _tensor_dimension(name: str) -> int | None:
    return next((found for rule, found in _TENSOR_DIMENSION.items() if re.fullmatch(rule, name)), None)


def _checked_tensor(name: str, size: int, num_tensor: int) -> str | None:
    if size % num_tensor == 0:
        return TENSOR
    if name.startswith("fusion/"):
        raise UserError(f"--mesh.tensor {num_tensor} does not divide {name}, whose size there is {size}")
    return None  # a vocabulary of any size


def state_shardings(tree: Tree, mesh: Mesh) -> Tree:
    """Return the sharding of each array of a train state, or of a part of it, by the names on its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: parameter_sharding(_last_name(path), x.shape, mesh), tree
    )


def _last_name(path: tuple[Any, ...]) -> str:
    """Return the flat name of the parameter on the path of an array; empty for scalars such as counts."""
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return str(names[-1]) if names else ""


def constrain_state(tree: Tree, mesh: Mesh) -> Tree:
    """Keep the arrays of a train state where they are, within a jitted function."""
    return jax.lax.with_sharding_constraint(tree, state_shardings(tree, mesh))


def gather_over_fsdp(params: Parameters, mesh: Mesh) -> Parameters:
    """Gather the parameters that the fsdp axis divides, within a jitted function, for the model to use."""
    if mesh.shape[FSDP] == 1:
        return params

    def gathered(name: str, shape: Sequence[int]) -> NamedSharding:
        spec = parameter_sharding(name, shape, mesh).spec
        return NamedSharding(mesh, PartitionSpec(*(None if axis == FSDP else axis for axis in spec)))

    return {
        name: jax.lax.with_sharding_constraint(array, gathered(name, array.shape))
        for name, array in params.items()
    }


def layer_sharding(mesh: Mesh) -> LayerSharding | None:
    """Return the shardings in the layers of the fusion, if devices share their products."""
    if mesh.shape[TENSOR] == 1:
        return None
    videos = (DATA, FSDP)
    return LayerSharding(
        states=NamedSharding(mesh, PartitionSpec(videos)),
        split=NamedSharding(mesh, PartitionSpec(videos, None, TENSOR)),
    )


def share_videos(tree: Tree, mesh: Mesh) -> Tree:
    """Give devices that share the products of the fusion each other's videos, within a jitted function."""
    if mesh.shape[TENSOR] == 1:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec((DATA, FSDP)))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), tree)


def whole_parameters(params: Parameters, mesh: Mesh) -> Parameters:
    """Return the parameters with each array whole on every device of the mesh."""
    if all(array.sharding.is_fully_replicated for array in params.values()):
        return params
    return _replicate(mesh)(params)


@functools.cache
def _replicate(mesh: Mesh) -> Callable[[Parameters], Parameters]:
    """Return a function that all validations share, so that it is compiled once."""
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Move the share of this process in a batch to its devices; all shares are the global batch.

    Raises:
      ValueError: the global batch does not divide by the number of devices.
    """
    num_videos = batch.frames.shape[0] * jax.process_count()
    if num_videos % mesh.size:
        raise ValueError(
            f"a batch of {num_videos} videos does not divide over {mesh.size} devices: "
            f"set train.batch_size to a multiple of {mesh.size}"
        )
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
