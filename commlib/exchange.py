"""The exchange: where vectors become frames, frames become vectors, and every bit is charged.

Each host has one `Endpoint`: the post office of its agents, with a mouth for every trunk that leaves it and an ear for
every trunk that comes in.

    vectors --choose--> codes --encode--> frame --charge--> | host |  --decode--> codes --embed--> inbox
                 ^ context: what was last delivered on the route, kept at both ends ^

Agents of one host talk through frames too.

Everything that depends on the plan alone is an index, made once; a round costs by the open edge.

Shapes: W worlds side by side, n local agents, K slots of an inbox, D message width, P positions, r routes of a trunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.agent import Harm
from commlib.codec import Codes, FrozenCodec, Vectors
from commlib.ends import Ear, Flags, Letter, Mouth
from commlib.errors import AgentError, FrameError
from commlib.frame import run_id
from commlib.gate import Gate, dice_of
from commlib.plan import Incoming, Index, Plan, Trunk, incoming, senders_of

TIERS = (0.25, 1.0, 4.0, 16.0)
"""The shares of the rate weight at which a message's tiers are told, beside the finest, where a harm decides."""


class Bill(NamedTuple):
    """What the frame of a trunk cost: whole bits as sent, header included, summed over worlds.

    Sender and receiver make it out from the same bytes, so that debit and receipt can be compared. Every route carried
    `n_messages`, and bears its share of the bits (`shares`).
    """

    trunk: int
    n_messages: int
    bits: int
    payload_bits: int


class Sent(NamedTuple):
    """What a host hands to the network in one round, and its bill.

    Attributes:
        frames: the bytes, by trunk.
        bills: what each frame costs.
        estimate_bits: -log2 q of all messages, silent ones too.
        n_open: messages whose agent chose to talk; n_spoken: those that said something unexpected, and so travelled.
        n_dropped, dropped_bits: messages silenced because the allowance was used up, and what they would have cost.
    """

    frames: dict[int, bytes]
    bills: list[Bill]
    estimate_bits: float
    n_open: int
    n_spoken: int
    n_dropped: int
    dropped_bits: int


class Received(NamedTuple):
    """What a host's agents read in one round, and the receipts for it.

    The inbox is float32 [W, n, K, D]: a slot for each sender that an agent hears, in the order of
    `commlib.plan.senders_of`; zeros in slots without a sender. Frames that were noticed to be lost, or could not be read
    because of it, are counted; neither happens where the plan is not lossy.
    """

    inbox: Vectors
    heard: list[Bill]
    n_lost: int = 0
    n_unread: int = 0


@dataclass
class Endpoint:
    """One host's end of all its trunks: the codec, and what was last delivered on every route."""

    host: int
    plan: Plan
    codec: FrozenCodec
    n_worlds: int
    rate_weight: float = 0.0
    gate: Gate = Gate()  # noqa: RUF009 (frozen)
    recorded: list[tuple[Codes, Codes]] | None = None
    """(context [n, P + 1], codes [n, P]) of every message, if a list is put here; calibration counts priors from them."""
    run: bytes = field(init=False)
    usage: NDArray[np.int64] = field(init=False)
    """How often each code was sent, [P, K]."""
    mouths: dict[int, Mouth] = field(init=False)
    ears: dict[int, Ear] = field(init=False)
    _seats: dict[int, Index] = field(init=False)
    """Where the sender of each route sits among the local agents, [r], by trunk that leaves."""
    _inlets: dict[int, _Inlet] = field(init=False)
    _inbox_shape: tuple[int, int, int] = field(init=False)
    _told: dict[int, tuple[Index, Codes, Codes]] = field(init=False, default_factory=dict)
    """The live worlds, contexts and codes of the last round, by trunk that leaves."""

    def __post_init__(self) -> None:
        self.run = run_id(self.codec.digest, repr(self.plan))
        self.usage = np.zeros((self.codec.n_positions, self.codec.alphabet), np.int64)
        leaving = {i: trunk for i, trunk in enumerate(self.plan.trunks) if trunk.source == self.host}
        arriving = incoming(self.plan, self.host)
        self.mouths = {i: Mouth(i, self.plan, self.codec, self.run) for i in leaving}
        self.ears = {i: Ear(i, self.plan, self.codec, self.run) for i in arriving}
        local = self.plan.agents_of(self.host)
        self._seats = {i: np.searchsorted(local, [r.sender for r in trunk.routes]) for i, trunk in leaving.items()}
        self._inlets = {i: _Inlet.of(edges) for i, edges in arriving.items()}
        self._inbox_shape = (*senders_of(self.plan, self.host).shape, self.codec.width)
        self.reset(self.n_worlds)

    def reset(self, n_worlds: int) -> None:
        """Forget every context: a new batch of episodes starts on fresh links."""
        self.n_worlds = n_worlds
        for end in (*self.mouths.values(), *self.ears.values()):
            end.reset(n_worlds)

    def send(
        self,
        round_number: int,
        vectors: Vectors,
        silent: Flags | NDArray[np.float32],
        alive: Flags,
        allowance_bits: int | None,
        harm: Harm | None = None,
    ) -> Sent:
        """Choose codes for the local agents' vectors, pack them into frames, and charge them; nothing leaves uncharged.

        Args:
            round_number: the number of this round in the run.
            vectors: float32 [n, W, D], one message per local agent and world.
            silent: [n, W], agents that chose to say nothing; or how likely each is to say nothing, 0..1: dice decide.
            alive: bool [W], worlds whose episode still runs; the others send nothing.
            allowance_bits: what may be spent; messages that no longer fit are silenced (dropped). None: no limit.
            harm: what it costs to tell a message otherwise than it was meant; None: the squared distortion.
        """
        if not np.isfinite(vectors).all():
            raise AgentError(f"host {self.host}: a message in round {round_number} holds NaN or infinity")
        frames: dict[int, bytes] = {}
        bills: list[Bill] = []
        awake = np.flatnonzero(alive)
        estimate, n_open, n_spoken, n_dropped, dropped_bits = 0.0, 0, 0, 0, 0
        for index, mouth in self.mouths.items():
            seats = self._seats[index][:, None]
            context = mouth.context(alive)
            said = vectors[seats, awake].reshape(len(context), self.codec.width)
            expected = self.codec.expected(context)
            if harm is None or self.rate_weight == 0:
                wanted = self.codec.choose(said, context, self.rate_weight)
            else:
                wanted = self._routed(index, said, context, expected, awake, harm)
            quiet = self._quiet(
                round_number, self.plan.trunks[index], silent[seats, awake], said, expected, context, awake
            )
            wanted[quiet] = expected[quiet]
            n_open += int((~quiet).sum())
            spoken = self._spoken(wanted, expected, quiet)
            full = mouth.frame(round_number, wanted, context, spoken)
            codes, letter, kept = wanted, full, spoken
            if full is not None and allowance_bits is not None and full.bits > allowance_bits:
                codes, letter, kept = _fit(mouth, round_number, wanted, expected, context, spoken, allowance_bits)
                n_dropped += int(spoken.sum() - kept.sum())
                dropped_bits += max(0, full.bits - (letter.bits if letter else 0))
            coded = np.ones_like(kept) if self.codec.silence_is_coded else kept
            estimate += float(self.codec.estimate_bits(codes[coded], context[coded]).sum())
            n_spoken += int(kept.sum())
            for position, column in enumerate(codes.T):
                self.usage[position] += np.bincount(column, minlength=self.codec.alphabet)
            if self.recorded is not None:
                self.recorded.append((context, codes))
            mouth.said(codes, alive, was_sent=letter is not None)
            self._told[index] = (awake, context, codes)
            if letter is None:
                continue
            frames[index] = letter.data
            if allowance_bits is not None:
                allowance_bits -= letter.bits
            bills.append(Bill(index, len(awake), letter.bits, letter.stream_bits))
        return Sent(frames, bills, estimate, n_open, n_spoken, n_dropped, dropped_bits)

    def delivered(self) -> Vectors:
        """What listeners now have from each local agent, [n, W, D], by its first route; zeros where nobody listens."""
        heard = np.zeros((len(self.plan.agents_of(self.host)), self.n_worlds, self.codec.width), np.float32)
        for index, (awake, context, codes) in reversed(self._told.items()):
            z = self.codec.embed(codes, context).reshape(-1, len(awake), self.codec.width)
            for seat, said in zip(self._seats[index][::-1], z[::-1], strict=True):
                heard[seat, awake] = said
        return heard

    def _routed(self, trunk: int, vectors: Vectors, context: Codes, expected: Codes, awake: Index, harm: Harm) -> Codes:
        """The way to tell each message, [n, P], with the least harm + rate_weight x bits.

        The ways are silence, where it is a codeword, and what the codec chooses when a bit costs nothing, less or more than
        it does: from the finest tier to the coarsest. What is as expected needs no decision.
        """
        best = self.codec.choose(vectors, context)
        is_news = (best != expected).any(-1) if self.codec.silence_is_coded else np.ones(len(best), bool)
        news = np.flatnonzero(is_news)
        past = context[news]
        ways = [expected[news]] if self.codec.silence_is_coded else []  # first, so that of equal ways it is taken
        ways += [best[news], *(self.codec.choose(vectors[news], past, tier * self.rate_weight) for tier in TIERS)]
        cost = self.rate_weight * np.stack([self.codec.estimate_bits(codes, past) for codes in ways])
        told = np.stack([self.codec.embed(codes, past) for codes in ways])
        row, world = np.divmod(news, len(awake))
        first = np.searchsorted(row, np.arange(len(self._seats[trunk]) + 1)).tolist()
        for which, (seat, route) in enumerate(zip(self._seats[trunk], self.plan.trunks[trunk].routes, strict=True)):
            mine = slice(first[which], first[which + 1])
            if mine.start < mine.stop:
                cost[:, mine] += harm(int(seat), route.receivers, awake[world[mine]], told[:, mine])
        best[news] = np.stack(ways)[cost.argmin(0), np.arange(len(news))]
        return best

    def _quiet(
        self,
        round_number: int,
        trunk: Trunk,
        silent: Flags | NDArray[np.float32],
        vectors: Vectors,
        expected: Codes,
        context: Codes,
        awake: Index,
    ) -> Flags:
        """Which messages [n] stay unsaid, because their agent is silent or the gate is shut; `awake` are the live worlds."""
        dice, is_drawn = np.zeros(len(context)), silent.dtype != bool
        if self.gate.draws or is_drawn:
            seed = self.gate.seed
            thrown = [dice_of(seed, round_number, route.sender, self.n_worlds)[awake] for route in trunk.routes]
            dice = np.concatenate(thrown)
        quiet: Flags = dice < silent.ravel() if is_drawn else silent.ravel().astype(bool)
        if self.gate.rule != "none":
            quiet = quiet | self.gate.is_shut(vectors, self.codec.embed(expected, context), dice)
        return quiet

    def _spoken(self, codes: Codes, expected: Codes, silent: Flags) -> Flags:
        """Messages that say something: not the expected code, or, without a codeword for silence, not silent."""
        spoken: Flags = (codes != expected).any(-1) if self.codec.silence_is_coded else ~silent
        return spoken

    def receive(self, round_number: int, frames: dict[int, bytes], alive: Flags) -> Received:
        """Read this round's frames, by trunk; a trunk without a frame means that all is as expected.

        Raises:
            FrameError: a frame is damaged, of another run, codec or round, or on a trunk that does not come here; then no
                context has moved.
        """
        foreign = set(frames) - set(self.ears)
        if foreign:
            raise FrameError(f"host {self.host} got a frame on trunk {min(foreign)}, which does not lead to it")
        readings = {i: ear.read(round_number, frames.get(i), alive) for i, ear in self.ears.items()}
        inbox = np.zeros((self.n_worlds, *self._inbox_shape), np.float32)
        heard: list[Bill] = []
        awake = np.flatnonzero(alive)
        for index, reading in readings.items():
            ear, data = self.ears[index], frames.get(index)
            self._inlets[index].pour(inbox, awake, reading.codes, ear.context(alive), self.codec)
            ear.heard(reading, alive, has_frame=data is not None)
            if data is not None:
                heard.append(Bill(index, len(awake), 8 * len(data), reading.stream_bits))
        n_lost = sum(reading.n_lost for reading in readings.values())
        return Received(inbox, heard, n_lost, sum(not reading.is_read for reading in readings.values()))


class _Inlet(NamedTuple):
    """Where the messages of a trunk belong in the inbox of a host.

    Attributes:
        routes: those that somebody here hears, ascending.
        which: for each edge to an agent here, [m], its place in `routes`.
        seat, slot: whose inbox, and where in it, [m].
    """

    routes: Index
    which: Index
    seat: Index
    slot: Index

    @classmethod
    def of(cls, edges: Incoming) -> _Inlet:
        """From the edges that the trunk brings here."""
        routes, which = np.unique(edges.route, return_inverse=True)
        return cls(routes, which, edges.seat, edges.slot)

    def pour(self, inbox: Vectors, awake: Index, codes: Codes, context: Codes, codec: FrozenCodec) -> None:
        """Put what a trunk's codes [r x worlds awake, P] mean into the inbox [W, n, K, D]."""
        here = (self.routes[:, None] * len(awake) + np.arange(len(awake))).ravel()
        z = codec.embed(codes[here], context[here]).reshape(len(self.routes), len(awake), codec.width)
        inbox[awake, self.seat[:, None], self.slot[:, None]] = z[self.which]


def _fit(
    mouth: Mouth,
    round_number: int,
    wanted: Codes,
    expected: Codes,
    context: Codes,
    spoken: Flags,
    allowance_bits: int,
) -> tuple[Codes, Letter | None, Flags]:
    """The codes and frame that fit, and which of `spoken` they keep: as many as fit, in order."""
    rank = np.where(spoken, np.cumsum(spoken) - 1, -1)
    best: tuple[Codes, Letter | None, Flags] = expected, None, np.zeros_like(spoken)
    low, high = 0, int(spoken.sum()) - 1
    while low < high:  # the largest number of spoken messages whose frame still fits
        keep = (low + high + 1) // 2
        kept = spoken & (rank < keep)
        codes = np.where(kept[:, None], wanted, expected)
        letter = mouth.frame(round_number, codes, context, kept)
        if letter is None or letter.bits <= allowance_bits:
            best, low = (codes, letter, kept), keep
        else:
            high = keep - 1
    return best


def shares(total: int, n_routes: int) -> list[int]:
    """A frame's bits, shared out over its routes in whole bits that add up exactly; earlier routes take the odd bits.

    >>> shares(14, 4)
    [4, 4, 3, 3]
    """
    least, n_odd = divmod(total, n_routes)
    return [least + 1] * n_odd + [least] * (n_routes - n_odd)
