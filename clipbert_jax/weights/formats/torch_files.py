"""Readers of the two formats of torch.save, for `read_file`: ZIP archives since 1.6, before that pickles.

Both hold a pickle whose tensors refer to storages by key. A storage is the plain bytes of its elements, so
arrays are views of the file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from clipbert_jax.weights.formats.array_views import Budget
from clipbert_jax.weights.formats.numpy_pickles import numpy_vocabulary
from clipbert_jax.weights.formats.pickle_reader import read_pickle
from clipbert_jax.weights.formats.refusals import GET_AGAIN, SAVE_AS_STATE_DICT, Refusal, listed, quoted
from clipbert_jax.weights.formats.torch_tensors import Storages, torch_vocabulary
from clipbert_jax.weights.formats.zip_members import Member, check_checksum, zip_members

MAX_PICKLE_BYTES = 64 * 2**20
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""First pickle of a legacy file, after the instruction that names its protocol."""
_LEGACY_VERSION = 1001


Content = tuple[Any, Callable[[str], int]]
"""The object in a file, and a function from the key of a storage to where its bytes begin."""


def read_torch_zip(data: memoryview) -> Content:
    """Read a file of torch.save since PyTorch 1.6.

    The checksum of a storage is verified when an array of it is made.

    Raises:
      Refusal: the file is damaged, unsafe, or another kind of ZIP archive.
    """
    members = zip_members(data)
    prefix = _prefix(members)
    _check_byte_order(data, members, prefix)
    pickle = members[f"{prefix}/data.pkl"]
    if pickle.size > MAX_PICKLE_BYTES:
        raise Refusal(f"has a pickle of {pickle.size:,} bytes beside its arrays", SAVE_AS_STATE_DICT)
    check_checksum(data, pickle)
    storages = Storages()
    vocabulary = torch_vocabulary(Budget(len(data)), len(data), storages)
    root, end = read_pickle(data[pickle.start : pickle.start + pickle.size], vocabulary)
    if end != pickle.size:
        raise Refusal("is damaged: its pickle ends before its end")
    places: dict[str, Member] = {}
    for key, storage in storages.by_key.items():
        places[key] = _place(members, f"{prefix}/data/{key}", storage.num_bytes)

    @functools.cache  # verifies each storage once
    def start_of(key: str) -> int:
        check_checksum(data, places[key])
        return places[key].start

    return root, start_of


def _prefix(members: dict[str, Member]) -> str:
    """Return the folder that all members are in."""
    folders = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(folders) != 1 or "/" in folders[0]:
        kind = "NumPy arrays" if any(name.endswith(".npy") for name in members) else "other things"
        raise Refusal(f"is a ZIP archive of {kind} ({listed(list(members))})", SAVE_AS_STATE_DICT)
    (prefix,) = folders
    if any(name == f"{prefix}/constants.pkl" or name.startswith(f"{prefix}/code/") for name in members):
        raise Refusal("is a TorchScript program, with code to run", SAVE_AS_STATE_DICT)
    return prefix


def _check_byte_order(data: memoryview, members: dict[str, Member], prefix: str) -> None:
    member = members.get(f"{prefix}/byteorder")
    if member is None:  # before PyTorch 2.1
        return
    byte_order = bytes(data[member.start : member.start + min(member.size, 80)])
    if byte_order == b"big":
        raise _big_endian()
    if byte_order != b"little":
        raise Refusal("is damaged: its byte order is neither little nor big")


def _place(members: dict[str, Member], name: str, num_bytes: int) -> Member:
    member = members.get(name)
    if member is None:
        raise Refusal(f"lacks the member {quoted(name)}, which its pickle refers to")
    if member.size != num_bytes:
        raise Refusal(f"has {member.size:,} bytes in {quoted(name)}, where its pickle says {num_bytes:,}")
    return member


def is_legacy(data: memoryview) -> bool:
    """Return whether a file that begins like a pickle is one of torch.save before PyTorch 1.6."""
    return LEGACY_MAGIC in bytes(data[:32])


def read_torch_legacy(data: memoryview) -> Content:
    """Read a file of torch.save before PyTorch 1.6, such as ClipBERT's released checkpoints.

    Raises:
      Refusal: the file is damaged or unsafe.
    """
    budget, storages = Budget(len(data)), Storages()
    plain = numpy_vocabulary(budget, len(data))
    _, position = read_pickle(data, plain, max_bytes=64)
    version, position = read_pickle(data, plain, start=position, max_bytes=64)
    if version != _LEGACY_VERSION:
        raise Refusal("was written by an unknown legacy version of torch.save", SAVE_AS_STATE_DICT)
    system, position = read_pickle(data, plain, start=position, max_bytes=4096)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _big_endian()
    vocabulary = torch_vocabulary(budget, len(data), storages)
    root, position = read_pickle(data, vocabulary, start=position, max_bytes=MAX_PICKLE_BYTES)
    keys, position = read_pickle(data, plain, start=position, max_bytes=MAX_PICKLE_BYTES)
    return root, _legacy_starts(data, keys, position, storages).__getitem__


def _legacy_starts(data: memoryview, keys: object, position: int, storages: Storages) -> dict[str, int]:
    """Return where each storage begins; each lies behind its number of elements, one after the other."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refusal("is damaged: its list of storages is not a list of names")
    if len(set(keys)) != len(keys) or set(keys) != storages.by_key.keys():
        raise Refusal("is damaged: it lists other storages than its pickle refers to")
    starts = {}
    for key in keys:
        storage = storages.by_key[key]
        if int.from_bytes(data[position : position + 8], "little", signed=True) != storage.num_elements:
            raise Refusal(f"is damaged: its storage {quoted(key)} has another size than its pickle says")
        starts[key] = position + 8
        position = starts[key] + storage.num_bytes
        if position > len(data):
            raise Refusal(f"ends in the middle of its storage {quoted(key)}")
    if position != len(data):
        raise Refusal("does not end where its last storage does", GET_AGAIN)
    return starts


def _big_endian() -> Refusal:
    return Refusal("has big-endian numbers", "save it again on a little-endian machine")
