"""A frame: all messages of one round from one host to the hosts that listen, as one short byte string.

A frame is a mail bag with one label for all its letters. The label is a msgpack positional array

    [version, run, round, trunk, count, silent, payload, checksum]

    version   1
    run       4 bytes: what codec and which graph both ends agreed on (`run_id`)
    round     number of the round
    trunk     which bag of the agreed plan this is, and so who talks to whom (`commlib.exchange`)
    count     frames sent on this trunk before, since its links were fresh; a gap tells that one was lost
    silent    nil, or a bit for every message (1 = silent) where the codec has no codeword for silence
    payload   the codes of all messages that are not silent, one entropy-coded stream
    checksum  CRC-32 of all that stands before it

Decoding is total: any bytes give a `Frame` or a `FrameError`. Never pickle.
"""

import hashlib
import zlib
from typing import NamedTuple

import msgpack

from commlib.errors import ForeignCodec, FrameError

VERSION = 1
MAX_FRAME_BYTES = 1 << 28
_RUN_BYTES = 4
_FIELDS = 8


class Frame(NamedTuple):
    """The decoded label and its payload; see the module for the fields (`n_earlier` is its count)."""

    run: bytes
    round: int
    trunk: int
    n_earlier: int
    silent: bytes | None
    payload: bytes

    def pack(self) -> bytes:
        """The bytes that travel, and that are charged."""
        body = msgpack.packb([VERSION, self.run, self.round, self.trunk, self.n_earlier, self.silent, self.payload, 0])[
            :-1
        ]
        return bytes(body + msgpack.packb(zlib.crc32(body)))


def run_id(codec_digest: str, plan: str) -> bytes:
    """Four bytes that two ends share only if codec and plan agree."""
    return hashlib.sha256(f"{codec_digest}|{plan}".encode()).digest()[:_RUN_BYTES]


def unpack(data: bytes) -> Frame:
    """The frame in these bytes.

    Raises:
        FrameError: they are no frame of ours: truncated, damaged, of another version, or with trailing bytes.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(data)} bytes is over the limit ({MAX_FRAME_BYTES}); send fewer at once")
    try:
        fields = msgpack.unpackb(data, use_list=False, strict_map_key=True, max_array_len=_FIELDS, max_map_len=0)
    except Exception as error:  # msgpack raises a dozen kinds for bad bytes; here all mean the same
        raise FrameError(f"{len(data)} bytes are no frame ({type(error).__name__}); it was cut or damaged") from error
    if not isinstance(fields, tuple) or len(fields) != _FIELDS:
        raise FrameError(f"a frame has {_FIELDS} fields; these {len(data)} bytes hold something else")
    version, run, round_number, trunk, count, silent, payload, checksum = fields
    if type(version) is not int:  # and never shown: the repr of a deeply nested field overflows the stack
        raise FrameError("the version of the frame is no number; it was not made by commlib")
    if version != VERSION:
        raise FrameError(f"the frame is of version {version}, we read version {VERSION}; update the older end")
    well_typed = (
        isinstance(run, bytes)
        and len(run) == _RUN_BYTES
        and type(round_number) is int
        and round_number >= 0
        and type(trunk) is int
        and trunk >= 0
        and type(count) is int
        and count >= 0
        and (silent is None or isinstance(silent, bytes))
        and isinstance(payload, bytes)
        and type(checksum) is int
    )
    if not well_typed:
        raise FrameError("a field of the frame has the wrong type; it was not made by commlib")
    frame = Frame(run, round_number, trunk, count, silent, payload)
    if frame.pack() != data:
        raise FrameError(f"the checksum of a {len(data)}-byte frame is wrong; it was damaged on the way")
    return frame


def check_run(frame: Frame, expected: bytes) -> None:
    """Refuse a frame of another codec or graph by name."""
    if frame.run != expected:
        raise ForeignCodec(
            f"the frame speaks {frame.run.hex()}, we speak {expected.hex()}: the two ends have different codecs or "
            f"graphs; load the same run on both"
        )
