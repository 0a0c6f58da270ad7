"""Tensors as arrays and back: what travels to a host and from it.

A removal box: whatever is nested in tuples, lists and dicts goes in as it is, tensors as numpy arrays, which Ray ships
without copies. Not a codec: nothing here is a message, and nothing is charged.
"""

from __future__ import annotations

from typing import Any

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


def _mapped(value: Any, function: Any) -> Any:  # noqa: ANN401
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(function(item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(function(item) for item in value)
    if isinstance(value, dict):
        return {key: function(item) for key, item in value.items()}
    return value
