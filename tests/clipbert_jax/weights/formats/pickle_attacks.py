"""Pickles that attack: some would run code in Python's own reader, others cost memory or time."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.clipbert_jax.weights.formats.weight_files import (
    state_dict,
    torch_legacy_of,
    torch_pickle,
    torch_zip_of,
    whole_tensor,
)

CANARY = "canary"
"""A file that payloads would make in the working directory."""
TOUCH = f"touch {CANARY}"

Attack = tuple[str, bytes, str]
"""Name, file, and a pattern that the refusal must match."""


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def pickled(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


NESTED = b"cposix\nsystem\n(" + text(TOUCH) + b"tR."

CODE: dict[str, tuple[bytes, str]] = {
    "os.system": (call("os", "system", text(TOUCH)), "os.system"),
    "posix.system": (call("posix", "system", text(TOUCH)), "posix.system"),
    "builtins.eval": (call("builtins", "eval", text(f"__import__('os').system('{TOUCH}')")), "builtins.eval"),
    "Python 2's exec": (call("__builtin__", "exec", text("import os")), "__builtin__.exec"),
    "builtins.getattr": (call("builtins", "getattr", b"]", text("append")), "builtins.getattr"),
    "builtins.open": (call("builtins", "open", text(CANARY), text("w")), "builtins.open"),
    "builtins.map": (call("builtins", "map", name("os", "system"), b"]"), "builtins.map"),
    "importlib": (call("importlib", "import_module", text("this")), "importlib.import_module"),
    "subprocess.Popen": (
        call("subprocess", "Popen", b"]" + text("touch") + b"a" + text(CANARY) + b"a"),
        "Popen",
    ),
    "subprocess.check_output": (call("subprocess", "check_output", text("ls")), "check_output"),
    "runpy": (call("runpy", "run_path", text("x.py")), "runpy.run_path"),
    "torch.hub": (call("torch.hub", "load", text("a/b"), text("c")), "torch.hub.load"),
    "torch.load": (call("torch", "load", text("x")), "torch.load"),
    "torch.storage._load_from_bytes": (
        call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(NESTED)) + NESTED),
        "_load_from_bytes",
    ),
    "torch's own eval": (call("torch.utils.collect_env", "run", text(TOUCH)), "torch.utils.collect_env"),
    "numpy.load": (call("numpy", "load", text("x.npy"), b"N", b"\x88"), "numpy.load"),
    "numpy's runstring": (
        call("numpy.testing._private.utils", "runstring", text("import os"), b"}"),
        "runstring",
    ),
    "operator.attrgetter": (call("operator", "attrgetter", text("system")), "operator.attrgetter"),
    "functools.partial": (call("functools", "partial", name("os", "system")), "functools.partial"),
    "functools.partial of a known function": (
        call("functools", "partial", name("numpy", "dtype")),
        "functools.partial",
    ),
    "defaultdict whose factory is a function": (
        call("collections", "defaultdict", name("os", "getcwd")),
        "os.getcwd",
    ),
    "_codecs.encode by rot13": (call("_codecs", "encode", text("a"), text("rot13")), "_codecs.encode"),
    "_codecs.encode by zlib": (call("_codecs", "encode", text("a"), text("zlib_codec")), "_codecs.encode"),
    "_codecs.decode": (call("_codecs", "decode", text("a"), text("unicode_escape")), "_codecs.decode"),
    "a pickle in a pickle": (
        call("pickle", "loads", b"B" + struct.pack("<I", len(NESTED)) + NESTED),
        "pickle.loads",
    ),
    "INST": (b"(" + text(TOUCH) + b"iposix\nsystem\n", "INST"),
    "OBJ": (b"(" + name("numpy", "dtype") + text(TOUCH) + b"o", "OBJ"),
    "NEWOBJ": (name("collections", "OrderedDict") + b")\x81", "NEWOBJ"),
    "NEWOBJ_EX": (name("collections", "OrderedDict") + b")}\x92", "NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "EXT1"),
    "EXT2": (b"\x83\x01\x00", "EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "EXT4"),
    "NEXT_BUFFER": (b"\x97", "NEXT_BUFFER"),
    "BUILD with a dict": (
        call("collections", "OrderedDict") + b"}" + text("__setstate__") + name("os", "system") + b"sb",
        "os.system",
    ),
    "BUILD with a class": (
        call("collections", "OrderedDict") + b"}" + text("__class__") + text("x") + b"sb",
        "sets the state",
    ),
    "BUILD with slots": (
        call("collections", "OrderedDict") + b"N}" + text("x") + b"Ns\x86b",
        "sets the state",
    ),
    "BUILD of a function": (
        name("numpy", "dtype") + b"}" + text("call") + name("numpy", "ndarray") + b"sb",
        "sets the state",
    ),
    "BUILD of a list": (b"]}b", "sets the state"),
    "a dotted attribute": (
        text("collections") + text("OrderedDict.fromkeys.__globals__") + b"\x93",
        "OrderedDict.fromkeys.__globals__",
    ),
    "a dotted module": (name("collections.abc.os", "system"), "collections.abc.os.system"),
    "dunder of a known module": (name("torch._utils", "__builtins__"), "torch._utils.__builtins__"),
    "STACK_GLOBAL through the memo": (
        text("system") + b"q\xc80" + text("posix") + b"q\xc90h\xc9h\xc8\x93(" + text(TOUCH) + b"tR",
        "posix.system",
    ),
    "STACK_GLOBAL of no text": (b")]\x93", "other than text"),
    "STACK_GLOBAL of bytes": (b"C\x02osC\x06system\x93", "other than text"),
    "STACK_GLOBAL of a text too long": (text("a" * 2000) + text("b") + b"\x93", "other than text"),
    "a call of text": (text("os.system") + b"(" + text(TOUCH) + b"tR", "other than a function"),
    "a call of a class": (name("numpy", "ndarray") + b"(J\xff\xff\xff\x7ftR", "other than a function"),
    "a call of a dict's class": (call("builtins", "dict"), "other than a function"),
    "a call with no tuple": (name("numpy", "dtype") + text("f4") + b"R", "other than a function"),
    "a persistent id as text": (b"Pstorage\n", "PERSID"),
    "a name without end": (b"c" + b"a" * 5000, "more than 1,024 bytes"),
    "_reconstruct of another class": (
        call("numpy.core.multiarray", "_reconstruct", name("collections", "OrderedDict"), b"K\x00\x85C\x01b"),
        "_reconstruct",
    ),
}


def code_attacks() -> Iterator[Attack]:
    """Yield each payload in each container of a pickle."""
    for title, (body, word) in CODE.items():
        yield f"{title} in a pickle", pickled(body), word
        yield f"{title} in a torch zip", torch_zip_of(pickled(body), {}), word
        yield f"{title} in a legacy torch file", torch_legacy_of(pickled(body), {}), word
        yield f"{title} beside weights", _beside_weights(body), word


def _beside_weights(body: bytes) -> bytes:
    """Return a file of weights that is sound but for one entry."""
    data = np.ones(3, np.float32)
    sound = torch_pickle({"model": state_dict({"a": whole_tensor("0", data)}), "more": 0})
    assert sound.endswith(b"K\x00u.")
    return torch_zip_of(sound[:-4] + body + b"u.", {"0": data.tobytes()})


# Pickles that cost.


def _laughs(depth: int) -> bytes:
    """Return tuples of the tuple before, twice: 2 to the depth paths."""
    return b")" + b"2\x86" * depth


def _pairs(number: int) -> bytes:
    """Remember OrderedDict as 0, and as 1 its arguments: a list of so many pairs."""
    pairs = b"".join(text(f"{index}") + b"N\x86" for index in range(number))
    return name("collections", "OrderedDict") + b"\x94](" + pairs + b"e\x85\x9400"


def bombs() -> Iterator[Attack]:
    """Yield what would take memory or time without limits."""
    million = text("a" * 2**20) + b"\x94"
    encode = name("_codecs", "encode") + b"\x94" + text("latin1") + b"\x94" + million + b"000"
    dtype = call("numpy", "dtype", text("u1"), b"\x89", b"\x88") + b"\x94"
    from_buffer = name("numpy._core.numeric", "_frombuffer") + b"\x94"
    shared = dtype + from_buffer + b"B" + struct.pack("<I", 2**16) + bytes(2**16) + b"\x94000"
    one_array = b"h\x01(h\x02h\x00J\x00\x00\x01\x00\x85" + text("C") + b"tR"
    bodies = {
        "billion laughs": (_laughs(500), "deep"),
        "billion laughs of lists": (b"]" + b"".join(map(_list_laugh, range(100))), "deep"),
        "billion laughs as a key": (b"}" + _laughs(60) + b"Ns", "keys"),
        "lists nested 500,000 deep": (b"]" * 500_000 + b"a" * 499_999, "deep"),
        "tuples nested 900,000 deep": (b")" + b"\x85" * 900_000, "deep"),
        "an integer of 2 GB": (b"\x8b\xff\xff\xff\x7f" + bytes(100), "integer of 2,147,483,647 bytes"),
        "an integer of negative length": (b"\x8b\xff\xff\xff\xff", "integer of -1 bytes"),
        "an integer of 255 bytes": (b"\x8a\xff" + b"\x7f" * 255, "integer of 255 bytes"),
        "integers as text": (b"I" + b"9" * 900 + b"\n", "contradicts itself"),
        "BINBYTES8 of 2**62": (b"\x8e" + struct.pack("<Q", 2**62), "middle of its pickle"),
        "BYTEARRAY8 of 2**63": (b"\x96" + struct.pack("<Q", 2**63), "middle of its pickle"),
        "BINUNICODE8 of 2**64 - 1": (b"\x8d" + b"\xff" * 8, "middle of its pickle"),
        "BINSTRING of negative length": (b"T\xff\xff\xff\xff", "contradicts itself"),
        "a flood of instructions": (b"N0" * 1_000_001, "pickle instructions"),
        "a flood of dicts": (b"}" * 2_000_001, "pickle instructions"),
        "a flood of bytes": (b"C\x00" * 2_000_001, "pickle instructions"),
        "a flood of marks": (b"(" * 2_000_001, "pickle instructions"),
        "a flood of the memo": (b"N" + b"\x94" * 1_000_001, "memo"),
        "one text encoded 10,000 times": (encode + b"h\x00h\x02h\x01\x86R" * 10_000, "twice its own size"),
        "one list in 100,000 dicts": (_pairs(10_000) + b"h\x00h\x01R0" * 100_000, "dicts of more"),
        "one buffer in 10,000 arrays": (shared + one_array * 10_000, "twice its own size"),
        "100,001 arrays": (
            dtype
            + from_buffer
            + b"C\x00\x94000"
            + (b"h\x01(h\x02h\x00K\x00\x85" + text("C") + b"tR") * 100_001,
            "100,000 arrays",
        ),
        "keys that collide": (
            b"}(" + b"".join(b"\x8a\x10" + _colliding(i) + b"N" for i in range(9)) + b"u",
            "keys",
        ),
        "10,001 numbers as keys": (
            b"}(" + b"".join(b"M" + struct.pack("<H", index) + b"N" for index in range(10_001)) + b"u",
            "10,000 numbers as keys",
        ),
        "one number as a key 10,001 times": (b"}" + b"K\x00Ns" * 10_001, "10,000 numbers as keys"),
        "10,001 numbers as keys of OrderedDicts": (
            name("collections", "OrderedDict") + b"\x94](K\x00N\x86e\x85\x9400" + b"h\x00h\x01R0" * 10_001,
            "10,000 numbers as keys",
        ),
        "a place in the memo of 2**32 - 1": (b"Nr\xff\xff\xff\xff", "memo"),
        "a key that is a list": (b"}]Ns", "keys"),
        "a key that is a float": (b"}G" + bytes(8) + b"Ns", "keys"),
        "a key of 2 KB": (b"}" + text("k" * 2048) + b"Ns", "name of more than 1,024"),
        "items of an OrderedDict that are deep keys": (
            call("collections", "OrderedDict", b"]](" + _laughs(50) + b"Nea"),
            "keys",
        ),
        "an odd number of items": (b"}(NNNu", "contradicts itself"),
        "an item for a number": (b"K\x01Na", "contradicts itself"),
        "a pop of nothing": (b"0", "contradicts itself"),
        "a pop below a mark": (b"N(0a", "contradicts itself"),
        "a memo that is empty": (b"j\xff\xff\xff\xff", "contradicts itself"),
        "leftovers on the stack": (b"NN", "contradicts itself"),
        "text that is no UTF-8": (b"X\x02\x00\x00\x00\xff\xfe", "not UTF-8"),
        "an instruction that does not exist": (b"\xff", "0xff"),
        "an instruction of protocol 0": (b"p0\n", "PUT"),
    }
    for title, (body, word) in bodies.items():
        yield title, pickled(body), word
    yield "a pickle without an end", b"\x80\x04N", "middle of its pickle"
    yield "a pickle of protocol 9", b"\x80\x04\x80\x09N.", "protocol 9"
    large = torch_legacy_of(b"\x80\x02B" + struct.pack("<I", 2**26) + bytes(2**26) + b".", {})
    yield "a torch pickle of 64 MiB", large, "64 MiB"
    yield "bytes behind a pickle", pickled(b"}") + b"x", "not end where its pickle"


def _list_laugh(number: int) -> bytes:
    """Wrap the list on top in a list that holds it twice."""
    return b"\x940]h" + bytes([number]) + b"ah" + bytes([number]) + b"a"


def _colliding(number: int) -> bytes:
    return ((number + 2) * (2**61 - 1) << 8).to_bytes(16, "little")
