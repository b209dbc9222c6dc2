"""Files of torch.save that are written without PyTorch: what PyTorch writes, and what it reads."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.errors import TemporaryError, UserError
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import PretrainingHeadConfig
from clipbert_jax.weights.flat import parameter_shapes
from clipbert_jax.weights.formats.read_file import read_weights_file
from clipbert_jax.weights.formats.torch_writer import write_torch_file
from clipbert_jax.weights.names.original_names import ALIASES, to_original
from tests.clipbert_jax.weights.formats.weight_files import TorchZip, example_arrays
from tests.clipbert_jax.weights.names.original_weights import from_original

DATA = Path(__file__).parent / "data"
"""Written by PyTorch 2.13: see `make_torch_files`."""


def storages(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return [name for name in archive.namelist() if "/data/" in name]


def assert_same(path: Path, expected: dict[str, np.ndarray]) -> None:
    found = read_weights_file(path)
    assert found.format == "torch zip"
    assert list(found.arrays) == list(expected)
    for name, array in found.arrays.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == expected[name].tobytes(), name


def test_the_archives_of_tests_are_those_of_torch_byte_for_byte() -> None:
    theirs = (DATA / "plain_zip.pt").read_bytes()
    ours = io.BytesIO()
    writer = TorchZip(ours)
    with zipfile.ZipFile(io.BytesIO(theirs)) as archive:
        for member in archive.infolist():
            writer.add(member.filename, archive.read(member))
    writer.finish()
    assert ours.getvalue() == theirs


def test_pickle_and_storages_are_those_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_torch_file(path, example_arrays())
    with zipfile.ZipFile(DATA / "plain_zip.pt") as theirs, zipfile.ZipFile(path) as ours:
        for name in ours.namelist():
            assert ours.read(name) == theirs.read(name.replace("archive", "plain_zip")), name
    assert len(storages(path)) == len(example_arrays())


def test_every_type_comes_back(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "x.pt", example_arrays())
    assert_same(tmp_path / "x.pt", example_arrays())


def test_a_model_goes_out_and_comes_back_unchanged(tmp_path: Path) -> None:
    model = nnx.eval_shape(lambda: ClipBert(ClipBertConfig.tiny(), PretrainingHeadConfig(), rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    flat = {name: rng.standard_normal(shape, np.float32) for name, shape in parameter_shapes(model).items()}
    original = to_original(flat)
    path = tmp_path / "model.pt"
    write_torch_file(path, original)
    assert_same(path, original)
    # The decoder's weight and bias are tied.
    assert len(storages(path)) == len(original) - len(ALIASES) == len(flat)
    back = from_original(read_weights_file(path).arrays)
    assert back.keys() == flat.keys()
    for name, array in flat.items():
        assert back[name].dtype == array.dtype
        assert np.ascontiguousarray(back[name]).tobytes() == array.tobytes(), name


def test_arrays_of_any_layout_are_written_in_order(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {
        "base": base,
        "transposed": base.T,
        "steps": base[::2, 1::2],
        "backwards": base[::-1],
        "repeated": np.broadcast_to(base[0], (3, 6)),
        "read only": np.asarray(jnp.arange(5.0)),
    }
    write_torch_file(tmp_path / "x.pt", arrays)
    assert_same(tmp_path / "x.pt", arrays)
    write_torch_file(tmp_path / "x.pt", {"big-endian": base.astype(">f4")})
    assert_same(tmp_path / "x.pt", {"big-endian": base})


def test_only_the_same_memory_shares_a_storage(tmp_path: Path) -> None:
    one = np.ones((2, 2), np.float32)
    empty = np.zeros(0, np.float32)
    arrays = {"a": one, "tied": one[:], "equal": one.copy(), "transposed": one.T, "e": empty, "f": empty}
    write_torch_file(tmp_path / "x.pt", arrays)
    assert len(storages(tmp_path / "x.pt")) == 5
    assert_same(tmp_path / "x.pt", arrays)


def test_members_beyond_4_gib_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {str(i): np.full(300, i, np.float32) for i in range(5)}
    writestr = zipfile.ZipFile.writestr

    def far(archive: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
        if member.filename.endswith("/data/3"):
            archive.start_dir = 2**32 + 17  # a hole in the file, which takes no space
        writestr(archive, member, content)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", far)
    path = tmp_path / "x.pt"
    write_torch_file(path, arrays)
    assert path.stat().st_size > 2**32
    assert_same(path, arrays)
    assert len(storages(path)) == 5


def test_members_of_2_gib_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)  # of 2 GiB: larger members have sizes of 64 bits
    arrays = {"small": np.ones(2, np.float32), "large": np.arange(300, dtype=np.float32)}
    write_torch_file(tmp_path / "x.pt", arrays)
    assert_same(tmp_path / "x.pt", arrays)
    assert (tmp_path / "x.pt").read_bytes().index(arrays["large"].tobytes()) % 64 == 0


def test_data_lies_at_multiples_of_64(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_torch_file(path, example_arrays())
    data = path.read_bytes()
    for name, array in example_arrays().items():
        if array.nbytes > 16:
            assert data.index(array.tobytes()) % 64 == 0, name


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, UserError), (errno.EACCES, UserError), (errno.EIO, TemporaryError)]
)
def test_a_disk_that_fails_leaves_what_was_there(
    code: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(code, "the disk's reason")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=r"x\.pt cannot be written \(the disk's reason\)") as error:
        write_torch_file(path, example_arrays())
    assert type(error.value) is kind
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/x\.pt cannot be written \(No such file"):
        write_torch_file(tmp_path / "none" / "x.pt", {})
    with pytest.raises(UserError, match=r"tmp.* cannot be written"):
        write_torch_file(tmp_path, {})
    with pytest.raises(UserError, match=r"a\.weight is of type complex64"):
        write_torch_file(tmp_path / "x.pt", {"a.weight": np.zeros(3, np.complex64)})
    assert not list(tmp_path.iterdir())


def test_torch_reads_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    arrays = example_arrays()
    arrays["tied"] = arrays["layer.weight"]
    path = tmp_path / "x.pt"
    write_torch_file(path, arrays)
    state = torch.load(path, weights_only=True)
    assert list(state) == list(arrays)
    assert state._metadata == {"": {"version": 1}}
    assert state["tied"].data_ptr() == state["layer.weight"].data_ptr()
    for name, array in arrays.items():
        assert tuple(state[name].shape) == array.shape, name
        assert str(state[name].dtype) == f"torch.{array.dtype}", name
        same = state[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        assert same.tobytes() == array.tobytes(), name
    for name, tensor in torch.load(path, weights_only=True, mmap=True).items():
        assert torch.equal(tensor, state[name])
