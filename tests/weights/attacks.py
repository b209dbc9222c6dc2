"""Files that attack whoever reads them, each with a pattern that the refusal must match.

`python -m tests.weights.attacks FOLDER` reads them all under a limit of memory, watches what the interpreter
is asked to do, and prints what came of each as JSON.
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from tests.weights.pickle_attacks import Attack, bombs, call, code_attacks, pickled, text
from tests.weights.watched_reading import Watch, limit_growth, outcome
from tests.weights.weight_files import (
    Call,
    Name,
    StorageId,
    ZipMember,
    example_arrays,
    numpy_core,
    python2_pickle,
    storage_id,
    tensor,
    torch_legacy,
    torch_legacy_of,
    torch_pickle,
    torch_zip,
    torch_zip_of,
    whole_tensor,
    zip_file,
)

# Tensors that lie.


def _tensors(made: object, content: bytes = bytes(24)) -> bytes:
    return torch_zip_of(torch_pickle({"a": made}), {"0": content})


def tensor_attacks() -> Iterator[Attack]:
    """Yield tensors that reach beyond their storages, or claim more than there is."""
    floats = storage_id("0", "float32", 6)
    shapes: dict[str, tuple[object, object, object, str]] = {
        "a negative stride": (5, (6,), (-1,), "strides"),
        "a negative size": (0, (-6,), (1,), "shape"),
        "a stride of 0 to terabytes": (0, (2**40,), (0,), "expand"),
        "a stride of 0 in a matrix": (0, (2, 3), (0, 1), "expand"),
        "elements that overlap": (0, (3, 3), (1, 1), "expand"),
        "an offset beyond the storage": (6, (1,), (1,), "beyond its storage"),
        "an offset of 2**62": (2**62, (1,), (1,), "beyond its storage"),
        "a negative offset": (-1, (1,), (1,), "before its storage"),
        "an offset that is a float": (0.0, (1,), (1,), "before its storage"),
        "one element too many": (0, (7,), (1,), "beyond its storage"),
        "a stride too far": (0, (2, 3), (4, 1), "beyond its storage"),
        "a shape whose product overflows 64 bits": (0, (2**32, 2**32), (1, 1), "larger than any memory"),
        "a shape whose product overflows to 6": (0, (2**33 + 3, 2**63 - 1), (1, 1), "larger than any memory"),
        "a shape of zeros and terabytes": (0, (0, 2**61), (1, 1), "larger than any memory"),
        "a size of 2**64": (0, (2**64,), (1,), "shape"),
        "a size that is a float": (0, (6.0,), (1,), "shape"),
        "a size that is true": (0, (True,), (1,), "shape"),
        "a shape that is a list": (0, [6], (1,), "shape"),
        "17 dimensions": (0, (1,) * 17, (1,) * 17, "dimensions"),
        "strides of another number": (0, (2, 3), (1,), "strides"),
        "no strides": (0, (6,), None, "strides"),
        "nothing, beyond the storage": (7, (0,), (1,), "beyond its storage"),
    }
    for title, (offset, shape, strides, word) in shapes.items():
        yield title, _tensors(tensor(floats, offset, shape, strides)), word
    untyped = StorageId(("storage", Name("torch.storage", "UntypedStorage"), "0", "cpu", 24))
    v3 = Name("torch._utils", "_rebuild_tensor_v3")
    v2 = Name("torch._utils", "_rebuild_tensor_v2")
    parameter = Name("torch._utils", "_rebuild_parameter")
    wide = Call(v3, (untyped, 0, (4,), (1,), False, {}, Name("torch", "float64"), None))
    yield "a type wider than the storage", _tensors(wide), "beyond its storage"
    yield (
        "a type that is text",
        _tensors(Call(v3, (untyped, 0, (4,), (1,), False, {}, "float64"))),
        "_tensor_v3",
    )
    yield "a tensor of no storage", _tensors(Call(v2, ("0", 0, (4,), (1,), False, {}))), "_rebuild_tensor_v2"
    yield "a tensor without arguments", _tensors(Call(v2, ())), "_rebuild_tensor_v2"
    yield "a parameter of text", _tensors(Call(parameter, ("a", True, {}))), "_rebuild_parameter"
    yield (
        "a quantized tensor",
        _tensors(Call(Name("torch._utils", "_rebuild_qtensor"), ())),
        "_rebuild_qtensor",
    )
    yield "a sparse tensor", _tensors(Call(Name("torch._utils", "_rebuild_sparse_tensor"), ())), "sparse"
    many = {f"{i}": tensor(storage_id("0", "uint8", 2**16), 0, (2**16,), (1,)) for i in range(100)}
    yield (
        "one storage in 100 tensors",
        torch_zip_of(torch_pickle(many), {"0": bytes(2**16)}),
        "twice its own size",
    )
    yield from _storage_attacks()


def _storage_attacks() -> Iterator[Attack]:
    six = np.arange(6, dtype=np.float32)
    whole = tensor(storage_id("0", "float32", 6), 0, (6,), (1,))
    far = tensor(storage_id("0", "float32", 2**60), 0, (2**60,), (1,))
    outside = tensor(storage_id("../../../etc/passwd", "float32", 6), 0, (6,), (1,))
    yield "a storage larger than its member", _tensors(far), "larger than any memory"
    yield "a storage smaller than its member", _tensors(whole, bytes(28)), "28 bytes"
    yield "a storage without member", torch_zip_of(torch_pickle({"a": whole}), {}), "lacks the member"
    yield "a storage outside of the archive", _tensors(outside), "lacks the member"
    negative = tensor(storage_id("0", "float32", -6), 0, (0,), (1,))
    yield "a storage of negative size", _tensors(negative), "impossible size"
    two_types = [whole, tensor(storage_id("0", "int64", 3), 0, (3,), (1,))]
    yield "a storage of two types", _tensors(two_types), "two types or sizes"
    for title, identity in {
        "text": "storage",
        "an empty tuple": (),
        "bytes": b"storage" * 1000,
        "a list": ["storage", "x", "0", "cpu", 6],
        "another tuple": ("function", "os.system"),
        "a type that is no storage": ("storage", Name("torch", "float32"), "0", "cpu", 6),
    }.items():
        # Pickle writes no reference that is false.
        body = torch_pickle({"a": StorageId(identity)}) if identity else b"\x80\x02)Q."
        yield f"a persistent id that is {title}", torch_zip_of(body, {"0": bytes(24)}), "refers to data"
    module = torch_pickle(StorageId(("module", "A", "a.py", "class A: pass")))
    yield "a whole module", torch_legacy_of(module, {}), "whole module"

    def legacy(made: object, count: int = 6, content: bytes = six.tobytes()) -> bytes:
        return torch_legacy_of(torch_pickle({"a": made}), {"0": (count, content)})

    yield "a legacy storage with another count", legacy(whole, 2**62), "another size"
    yield "a legacy storage with a negative count", legacy(whole, -6), "another size"
    yield "a legacy storage that is short", legacy(whole, 6, bytes(20)), "middle of its storage"
    yield "a legacy storage of 2**60", legacy(far, 2**60), "larger than any memory"
    yield "bytes behind a legacy storage", legacy(whole) + b"x", "not end where its last storage"
    beyond = tensor(storage_id("0", "float32", 6, ("1", 4, 3)), 0, (3,), (1,))
    yield "a legacy view beyond its storage", legacy(beyond), "beyond it"
    within = tensor(storage_id("0", "float32", 6, ("1", 4, 2)), 0, (3,), (1,))
    yield "a tensor beyond its legacy view", legacy(within), "beyond its storage"
    backwards = tensor(storage_id("0", "float32", 6, ("1", -4, 2)), 0, (2,), (1,))
    yield "a legacy view before its storage", legacy(backwards), "beyond it"
    yield (
        "a legacy file that lacks a storage",
        torch_legacy_of(torch_pickle({"a": whole}), {}),
        "other storages",
    )


# Arrays that lie.


def array_attacks() -> Iterator[Attack]:
    """Yield NumPy arrays that are none."""
    sound = pickle.dumps({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, 4)
    records = np.zeros(2, [("x", "f4"), ("y", "f4")])
    for title, array, word in (
        ("of objects", np.array([{}, None]), "type O8"),
        ("of records", records, "type V8"),
        ("of text", np.array(["a", "bc"]), "type U2"),
        ("of bytes", np.array([b"a", b"bc"]), "type S2"),
        ("of dates", np.array(["2020-01-01"], "M8[D]"), "type M8"),
        ("of long doubles", np.zeros(2, np.longdouble), "type f16"),
        ("of big-endian numbers", np.zeros(2, ">f4"), "big-endian"),
    ):
        for protocol in (2, 4, 5):
            yield f"an array {title}, protocol {protocol}", pickle.dumps({"a": array}, protocol), word
    for title, old, new, word in (
        ("whose data are short", b"K\x02K\x03\x86", b"K\x02K\x04\x86", "whose data are"),
        (
            "of an absurd shape",
            b"K\x02K\x03\x86",
            b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86",
            "any memory|twice",
        ),
        ("of a negative shape", b"K\x02K\x03\x86", b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86", "shape"),
        ("whose order is text", b"t\x94b\x89C", b"t\x94b" + text("F") + b"C", "sets the state"),
        ("whose order is 7", b"t\x94b\x89C", b"t\x94bM\x07\x07C", "sets the state"),
        ("whose type has fields", b"NNNJ", b"N)}J", "records"),
        ("whose type has another byte order", b"\x8c\x01<", b"\x8c\x01?", "numpy.dtype"),
        ("that is filled twice", b"t\x94bs.", b"t\x94bNbs.", "sets the state"),
        ("that is never filled", b"t\x94bs.", b"t\x940s.", "never fills"),
        ("made of a list", b"\x89C\x18", b"\x89](\x8c\x18", "contradicts|objects|UTF-8|middle|sets"),
    ):
        changed = sound.replace(old, new)
        assert changed != sound, title
        yield f"an array {title}", _without_frame(changed), word
    dtype = call("numpy", "dtype", text("u1"), b"\x89", b"\x88")

    def from_buffer(*arguments: bytes) -> bytes:
        return pickled(b"}" + text("a") + call("numpy._core.numeric", "_frombuffer", *arguments) + b"s")

    six = b"C\x06abcdef"
    shape = b"K\x02K\x03\x86"
    yield "an order that is unknown", from_buffer(six, dtype, shape, text("A")), "_frombuffer"
    yield "axes that repeat", from_buffer(six, dtype, shape, text("K"), b"K\x00K\x00\x86"), "_frombuffer"
    yield "axes beyond", from_buffer(six, dtype, shape, text("K"), b"K\x00K\x05\x86"), "_frombuffer"
    yield "axes that are text", from_buffer(six, dtype, shape, text("K"), text("ab")), "_frombuffer"
    yield "a buffer that is a dict", from_buffer(b"}", dtype, shape, text("C")), "without data"
    yield "a buffer that is a list", from_buffer(b"]", dtype, shape, text("C")), "objects"
    yield "a buffer that is Unicode", from_buffer(text("x" * 2000), dtype, shape, text("C")), "without data"
    truth = call("numpy", "dtype", text("b1"), b"\x89", b"\x88")
    yield "truth values that are letters", from_buffer(six, truth, shape, text("C")), "truth values"
    letters = call("_codecs", "encode", text("\u20ac" * 2000), text("latin1"))
    yield "bytes beyond Latin-1", from_buffer(letters, dtype, shape, text("C")), "none of bytes"


def _without_frame(data: bytes) -> bytes:
    """Return a pickle without its frame, whose length changed."""
    assert data[2:3] == b"\x95"
    return data[:2] + data[11:]


# Archives that lie.


def zip_attacks() -> Iterator[Attack]:
    """Yield archives that contradict themselves or lead elsewhere."""
    data = np.arange(6, dtype=np.float32)
    sound = ZipMember("a/data.pkl", torch_pickle({"a": whole_tensor("0", data)}))
    storage = ZipMember("a/data/0", data.tobytes())
    huge = 2**30

    def with_member(**changes: Any) -> bytes:
        return zip_file([sound, storage, ZipMember(**{"name": "a/x", "content": b"x", **changes})])

    for title, member_name in {
        "up": "a/../../x",
        "to the root": "/etc/x",
        "up, in Windows": "a\\..\\x",
        "through a NUL": "a/x\0y",
        "nowhere": "",
    }.items():
        yield f"a member that leads {title}", with_member(name=member_name), "leads elsewhere"
    yield "a link as a member", with_member(attributes=0o120777 << 16), "link"
    yield "an encrypted member", with_member(flags=0x809), "encrypted"
    yield "a strongly encrypted member", with_member(flags=0x841), "encrypted"
    yield "two members of one name", with_member(name="a/data/0", content=data.tobytes()), "two members"
    bomb = with_member(method=8, content=b"\x78\x9c" * 50, claimed_size=huge)
    yield "a compressed member", bomb, "compressed"
    yield "a member of another compression", with_member(method=93), "compressed"
    yield "a member larger than the file", with_member(claimed_size=huge), "contradicts the file"
    yield "a member of 4 GiB without ZIP64", with_member(claimed_size=0xFFFFFFFF), "contradicts the file"
    yield "a member beyond the file", with_member(header_offset=huge), "contradicts the file"
    yield "a member with another name inside", with_member(local_name="a/y"), "contradicts the file"
    yield "a member with another size inside", with_member(local_size=7), "contradicts the file"
    yield (
        "a member that is another's too",
        with_member(name="a/data/1", header_offset=0),
        "overlap|contradicts",
    )
    inner = zip_file([ZipMember("a/data/1", data.tobytes())])
    carrier = ZipMember("a/x", inner)
    outer = zip_file([sound, storage, carrier])
    offset = outer.index(inner)
    inside = zip_file([sound, storage, carrier, ZipMember("a/data/1", data.tobytes(), header_offset=offset)])
    yield "a member in another's bytes", inside, "overlap"
    yield (
        "a directory that lists fewer",
        zip_file([sound, storage], claimed_members=1),
        "contradicts the file",
    )
    yield "a directory that lists more", zip_file([sound, storage], claimed_members=3), "contradicts the file"
    yield (
        "a directory of 2**40 members",
        zip_file([sound, storage], claimed_members=2**40),
        "more than are read",
    )
    archive = zip_file([sound, storage])
    yield "an archive whose end is missing", archive[:-22], "end is missing"
    yield "an archive with a comment", archive[:-2] + b"\x05\x00hello", "end is missing"
    yield "an archive with a byte too many", archive + b"x", "end is missing"
    yield "an archive behind another's start", b"PK\3\4" + bytes(96) + archive, "contradicts the file"
    end64 = archive.index(b"PK\6\6")
    for title, at, value in (("size", 40, 2**63), ("place", 48, 2**63), ("members", 24, 2**63)):
        changed = bytearray(archive)
        changed[end64 + at : end64 + at + 8] = struct.pack("<Q", value)
        yield f"a directory of an impossible {title}", bytes(changed), "contradicts|more than are read"
    start = archive.index(b"PK\1\2")
    changed = bytearray(archive)
    changed[start + 28 : start + 30] = b"\xff\xff"
    yield "a directory whose name is too long", bytes(changed), "contradicts the file"
    flipped = archive.replace(data.tobytes(), data.tobytes()[:-1] + b"\x41")
    yield "a storage with a flipped bit", flipped, "checksum"
    yield "a pickle with a flipped bit", archive.replace(b"FloatStorage", b"FloatStoragf"), "checksum"
    script = [sound, storage, ZipMember("a/constants.pkl", b""), ZipMember("a/code/x.py", b"")]
    yield "a TorchScript program", zip_file(script), "TorchScript"
    yield "two pickles", zip_file([sound, storage, ZipMember("b/data.pkl", sound.content)]), "other things"
    yield "an archive of NumPy arrays", zip_file([ZipMember("x.npy", b"\x93NUMPY")]), "NumPy arrays"
    yield "an archive of nothing", zip_file([]), "none of the formats"
    big_endian = torch_zip_of(sound.content, {"0": storage.content}, byte_order=b"big")
    yield "a big-endian archive", big_endian, "big-endian"
    odd = torch_zip_of(sound.content, {"0": storage.content}, byte_order=b"middle")
    yield "an archive of an odd byte order", odd, "byte order"
    trailing = torch_zip_of(sound.content + b"N.", {"0": storage.content})
    yield "bytes behind the pickle of an archive", trailing, "ends before its end"
    legacy = torch_legacy_of(torch_pickle({}), {}, is_little_endian=False)
    yield "a big-endian legacy file", legacy, "big-endian"
    yield "a legacy file of another version", torch_legacy_of(torch_pickle({}), {}, version=1002), "version"


# Headers of safetensors that lie.


def safetensors_attacks() -> Iterator[Attack]:
    """Yield safetensors whose header and bytes disagree."""

    def entry(start: object, stop: object, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}

    def file(header: object, content: bytes = bytes(8), size: int | None = None) -> bytes:
        encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(encoded) if size is None else size) + encoded + content

    one = json.dumps(entry(0, 4)).encode()
    headers: dict[str, tuple[object, str]] = {
        "arrays that overlap": ({"a": entry(0, 4), "b": entry(0, 4), "c": entry(4, 8)}, "does not begin"),
        "a gap between arrays": ({"a": entry(0, 2, [1], "F16"), "b": entry(4, 8)}, "does not begin"),
        "an array beyond the file": ({"a": entry(0, 12, [3])}, "8 bytes of arrays"),
        "an array of 2**62 bytes": ({"a": entry(0, 2**62, [2**60])}, "8 bytes of arrays"),
        "bytes of no array": ({"a": entry(0, 4)}, "8 bytes of arrays"),
        "offsets the wrong way": ({"a": entry(8, 0, [2])}, "none of an array"),
        "a negative offset": ({"a": entry(-8, 0, [2])}, "none of an array"),
        "offsets that are floats": ({"a": entry(0.0, 8.0, [2])}, "none of an array"),
        "a shape of another type's size": ({"a": entry(0, 8, [2], "F64")}, "does not fit"),
        "a shape that overflows": ({"a": entry(0, 8, [2**32, 2**32])}, "any memory"),
        "a shape of zeros and terabytes": (
            {"a": entry(0, 0, [0, 2**62]), "b": entry(0, 8, [2])},
            "any memory",
        ),
        "a negative shape": ({"a": entry(0, 8, [-2])}, "shape"),
        "a shape that is nested": ({"a": entry(0, 8, [[2]])}, "shape"),
        "an unknown type": ({"a": entry(0, 8, [8], "I1")}, "I1"),
        "a type that is a list": ({"a": entry(0, 8, [2], ["F32"])}, "none of an array"),
        "an entry with more": ({"a": entry(0, 8, [2]) | {"code": "x"}}, "none of an array"),
        "metadata that are a list": ({"__metadata__": [], "a": entry(0, 8, [2])}, "metadata"),
        "two arrays of one name": (b'{"a":' + one + b',"a":' + one + b"}", "two entries"),
        "JSON that is deep": (b'{"a":' + b"[" * 150_000, "no JSON"),
        "JSON of brackets": (b'{"a":[' + b"[]," * 5_000_000 + b"0]}", "more than 100,000"),
        "JSON of braces": (b'{"a":[' + b"{}," * 5_000_000 + b"0]}", "more than 100,000"),
        "a number of a million digits": (b'{"a":' + b"9" * 1_000_000 + b"}", "no JSON"),
        "a header that is no UTF-8": (b'{"\xff":1}', "no JSON"),
        "a header that is no JSON": (b"{nonsense", "no JSON"),
        "a name of 2 KB": ({"n" * 2048: entry(0, 8, [2])}, "name"),
        "truth values that are none": ({"a": entry(0, 8, [8], "BOOL")}, "truth values"),
    }
    for title, (header, word) in headers.items():
        content = b"\7" * 8 if "truth" in title else bytes(8)
        yield f"safetensors with {title}", file(header, content), word
    yield "safetensors with a header of 2**63", file(b"{}", size=2**63), "9,223,372,036,854,775,808"
    yield "safetensors with a header of 17 MiB", file(b"{}", size=17 * 2**20), "more than are read"
    yield (
        "safetensors with a header beyond the file",
        file(b"{}", size=4096),
        "middle of its safetensors header",
    )


# Sound files, cut off.


def sound_files() -> dict[str, bytes]:
    """Return a sound file of every format."""
    arrays = example_arrays()
    plain = {key: value for key, value in arrays.items() if key != "bfloat16"}
    return {
        "torch zip": torch_zip(arrays),
        "torch legacy": torch_legacy(arrays),
        "pickle of Python 2": python2_pickle(plain),
        "pickle of protocol 2": numpy_core(pickle.dumps({"model": arrays, "__author__": "x"}, 2)),
        "pickle of protocol 4": pickle.dumps(arrays, 4),
        "pickle of protocol 5": pickle.dumps(arrays, 5),
        "safetensors": save_safetensors({key: np.array(value) for key, value in arrays.items()}),
    }


def truncations() -> Iterator[Attack]:
    """Yield the starts of sound files."""
    for kind, data in sound_files().items():
        for part in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield f"{part:.0%} of a {kind}", data[: int(part * len(data))], "."
        yield f"all but the last byte of a {kind}", data[:-1], "."


def all_attacks() -> dict[str, tuple[bytes, str]]:
    """Return every attack by its name."""
    sources: list[Callable[[], Iterator[Attack]]] = [
        code_attacks,
        bombs,
        tensor_attacks,
        array_attacks,
        zip_attacks,
        safetensors_attacks,
        truncations,
    ]
    result: dict[str, tuple[bytes, str]] = {}
    for source in sources:
        for title, data, word in source():
            assert title not in result, title
            result[title] = data, word
    return result


def attack_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every attack in this process, which can grow by 1 GB; return what came of each."""
    paths = {}
    for number, (title, (data, _)) in enumerate(all_attacks().items()):
        paths[title] = folder / f"{number}.weights"
        paths[title].write_bytes(data)
    sound = folder / "sound.weights"
    for data in sound_files().values():  # what is imported late is imported now
        sound.write_bytes(data)
        assert outcome(sound)[0] == "arrays"
    limit_growth(10**9)
    watch, results = Watch(), {}
    for title, path in paths.items():
        watch.events, watch.is_on, begin = [], True, time.process_time()
        kind, message = outcome(path)
        watch.is_on = False
        seconds = time.process_time() - begin
        results[title] = {"kind": kind, "message": message, "events": watch.events, "seconds": seconds}
        path.unlink()
    peak_mib = getrusage(RUSAGE_SELF).ru_maxrss // 1024
    return {"attacks": results, "process": {"peak_mib": peak_mib}}


if __name__ == "__main__":
    print(json.dumps(attack_all(Path(sys.argv[1]))))
