"""Files whose tensors and arrays lie: they reach beyond the file, claim more than it has, or are none."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np

from tests.clipbert_jax.weights.formats.pickle_attacks import Attack, call, pickled, text
from tests.clipbert_jax.weights.formats.weight_files import (
    Call,
    Name,
    StorageId,
    storage_id,
    tensor,
    torch_legacy_of,
    torch_pickle,
    torch_zip_of,
    whole_tensor,
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
    yield from _many_names()


def _many_names() -> Iterator[Attack]:
    """Yield one tensor under many names: views cost nothing, but who uses them copies each."""
    keep, get = b"r\x00\x01\x00\x00", b"j\x00\x01\x00\x00"  # at 256, which pickle has not come to
    names = b"(" + b"".join(text(f"{number:x}") + get for number in range(200_000)) + b"u."

    def again(one: bytes) -> bytes:
        assert one.endswith(b"s.")
        return one[:-2] + keep + b"s" + names

    for kind in ("float32", "bool"):
        array = np.zeros(2**16, kind)
        title, word = f"one {kind} tensor under 200,000 names", "more than twice its own size"
        body = again(torch_pickle({"a": whole_tensor("0", array)}))
        yield f"{title} in a torch zip", torch_zip_of(body, {"0": array.tobytes()}), word
        legacy = torch_legacy_of(body, {"0": (array.size, array.tobytes())})
        yield f"{title} in a legacy torch file", legacy, word
        yield f"{title} in a pickle", again(pickle.dumps({"a": array}, 4)), word


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
    yield "bytes beyond Latin-1", from_buffer(letters, dtype, shape, text("C")), "not bytes"


def _without_frame(data: bytes) -> bytes:
    """Return a pickle without its frame, whose length changed."""
    assert data[2:3] == b"\x95"
    return data[:2] + data[11:]
