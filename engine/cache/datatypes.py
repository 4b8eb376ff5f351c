"""Datatype messages of HDF5, for the few types that a cache has.

Source: HDF5 File Format Specification 3.0, section IV.A.2.d, "The Datatype Message", in the versions that
`tle.cache.layout` asks HDF5 for.
"""

import struct
from typing import Any

import numpy as np

FEATURES = (np.dtype(np.float16), np.dtype(np.float32))
_CLASSES = [
    "integer",
    "float",
    "time",
    "string",
    "bits",
    "opaque",
    "compound",
    "reference",
    "enum",
    "variable-length",
    "array",
]
_UTF8 = b"\x13\x11\0\0"  # a string of fixed length, filled up with zeros


def encode(dtype: np.dtype[Any]) -> bytes:
    """The message of integers, float16, float32, UTF-8 strings of fixed length, and records of them."""
    size = dtype.itemsize
    if dtype.names is not None:
        message = struct.pack("<BHxI", 0x36, len(dtype.names), size)
        for name in dtype.names:
            member, offset, *_ = dtype.fields[name]  # type: ignore[index]
            message += name.encode() + b"\0" + offset.to_bytes((size.bit_length() + 7) // 8, "little") + encode(member)
        return message
    if dtype.kind == "S":
        return _UTF8 + struct.pack("<I", size)
    if dtype.kind == "f":
        facts = np.finfo(dtype)
        sizes = (0, 8 * size, facts.nmant, facts.nexp, 0, facts.nmant, (1 << (facts.nexp - 1)) - 1)
        return struct.pack("<BBBxIHHBBBBI", 0x11, 0x20, 8 * size - 1, size, *sizes)
    return struct.pack("<BBHIHH", 0x10, 8 if dtype.kind == "i" else 0, 0, size, 0, 8 * size)


def matches(message: bytes, dtype: np.dtype[Any]) -> bool:
    """Whether a message is that of `dtype`; an enum of bytes is as good as its numbers."""
    expected = encode(dtype)
    if dtype == np.uint8 and message[:1] == b"\x38" and message[4:8] == b"\1\0\0\0":
        return message[8 : 8 + len(expected)] == expected
    return message == expected


def string_bytes(message: bytes) -> int | None:
    """Length of the strings of fixed length that a message describes; None where it describes none."""
    return int.from_bytes(message[4:], "little") if message[:4] == _UTF8 and len(message) == 8 else None


def describe(message: bytes) -> str:
    """A message in words, for people."""
    kind = message[0] & 15 if message else len(_CLASSES)
    name = _CLASSES[kind] if kind < len(_CLASSES) else "something unknown"
    return f"{name} of {int.from_bytes(message[4:8], 'little')} bytes"
