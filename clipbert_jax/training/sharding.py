"""Where arrays live: one device mesh, batches split over its `data` axis, parameters on every device."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipbert_jax.batch import Batch


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh with one axis, `data`, over all devices of all processes."""
    return Mesh(np.asarray(devices if devices is not None else jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of parameters and optimizer state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: videos split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Move this process's share of a batch to its devices; together they are the global batch.

    Raises:
      ValueError: the global batch does not divide by the number of devices.
    """
    num_videos = batch.frames.shape[0] * jax.process_count()
    if num_videos % mesh.size:
        raise ValueError(
            f"A batch of {num_videos} videos does not divide over {mesh.size} devices: "
            f"set train.batch_size to a multiple of {mesh.size}."
        )
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
