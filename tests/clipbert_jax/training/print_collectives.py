"""Compile the train step for meshes of 8 devices; print what each exchanges and divides, as JSON.

    python -m tests.clipbert_jax.training.print_collectives FSDP,TENSOR ...

A program of its own: the checks of shapes in tests do not let a step be compiled without being run.
"""

import json
import os
import re
import sys
from typing import Any

from tests.xla_flags import COMPILE_FAST, EIGHT_DEVICES

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{EIGHT_DEVICES} {COMPILE_FAST}"

from flax import nnx

from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training import sharding
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import MeshConfig, make_mesh, put_batch
from clipbert_jax.training.step import make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from tests.clipbert_jax.training.conftest import TASK, make_batch, small_config

_COLLECTIVE = re.compile(
    r"= (\(?[a-z0-9]+\[.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def collectives_of(fsdp: int, tensor: int) -> dict[str, Any]:
    """Return both for a mesh."""
    sharding._MIN_SHARDED_ELEMENTS = 64
    mesh = make_mesh(config=MeshConfig(fsdp=fsdp, tensor=tensor))
    optimizer = make_optimizer(OptimizerConfig(), num_steps=4)
    model_def, state = make_train_state(
        ClipBert(small_config(), TASK.head, rngs=nnx.Rngs(0)), optimizer, mesh, TrainConfig()
    )
    step = make_train_step(model_def, TASK, optimizer, mesh, TrainConfig())
    text = step.lower(state, put_batch(make_batch(0), mesh)).compile().as_text()
    divided = {
        axis: sorted(name for name, x in state.params.items() if axis in x.sharding.spec)
        for axis in ("fsdp", "tensor")
    }
    collectives = [[kind, shape] for shape, kind in _COLLECTIVE.findall(text)]
    return {"collectives": collectives, "divided": divided}


if __name__ == "__main__":
    print(json.dumps([collectives_of(*map(int, mesh.split(","))) for mesh in sys.argv[1:]]))
