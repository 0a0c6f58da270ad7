"""Codecs on disk and by name: one folder of safetensors and JSON, checked against its own digest when it is read.

codec.json          format, name, kind of quantiser, digest, the calibration if there is one, and a checksum of these
codec.safetensors   the quantiser's arrays and the prior's table
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, GridQuantiser, TableCodec
from commlib.codecs.levels import LevelsQuantiser
from commlib.codecs.prior import Prior
from commlib.codecs.residual import ResidualQuantiser
from commlib.codecs.trellis import TrellisQuantiser
from commlib.errors import CodecError
from commlib.records import write_json

FORMAT = 2
_LABEL = {"format", "name", "kind", "context", "n_ages", "digest", "calibration", "made_by"}
_KINDS: dict[str, Any] = {
    "codebook": CodebookQuantiser,
    "residual": ResidualQuantiser,
    "levels": LevelsQuantiser,
    "trellis": TrellisQuantiser,
    "grid": GridQuantiser,
    "bytes": ByteQuantiser,
}


def check_storable(codec: object) -> None:
    """Refuse a codec that could not be written to a run folder, before a run is spent on it."""
    if not isinstance(codec, TableCodec) or not isinstance(codec.quantiser, tuple(_KINDS.values())):
        kind = type(codec.quantiser).__name__ if isinstance(codec, TableCodec) else type(codec).__name__
        raise CodecError(
            f"a {kind} cannot be stored in a run folder; freeze to a TableCodec over one of "
            f"{', '.join(c.__name__ for c in _KINDS.values())}, or use commlib.run"
        )


def save_codec(
    codec: TableCodec, folder: Path, calibration: dict[str, Any] | None = None, made_by: str | None = None
) -> None:
    """Write a frozen codec, how its price knob was calibrated, and the command that made it."""
    check_storable(codec)
    kind = next(k for k, c in _KINDS.items() if isinstance(codec.quantiser, c))
    arrays = {k: np.ascontiguousarray(v) for k, v in codec.arrays().items()}
    partial = folder / "codec.safetensors.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, partial)
        partial.replace(folder / "codec.safetensors")
    except (OSError, SafetensorError) as error:
        raise CodecError(f"cannot write the codec to {folder}: {error}; free space or choose another folder") from error
    header = {
        "format": FORMAT,
        "name": codec.name,
        "kind": kind,
        "context": codec.prior.kind,
        "n_ages": codec.prior.n_ages,
        "digest": codec.digest,
        "calibration": calibration,
        "made_by": made_by,
    }
    write_json(folder / "codec.json", {**header, "checksum": _checksum(header)})


def load_codec(folder: Path) -> TableCodec:
    """Read a frozen codec back.

    Raises:
        CodecError: it is missing, damaged, of another format, or its digest does not match its content.
    """
    header = read_header(folder)
    try:
        arrays = load_file(folder / "codec.safetensors")
        prior = Prior(arrays.pop("prior"), str(header["context"]), int(header["n_ages"]))
        dither = arrays.pop("dither", None)
        codec = TableCodec(str(header["name"]), _KINDS[header["kind"]].from_arrays(arrays), prior, dither)
    except CodecError as error:
        raise CodecError(f"the codec in {folder} is damaged ({error}); copy it again") from error
    except Exception as error:  # a damaged file can fail in any way
        raise CodecError(f"the codec in {folder} is damaged ({type(error).__name__}); copy it again") from error
    if codec.digest != header["digest"]:
        raise CodecError(
            f"the codec in {folder} is not the one that its label names ({codec.digest[:8]} instead of "
            f"{str(header['digest'])[:8]}); copy both files again"
        )
    return codec


def read_header(folder: Path) -> dict[str, Any]:
    """The label of a stored codec, with its calibration."""
    path = Path(folder) / "codec.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CodecError(f"{path} is missing; is {folder} the `codec` folder of a run?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CodecError(f"{path} cannot be read: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CodecError(f"{path} is not of codec format {FORMAT}; it was written by another version")
    if (
        not isinstance(header.get("kind"), str)
        or header["kind"] not in _KINDS
        or not isinstance(header.get("digest"), str)
    ):
        raise CodecError(f"{path} names no codec kind that we know; there are {', '.join(_KINDS)}")
    written = header.pop("checksum", None)
    if header.keys() != _LABEL or written != _checksum(header):
        raise CodecError(f"{path} is damaged: its checksum is not that of its content; copy it again")
    return header


def _checksum(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
