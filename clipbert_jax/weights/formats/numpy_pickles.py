"""Names that pickles of NumPy arrays may use, with what replaces them here.

NumPy pickles an array either as an empty array that a BUILD fills (up to protocol 4, also in Python 2), or by
`_frombuffer` (protocol 5). Bytes stay in the file, except that protocol 2 of Python 3 wrote them as UTF-8
text, which must be decoded.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

import numpy as np

from clipbert_jax.weights.formats.array_views import BFLOAT16, Budget, check_shape, view
from clipbert_jax.weights.formats.pickle_limits import KeyCheck, LongText
from clipbert_jax.weights.formats.pickle_reader import MAX_MEMO, Function, PickleRules
from clipbert_jax.weights.formats.refusals import SAVE_AS_STATE_DICT, Refusal, quoted

_DTYPES = {
    code: np.dtype(code)
    for code in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
}
_CHUNK_BYTES = 2**20


class PickledArray:
    """An array of a pickle; its value is None until it is built."""

    def __init__(self, value: np.ndarray | None = None):
        self.value = value


class _Marker:
    """Replaces a class that pickles pass around but never make objects of."""


_NDARRAY = _Marker()


def numpy_vocabulary(budget: Budget, file_size: int) -> PickleRules:
    """Return the names that a pickle of NumPy arrays may use, in a file of `file_size` bytes."""
    maker = _ArrayMaker(budget, Budget(file_size))
    return PickleRules(
        names={
            ("_codecs", "encode"): Function(maker.encode),
            ("numpy", "ndarray"): _NDARRAY,
            ("numpy", "dtype"): Function(_dtype),
            ("ml_dtypes", "bfloat16"): BFLOAT16,
            ("collections", "OrderedDict"): Function(maker.ordered_dict),
            ("collections", "defaultdict"): Function(lambda arguments: {}),
            ("collections", "Counter"): Function(
                _only_argument("Counter", dict)
            ),  # as milestones of a schedule
            **{
                (module, name): value
                for module in ("builtins", "__builtin__")
                for name, value in _BUILTINS.items()
            },
            **{
                (f"numpy.{core}.{module}", name): Function(call)
                for core in ("core", "_core")
                for module, name, call in (
                    ("multiarray", "_reconstruct", _reconstruct),
                    ("multiarray", "scalar", maker.scalar),
                    ("numeric", "_frombuffer", maker.from_buffer),
                )
            },
        },
        build=maker.build,
    )


class _ArrayMaker:
    """Makes the arrays of one pickle."""

    def __init__(self, budget: Budget, decoding_budget: Budget):
        self._budget = budget
        self._decoding_budget = decoding_budget
        self._num_items = 0
        self._check_key = KeyCheck()

    def build(self, target: object, state: Any) -> None:
        """Finish an array, a data type or a dict."""
        match target, state:
            case PickledArray(value=None), (1, tuple() as shape, np.dtype() as dtype, 0 | 1, data):
                target.value = self._array(data, dtype, shape, order="F" if state[3] else "C")
            case np.dtype(), (int(), str() as byte_order, None, None, None, _, _, _):
                _check_byte_order(byte_order)
            case np.dtype(), tuple():
                raise Refusal("has an array of records rather than numbers", SAVE_AS_STATE_DICT)
            case dict(), dict() if state.keys() <= {"_metadata"}:
                pass  # versions of the modules that a state dict came from
            case _:
                raise Refusal("sets the state of an object other than an array", SAVE_AS_STATE_DICT)

    def scalar(self, arguments: tuple[Any, ...]) -> PickledArray:
        match arguments:
            case (np.dtype() as dtype, data):
                return PickledArray(self._array(data, dtype, ()))
        raise _wrong_call("scalar")

    def from_buffer(self, arguments: tuple[Any, ...]) -> PickledArray:
        match arguments:
            case (data, np.dtype() as dtype, tuple() as shape, ("C" | "F") as order):
                return PickledArray(self._array(data, dtype, shape, order=order))
            case (data, np.dtype() as dtype, tuple() as shape, "K", tuple() as axes):
                array = self._array(data, dtype, shape)
                if all(type(axis) is int for axis in axes) and sorted(axes) == list(range(array.ndim)):
                    return PickledArray(array.transpose(axes))
        raise _wrong_call("_frombuffer")

    def ordered_dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Return a dict; Python 2 wrote all its items at once."""
        match arguments:
            case ():
                return {}
            case (list() as items,):
                self._num_items += len(items)
                if self._num_items > MAX_MEMO:  # one list may be given again and again
                    raise Refusal(f"makes dicts of more than {MAX_MEMO:,} items in its pickle")
                if all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
                    for key, _ in items:
                        self._check_key(key)
                    return dict(items)
        raise _wrong_call("OrderedDict")

    def encode(self, arguments: tuple[Any, ...]) -> bytes | bytearray:
        """Return bytes that were written as text, one letter for each byte."""
        match arguments:
            case (str() as text, "latin1" | "latin-1"):
                self._decoding_budget.spend(len(text))
                return _latin1(text)
            case (LongText(encoding="utf-8", data=data), "latin1" | "latin-1"):
                self._decoding_budget.spend(len(data))
                return _encoded(data)
        raise _wrong_call("_codecs.encode")

    def _array(self, data: object, dtype: np.dtype, shape: object, *, order: str = "C") -> np.ndarray:
        checked = check_shape(shape, dtype)
        num_bytes = int(np.prod(checked, dtype=object)) * dtype.itemsize
        self._budget.spend(num_bytes)
        content = _raw(data)
        if len(content) != num_bytes:
            raise Refusal(f"has an array of {num_bytes:,} bytes whose data are {len(content):,} bytes")
        return view(content, dtype, checked, order=order)


def _raw(data: object) -> memoryview | bytes | bytearray:
    match data:
        case memoryview() | bytes() | bytearray():
            return data
        case LongText(encoding="latin-1"):
            return data.data
        case str():
            return _latin1(data)
        case list():
            raise Refusal("has an array of objects rather than numbers", SAVE_AS_STATE_DICT)
    raise Refusal("has an array without data")


def _reconstruct(arguments: tuple[Any, ...]) -> PickledArray:
    if len(arguments) != 3 or arguments[0] is not _NDARRAY or arguments[1] != (0,):
        raise _wrong_call("_reconstruct")
    return PickledArray()


def _dtype(arguments: tuple[Any, ...]) -> np.dtype:
    match arguments:
        case (str() as code, bool() | int(), bool() | int()) if code in _DTYPES:
            return _DTYPES[code]
        case (np.dtype() as dtype, *_):  # of ml_dtypes
            return dtype
        case (str() as code, *_):
            raise Refusal(
                f"has an array of type {quoted(code)}, which weights never have", SAVE_AS_STATE_DICT
            )
    raise _wrong_call("numpy.dtype")


def _check_byte_order(byte_order: str) -> None:
    if byte_order == ">":
        raise Refusal("has big-endian arrays", "save it again on a little-endian machine")
    if byte_order not in ("<", "=", "|"):
        raise _wrong_call("numpy.dtype")


def _only_argument(name: str, kind: type) -> Callable[[tuple[Any, ...]], Any]:
    """Return a function that takes one argument of a kind and returns it, in the place of `name`."""

    def take(arguments: tuple[Any, ...]) -> Any:
        if len(arguments) != 1 or not isinstance(arguments[0], kind):
            raise _wrong_call(name)
        return arguments[0]

    return take


def _empty_bytes(arguments: tuple[Any, ...]) -> bytes:
    """Return no bytes: protocol 2 of Python 3 writes an array without elements so."""
    if arguments:
        raise _wrong_call("bytes")
    return b""


_BUILTINS = {
    "bytes": Function(_empty_bytes),
    "set": Function(_only_argument("set", list)),
    # For `defaultdict`, which is read as a dict.
    "dict": _Marker(),
    "list": _Marker(),
}


def _latin1(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise _not_bytes() from None


def _encoded(data: memoryview) -> bytearray:
    """Decode UTF-8 part by part: as one text, it could take four times the memory."""
    decoder, result = codecs.getincrementaldecoder("utf-8")(), bytearray()
    try:
        for start in range(0, len(data), _CHUNK_BYTES):
            part = bytes(data[start : start + _CHUNK_BYTES])
            result += decoder.decode(part, start + _CHUNK_BYTES >= len(data)).encode("latin-1")
    except UnicodeError:
        raise _not_bytes() from None
    return result


def _not_bytes() -> Refusal:
    return Refusal("is damaged: the text of an array's bytes has letters that are not bytes")


def _wrong_call(name: str) -> Refusal:
    return Refusal(f"calls {name} with arguments that NumPy never writes")
