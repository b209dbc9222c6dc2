"""A checkpoint whose files are damaged is refused in a sentence that names it, whichever file it is."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training.checkpoint import Checkpointer, ResumePoint
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint
from clipbert_jax.training.step import TrainState

# After the error TensorStore still completes other reads, whose event loop Orbax has closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STEP, CONFIG = 3, {"a": 1}


def state() -> TrainState:
    weight = jnp.arange(4096.0)  # large enough for a file of its own
    return TrainState(
        step=jnp.int32(STEP),
        params={"weight": weight},
        frozen={},
        opt_state={"mean": {"weight": weight}},
        ema={"weight": 2 * weight},
    )


@pytest.fixture(scope="module", autouse=True)
def completed(saved) -> Iterator[None]:
    """Wait until what a failed read began has ended, or another file's tests would be told of it."""
    yield
    load(saved)
    restore(saved)
    gc.collect()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    checkpointer = Checkpointer(workdir, config=CONFIG)
    checkpointer.save(state(), ResumePoint(data={"next_step": STEP}), best_step=None)
    checkpointer.close()
    return workdir


def load(workdir: Path) -> np.ndarray:
    """Return the weight as an evaluation reads it."""
    checkpoint = SavedCheckpoint(workdir)
    return np.asarray(checkpoint.load_parameters({**state().params, **state().frozen})["weight"])


def restore(workdir: Path) -> np.ndarray:
    """Return the weight as training reads it when it goes on."""
    return np.asarray(Checkpointer(workdir, config=CONFIG).restore(state())[0].params["weight"])


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def test_a_sound_checkpoint_is_read(saved):
    np.testing.assert_array_equal(load(saved), 2 * np.arange(4096.0))
    np.testing.assert_array_equal(restore(saved), np.arange(4096.0))


@pytest.mark.parametrize("damage", [truncate, overwrite, Path.unlink])
@pytest.mark.parametrize(
    ("read", "file"),
    [
        *((load, file) for file in ("config/metadata", "ema/manifest.ocdbt", "ema/d/*")),
        *((restore, file) for file in ("optimizer/manifest.ocdbt", "optimizer/d/*")),
        *(
            (read, file)
            for read in (load, restore)
            for file in ("progress/metadata", "parameters/manifest.ocdbt", "parameters/d/*")
        ),
    ],
)
def test_a_checkpoint_with_a_damaged_file_is_named(read, file, damage, saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")
    checkpoint = workdir / "checkpoints" / str(STEP)
    (path,) = checkpoint.glob(file)
    damage(path)
    with pytest.raises(UserError, match=f"the checkpoint {checkpoint} cannot be read"):
        read(workdir)


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
@pytest.mark.parametrize(("read", "item"), [(load, "parameters"), (load, "ema"), (restore, "optimizer")])
def test_a_lost_piece_of_an_array_is_named(read, item, damage, saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")
    checkpoint = workdir / "checkpoints" / str(STEP)
    pieces = list((checkpoint / item / "ocdbt.process_0" / "d").iterdir())
    assert pieces
    for piece in pieces:
        damage(piece)
    with pytest.raises(UserError, match=f"the checkpoint {checkpoint} cannot be read"):
        read(workdir)


@pytest.mark.parametrize("damage", [truncate, overwrite])
@pytest.mark.parametrize("file", ["_METADATA", "_sharding", "array_metadatas/process_0"])
def test_damaged_descriptions_of_arrays_are_named(file, damage, saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")
    checkpoint = workdir / "checkpoints" / str(STEP)
    damage(checkpoint / "parameters" / file)
    for read in (load, restore):
        with pytest.raises(UserError, match=f"the checkpoint {checkpoint} cannot be read"):
            read(workdir)
