"""Checkpoints: tensors in safetensors, the position as JSON in the same file, replaced whole or not at all.

Never pickle: a checkpoint from a stranger must not be able to run code. A checksum over the content, because safetensors has
none: a flipped bit must not become another policy.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from commlib.errors import RunError
from commlib.records import write_json, write_whole


class Checkpoint(NamedTuple):
    """Tensors by name, and where the run stands."""

    tensors: dict[str, Tensor]
    position: dict[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint; `position.json` beside it is for people."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; free space or choose another --out") from error
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    position = json.dumps(checkpoint.position)
    metadata = {"position": position, "checksum": _checksum(tensors, position)}
    write_whole(folder / "state.safetensors", save(tensors, metadata))
    write_json(folder / "position.json", checkpoint.position)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The folder's checkpoint; None if there is none.

    Raises:
        RunError: it is damaged.
    """
    path = folder / "state.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
            position = json.loads(metadata["position"])
        if metadata.keys() != {"position"} and metadata["checksum"] != _checksum(tensors, metadata["position"]):
            raise ValueError("its checksum is wrong")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"the checkpoint {path} is damaged ({error}); restore it from a copy or train again") from error
    return Checkpoint(tensors, position)


def _checksum(tensors: dict[str, Tensor], position: str) -> str:
    sha = hashlib.sha256(position.encode())
    for name, tensor in sorted(tensors.items()):
        array = tensor.numpy()
        sha.update(f"{name}{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return sha.hexdigest()
