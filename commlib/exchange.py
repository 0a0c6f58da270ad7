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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.agent import Harm, Spoken
from commlib.codec import Codes, FrozenCodec, Vectors
from commlib.ends import Ear, Flags, Letter, Mouth
from commlib.errors import AgentError, FrameError, OverBudget
from commlib.frame import run_id
from commlib.gate import Gate, dice_of
from commlib.plan import Incoming, Index, Plan, Trunk, incoming, senders_of
from commlib.rationing import (
    EVERYBODY,
    Allowance,
    Cap,
    Claims,
    Rationing,
    Scope,
    Toll,
    order,
    rank_within,
    shares_of,
)
from commlib.units import Currency

TIERS = (0.25, 1.0, 4.0, 16.0)
"""The shares of the rate weight at which a message's tiers are told, beside the finest, where a harm decides."""

COARSER = 4.0
"""From one tier to the next coarser one, the rate weight grows by this, where messages are degraded to fit."""
N_COARSER = 8
"""How many tiers are tried."""


class Bill(NamedTuple):
    """What the frame of a trunk cost: whole bits as sent, header included, summed over worlds.

    Sender and receiver make it out from the same bytes, so that debit and receipt can be compared. `messages` has, for each
    route of the trunk, how many messages it said; every one of them bears the same share of the bits (`shares`).
    """

    trunk: int
    messages: tuple[int, ...]
    bits: int
    payload_bits: int


class Sent(NamedTuple):
    """What a host hands to the network in one round, and its bill.

    Attributes:
        frames: the bytes, by trunk.
        bills: what each frame costs.
        estimate_bits: -log2 q of all messages, silent ones too.
        n_open: messages whose agent chose to talk; n_spoken: those that said something unexpected, and so travelled.
        n_dropped, dropped_bits: messages silenced because an allowance was used up, and what they would have cost.
        n_degraded: messages told more coarsely than was wanted, to fit.
        n_deferred: messages put off; n_late: those of them, put off now or before, that went in this round.
        wanted: what each cap of the allowance would have been charged without any, in its order.
        longest_wanted_bits: the longest frame that would have been sent.
    """

    frames: dict[int, bytes]
    bills: list[Bill]
    estimate_bits: float
    n_open: int
    n_spoken: int
    n_dropped: int
    dropped_bits: int
    n_degraded: int = 0
    n_deferred: int = 0
    n_late: int = 0
    wanted: tuple[int, ...] = ()
    longest_wanted_bits: int = 0


class Received(NamedTuple):
    """What a host's agents read in one round, and the receipts for it.

    The inbox is float32 [W, n, K, D]: a slot for each sender that an agent hears, in the order of
    `commlib.plan.senders_of`; zeros in slots without a sender. Frames that were noticed to be lost, or could not be read
    because of it, are counted; neither happens where the plan is not lossy. What cannot be read has no receipt.
    """

    inbox: Vectors
    heard: list[Bill]
    n_lost: int = 0
    n_unread: int = 0


@dataclass
class Draft:
    """What the agents of a trunk want to say in a round, before anybody asks what may be sent.

    Rows are messages, route by route, and in each the worlds that are alive.

    Attributes:
        trunk: which.
        said: the vectors [n, D]; context [n, P + 1], expected and wanted: codes [n, P].
        open: the messages whose agent chose to talk, [n].
        spoken: those that say something unexpected, [n].
        is_late: those that were put off before, [n].
    """

    trunk: int
    said: Vectors
    context: Codes
    expected: Codes
    wanted: Codes
    open: Flags
    spoken: Flags
    is_late: Flags


class Offer(NamedTuple):
    """What may go of a draft: codes [n, P], which messages they say, [n], and the frame that says them."""

    codes: Codes
    kept: Flags
    letter: Letter | None


class PutOff(NamedTuple):
    """Messages that wait for a later round: vectors [r, W, D], and for how many rounds each waits, [r, W]; -1: none."""

    said: Vectors
    age: Index

    @classmethod
    def none(cls, n_routes: int, n_worlds: int, width: int) -> PutOff:
        """Nobody waits."""
        return cls(np.zeros((n_routes, n_worlds, width), np.float32), np.full((n_routes, n_worlds), -1))


@dataclass
class Endpoint:
    """One host's end of all its trunks: the codec, and what was last delivered on every route."""

    host: int
    plan: Plan
    codec: FrozenCodec
    n_worlds: int
    rate_weight: float = 0.0
    """The price of a bit for everybody, in squared distortion (or harm)."""
    tolls: tuple[Toll, ...] = ()
    """Whatever else is paid for."""
    gate: Gate = Gate()  # noqa: RUF009 (frozen)
    rationing: Rationing = Rationing()  # noqa: RUF009 (frozen)
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
    _drafts: list[Draft] = field(init=False, default_factory=list)
    _harm: Harm | None = field(init=False, default=None)
    _value: Vectors | None = field(init=False, default=None)
    _full: list[Offer] = field(init=False, default_factory=list)
    """All that the drafts want, if everything goes."""
    _put_off: dict[int, PutOff] = field(init=False, default_factory=dict)
    _n_given_up: int = field(init=False, default=0)
    _covered: dict[tuple[int, Scope], Flags] = field(init=False, default_factory=dict)

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
        """Forget every context, and what was put off: a new batch of episodes starts on fresh links."""
        self.n_worlds = n_worlds
        for end in (*self.mouths.values(), *self.ears.values()):
            end.reset(n_worlds)
        if self.rationing.when_out == "defer":
            routes = {index: len(self.plan.trunks[index].routes) for index in self.mouths}
            self._put_off = {index: PutOff.none(n, n_worlds, self.codec.width) for index, n in routes.items()}

    @property
    def n_put_off(self) -> int:
        """How many messages wait for a later round."""
        return sum(int((waiting.age >= 0).sum()) for waiting in self._put_off.values())

    # Speaking: first it is settled what is wanted, then what goes.

    def send(self, round_number: int, spoken: Spoken, alive: Flags, allowance: Allowance | None = None) -> Sent:
        """Choose codes for what the local agents say, pack them into frames, and charge them; nothing leaves uncharged.

        Args:
            round_number: the number of this round in the run.
            spoken: one message per local agent and world.
            alive: bool [W], worlds whose episode still runs; the others send nothing.
            allowance: what may be spent; what no longer fits is treated as the rationing says. None: no limit.
        """
        self.draft(round_number, spoken, alive)
        return self.post(round_number, alive, allowance)

    def draft(self, round_number: int, spoken: Spoken, alive: Flags) -> None:
        """Settle what the local agents want to say; `post` sends it, or what is allowed of it."""
        if not np.isfinite(spoken.vectors).all():
            raise AgentError(f"host {self.host}: a message in round {round_number} holds NaN or infinity")
        self._harm, self._value, self._n_given_up = spoken.harm, spoken.value, 0
        self._drafts = [self._drafted(index, round_number, spoken, alive) for index in self.mouths]
        self._full = [
            Offer(d.wanted, d.spoken, self.mouths[d.trunk].frame(round_number, d.wanted, d.context, d.spoken))
            for d in self._drafts
        ]

    def _drafted(self, index: int, round_number: int, spoken: Spoken, alive: Flags) -> Draft:
        trunk, awake = self.plan.trunks[index], np.flatnonzero(alive)
        seats = self._seats[index][:, None]
        context = self.mouths[index].context(alive)
        said = spoken.vectors[seats, awake].reshape(len(context), self.codec.width)
        expected = self.codec.expected(context)
        wanted = self._chosen(index, said, context, expected, awake)
        quiet = self._quiet(round_number, trunk, spoken.silent[seats, awake], said, expected, context, awake)
        wanted[quiet] = expected[quiet]
        is_open, is_late = ~quiet, np.zeros(len(context), bool)
        draft = Draft(index, said, context, expected, wanted, is_open, self._says(wanted, expected, quiet), is_late)
        self._pay_tolls(draft, awake)
        if self._put_off:
            self._remember(draft, awake)
        return draft

    def _chosen(self, index: int, said: Vectors, context: Codes, expected: Codes, awake: Index) -> Codes:
        """The codes [n, P] that tell these messages best for what they cost."""
        weight_of = self._weights("bits", index, self.rate_weight)
        weights = np.unique(weight_of)
        if len(weights) == 1:
            rows = np.arange(len(context))
            return self._chosen_at(float(weights[0]), index, said, context, expected, awake, rows)
        chosen = np.empty_like(expected)
        for weight in weights:
            rows = np.flatnonzero(np.repeat(weight_of == weight, len(awake)))
            chosen[rows] = self._chosen_at(float(weight), index, said[rows], context[rows], expected[rows], awake, rows)
        return chosen

    def _weights(self, currency: Currency, index: int, weight: float = 0.0) -> NDArray[np.float64]:
        """The price of a bit or a message on each route of a trunk, [r], where all pay `weight` and some pay tolls."""
        weights = np.full(len(self.plan.trunks[index].routes), weight)
        for toll in self.tolls:
            if toll.currency == currency:
                weights += toll.weight * self._covers(index, toll.scope)
        return weights

    def _chosen_at(
        self, weight: float, index: int, said: Vectors, context: Codes, expected: Codes, awake: Index, rows: Index
    ) -> Codes:
        """The codes at one price of a bit; these messages are the `rows` of the trunk."""
        if self._harm is None or weight == 0:
            return self.codec.choose(said, context, weight)
        best = self.codec.choose(said, context)
        is_news = (best != expected).any(-1) if self.codec.silence_is_coded else np.ones(len(best), bool)
        news = np.flatnonzero(is_news)
        past = context[news]
        # The ways to tell each: silence, where it is a codeword, and what the codec chooses when a bit costs nothing, less
        # or more than it does, from the finest tier to the coarsest. Silence comes first, and is taken of equal ways.
        ways = [expected[news]] if self.codec.silence_is_coded else []
        ways += [best[news], *(self.codec.choose(said[news], past, tier * weight) for tier in TIERS)]
        cost = weight * np.stack([self.codec.estimate_bits(codes, past) for codes in ways])
        cost += self._losses(index, said[news], past, ways, awake, rows[news])
        best[news] = np.stack(ways)[cost.argmin(0), np.arange(len(news))]
        return best

    def _losses(
        self, index: int, said: Vectors, context: Codes, ways: Sequence[Codes], awake: Index, rows: Index
    ) -> NDArray[np.float64]:
        """What is lost, [M, n], if these `rows` of a trunk are told in each of M ways: harm, or squared distortion."""
        told = np.stack([self.codec.embed(codes, context) for codes in ways])
        if self._harm is None:
            distortion: NDArray[np.float64] = ((told - said) ** 2).sum(-1, dtype=np.float64)
            return distortion
        losses = np.zeros((len(ways), len(rows)))
        row, world = np.divmod(rows, len(awake))
        first = np.searchsorted(row, np.arange(len(self._seats[index]) + 1)).tolist()
        for which, (seat, route) in enumerate(zip(self._seats[index], self.plan.trunks[index].routes, strict=True)):
            mine = slice(first[which], first[which + 1])
            if mine.start < mine.stop:
                losses[:, mine] = self._harm(int(seat), route.receivers, awake[world[mine]], told[:, mine])
        return losses

    def _pay_tolls(self, draft: Draft, awake: Index) -> None:
        """Leave unsaid what is not worth the price of a message, or of a round."""
        per_message = np.repeat(self._weights("messages", draft.trunk), len(awake))
        per_round = sum(toll.weight for toll in self.tolls if toll.currency == "rounds") * len(awake)
        news = np.flatnonzero(draft.spoken)
        if not (len(news) and (per_message.any() or per_round)):
            return
        past, ways = draft.context[news], [draft.expected[news], draft.wanted[news]]
        per_bit = np.repeat(self._weights("bits", draft.trunk, self.rate_weight), len(awake))[news]
        silent, told = self._losses(draft.trunk, draft.said[news], past, ways, awake, news)
        bits = [self.codec.estimate_bits(codes, past) for codes in ways]
        gain = silent - told - per_bit * (bits[1] - bits[0] * self.codec.silence_is_coded) - per_message[news]
        is_worth = gain > 0
        if gain[is_worth].sum() <= per_round:
            is_worth[:] = False
        unsaid = news[~is_worth]
        draft.wanted[unsaid] = draft.expected[unsaid]
        draft.spoken[unsaid] = False

    def _remember(self, draft: Draft, awake: Index) -> None:
        """Say what was put off, in the place of those that have no news; news take the place of what was put off."""
        waiting = self._put_off[draft.trunk]
        age = waiting.age[:, awake].ravel()
        spoken = draft.spoken
        self._n_given_up += int((spoken & (age >= 0)).sum())
        rows = np.flatnonzero(~spoken & (age >= 0))
        if len(rows):
            said, past, expected = waiting.said[:, awake].reshape(draft.said.shape), draft.context, draft.expected
            said, past, expected = said[rows], past[rows], expected[rows]
            codes = self.codec.choose(said, past, self.rate_weight)
            is_news = self._says(codes, expected, np.zeros(len(rows), bool))
            self._n_given_up += int((~is_news).sum())  # meanwhile it is what listeners expect
            late = rows[is_news]
            draft.said[late], draft.wanted[late] = said[is_news], codes[is_news]
            draft.spoken[late] = draft.is_late[late] = True
        forgotten = (spoken & ~draft.is_late) | ((age >= 0) & ~spoken)
        age[forgotten] = -1
        waiting.age[:, awake] = age.reshape(len(waiting.age), -1)

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

    def _says(self, codes: Codes, expected: Codes, silent: Flags) -> Flags:
        """Messages that say something: not the expected code, or, without a codeword for silence, not silent."""
        spoken: Flags = (codes != expected).any(-1) if self.codec.silence_is_coded else ~silent
        return spoken

    def claims(self, alive: Flags, scope: Scope = EVERYBODY) -> Claims:
        """What the drafts want to send of what is in the scope, for whoever shares out a pool."""
        claims, rows = self._claimed(np.flatnonzero(alive), self._full)
        covered = [
            np.repeat(self._covers(draft.trunk, scope), int(alive.sum()))[draft.spoken] for draft in self._drafts
        ]
        mine = np.concatenate([np.zeros(0, bool), *covered])
        bits = np.split(claims.bits, np.cumsum([len(some) for some in rows])[:-1]) if rows else []
        overhead = [  # the header, and what it takes to say that the others are silent
            offer.letter.bits - float(cost.sum())
            for offer, cost, some in zip(self._full, bits, covered, strict=True)
            if offer.letter is not None and some.any()
        ]
        return Claims(claims.sender[mine], claims.bits[mine], claims.value[mine], round(sum(overhead)))

    def _claimed(self, awake: Index, offers: Sequence[Offer]) -> tuple[Claims, list[Index]]:
        """The messages of these offers, and the rows of each draft that they are."""
        columns: list[tuple[Index, NDArray[np.float64], NDArray[np.float64]]] = []
        rows = [np.flatnonzero(offer.kept) for offer in offers]
        for draft, offer, news in zip(self._drafts, offers, rows, strict=True):
            routes = self.plan.trunks[draft.trunk].routes
            row, world = np.divmod(news, max(1, len(awake)))
            past, ways = draft.context[news], [draft.expected[news], offer.codes[news]]
            before, bits = (self.codec.estimate_bits(codes, past) for codes in ways)
            if self._value is None:
                silent, told = self._losses(draft.trunk, draft.said[news], past, ways, awake, news)
                value = silent - told
            else:
                value = self._value[self._seats[draft.trunk][row], awake[world]].astype(np.float64)
            sender = np.array([route.sender for route in routes], np.int64)[row]
            columns.append((sender, bits - before if self.codec.silence_is_coded else bits, value))
        none = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        return Claims(*(np.concatenate(column) for column in zip(none, *columns, strict=True))), rows

    def post(self, round_number: int, alive: Flags, allowance: Allowance | None = None) -> Sent:
        """Send the drafts, or what is allowed of them, and charge it."""
        full = self._full
        wanted = () if allowance is None else tuple(self._charge(cap, full) for cap in allowance.caps)
        longest = max((offer.letter.bits for offer in full if offer.letter), default=0)
        offers = full
        if allowance is not None and not self._fits(allowance, full):
            offers = self._rationed(round_number, alive, allowance, full)
        frames: dict[int, bytes] = {}
        bills: list[Bill] = []
        estimate = 0.0
        for draft, (codes, kept, letter) in zip(self._drafts, offers, strict=True):
            coded = np.ones_like(kept) if self.codec.silence_is_coded else kept
            estimate += float(self.codec.estimate_bits(codes[coded], draft.context[coded]).sum())
            for position, column in enumerate(codes.T):
                self.usage[position] += np.bincount(column, minlength=self.codec.alphabet)
            if self.recorded is not None:
                self.recorded.append((draft.context, codes))
            self.mouths[draft.trunk].said(codes, alive, was_sent=letter is not None)
            self._told[draft.trunk] = (np.flatnonzero(alive), draft.context, codes)
            if letter is not None:
                frames[draft.trunk] = letter.data
                bills.append(Bill(draft.trunk, self._counted(draft.trunk, kept), letter.bits, letter.stream_bits))
        sent = Sent(
            frames,
            bills,
            estimate,
            n_open=sum(int(draft.open.sum()) for draft in self._drafts),
            n_spoken=sum(int(offer.kept.sum()) for offer in offers),
            n_dropped=0,
            dropped_bits=0,
            wanted=wanted,
            longest_wanted_bits=longest,
        )
        return sent if offers is full and not self._put_off else self._accounted(sent, alive, full, offers)

    def _accounted(self, sent: Sent, alive: Flags, full: list[Offer], offers: list[Offer]) -> Sent:
        """The same, with what became of the messages that did not go as they were wanted."""
        n_degraded = n_lost = n_deferred = n_late = 0
        for draft, (codes, kept, _) in zip(self._drafts, offers, strict=True):
            lost = draft.spoken & ~kept
            n_degraded += int((kept & (codes != draft.wanted).any(-1)).sum())
            n_late += int((kept & draft.is_late).sum())
            n_lost += int(lost.sum())
            if self._put_off:
                n_new, n_over = self._wait(draft, lost, alive)
                n_deferred += n_new
                n_lost += n_over - int(lost.sum())
        before, now = (sum(offer.letter.bits for offer in some if offer.letter) for some in (full, offers))
        return sent._replace(
            n_dropped=n_lost + self._n_given_up,
            dropped_bits=max(0, before - now),
            n_degraded=n_degraded,
            n_deferred=n_deferred,
            n_late=n_late,
        )

    def _wait(self, draft: Draft, lost: Flags, alive: Flags) -> tuple[int, int]:
        """Put off what found no room; how many messages are new among them, and how many have waited long enough."""
        waiting, awake = self._put_off[draft.trunk], np.flatnonzero(alive)
        age = waiting.age[:, awake].ravel()
        is_new = lost & ~draft.is_late
        age[draft.is_late] += 1
        age[draft.is_late & ~lost] = -1
        is_over = draft.is_late & lost & (age >= self.rationing.defer_rounds)
        age[is_over] = -1
        age[is_new] = 0
        waiting.age[:, awake] = age.reshape(len(waiting.age), -1)
        said = waiting.said[:, awake].reshape(draft.said.shape)
        said[is_new] = draft.said[is_new]
        waiting.said[:, awake] = said.reshape(len(waiting.age), -1, said.shape[-1])
        return int(is_new.sum()), int(is_over.sum())

    def delivered(self) -> Vectors:
        """What listeners now have from each local agent, [n, W, D], by its first route; zeros where nobody listens."""
        heard = np.zeros((len(self.plan.agents_of(self.host)), self.n_worlds, self.codec.width), np.float32)
        for index, (awake, context, codes) in reversed(self._told.items()):
            z = self.codec.embed(codes, context).reshape(-1, len(awake), self.codec.width)
            for seat, said in zip(self._seats[index][::-1], z[::-1], strict=True):
                heard[seat, awake] = said
        return heard

    # What is charged, and what fits.

    def _covers(self, index: int, scope: Scope) -> Flags:
        """Which routes [r] of a trunk are in a scope."""
        known = self._covered.get((index, scope))
        if known is None:
            known = np.array([scope.covers(route) for route in self.plan.trunks[index].routes], bool)
            self._covered[index, scope] = known
        return known

    def _counted(self, index: int, kept: Flags) -> tuple[int, ...]:
        """How many messages are kept on each route."""
        return tuple(kept.reshape(len(self.plan.trunks[index].routes), -1).sum(1).tolist())

    def _charge(self, cap: Cap, offers: Sequence[Offer]) -> int:
        """What these frames would be charged under a cap."""
        total = 0
        for draft, (_, kept, letter) in zip(self._drafts, offers, strict=True):
            if letter is None:
                continue
            if cap.currency == "bits" and cap.scope.is_everybodys:
                total += letter.bits
                continue
            counts = self._counted(draft.trunk, kept)
            paid = shares(letter.bits, counts) if cap.currency == "bits" else counts
            total += sum(n for n, mine in zip(paid, self._covers(draft.trunk, cap.scope), strict=True) if mine)
        return total

    def _fits(self, allowance: Allowance, offers: Sequence[Offer]) -> bool:
        if allowance.frame_bits is not None and any(o.letter and o.letter.bits > allowance.frame_bits for o in offers):
            return False
        return all(self._charge(cap, offers) <= cap.amount for cap in allowance.caps)

    def _rationed(self, number: int, alive: Flags, allowance: Allowance, full: list[Offer]) -> list[Offer]:
        """What goes of the drafts, as the rationing says."""
        if self.rationing.when_out == "raise":
            caps = [f"{self._charge(cap, full)} {cap.currency} of {cap.amount}" for cap in allowance.caps]
            caps += [] if allowance.frame_bits is None else [f"a frame of at most {allowance.frame_bits} bits"]
            n = sum(int(offer.kept.sum()) for offer in full)
            raise OverBudget(
                f"host {self.host} has {n} messages in round {number}, and they do not fit ({', '.join(caps)} allowed); "
                f"raise the budget, or let messages be dropped, degraded or deferred (--when-out)"
            )
        awake = np.flatnonzero(alive)
        if self.rationing.when_out == "degrade" and allowance.frame_bits != 0:
            full = self._degraded(number, awake, allowance)
        return self._kept(number, awake, allowance, full)

    def _degraded(self, number: int, awake: Index, allowance: Allowance) -> list[Offer]:
        """The drafts told just so coarsely that they fit; at the coarsest, if they never do."""
        claims, rows = self._claimed(awake, self._full)
        typical = float(np.median(claims.density)) if len(claims.bits) else 0.0
        weight = max(self.rate_weight, typical / COARSER, 1e-9)
        offers, fine = self._full, weight
        for _ in range(N_COARSER):
            weight *= COARSER
            offers = self._told_at(weight, number, awake, rows)
            if self._fits(allowance, offers):
                break
            fine = weight
        else:
            return offers
        coarse = weight
        for _ in range(3):  # between the last that did not fit and the first that did
            weight = (fine * coarse) ** 0.5
            finer = self._told_at(weight, number, awake, rows)
            if self._fits(allowance, finer):
                offers, coarse = finer, weight
            else:
                fine = weight
        return offers

    def _told_at(self, weight: float, number: int, awake: Index, rows: list[Index]) -> list[Offer]:
        """The drafts with the bits at another price for everybody."""
        offers = []
        for draft, news in zip(self._drafts, rows, strict=True):
            codes = draft.wanted.copy()
            said, past, expected = draft.said[news], draft.context[news], draft.expected[news]
            codes[news] = self._chosen_at(weight, draft.trunk, said, past, expected, awake, news)
            kept = draft.spoken & self._says(codes, draft.expected, ~draft.spoken)
            codes = np.where(kept[:, None], codes, draft.expected)
            offers.append(Offer(codes, kept, self.mouths[draft.trunk].frame(number, codes, draft.context, kept)))
        return offers

    def _kept(self, number: int, awake: Index, allowance: Allowance, offers: list[Offer]) -> list[Offer]:
        """As many messages of these offers as fit under every cap, in the order in which they are to be served."""
        claims, rows = self._claimed(awake, offers)
        caps = self._with_shares(allowance.caps, claims)
        pool = min((cap.amount for cap in caps if cap.currency == "bits" and cap.scope.is_everybodys), default=0)
        queue = _Queue.of(self, number, awake, offers, rows, order(claims, self.rationing, pool))
        if allowance.frame_bits == 0:
            return queue.offers(np.zeros(len(claims.bits), bool))
        chosen = np.ones(len(claims.bits), bool)
        for cap in caps:
            if cap.currency == "messages":
                mine = queue.covered(cap.scope)
                chosen &= ~mine | (rank_within(chosen & mine, queue.served) < cap.amount)
        bits = [cap for cap in caps if cap.currency == "bits"]
        narrow = [cap for cap in bits if not cap.scope.is_everybodys]
        wide = Allowance(tuple(cap for cap in bits if cap.scope.is_everybodys), allowance.frame_bits)
        while True:  # fewer are chosen in every turn
            tried = queue.offers(chosen)
            charged = [(cap, self._charge(cap, tried)) for cap in narrow]
            over = [(cap, bits) for cap, bits in charged if bits > cap.amount]
            if over:
                cap, bits_ = over[0]
                mine = chosen & queue.covered(cap.scope)
                n = int(mine.sum())
                chosen &= ~mine | (rank_within(mine, queue.served) < min(n - 1, n * cap.amount // bits_))
            elif not self._fits(wide, tried):
                chosen = queue.most(chosen, lambda offers: self._fits(wide, offers))
            else:
                return tried

    def _with_shares(self, caps: tuple[Cap, ...], claims: Claims) -> tuple[Cap, ...]:
        """The caps, and those that an equal or proportional allocation puts on each agent."""
        rule = self.rationing.allocation
        if rule not in ("equal", "proportional"):
            return caps
        agents = self.plan.agents_of(self.host)
        return caps + tuple(
            Cap(cap.currency, amount, Scope((agent,)))
            for cap in caps
            if cap.scope.is_everybodys
            for agent, amount in zip(agents, shares_of(claims, rule, agents, cap.amount), strict=True)
        )

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
            if data is not None and reading.is_read:
                counts = reading.spoken.reshape(-1, len(awake)).sum(1)
                heard.append(Bill(index, tuple(counts.tolist()), 8 * len(data), reading.stream_bits))
        n_lost = sum(reading.n_lost for reading in readings.values())
        return Received(inbox, heard, n_lost, sum(not reading.is_read for reading in readings.values()))


@dataclass(frozen=True)
class _Queue:
    """Messages in the order in which they are to be served, and the frames of those of them that are chosen."""

    endpoint: Endpoint
    number: int
    full: list[Offer]
    rows: list[Index]
    served: Index
    draft_of: Index
    route_of: Index

    @classmethod
    def of(
        cls, endpoint: Endpoint, number: int, awake: Index, full: list[Offer], rows: list[Index], served: Index
    ) -> _Queue:
        """From the rows of each draft that are messages, and their order."""
        draft_of = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        route_of = np.concatenate([np.zeros(0, np.int64), *(some // max(1, len(awake)) for some in rows)])
        return cls(endpoint, number, full, rows, served, draft_of, route_of)

    def covered(self, scope: Scope) -> Flags:
        """Which messages are in a scope."""
        mine = np.zeros(len(self.served), bool)
        for nth, draft in enumerate(self.endpoint._drafts):
            here = self.draft_of == nth
            mine[here] = self.endpoint._covers(draft.trunk, scope)[self.route_of[here]]
        return mine

    def offers(self, chosen: Flags) -> list[Offer]:
        """The frames that say the chosen messages, and what is expected for the others."""
        made = []
        for nth, (draft, offer, rows) in enumerate(zip(self.endpoint._drafts, self.full, self.rows, strict=True)):
            kept = np.zeros_like(offer.kept)
            kept[rows[chosen[self.draft_of == nth]]] = True
            codes = np.where(kept[:, None], offer.codes, draft.expected)
            letter = self.endpoint.mouths[draft.trunk].frame(self.number, codes, draft.context, kept)
            made.append(Offer(codes, kept, letter))
        return made

    def most(self, chosen: Flags, fits: Callable[[list[Offer]], bool]) -> Flags:
        """The longest part of the queue of the chosen, from its front, that fits; it is less than all of it."""
        rank = np.where(chosen, rank_within(chosen, self.served), len(chosen))
        low, high = 0, int(chosen.sum()) - 1
        while low < high:
            keep = (low + high + 1) // 2
            low, high = (keep, high) if fits(self.offers(rank < keep)) else (low, keep - 1)
        best: Flags = rank < low
        return best


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


def shares(total: int, counts: Sequence[int]) -> list[int]:
    """A frame's bits, shared out over its messages: for each route what its messages bear, in whole bits that add up.

    >>> shares(14, [1, 0, 2, 1])
    [3, 0, 7, 4]
    """
    n = sum(counts)
    marks = [total * said // n for said in accumulate(counts)] if n else [total] * len(counts)
    return [mark - before for mark, before in zip(marks, [0, *marks], strict=False)]
