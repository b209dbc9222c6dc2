"""Files of weights in every format are read without PyTorch; other files are named in the error."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict
from io import BytesIO
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from clipbert_jax.errors import UserError
from clipbert_jax.weights.formats.read_file import WeightsFile, read_weights_file
from tests.clipbert_jax.weights.formats.attacks import sound_files
from tests.clipbert_jax.weights.formats.pickle_attacks import pickled, text
from tests.clipbert_jax.weights.formats.weight_files import (
    Call,
    Name,
    example_arrays,
    python2_pickle,
    state_dict,
    storage_id,
    tensor,
    torch_legacy,
    torch_legacy_of,
    torch_pickle,
    torch_zip,
    torch_zip_of,
    whole_tensor,
)

DATA = Path(__file__).parent / "data"
"""Written by PyTorch 2.13: see `make_torch_files`."""


def read(data: bytes, folder: Path) -> WeightsFile:
    path = folder / "weights.bin"
    path.write_bytes(data)
    return read_weights_file(path)


def assert_same(found: WeightsFile, expected: dict[str, np.ndarray]) -> None:
    assert list(found.arrays) == list(expected)
    for name, array in found.arrays.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert array.tobytes() == expected[name].tobytes(), name
        assert not array.flags.writeable, name


# Formats.


@pytest.mark.parametrize("kind", sound_files())
def test_every_format_is_read_exactly(kind: str, tmp_path: Path) -> None:
    expected = example_arrays()
    if kind == "pickle of Python 2":  # had no bfloat16
        del expected["bfloat16"]
    found = read(sound_files()[kind], tmp_path)
    if kind == "safetensors":  # has an order of its own
        expected = {name: expected[name] for name in found.arrays}
    assert_same(found, expected)
    assert found.format == ("pickle of NumPy arrays" if kind.startswith("pickle") else kind)
    assert found.others == (("__author__",) if kind == "pickle of protocol 2" else ())


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_files_of_torch_are_read_exactly(kind: str) -> None:
    found = read_weights_file(DATA / f"plain_{kind}.pt")
    assert_same(found, example_arrays())
    assert found.format == f"torch {kind}"


def test_the_end_of_the_archive_is_where_new_pythons_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since 3.12.12 and 3.13.8, zipfile refuses a locator that does not point at the end of 64 bits."""

    class Strict(zipfile.ZipFile):
        def __init__(self, file: BytesIO) -> None:
            data = file.getvalue()
            assert data[-42:-38] == b"PK\6\7"
            assert int.from_bytes(data[-34:-26], "little") == data.rindex(b"PK\6\6") == len(data) - 98
            super().__init__(file)

    monkeypatch.setattr(zipfile, "ZipFile", Strict)
    assert_same(read_weights_file(DATA / "plain_zip.pt"), example_arrays())


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_views_of_torch_are_read_exactly(kind: str) -> None:
    found = read_weights_file(DATA / f"checkpoint_{kind}.pt")
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "base": base,
        "tied": base,
        "transposed": base.T,
        "rows": base[1:3],
        "column": base[:, 2],
        "steps": base[::2, 1::2],
        "permuted": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        "parameter": base[0],
        "uint16": np.arange(1, 5, dtype=np.uint16),
    }
    assert_same(found, expected)
    assert found.others == ("optimizer", "iteration", "best", "size")


def test_test_files_are_as_torch_writes_them() -> None:
    with zipfile.ZipFile(DATA / "plain_zip.pt") as theirs:
        expected = theirs.read("plain_zip/data.pkl")
    with zipfile.ZipFile(BytesIO(torch_zip(example_arrays()))) as ours:
        assert ours.testzip() is None
        assert ours.read("archive/data.pkl") == expected
    legacy = (DATA / "plain_legacy.pt").read_bytes()
    start = torch_legacy({})[: torch_legacy({}).index(b"ccollections")]
    assert legacy.startswith(start)


def test_safetensors_are_those_of_their_library(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(example_arrays(), metadata={"format": "pt"}))
    assert_same(read_weights_file(path), load_file(path))


def test_legacy_views_begin_within_their_storage(tmp_path: Path) -> None:
    six = np.arange(6, dtype=np.float32)
    view = tensor(storage_id("0", "float32", 6, ("1", 2, 4)), 1, (3,), (1,))
    found = read(torch_legacy_of(torch_pickle({"a": view}), {"0": (6, six.tobytes())}), tmp_path)
    np.testing.assert_array_equal(found.arrays["a"], [3, 4, 5])


def test_storages_without_checksums_are_read(tmp_path: Path) -> None:
    """`torch.serialization.set_crc32_options(False)` writes zeros."""
    array = np.ones(3, np.float32)
    data = torch_zip_of(torch_pickle({"a": whole_tensor("0", array)}), {"0": array.tobytes()})
    position = data.index(b"PK\1\2")
    blank = bytearray(data)
    while blank[position : position + 4] == b"PK\1\2":
        blank[position + 16 : position + 20] = bytes(4)
        position += 46 + struct.unpack("<H", blank[position + 28 : position + 30])[0]
    np.testing.assert_array_equal(read(bytes(blank), tmp_path).arrays["a"], np.ones(3))


def test_ordered_dicts_of_python2_are_read(tmp_path: Path) -> None:
    """It pickled them with a list of their items."""
    data = np.ones(3, np.float32)
    made = Call(Name("collections", "OrderedDict"), ([["a", whole_tensor("0", data)]],))
    assert list(read(torch_zip_of(torch_pickle(made), {"0": data.tobytes()}), tmp_path).arrays) == ["a"]


def test_numbers_of_every_kind_may_stand_beside_weights(tmp_path: Path) -> None:
    more = {"loss": 0.5, "big": 2**70, "minus": -5, "none": None, "set": {1, 2}, "frozen": frozenset({3})}
    more |= {"counter": Counter([1, 1]), "state": defaultdict(dict, {0: {"step": 1}})}
    found = read(pickle.dumps({"model": {"a": np.ones(2)}, **more, "list": [(1, 2, 3, 4)]}, 4), tmp_path)
    assert found.others == (*more, "list")


def test_laughs_that_are_not_deep_cost_nothing(tmp_path: Path) -> None:
    """Sixty tuples, each the one before twice, are 2**60 paths and sixty tuples."""
    body = (
        b"}" + text("a") + pickle.dumps(np.ones(2), 2)[2:-1] + b"s" + text("b") + b")" + b"2\x86" * 60 + b"s"
    )
    assert read(pickled(body), tmp_path).others == ("b",)


# Memory.


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    for kind, data in sound_files().items():
        # One has bytes written as text; the other's are told from text by their length only.
        if kind in ("pickle of protocol 2", "pickle of Python 2"):
            continue
        # The file on disk shows through: no other kind of array could follow it.
        found = read(data, tmp_path)
        place = (tmp_path / "weights.bin").read_bytes().index(example_arrays()["layer.weight"].tobytes())
        with (tmp_path / "weights.bin").open("r+b") as file:
            file.seek(place)
            file.write(struct.pack("<f", 42.0))
        assert found.arrays["layer.weight"][0, 0] == 42, kind


def test_a_large_file_takes_no_memory_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    count = 2**29
    whole = tensor(storage_id("0", "float32", count, None), 0, (count,), (1,))
    head = torch_legacy_of(torch_pickle({"a": whole}), {"0": (count, b"")})
    with path.open("wb") as file:  # sparse: 2 GiB that the disk does not hold
        file.write(head)
        file.truncate(len(head) + 4 * count)
    before = _resident_mib()
    array = read_weights_file(path).arrays["a"]
    assert array.shape == (count,)
    assert array[-1] == 0
    assert _resident_mib() - before < 50


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def test_long_strings_of_python2_are_views_of_the_file(tmp_path: Path) -> None:
    array = read(python2_pickle({"a": np.ones(1000, np.float32)}), tmp_path).arrays["a"]
    (tmp_path / "weights.bin").write_bytes(bytes(4200))
    assert array[0] == 0


# State dicts.


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict", "module"])
def test_state_dicts_may_be_wrapped(wrapper: str, tmp_path: Path) -> None:
    data = np.arange(3, dtype=np.float32)
    checkpoint = {
        "step": whole_tensor("0", data),
        wrapper: state_dict({"w": whole_tensor("0", data), "n": 1}),
    }
    for file in (
        torch_zip_of(torch_pickle(checkpoint), {"0": data.tobytes()}),
        torch_legacy_of(torch_pickle(checkpoint), {"0": (3, data.tobytes())}),
    ):
        found = read(file, tmp_path)
        assert list(found.arrays) == ["w"]
        assert found.others == ("step", "n")


def test_a_name_of_a_wrapper_may_be_a_weight(tmp_path: Path) -> None:
    found = read(pickle.dumps({"model": np.ones(2), "module": {}}), tmp_path)
    assert (list(found.arrays), found.others) == (["model"], ("module",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"model": {"a": np.ones(2)}, "module": {"a": np.ones(2)}},
            "several state dicts, under model and module",
        ),
        ({"epoch": 3, "weights": {"a": np.ones(2)}}, "its entries are epoch, weights; save"),
        ({}, "its entries are none"),
        (OrderedDict(a=1), "its entries are a"),
        ([np.ones(2)], "a list"),
        (np.ones(2), "a single array"),
        (3, "a single value"),
        ({1: np.ones(2)}, "not a short text: 1"),
        ({"\x1b[31m" + "x" * 200: 1}, "entries are ?[31m" + "x" * 75 + "...;"),
        ({str(i): i for i in range(20)}, "6, 7 and 12 more"),
    ],
)
def test_what_is_no_state_dict_is_said(value: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(pickle.dumps(value), tmp_path)
    assert words in str(caught.value)


# Other files.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty; copy or download it again."),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"Not found\n", "is text, not weights"),
        (b"\x1f\x8b\x08" + bytes(100), "is compressed with gzip; give the file that gunzip makes of it."),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
        (b"\x93NUMPY" + bytes(100), "is a single NumPy array"),
        (b"sys_info" + bytes(249) + b"ustar" + bytes(250), "is a tar archive"),
        (bytes(1000), "has an unknown format"),
        (b"\x7fELF" + bytes(100), "has an unknown format"),
        (b"\x80", "ends in the middle of its pickle"),
        (b"PK\3\4", "a ZIP archive whose end is missing"),
        (b"\0" * 8 + b"{", "broken safetensors header"),
    ],
)
def test_other_files_are_said_to_be_what_they_are(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(data, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'weights.bin'} ")
    assert words in str(caught.value)


def test_paths_that_are_no_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a directory; give the file"):
        read_weights_file(tmp_path)
    with pytest.raises(UserError, match=r"nowhere.pt does not exist; check the path"):
        read_weights_file(str(tmp_path / "nowhere.pt"))
    with pytest.raises(UserError, match=r"null is not a regular file"):
        read_weights_file("/dev/null")


def test_bfloat16_is_a_type_that_numpy_computes_with(tmp_path: Path) -> None:
    array = read(torch_legacy({"a": np.ones((2, 2), ml_dtypes.bfloat16)}), tmp_path).arrays["a"]
    assert (array.astype(np.float32) == 1).all()
