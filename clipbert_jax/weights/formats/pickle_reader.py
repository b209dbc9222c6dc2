"""A reader of pickles that runs nothing: a small stack machine with a closed table of names.

Python's own reader imports and calls whatever a pickle names, which is how files of weights attack. Here,
names come from a table of this package, and only its functions are called. Everything that a file can make
large (instructions, texts, integers, the memo) has a limit that is checked before memory is taken. Long texts
and bytes stay in the file. `torch_files` and `read_file` call it.
"""

from __future__ import annotations

import dataclasses
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from clipbert_jax.weights.formats.pickle_limits import MAX_NAME_BYTES, KeyCheck, LongText, check_depth
from clipbert_jax.weights.formats.refusals import SAVE_WITHOUT_CODE, Refusal, quoted

MAX_INSTRUCTIONS = 2_000_000
MAX_MEMO = 1_000_000
MAX_INTEGER_BYTES = 16
_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_NAMES = {code: name for name, code in _CODES.items()}
_NOTHING = object()
"""Mark of an empty place in the memo."""


@dataclasses.dataclass(frozen=True)
class Function:
    """A function that a pickle may call; it gets the tuple of arguments, of any type and number."""

    call: Callable[[tuple[Any, ...]], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PickleRules:
    """Names, states and references that a pickle may use."""

    names: Mapping[tuple[str, str], object]
    """(module, attribute) -> the `Function` or constant that replaces it here."""
    build: Callable[[object, object], None]
    """Function that sets the state of an object."""
    find_persistent: Callable[[object], object] | None = None
    """Function from a persistent id to the data outside the pickle."""


def read_pickle(
    data: memoryview, vocabulary: PickleRules, *, start: int = 0, max_bytes: int | None = None
) -> tuple[Any, int]:
    """Read one pickle; return the object and the position after the pickle.

    Dicts, lists, tuples and plain values stay as they are; sets become lists, and bytes memoryviews.

    Raises:
      Refusal: the pickle is damaged, too large, or asks for something that weights do not need.
    """
    machine = _Machine(data, vocabulary, start, max_bytes)
    result = machine.run()
    check_depth(result)
    return result, machine.position


class _Machine:
    def __init__(self, data: memoryview, vocabulary: PickleRules, start: int, max_bytes: int | None):
        self.data = data
        self.vocabulary = vocabulary
        self.position = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        # A list and not a dict, whose keys a file could make collide; objects are numbered in order.
        self.memo: list[Any] = []
        self.num_kept = 0
        self.check_key = KeyCheck()
        self.stop, self.at_stop = len(data), "ends in the middle of its pickle"
        if max_bytes is not None and start + max_bytes < len(data):
            self.stop = start + max_bytes
            self.at_stop = f"has a pickle of more than {max_bytes / 2**20:g} MiB beside its arrays"

    def run(self) -> object:
        stop = _CODES["STOP"]
        for _ in range(MAX_INSTRUCTIONS):
            code = self.take(1)[0]
            if code == stop:
                if len(self.stack) != 1 or self.marks:
                    raise _damaged()
                return self.stack[0]
            action = _ACTIONS.get(code)
            if action is None:
                raise _unknown_instruction(code)
            action(self)
        raise Refusal(f"has more than {MAX_INSTRUCTIONS:,} pickle instructions", SAVE_WITHOUT_CODE)

    # Reading.

    def take(self, count: int) -> memoryview:
        begin, end = self.position, self.position + count
        if end > self.stop:
            raise Refusal(self.at_stop)
        self.position = end
        return self.data[begin:end]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        ahead = bytes(self.data[self.position : min(self.stop, self.position + MAX_NAME_BYTES)])
        length = ahead.find(b"\n")
        if length < 0 and len(ahead) < MAX_NAME_BYTES:
            raise Refusal(self.at_stop)
        if length < 0:
            raise Refusal(f"has a name of more than {MAX_NAME_BYTES:,} bytes in its pickle")
        self.position += length + 1
        return _decoded(ahead[:length], "utf-8")

    def push_text(self, layout: str, encoding: str) -> None:
        length = self.number(layout)
        data = self.take(length) if length >= 0 else None
        if data is None:
            raise _damaged()
        self.push(LongText(data, encoding) if length > MAX_NAME_BYTES else _decoded(bytes(data), encoding))

    def push_bytes(self, layout: str) -> None:
        self.push(self.take(self.number(layout)))

    def push_integer(self, layout: str) -> None:
        length = self.number(layout)
        if not 0 <= length <= MAX_INTEGER_BYTES:
            raise Refusal(f"has an integer of {length:,} bytes in its pickle")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def push_integer_line(self) -> None:
        """Python 2 wrote integers beyond 32 bits as text, and only such need to be read."""
        line = self.line()
        if not re.fullmatch(r"-?[0-9]{1,20}", line):
            raise _damaged()
        self.push(int(line))

    # The stack and the memo.

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _damaged()
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise _damaged()
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def drop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def put(self, key: int) -> None:
        if key >= MAX_MEMO:
            raise Refusal(f"keeps more than {MAX_MEMO:,} objects in its pickle's memo")
        self.memo += [_NOTHING] * (key + 1 - len(self.memo))
        self.num_kept += self.memo[key] is _NOTHING
        self.memo[key] = self.top()

    def get(self, key: int) -> None:
        if key >= len(self.memo) or self.memo[key] is _NOTHING:
            raise _damaged()
        self.push(self.memo[key])

    # Collections.

    def push_tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise _damaged()
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise _damaged()
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.check_key(key)
            target[key] = value

    # What runs code in other readers.

    def name(self, module: object, attribute: object) -> None:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Refusal("names a function by something other than text", SAVE_WITHOUT_CODE)
        if (module, attribute) not in self.vocabulary.names:
            what = quoted(f"{module}.{attribute}")
            raise Refusal(f"wants to use {what}, which weights do not need", SAVE_WITHOUT_CODE)
        self.push(self.vocabulary.names[module, attribute])

    def stack_name(self) -> None:
        attribute = self.pop()
        self.name(self.pop(), attribute)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise Refusal("calls something other than a function for weights", SAVE_WITHOUT_CODE)
        self.push(function.call(arguments))

    def build(self) -> None:
        state = self.pop()
        self.vocabulary.build(self.top(), state)

    def persistent(self) -> None:
        if self.vocabulary.find_persistent is None:
            raise Refusal("refers to data outside its pickle, but has none there")
        self.push(self.vocabulary.find_persistent(self.pop()))

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > 5:
            raise Refusal(f"is a pickle of protocol {version}; up to 5 are known")


_ACTIONS_BY_NAME: dict[str, Callable[[_Machine], None]] = {
    "PROTO": _Machine.protocol,
    # Frames only say how much to read ahead.
    "FRAME": lambda machine: machine.number("<Q") and None,
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": lambda machine: machine.pop_to_mark().clear(),
    "DUP": lambda machine: machine.push(machine.top()),
    "NONE": lambda machine: machine.push(None),
    "NEWTRUE": lambda machine: machine.push(True),
    "NEWFALSE": lambda machine: machine.push(False),
    "INT": _Machine.push_integer_line,
    "BININT": lambda machine: machine.push(machine.number("<i")),
    "BININT1": lambda machine: machine.push(machine.number("<B")),
    "BININT2": lambda machine: machine.push(machine.number("<H")),
    "LONG1": lambda machine: machine.push_integer("<B"),
    "LONG4": lambda machine: machine.push_integer("<i"),
    "BINFLOAT": lambda machine: machine.push(machine.number(">d")),
    # Strings of Python 2 hold text or bytes; as Latin-1 both survive.
    "SHORT_BINSTRING": lambda machine: machine.push_text("<B", "latin-1"),
    "BINSTRING": lambda machine: machine.push_text("<i", "latin-1"),
    "SHORT_BINUNICODE": lambda machine: machine.push_text("<B", "utf-8"),
    "BINUNICODE": lambda machine: machine.push_text("<I", "utf-8"),
    "BINUNICODE8": lambda machine: machine.push_text("<Q", "utf-8"),
    "SHORT_BINBYTES": lambda machine: machine.push_bytes("<B"),
    "BINBYTES": lambda machine: machine.push_bytes("<I"),
    "BINBYTES8": lambda machine: machine.push_bytes("<Q"),
    "BYTEARRAY8": lambda machine: machine.push_bytes("<Q"),
    "EMPTY_TUPLE": lambda machine: machine.push(()),
    "TUPLE1": lambda machine: machine.push_tuple(1),
    "TUPLE2": lambda machine: machine.push_tuple(2),
    "TUPLE3": lambda machine: machine.push_tuple(3),
    "TUPLE": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "APPEND": lambda machine: machine.extend([machine.pop()]),
    "APPENDS": lambda machine: machine.extend(machine.pop_to_mark()),
    "EMPTY_DICT": lambda machine: machine.push({}),
    "SETITEM": lambda machine: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine: machine.set_items(machine.pop_to_mark()),
    # Sets are not read, and the members of a list need no hash.
    "EMPTY_SET": lambda machine: machine.push([]),
    "ADDITEMS": lambda machine: machine.extend(machine.pop_to_mark()),
    "FROZENSET": lambda machine: machine.push(machine.pop_to_mark()),
    "BINPUT": lambda machine: machine.put(machine.number("<B")),
    "LONG_BINPUT": lambda machine: machine.put(machine.number("<I")),
    "MEMOIZE": lambda machine: machine.put(machine.num_kept),
    "BINGET": lambda machine: machine.get(machine.number("<B")),
    "LONG_BINGET": lambda machine: machine.get(machine.number("<I")),
    "GLOBAL": lambda machine: machine.name(machine.line(), machine.line()),
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
_ACTIONS = {_CODES[name]: action for name, action in _ACTIONS_BY_NAME.items()}

_RUNS_CODE = ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise Refusal("has text in its pickle that is not UTF-8") from None


def _damaged() -> Refusal:
    return Refusal("is damaged: its pickle contradicts itself")


def _unknown_instruction(code: int) -> Refusal:
    name = _NAMES.get(code)
    if name in _RUNS_CODE:
        return Refusal(
            f"uses the pickle instruction {name}, which makes objects of any class; weights do not need it",
            SAVE_WITHOUT_CODE,
        )
    if name is None:
        return Refusal(f"is damaged: its pickle has an instruction 0x{code:02x}, which does not exist")
    return Refusal(f"uses the pickle instruction {name}, which files of weights never do", SAVE_WITHOUT_CODE)
