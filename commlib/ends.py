"""The two ends of a trunk: what was last delivered on its routes, and how codes become frames and frames codes.

Two people who keep the same diary of a conversation: as long as nothing is lost, each can finish the other's sentences.

Nothing sent means "as expected": a frame in which every message is the expected one is not sent at all and costs
nothing, because rounds are numbered and both ends see its absence. Frames are counted, so that a lost one is noticed at
the next. What then happens is the plan's choice (`commlib.plan.Plan`): on a lossless transport it is an error; on a
lossy one the ear goes on, reading what can still be read.

The payload of a codec without a codeword for silence begins with who is silent: a byte 0, nobody, or a byte 1 and a bit
for every message, 1 = silent.

Shapes: W worlds side by side, r routes, n messages = r times the worlds alive, P positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.codec import Codes, FrozenCodec, fresh_context, next_context
from commlib.errors import CodecError, FrameError
from commlib.frame import Frame, check_run, is_greeting, unpack_greeting, unpack_note
from commlib.plan import Plan

Flags = NDArray[np.bool_]
_NOBODY, _LISTED = b"\0", b"\1"


@dataclass
class End:
    """What both ends of a trunk keep: the context of every route in every world, and how many frames went through."""

    index: int
    plan: Plan
    codec: FrozenCodec
    run: bytes
    n_frames: int = field(default=0, init=False)
    _past: Codes = field(init=False)
    _age: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.reset(1)

    def reset(self, n_worlds: int) -> None:
        """Fresh links: a new batch of episodes."""
        n_routes = len(self.plan.trunks[self.index].routes)
        fresh = fresh_context(n_routes * n_worlds, self.codec.n_positions)
        self._past, self._age, self.n_frames = fresh.reshape(n_routes, n_worlds, -1), 0, 0

    @property
    def is_refreshed(self) -> bool:
        """Whether this round starts afresh by the clock."""
        every = self.plan.refresh_every
        return bool(every and self._age and self._age % every == 0)

    def context(self, alive: Flags) -> Codes:
        """The contexts [n, P + 1] of all routes in the worlds that are alive."""
        n_positions = self.codec.n_positions
        if self.is_refreshed:
            return fresh_context(len(self._past) * int(alive.sum()), n_positions)
        return self._past[:, alive].reshape(-1, n_positions + 1)

    def turn(self, codes: Codes, alive: Flags) -> None:
        """The round is over; codes [n, P] were delivered."""
        context = next_context(self.context(alive), codes)
        self._past[:, alive] = context.reshape(len(self._past), -1, context.shape[-1])
        self._age += 1


class Letter(NamedTuple):
    """A frame as bytes, and the bits of the entropy-coded stream in it."""

    data: bytes
    stream_bits: int

    @property
    def bits(self) -> int:
        """What is charged."""
        return 8 * len(self.data)


@dataclass
class Mouth(End):
    """The sending end."""

    has_greeted: bool = field(default=False, init=False)
    """Whether a frame went before: only the first one says everything about itself. Outlasts a reset."""

    def frame(self, round_number: int, codes: Codes, context: Codes, spoken: Flags) -> Letter | None:
        """The frame that says `codes` where `spoken` [n]; None if it would only say what is expected."""
        if not spoken.any():
            return None
        silent = b""
        if not self.codec.silence_is_coded:
            silent = _NOBODY if spoken.all() else _LISTED + np.packbits(~spoken).tobytes()
            codes, context = codes[spoken], context[spoken]
        stream = self.codec.encode(codes, context)
        frame = Frame(self.run, round_number, self.index, self.n_frames, silent + stream)
        return Letter(frame.note() if self.has_greeted else frame.greeting(), 8 * len(stream))

    def said(self, codes: Codes, alive: Flags, *, was_sent: bool) -> None:
        """The round is over, and this is what listeners now have."""
        self.n_frames += was_sent
        self.has_greeted |= was_sent
        self.turn(codes, alive)


class Reading(NamedTuple):
    """What an ear makes of one round.

    Attributes:
        codes: what listeners now have, [n, P].
        spoken: which messages the frame said, [n]; none where it could not be read.
        stream_bits: the bits of the entropy-coded stream in the frame; 0 without a frame.
        n_lost: frames that got lost before this one.
        is_read: False if the frame could not be read, because one that it builds on was lost.
    """

    codes: Codes
    spoken: Flags
    stream_bits: int = 0
    n_lost: int = 0
    is_read: bool = True


@dataclass
class Ear(End):
    """The receiving end."""

    _is_deaf: bool = field(default=False, init=False)
    """A frame was lost that later ones build on: nothing can be read until the links are fresh again."""

    def reset(self, n_worlds: int) -> None:
        """Fresh links: a new batch of episodes."""
        super().reset(n_worlds)
        self._is_deaf = False

    def read(self, round_number: int, data: bytes | None, alive: Flags) -> Reading:
        """The messages of this round; nothing changes yet, so that a host can refuse all frames if one is bad.

        Raises:
            FrameError: the frame is damaged, of another run, codec, round or trunk, or, where the plan is not lossy, one
                before it got lost.
        """
        context = self.context(alive)
        deaf = self._is_deaf and not self.is_refreshed
        nobody = np.zeros(len(context), bool)
        if data is None:
            return Reading(self._hold(context) if deaf else self.codec.expected(context), nobody)
        frame = self._unpack(round_number, data)
        n_lost = frame.n_earlier - self.n_frames
        if n_lost and not self.plan.is_lossy:
            raise FrameError(
                f"{self.n_frames} frames were heard on trunk {self.index}, {frame.n_earlier} were sent before this one: "
                f"some were lost, and what silence meant since is unknown; start on fresh links, or declare the plan lossy"
            )
        if (deaf or n_lost) and not self.codec.survives_loss and not self.is_refreshed:
            return Reading(self._hold(context), nobody, n_lost=n_lost, is_read=False)
        return self._decode(frame.payload, context)._replace(n_lost=n_lost)

    def heard(self, reading: Reading, alive: Flags, *, has_frame: bool) -> None:
        """The round is over, and this is what it said."""
        if self.is_refreshed:
            self._is_deaf = False
        self._is_deaf |= not reading.is_read
        self.n_frames += has_frame + reading.n_lost
        self.turn(reading.codes, alive)

    def _hold(self, context: Codes) -> Codes:
        """What was last delivered; on a link without a past, what is expected."""
        past = context[:, :-1]
        return np.where(past < 0, self.codec.expected(context), past)

    def _unpack(self, round_number: int, data: bytes) -> Frame:
        if not is_greeting(data):
            most = self._age if self.plan.is_lossy else min(self._age, self.n_frames + 127)
            return unpack_note(data, self.run, round_number, self.index, self.n_frames, most)
        frame = unpack_greeting(data)
        check_run(frame, self.run)
        if (frame.round, frame.trunk) != (
            round_number,
            self.index,
        ) or not self.n_frames <= frame.n_earlier <= self._age:
            raise FrameError(
                f"expected round {round_number} on trunk {self.index} after {self.n_frames} frames, the frame is of round "
                f"{frame.round} on trunk {frame.trunk} after {frame.n_earlier}"
            )
        return frame

    def _decode(self, payload: bytes, context: Codes) -> Reading:
        """What a payload says, with silent messages filled in."""
        expected, spoken = self.codec.expected(context), np.ones(len(context), bool)
        codes = expected.copy()
        if not self.codec.silence_is_coded:
            spoken, payload = _unlisted(payload, len(context))
        try:
            codes[spoken] = self.codec.decode(payload, context[spoken])
        except CodecError as error:
            raise FrameError(str(error)) from error
        said = (codes != expected).any(-1) if self.codec.silence_is_coded else spoken
        return Reading(codes, said, 8 * len(payload))


def _unlisted(payload: bytes, n_messages: int) -> tuple[Flags, bytes]:
    """Who spoke, [n], and the stream that follows the list of the silent."""
    first, rest = payload[:1], payload[1:]
    if first == _NOBODY:
        return np.ones(n_messages, bool), rest
    n_bytes = (n_messages + 7) // 8
    listed, stream = rest[:n_bytes], rest[n_bytes:]
    if first != _LISTED or len(listed) < n_bytes:
        raise FrameError(f"the list of the silent has {len(listed)} bytes for {n_messages} messages, or no beginning")
    spoken = np.unpackbits(np.frombuffer(listed, np.uint8)) == 0
    if not spoken[n_messages:].all():
        raise FrameError(
            f"the list of the silent names more than the {n_messages} messages of the frame; it was damaged"
        )
    return spoken[:n_messages], stream
