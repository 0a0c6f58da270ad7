"""The exchange: where vectors become frames, frames become vectors, and every bit is charged.

Each host has one `Endpoint`: the post office of its agents, with a mouth for every trunk that leaves it and an ear for
every trunk that comes in.

    vectors --choose--> codes --encode--> frame --charge--> | host |  --decode--> codes --embed--> inbox
                 ^ context: what was last delivered on the route, kept at both ends ^

Agents of one host talk through frames too.

Shapes: W worlds side by side, N agents, n local agents, D message width, P positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.codec import Codes, FrozenCodec, Vectors
from commlib.ends import Ear, Flags, Letter, Mouth
from commlib.errors import AgentError, FrameError
from commlib.frame import run_id
from commlib.gate import Gate, dice_of
from commlib.message import Edge
from commlib.plan import Plan, Route, Trunk


class Debit(NamedTuple):
    """What one route of one frame cost: whole bits as sent, header included, summed over worlds."""

    route: Route
    n_messages: int
    bits: int
    payload_bits: int


class Heard(NamedTuple):
    """What one receiver heard on one edge in a round."""

    edge: Edge
    n_messages: int
    bits: int


class Sent(NamedTuple):
    """What a host hands to the network in one round, and its bill.

    Attributes:
        frames: the bytes, by trunk.
        debits: what each route of each frame costs.
        estimate_bits: -log2 q of all messages, silent ones too.
        n_open: messages whose agent chose to talk; n_spoken: those that said something unexpected, and so travelled.
        n_dropped, dropped_bits: messages silenced because the allowance was used up, and what they would have cost.
    """

    frames: dict[int, bytes]
    debits: list[Debit]
    estimate_bits: float
    n_open: int
    n_spoken: int
    n_dropped: int
    dropped_bits: int


class Received(NamedTuple):
    """What a host's agents read in one round: float32 [W, n, N, D], zeros on closed edges; and the receipts for it.

    Frames that were noticed to be lost, or could not be read because of it, are counted; neither happens where the plan
    is not lossy.
    """

    inbox: Vectors
    heard: list[Heard]
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

    def __post_init__(self) -> None:
        self.run = run_id(self.codec.digest, repr(self.plan))
        self.usage = np.zeros((self.codec.n_positions, self.codec.alphabet), np.int64)
        trunks = list(enumerate(self.plan.trunks))
        self.mouths = {i: Mouth(i, self.plan, self.codec, self.run) for i, t in trunks if t.source == self.host}
        self.ears = {i: Ear(i, self.plan, self.codec, self.run) for i, t in trunks if self.host in t.targets}
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
    ) -> Sent:
        """Choose codes for the local agents' vectors, pack them into frames, and charge them; nothing leaves uncharged.

        Args:
            round_number: the number of this round in the run.
            vectors: float32 [n, W, D], one message per local agent and world.
            silent: [n, W], agents that chose to say nothing; or how likely each is to say nothing, 0..1: dice decide.
            alive: bool [W], worlds whose episode still runs; the others send nothing.
            allowance_bits: what may be spent; messages that no longer fit are silenced (dropped). None: no limit.
        """
        if not np.isfinite(vectors).all():
            raise AgentError(f"host {self.host}: a message in round {round_number} holds NaN or infinity")
        local = self.plan.agents_of(self.host)
        frames: dict[int, bytes] = {}
        debits: list[Debit] = []
        estimate, n_open, n_spoken, n_dropped, dropped_bits = 0.0, 0, 0, 0, 0
        for index, mouth in self.mouths.items():
            trunk = self.plan.trunks[index]
            rows = [local.index(route.sender) for route in trunk.routes]
            context = mouth.context(alive)
            said = vectors[rows][:, alive].reshape(len(context), self.codec.width)
            wanted = self.codec.choose(said, context, self.rate_weight)
            expected = self.codec.expected(context)
            quiet = self._quiet(round_number, trunk, silent[rows], said, expected, context, alive)
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
            if letter is None:
                continue
            frames[index] = letter.data
            if allowance_bits is not None:
                allowance_bits -= letter.bits
            debits += _bill(trunk, letter.bits, letter.stream_bits, int(alive.sum()))
        return Sent(frames, debits, estimate, n_open, n_spoken, n_dropped, dropped_bits)

    def _quiet(
        self,
        round_number: int,
        trunk: Trunk,
        silent: Flags | NDArray[np.float32],
        vectors: Vectors,
        expected: Codes,
        context: Codes,
        alive: Flags,
    ) -> Flags:
        """Which messages [n] stay unsaid, because their agent is silent or the gate is shut."""
        quiet, dice = silent[:, alive].ravel(), np.zeros(len(context))
        if self.gate.draws or quiet.dtype != bool:
            dice = np.concatenate([dice_of(round_number, route.sender, len(alive))[alive] for route in trunk.routes])
        quiet = quiet if quiet.dtype == bool else dice < quiet
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
        local = self.plan.agents_of(self.host)
        foreign = set(frames) - set(self.ears)
        if foreign:
            raise FrameError(f"host {self.host} got a frame on trunk {min(foreign)}, which does not lead to it")
        readings = {i: ear.read(round_number, frames.get(i), alive) for i, ear in self.ears.items()}
        inbox = np.zeros((self.n_worlds, len(local), len(self.plan.host_of), self.codec.width), np.float32)
        heard: list[Heard] = []
        for index, reading in readings.items():
            trunk, ear, data = self.plan.trunks[index], self.ears[index], frames.get(index)
            z = self.codec.embed(reading.codes, ear.context(alive)).reshape(len(trunk.routes), -1, self.codec.width)
            ear.heard(reading, alive, has_frame=data is not None)
            bills = _bill(trunk, 8 * len(data), reading.stream_bits, int(alive.sum())) if data is not None else None
            for row, route in enumerate(trunk.routes):
                for receiver in set(route.receivers) & set(local):
                    inbox[alive, local.index(receiver), route.sender] = z[row]
                    if bills:
                        heard.append(Heard(Edge(route.sender, receiver), bills[row].n_messages, bills[row].bits))
        n_lost = sum(reading.n_lost for reading in readings.values())
        return Received(inbox, heard, n_lost, sum(not reading.is_read for reading in readings.values()))


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


def _bill(trunk: Trunk, total: int, stream: int, n_alive: int) -> list[Debit]:
    """A frame's bits, shared out over its routes in whole bits that add up exactly; earlier routes take the odd bits.

    Sender and receiver compute it from the same bytes, so that debit and receipt can be compared.
    """
    n_routes = len(trunk.routes)
    return [
        Debit(
            route,
            n_alive,
            total // n_routes + (row < total % n_routes),
            stream // n_routes + (row < stream % n_routes),
        )
        for row, route in enumerate(trunk.routes)
    ]
