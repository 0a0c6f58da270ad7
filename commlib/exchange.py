"""The exchange: where vectors become frames, frames become vectors, and every bit is charged.

Each host has one `Endpoint`: the post office of its agents. A *trunk* is a standing mail bag: the routes that leave one
host together. Under the charging rule `broadcast` a trunk holds one route per sender and is heard by every host with an
open edge from it: one frame, paid once. Under `link` there is a trunk, a frame and a bill for each pair of hosts.

    vectors --choose--> codes --encode--> frame --charge--> | host |  --decode--> codes --embed--> inbox
                 ^ context: what was last delivered on the route, kept at both ends ^

Nothing sent means "as expected": a frame in which every message is the expected one is not sent at all and costs
nothing, because rounds are numbered and both ends see its absence; frames are counted, so
that a lost one is noticed at the next. Agents of one host talk through frames too.

Shapes: W worlds side by side, N agents, n local agents, D message width, P positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.codec import START, Codes, FrozenCodec, Vectors
from commlib.errors import AgentError, CodecError, FrameError
from commlib.frame import Frame, check_run, run_id, unpack
from commlib.message import Edge

CHARGING_RULES = {
    "broadcast": "one frame per sending host and round, heard by all open edges, paid once",
    "link": "one frame per pair of hosts and round, paid for each pair",
}
ABSENCE_RULE = "a frame that would only say what is expected is not sent and is free: rounds are numbered"


class Route(NamedTuple):
    """One sender and those who hear it through one trunk."""

    sender: int
    receivers: tuple[int, ...]


class Trunk(NamedTuple):
    """The routes that share a frame: from one host to all hosts in `targets`."""

    source: int
    targets: tuple[int, ...]
    routes: tuple[Route, ...]


class Plan(NamedTuple):
    """Who sits where and who may talk to whom; computed alike by every host."""

    host_of: tuple[int, ...]
    trunks: tuple[Trunk, ...]

    def agents_of(self, host: int) -> list[int]:
        """The agents that live on a host, ascending."""
        return [agent for agent, home in enumerate(self.host_of) if home == host]


def partition(n_agents: int, n_hosts: int) -> tuple[int, ...]:
    """The host of each agent: blocks as equal as possible, in order."""
    return tuple(agent * n_hosts // n_agents for agent in range(n_agents))


def make_plan(edges: tuple[Edge, ...], host_of: tuple[int, ...], charging: str) -> Plan:
    """The trunks of a graph under a charging rule."""
    trunks = []
    for source in range(max(host_of) + 1):
        leaving = [edge for edge in sorted(edges) if host_of[edge.sender] == source]
        if charging == "broadcast":
            heard = {e.sender: tuple(o.receiver for o in leaving if o.sender == e.sender) for e in leaving}
            targets = tuple(sorted({host_of[edge.receiver] for edge in leaving}))
            if heard:
                trunks.append(Trunk(source, targets, tuple(Route(*item) for item in heard.items())))
        else:
            for target in sorted({host_of[edge.receiver] for edge in leaving}):
                routes = tuple(Route(e.sender, (e.receiver,)) for e in leaving if host_of[e.receiver] == target)
                trunks.append(Trunk(source, (target,), routes))
    return Plan(host_of, tuple(trunks))


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
    """What a host's agents read in one round: float32 [W, n, N, D], zeros on closed edges; and the receipts for it."""

    inbox: Vectors
    heard: list[Heard]


@dataclass
class Endpoint:
    """One host's end of all its trunks: the codec, and what was last delivered on every route."""

    host: int
    plan: Plan
    codec: FrozenCodec
    n_worlds: int
    rate_weight: float = 0.0
    recorded: list[tuple[Codes, Codes]] | None = None
    """(context, codes) of every message, [n, P] each, if a list is put here; calibration counts priors from them."""
    run: bytes = field(init=False)
    usage: NDArray[np.int64] = field(init=False)
    """How often each code was sent, [P, K]."""
    _outgoing: dict[int, Codes] = field(init=False)
    _incoming: dict[int, Codes] = field(init=False)
    _counts: dict[int, int] = field(init=False)
    _heard_counts: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.run = run_id(self.codec.digest, repr(self.plan))
        self.usage = np.zeros((self.codec.n_positions, self.codec.alphabet), np.int64)
        self.reset(self.n_worlds)

    def reset(self, n_worlds: int) -> None:
        """Forget every context: a new batch of episodes starts on fresh links."""
        self.n_worlds = n_worlds
        self._outgoing = {i: self._fresh(t) for i, t in enumerate(self.plan.trunks) if t.source == self.host}
        self._counts = dict.fromkeys(self._outgoing, 0)
        self._heard_counts = dict.fromkeys(range(len(self.plan.trunks)), 0)
        self._incoming = {i: self._fresh(t) for i, t in enumerate(self.plan.trunks) if self.host in t.targets}

    def _fresh(self, trunk: Trunk) -> Codes:
        return np.full((len(trunk.routes), self.n_worlds, self.codec.n_positions), START)

    def send(
        self,
        round_number: int,
        vectors: Vectors,
        silent: NDArray[np.bool_],
        alive: NDArray[np.bool_],
        allowance_bits: int | None,
    ) -> Sent:
        """Choose codes for the local agents' vectors, pack them into frames, and charge them; nothing leaves uncharged.

        Args:
            round_number: the number of this round in the run.
            vectors: float32 [n, W, D], one message per local agent and world.
            silent: bool [n, W], agents that chose to say nothing.
            alive: bool [W], worlds whose episode still runs; the others send nothing.
            allowance_bits: what may be spent; messages that no longer fit are silenced (dropped). None: no limit.
        """
        if not np.isfinite(vectors).all():
            raise AgentError(f"host {self.host}: a message in round {round_number} holds NaN or infinity")
        local = self.plan.agents_of(self.host)
        frames: dict[int, bytes] = {}
        debits: list[Debit] = []
        estimate, n_open, n_spoken, n_dropped, dropped_bits = 0.0, 0, 0, 0, 0
        for index, past in self._outgoing.items():
            trunk = self.plan.trunks[index]
            rows = [local.index(route.sender) for route in trunk.routes]
            context = past[:, alive].reshape(-1, self.codec.n_positions)
            said = vectors[rows][:, alive].reshape(len(context), self.codec.width)
            wanted = self.codec.choose(said, context, self.rate_weight)
            expected = self.codec.expected(context)
            quiet = silent[rows][:, alive].ravel()
            wanted[quiet] = expected[quiet]
            n_open += int((~quiet).sum())
            spoken = self._spoken(wanted, expected, quiet)
            codes, data, kept = self._fit(index, round_number, wanted, expected, context, spoken, allowance_bits)
            full_bits = 0
            if codes is not wanted:  # the budget is out: count what was silenced
                full_bits = 8 * len(self._pack(index, round_number, wanted, context, spoken) or b"")
                n_dropped += int(spoken.sum() - kept.sum())
            coded = np.ones_like(kept) if self.codec.silence_is_coded else kept
            estimate += float(self.codec.estimate_bits(codes[coded], context[coded]).sum())
            n_spoken += int(kept.sum())
            for position, column in enumerate(codes.T):
                self.usage[position] += np.bincount(column, minlength=self.codec.alphabet)
            if self.recorded is not None:
                self.recorded.append((context, codes))
            past[:, alive] = codes.reshape(len(rows), -1, self.codec.n_positions)
            if data is None:
                dropped_bits += full_bits
                continue
            frames[index] = data
            self._counts[index] += 1
            dropped_bits += max(0, full_bits - 8 * len(data))
            if allowance_bits is not None:
                allowance_bits -= 8 * len(data)
            debits += _bill(trunk, data, int(alive.sum()))
        return Sent(frames, debits, estimate, n_open, n_spoken, n_dropped, dropped_bits)

    def _spoken(self, codes: Codes, expected: Codes, silent: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Messages that say something: not the expected code, or, without a codeword for silence, not silent."""
        spoken: NDArray[np.bool_] = (codes != expected).any(-1) if self.codec.silence_is_coded else ~silent
        return spoken

    def _fit(
        self,
        index: int,
        round_number: int,
        wanted: Codes,
        expected: Codes,
        context: Codes,
        spoken: NDArray[np.bool_],
        allowance_bits: int | None,
    ) -> tuple[Codes, bytes | None, NDArray[np.bool_]]:
        """The codes and frame that fit, and which of `spoken` they keep: all, or as many as fit, in order."""
        data = self._pack(index, round_number, wanted, context, spoken)
        if data is None or allowance_bits is None or 8 * len(data) <= allowance_bits:
            return wanted, data, spoken
        rank = np.where(spoken, np.cumsum(spoken) - 1, -1)
        best: tuple[Codes, bytes | None, NDArray[np.bool_]] = expected, None, np.zeros_like(spoken)
        low, high = 0, int(spoken.sum()) - 1
        while low < high:  # the largest number of spoken messages whose frame still fits
            keep = (low + high + 1) // 2
            kept = spoken & (rank < keep)
            codes = np.where(kept[:, None], wanted, expected)
            data = self._pack(index, round_number, codes, context, kept)
            if data is None or 8 * len(data) <= allowance_bits:
                best, low = (codes, data, kept), keep
            else:
                high = keep - 1
        return best

    def _pack(
        self, index: int, round_number: int, codes: Codes, context: Codes, spoken: NDArray[np.bool_]
    ) -> bytes | None:
        """The frame of these codes; None if it would only say what is expected."""
        if not spoken.any():
            return None
        silent = None
        if not self.codec.silence_is_coded and not spoken.all():
            silent = np.packbits(~spoken).tobytes()
            codes, context = codes[spoken], context[spoken]
        payload = self.codec.encode(codes, context)
        return Frame(self.run, round_number, index, self._counts[index], silent, payload).pack()

    def receive(self, round_number: int, frames: dict[int, bytes], alive: NDArray[np.bool_]) -> Received:
        """Read this round's frames, by trunk; a trunk without a frame means that all is as expected.

        Raises:
            FrameError: a frame is damaged, of another run, codec or round, or on a trunk that does not come here.
        """
        local = self.plan.agents_of(self.host)
        foreign = set(frames) - set(self._incoming)
        if foreign:
            raise FrameError(f"host {self.host} got a frame on trunk {min(foreign)}, which does not lead to it")
        decoded = {index: self._read(round_number, index, data, alive) for index, data in frames.items()}
        for index in decoded:
            self._heard_counts[index] += 1
        inbox = np.zeros((self.n_worlds, len(local), len(self.plan.host_of), self.codec.width), np.float32)
        heard: list[Heard] = []
        for index, past in self._incoming.items():
            trunk = self.plan.trunks[index]
            context = past[:, alive].reshape(-1, self.codec.n_positions)
            codes = decoded[index] if index in decoded else self.codec.expected(context)
            past[:, alive] = codes.reshape(len(trunk.routes), -1, self.codec.n_positions)
            z = self.codec.embed(codes).reshape(len(trunk.routes), -1, self.codec.width)
            bills = _bill(trunk, frames[index], int(alive.sum())) if index in frames else None
            for row, route in enumerate(trunk.routes):
                for receiver in set(route.receivers) & set(local):
                    inbox[alive, local.index(receiver), route.sender] = z[row]
                    if bills:
                        heard.append(Heard(Edge(route.sender, receiver), bills[row].n_messages, bills[row].bits))
        return Received(inbox, heard)

    def _read(self, round_number: int, index: int, data: bytes, alive: NDArray[np.bool_]) -> Codes:
        """The codes of one frame, with silent messages filled in."""
        frame = unpack(data)
        check_run(frame, self.run)
        if (frame.round, frame.trunk) != (round_number, index):
            raise FrameError(
                f"host {self.host} expected round {round_number} on trunk {index}, the frame is of round {frame.round} "
                f"on trunk {frame.trunk}"
            )
        if frame.n_earlier != self._heard_counts[index]:
            raise FrameError(
                f"host {self.host} has heard {self._heard_counts[index]} frames on trunk {index}, {frame.n_earlier} were sent "
                f"before this one: some were lost, and what silence meant since is unknown; start on fresh links"
            )
        context = self._incoming[index][:, alive].reshape(-1, self.codec.n_positions)
        codes = self.codec.expected(context)
        spoken = np.ones(len(context), bool)
        if frame.silent is not None:
            if self.codec.silence_is_coded or len(frame.silent) != (len(context) + 7) // 8:
                raise FrameError(f"the list of the silent has {len(frame.silent)} bytes for {len(context)} messages")
            spoken = np.unpackbits(np.frombuffer(frame.silent, np.uint8), count=len(context)) == 0
        try:
            codes[spoken] = self.codec.decode(frame.payload, context[spoken])
        except CodecError as error:
            raise FrameError(str(error)) from error
        return codes


def _bill(trunk: Trunk, data: bytes, n_alive: int) -> list[Debit]:
    """A frame's bits, shared out over its routes in whole bits that add up exactly; earlier routes take the odd bits.

    Sender and receiver compute it from the same bytes, so that debit and receipt can be compared.
    """
    total, payload = 8 * len(data), 8 * len(unpack(data).payload)
    n_routes = len(trunk.routes)
    return [
        Debit(
            route,
            n_alive,
            total // n_routes + (row < total % n_routes),
            payload // n_routes + (row < payload % n_routes),
        )
        for row, route in enumerate(trunk.routes)
    ]
