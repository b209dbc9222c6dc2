"""Writes the files in `data/` by PyTorch, and compares random tensors: needs torch, for development only.

python -m tests.clipbert_jax.weights.formats.make_torch_files          # writes data/*.pt
python -m tests.clipbert_jax.weights.formats.make_torch_files --check  # reads back 200 random state dicts
"""

from __future__ import annotations

import argparse
import tempfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import torch

from clipbert_jax.weights.formats.read_file import read_weights_file
from tests.clipbert_jax.weights.formats.weight_files import example_arrays, state_dict

FOLDER = Path(__file__).parent / "data"


def to_torch(array: np.ndarray) -> torch.Tensor:
    """Return a tensor with a storage of its own."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy()).clone(memory_format=torch.contiguous_format)


def save(value: object, name: str) -> None:
    """Save in both formats."""
    for kind, is_zip in (("zip", True), ("legacy", False)):
        torch.save(value, FOLDER / f"{name}_{kind}.pt", _use_new_zipfile_serialization=is_zip)


def write_files() -> None:
    """Write the files that the tests read."""
    FOLDER.mkdir(exist_ok=True)
    arrays = example_arrays()
    save(state_dict({name: to_torch(array) for name, array in arrays.items()}), "plain")

    base = to_torch(np.arange(24, dtype=np.float32).reshape(4, 6))
    views = OrderedDict(
        base=base,
        tied=base,
        transposed=base.T,
        rows=base[1:3],
        column=base[:, 2],
        steps=base[::2, 1::2],
        permuted=torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        parameter=torch.nn.Parameter(base[0].clone()),
        uint16=torch.arange(5).to(torch.uint16)[1:],
    )
    checkpoint = {
        "model": views,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
        "iteration": 7,
        "best": np.float64(0.5),
        "size": torch.Size([1, 2]),
    }
    save(checkpoint, "checkpoint")


def random_tensor(rng: np.random.Generator) -> torch.Tensor:
    """Return a tensor of any type, with a view of any kind."""
    shape = rng.integers(0, 5, rng.integers(0, 5)).tolist()
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32]
    dtypes += [torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.complex64]
    dtype = dtypes[rng.integers(0, len(dtypes))]
    tensor = torch.from_numpy(rng.integers(0, 100, shape)).to(dtype)
    if tensor.ndim and rng.random() < 0.5:
        tensor = tensor.permute(*rng.permutation(tensor.ndim).tolist())
    for axis in range(tensor.ndim):
        if tensor.shape[axis] > 1 and rng.random() < 0.3:
            slices = [slice(None)] * tensor.ndim
            slices[axis] = slice(int(rng.integers(0, 2)), None, int(rng.integers(1, 3)))
            tensor = tensor[tuple(slices)]
    return tensor


def to_bytes(tensor: torch.Tensor) -> bytes:
    """Return the elements in order."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return copy.reshape(-1).view(torch.uint8).numpy().tobytes()


def check(number: int) -> None:
    """Compare what is read with what was saved."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(number):
            rng = np.random.default_rng(seed)
            saved = OrderedDict((f"tensor.{i}", random_tensor(rng)) for i in range(int(rng.integers(1, 9))))
            for is_zip in (True, False):
                path = Path(folder, "weights")
                torch.save({"model": saved}, path, _use_new_zipfile_serialization=is_zip)
                read = read_weights_file(path).arrays
                assert read.keys() == saved.keys(), seed
                for name, tensor in saved.items():
                    array = read[name]
                    assert array.shape == tuple(tensor.shape), (seed, name)
                    assert str(array.dtype) == str(tensor.dtype).removeprefix("torch."), (seed, name)
                    assert array.tobytes() == to_bytes(tensor), (seed, name)
                path.unlink()
    print(f"{number} state dicts, in both formats: all as saved")


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--number", type=int, default=200)
    options = parser.parse_args()
    if options.check:
        check(options.number)
    else:
        write_files()


if __name__ == "__main__":
    main()
