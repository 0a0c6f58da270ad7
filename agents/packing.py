"""Tensors as arrays and back: what travels to a host and from it.

A removal box: whatever is nested in tuples, lists and dicts goes in as it is, tensors as numpy arrays, which Ray ships
without copies. Not a codec: nothing here is a message, and nothing is charged.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import torch


def to_arrays(value: Any) -> Any:  # noqa: ANN401 (any nesting of tuples, lists and dicts)
    """Tensors as numpy arrays, which Ray ships without copies; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return _Array(value.detach().numpy())
    return _mapped(value, to_arrays)


def to_tensors(value: Any) -> Any:  # noqa: ANN401
    """Back again, writable."""
    if isinstance(value, _Array):
        return torch.from_numpy(value.array.copy())
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        return value.copy()
    return _mapped(value, to_tensors)


class _Array:
    """Marks an array that was a tensor."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array


_PLAIN = {int, float, str, bool, bytes, type(None)}


def _is_plain(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether there is nothing in it to unpack; asked of all items at once, since bills of large towns are long."""
    return set(map(type, value)) <= _PLAIN


def _mapped(value: Any, function: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list | tuple) and _is_plain(value):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(function(item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(function(item) for item in value)
    if isinstance(value, dict):
        return {key: function(item) for key, item in value.items()}
    return value


def fingerprint(value: Any) -> int:  # noqa: ANN401
    """A checksum of whatever is nested in tuples, lists and dicts: equal for equal content, bit by bit.

    Of an object of a class unknown here only the name of its class counts.
    """
    return _folded(value, 0)


def _folded(value: Any, sum_so_far: int) -> int:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        sum_so_far = crc32(f"{array.dtype.str}{np.shape(value)}".encode(), sum_so_far)
        return crc32(array.view(np.uint8).reshape(-1).data if array.dtype != object else b"object", sum_so_far)
    if isinstance(value, dict):
        return _folded([item for pair in value.items() for item in pair], crc32(b"{", sum_so_far))
    if isinstance(value, list | tuple):
        sum_so_far = crc32(f"[{len(value)}".encode(), sum_so_far)
        if _is_plain(value):
            return crc32(repr(list(value)).encode(), sum_so_far)
        for item in value:
            sum_so_far = _folded(item, sum_so_far)
        return sum_so_far
    if isinstance(value, bytes | bytearray | memoryview):
        return crc32(value, crc32(b"b", sum_so_far))
    plain = value if isinstance(value, str | int | float | complex | None) else type(value).__qualname__
    return crc32(repr(plain).encode(), sum_so_far)
