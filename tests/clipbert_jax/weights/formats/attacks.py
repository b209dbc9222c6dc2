"""Files that attack their reader, each with a pattern that the refusal must match.

`python -m tests.clipbert_jax.weights.formats.attacks FOLDER` reads them all under a limit of memory, watches
what the interpreter is asked to do, and prints the results as JSON.
"""

from __future__ import annotations

import functools
import json
import pickle
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from tests.clipbert_jax.weights.formats.pickle_attacks import Attack, bombs, code_attacks
from tests.clipbert_jax.weights.formats.tensor_attacks import array_attacks, tensor_attacks
from tests.clipbert_jax.weights.formats.watched_reading import Watch, limit_growth, outcome
from tests.clipbert_jax.weights.formats.weight_files import (
    ZipMember,
    example_arrays,
    numpy_core,
    python2_pickle,
    torch_legacy,
    torch_legacy_of,
    torch_pickle,
    torch_zip,
    torch_zip_of,
    whole_tensor,
    zip_file,
)

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
    for title, lie in {"is empty": (0, 0, 0, 0), "has 7 members": (7, 7, 99, 12345)}.items():
        changed = bytearray(archive)
        struct.pack_into("<HHII", changed, len(archive) - 14, *lie)
        yield f"an archive that {title} in 32 bits", bytes(changed), "contradicts the file"
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
    yield "an archive of nothing", zip_file([]), "unknown format"
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
        "offsets the wrong way": ({"a": entry(8, 0, [2])}, "does not describe an array"),
        "a negative offset": ({"a": entry(-8, 0, [2])}, "does not describe an array"),
        "offsets that are floats": ({"a": entry(0.0, 8.0, [2])}, "does not describe an array"),
        "a shape of another type's size": ({"a": entry(0, 8, [2], "F64")}, "does not fit"),
        "a shape that overflows": ({"a": entry(0, 8, [2**32, 2**32])}, "any memory"),
        "a shape of zeros and terabytes": (
            {"a": entry(0, 0, [0, 2**62]), "b": entry(0, 8, [2])},
            "any memory",
        ),
        "a negative shape": ({"a": entry(0, 8, [-2])}, "shape"),
        "a shape that is nested": ({"a": entry(0, 8, [[2]])}, "shape"),
        "an unknown type": ({"a": entry(0, 8, [8], "I1")}, "I1"),
        "a type that is a list": ({"a": entry(0, 8, [2], ["F32"])}, "does not describe an array"),
        "an entry with more": ({"a": entry(0, 8, [2]) | {"code": "x"}}, "does not describe an array"),
        "metadata that are a list": ({"__metadata__": [], "a": entry(0, 8, [2])}, "metadata"),
        "metadata that are no text": ({"__metadata__": {"a": [1]}, "a": entry(0, 8, [2])}, "metadata"),
        "metadata of half a letter": ({"__metadata__": {"a": "\ud800"}, "a": entry(0, 8, [2])}, "metadata"),
        "a name of half a letter": ({"\ud800": entry(0, 8, [2])}, "is not text"),
        "a number that is none": ({"__metadata__": {"a": float("nan")}, "a": entry(0, 8, [2])}, "not JSON"),
        "two arrays of one name": (b'{"a":' + one + b',"a":' + one + b"}", "two entries"),
        "JSON that is deep": (b'{"a":' + b"[" * 150_000, "not JSON"),
        "JSON of brackets": (b'{"a":[' + b"[]," * 5_000_000 + b"0]}", "more than 100,000"),
        "JSON of braces": (b'{"a":[' + b"{}," * 5_000_000 + b"0]}", "more than 100,000"),
        "a number of a million digits": (b'{"a":' + b"9" * 1_000_000 + b"}", "not JSON"),
        "a header that is no UTF-8": (b'{"\xff":1}', "not JSON"),
        "a header that is no JSON": (b"{nonsense", "not JSON"),
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


@functools.cache
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
    return {"attacks": results, "process": {"peak_mib": _peak_mib()}}


def _peak_mib() -> int:
    """Return the most memory that this process had; `getrusage` counts the one that started it too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    print(json.dumps(attack_all(Path(sys.argv[1]))))
