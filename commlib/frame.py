"""A frame: all messages of one round from one host to the hosts that listen, as one short byte string.

A frame is a mail bag with one label for all its letters. Two who write to each other every day stop writing the whole
address: the first frame on a trunk is a *greeting*, all later ones are *notes*.

A greeting is a msgpack positional array

    [version, run, round, trunk, count, payload, checksum]

    version   2
    run       4 bytes: what codec and which graph both ends agreed on (`run_id`)
    round     number of the round
    trunk     which bag of the agreed plan this is, and so who talks to whom (`commlib.exchange`)
    count     frames sent on this trunk before, since its links were fresh; a gap tells that one was lost
    payload   the codes of all messages, one entropy-coded stream
    checksum  CRC-32 of all that stands before it

A note is three bytes and the payload: the count modulo 128, the payload, and a seal: a CRC-16/GENIBUS over run, round,
trunk, count and payload. What both ends know is sealed but not sent. A CRC-16 finds all damage within 16 bits of
the payload, whatever its length, which half of a CRC-32 does not: from 499 bytes on it overlooks some single damaged
ones. A note begins with a byte below 128, a greeting with 151, so that one cannot pass for the other.

Decoding is total: any bytes give a `Frame` or a `FrameError`. Never pickle.
"""

import binascii
import hashlib
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import msgpack

from commlib.errors import ForeignCodec, FrameError

VERSION = 2
MAX_FRAME_BYTES = 1 << 28
NOTE_BYTES = 3
"""What a note weighs besides its payload."""
GREETING_BYTES = 18
"""What a greeting weighs besides its payload at the least, but for one in 65,536, whose checksum is short."""
_RUN_BYTES = 4
_FIELDS = 7
_GREETING = 0x90 | _FIELDS
_CYCLE = 128
_SEALED = struct.Struct(">4sQQQ")
_SEAL = struct.Struct(">H")


class Frame(NamedTuple):
    """What a frame says, its label in full; see the module for the fields (`n_earlier` is its count)."""

    run: bytes
    round: int
    trunk: int
    n_earlier: int
    payload: bytes

    def greeting(self) -> bytes:
        """The bytes of the first frame on a trunk; they travel, and are charged."""
        body = msgpack.packb([VERSION, self.run, self.round, self.trunk, self.n_earlier, self.payload, 0])[:-1]
        return bytes(body + msgpack.packb(zlib.crc32(body)))

    def note(self) -> bytes:
        """The bytes of any later frame."""
        return bytes([self.n_earlier % _CYCLE]) + self.payload + _SEAL.pack(self._seal())

    def _seal(self) -> int:
        known = _SEALED.pack(self.run, self.round, self.trunk, self.n_earlier)
        return binascii.crc_hqx(self.payload, binascii.crc_hqx(known, 0xFFFF)) ^ 0xFFFF  # or added zeros would pass


def run_id(codec_digest: str, plan: str) -> bytes:
    """Four bytes that two ends share only if codec and plan agree."""
    return hashlib.sha256(f"{codec_digest}|{plan}".encode()).digest()[:_RUN_BYTES]


def is_greeting(data: bytes) -> bool:
    """Whether these bytes claim to be a greeting."""
    return data[:1] >= b"\x80"


def unpack_note(data: bytes, run: bytes, round_number: int, trunk: int, n_heard: int, n_rounds: int) -> Frame:
    """The frame in a note, by one who knows run, round and trunk.

    Args:
        data: the note.
        run: what codec and graph we speak.
        round_number: the round that is read.
        trunk: the trunk it came on.
        n_heard: frames heard on this trunk since its links were fresh.
        n_rounds: rounds played since then, which no count can exceed. A note tells the count modulo 128 only; where more
            frames than that were lost in a row, the seal finds the right one among the counts that are possible.

    Raises:
        FrameError: damaged, cut, of another round, trunk or run, or one that was heard before.
    """
    if not NOTE_BYTES <= len(data) <= MAX_FRAME_BYTES or is_greeting(data):
        raise FrameError(f"{len(data)} bytes are no frame; it was cut or damaged")
    seal = _SEAL.unpack(data[-2:])[0]
    likeliest = n_heard + (data[0] - n_heard) % _CYCLE
    for n_earlier in range(likeliest, n_rounds + 1, _CYCLE):
        frame = Frame(run, round_number, trunk, n_earlier, data[1:-2])
        if frame._seal() == seal:
            return frame
    raise FrameError(
        f"the seal of a {len(data)}-byte frame is wrong: it was damaged, was heard before, or is of another round "
        f"than {round_number}, another trunk than {trunk}, or of hosts with another codec or graph"
    )


def unpack_greeting(data: bytes) -> Frame:
    """The frame in a greeting.

    Raises:
        FrameError: it is none of ours: truncated, damaged, of another version, or with trailing bytes.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(data)} bytes is over the limit ({MAX_FRAME_BYTES}); send fewer at once")
    try:
        fields = msgpack.unpackb(data, use_list=False, strict_map_key=True, max_array_len=8, max_map_len=0)
    except Exception as error:  # msgpack raises a dozen kinds for bad bytes; here all mean the same
        raise FrameError(f"{len(data)} bytes are no frame ({type(error).__name__}); it was cut or damaged") from error
    if not isinstance(fields, tuple) or not fields:
        raise FrameError(f"a frame has {_FIELDS} fields; these {len(data)} bytes hold something else")
    if type(fields[0]) is not int:  # and never shown: the repr of a deeply nested field overflows the stack
        raise FrameError("the version of the frame is no number; it was not made by commlib")
    if fields[0] != VERSION:
        raise FrameError(f"the frame is of version {fields[0]}, we read version {VERSION}; update the older end")
    if len(fields) != _FIELDS:
        raise FrameError(f"a frame has {_FIELDS} fields; these {len(data)} bytes hold something else")
    _, run, round_number, trunk, count, payload, checksum = fields
    numbers_hold = all(type(n) is int and 0 <= n < 1 << 63 for n in (round_number, trunk, count, checksum))
    if not (isinstance(run, bytes) and len(run) == _RUN_BYTES and numbers_hold and isinstance(payload, bytes)):
        raise FrameError("a field of the frame has the wrong type; it was not made by commlib")
    frame = Frame(run, round_number, trunk, count, payload)
    if frame.greeting() != data:
        raise FrameError(f"the checksum of a {len(data)}-byte frame is wrong; it was damaged on the way")
    return frame


def check_run(frame: Frame, expected: bytes) -> None:
    """Refuse a frame of another codec or graph by name."""
    if frame.run != expected:
        raise ForeignCodec(
            f"the frame speaks {frame.run.hex()}, we speak {expected.hex()}: the two ends have different codecs or "
            f"graphs; load the same run on both"
        )


def shares(total: int, counts: Sequence[int]) -> list[int]:
    """A frame's bits, shared out over its messages: for each route what its messages bear, in whole bits that add up.

    >>> shares(14, [1, 0, 2, 1])
    [3, 0, 7, 4]
    """
    n = sum(counts)
    marks = [total * said // n for said in accumulate(counts)] if n else [total] * len(counts)
    return [mark - before for mark, before in zip(marks, [0, *marks], strict=False)]
