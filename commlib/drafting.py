"""Drafting: what the agents of a host want to say in a round, before anybody asks what may be sent.

A letter in pencil: it is settled what is worth saying, and how finely, at the price of a bit; whether there is a stamp for
it comes later (`commlib.fitting`), and so does the post (`commlib.exchange`).

Shapes: W worlds side by side, D message width, P positions, r routes of a trunk, n = r times the worlds alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commlib.agent import Spoken
from commlib.codec import Codes, FrozenCodec, Vectors
from commlib.ends import Flags
from commlib.gate import Gate, dice_of
from commlib.plan import Index, Plan
from commlib.rationing import Scope, Tariff
from commlib.units import Currency

Values = NDArray[np.float64]

TIERS = (0.25, 1.0, 4.0, 16.0)
"""The shares of the rate weight at which a message's tiers are told, beside the finest, where a harm decides."""


@dataclass(slots=True, eq=False)
class Draft:
    """What the agents of a trunk want to say in a round.

    Rows are messages, route by route, and in each the worlds that are alive.

    Attributes:
        trunk: which.
        said: the vectors [n, D]; context [n, P + 1], expected and wanted: codes [n, P].
        open: the messages whose agent chose to talk, [n].
        spoken: those that say something unexpected, [n].
        late_value: of those that were put off before what they were worth then, [n], and NaN of all others; None: none was.
    """

    trunk: int
    said: Vectors
    context: Codes
    expected: Codes
    wanted: Codes
    open: Flags
    spoken: Flags
    late_value: Values | None = None

    @property
    def is_late(self) -> Flags:
        """Which messages [n] were put off before."""
        return np.zeros(len(self.spoken), bool) if self.late_value is None else ~np.isnan(self.late_value)


class Coverage:
    """Which routes of a plan are in a scope, worked out once."""

    def __init__(self, plan: Plan) -> None:
        self._routes = [trunk.routes for trunk in plan.trunks]
        self._known: dict[tuple[int, Scope], tuple[Flags, list[int]]] = {}

    def of(self, trunk: int, scope: Scope) -> Flags:
        """Whether each route [r] of a trunk is."""
        return self._of(trunk, scope)[0]

    def routes(self, trunk: int, scope: Scope) -> list[int]:
        """Those routes of a trunk that are."""
        return self._of(trunk, scope)[1]

    def _of(self, trunk: int, scope: Scope) -> tuple[Flags, list[int]]:
        known = self._known.get((trunk, scope))
        if known is None:
            flags = np.array([scope.covers(route) for route in self._routes[trunk]], bool)
            known = self._known[trunk, scope] = flags, np.flatnonzero(flags).tolist()
        return known


@dataclass(slots=True, eq=False)
class Drafting:
    """A host at its desk in one round: what its agents say, and what it costs and harms to tell that in another way.

    Attributes:
        number: of the round.
        plan, codec, gate, tariff, coverage: those of the host; `seats` is where the sender of each route sits among the local
            agents, [r], by trunk.
        alive: the worlds that are, bool [W]; awake: which these are.
        spoken: what the agents say.
    """

    number: int
    plan: Plan
    codec: FrozenCodec
    gate: Gate
    tariff: Tariff
    coverage: Coverage
    seats: Mapping[int, Index]
    alive: Flags
    awake: Index
    spoken: Spoken

    def draft(self, trunk: int, context: Codes) -> Draft:
        """What is wanted on a trunk whose contexts are these."""
        seats = self.seats[trunk][:, None]
        said = self.spoken.vectors[seats, self.awake].reshape(len(context), self.codec.width)
        expected = self.codec.expected(context)
        wanted = self._chosen(trunk, said, context, expected)
        quiet = self._quiet(trunk, self.spoken.silent[seats, self.awake], said, expected, context)
        wanted[quiet], is_open = expected[quiet], ~quiet
        draft = Draft(trunk, said, context, expected, wanted, is_open, says(self.codec, wanted, expected, is_open))
        if self.tariff.tolls:
            self._pay_tolls(draft)
        return draft

    def _chosen(self, trunk: int, said: Vectors, context: Codes, expected: Codes) -> Codes:
        """The codes [n, P] that tell these messages best for what they cost."""
        rows = np.arange(len(context))
        if not self.tariff.tolls:
            return self.told(self.tariff.rate_weight, trunk, said, context, expected, rows)
        return self.told_at(self.per_row(trunk, self.weights("bits", trunk)), trunk, said, context, expected, rows)

    def per_row(self, trunk: int, per_route: Values) -> Values:
        """What there is of each route [r], for each row of its trunk [n]."""
        return np.repeat(per_route, len(self.awake))

    def weights(self, currency: Currency, trunk: int) -> Values:
        """The price of a bit or a message on each route of a trunk, [r]: the rate weight, and tolls."""
        everywhere = self.tariff.rate_weight if currency == "bits" else 0.0
        weights = np.full(len(self.plan.trunks[trunk].routes), everywhere)
        for toll in self.tariff.tolls:
            if toll.currency == currency:
                weights += toll.weight * self.coverage.of(trunk, toll.scope)
        return weights

    def told_at(
        self, weights: Values, trunk: int, said: Vectors, context: Codes, expected: Codes, rows: Index
    ) -> Codes:
        """The codes of messages that pay different prices of a bit, [m]; they are these `rows` of the trunk."""
        chosen = np.empty_like(expected)
        for weight in np.unique(weights):
            m = np.flatnonzero(weights == weight)
            chosen[m] = self.told(float(weight), trunk, said[m], context[m], expected[m], rows[m])
        return chosen

    def told(self, weight: float, trunk: int, said: Vectors, context: Codes, expected: Codes, rows: Index) -> Codes:
        """The codes of messages at one price of a bit; they are these `rows` of the trunk."""
        if self.spoken.harm is None or weight == 0:
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
        cost += self.losses(trunk, said[news], past, ways, rows[news])
        best[news] = np.stack(ways)[cost.argmin(0), np.arange(len(news))]
        return best

    def losses(self, trunk: int, said: Vectors, context: Codes, ways: Sequence[Codes], rows: Index) -> Values:
        """What is lost, [M, m], if these `rows` of a trunk are told in each of M ways: harm, or squared distortion."""
        told = np.stack([self.codec.embed(codes, context) for codes in ways])
        if self.spoken.harm is None:
            distortion: Values = ((told - said) ** 2).sum(-1, dtype=np.float64)
            return distortion
        losses = np.zeros((len(ways), len(rows)))
        row, world = np.divmod(rows, len(self.awake))
        seats, routes = self.seats[trunk], self.plan.trunks[trunk].routes
        first = np.searchsorted(row, np.arange(len(seats) + 1)).tolist()
        for which, (seat, route) in enumerate(zip(seats, routes, strict=True)):
            mine = slice(first[which], first[which + 1])
            if mine.start < mine.stop:
                worlds = self.awake[world[mine]]
                losses[:, mine] = self.spoken.harm(int(seat), route.receivers, worlds, told[:, mine])
        return losses

    def gains(self, draft: Draft, codes: Codes, rows: Index) -> Values:
        """What is lost less, [m], if these `rows` of a draft are told by their `codes`, than if they are left unsaid."""
        past = draft.context[rows]
        unsaid, told = self.losses(draft.trunk, draft.said[rows], past, [draft.expected[rows], codes], rows)
        gains: Values = unsaid - told
        return gains

    def values(self, draft: Draft, codes: Codes, rows: Index) -> Values:
        """What these `rows` of a draft are worth, [m]: as the agents say, or what is lost less by telling them."""
        if self.spoken.value is None:
            values = self.gains(draft, codes, rows)
        else:
            row, world = np.divmod(rows, max(1, len(self.awake)))
            values = self.spoken.value[self.seats[draft.trunk][row], self.awake[world]].astype(np.float64)
        if draft.late_value is not None:
            late = draft.late_value[rows]
            values = np.where(np.isnan(late), values, late)
        return values

    def added_bits(self, draft: Draft, codes: Codes, rows: Index) -> Values:
        """What these `rows` of a draft add to their frame if they are told by their `codes`, [m], by the estimate."""
        past = draft.context[rows]
        bits: Values = self.codec.estimate_bits(codes, past)
        return bits - self.codec.estimate_bits(draft.expected[rows], past) if self.codec.silence_is_coded else bits

    def _pay_tolls(self, draft: Draft) -> None:
        """Leave unsaid what is not worth the price of a message, or of a round."""
        per_message = self.per_row(draft.trunk, self.weights("messages", draft.trunk))
        per_round = sum(toll.weight for toll in self.tariff.tolls if toll.currency == "rounds") * len(self.awake)
        news = np.flatnonzero(draft.spoken)
        if not (len(news) and (per_message.any() or per_round)):
            return
        codes = draft.wanted[news]
        per_bit = self.per_row(draft.trunk, self.weights("bits", draft.trunk))
        gain = self.gains(draft, codes, news) - per_message[news]
        gain -= per_bit[news] * self.added_bits(draft, codes, news)
        is_worth = gain > 0
        if gain[is_worth].sum() <= per_round:
            is_worth[:] = False
        unsaid = news[~is_worth]
        draft.wanted[unsaid] = draft.expected[unsaid]
        draft.spoken[unsaid] = False

    def _quiet(
        self, trunk: int, silent: Flags | NDArray[np.float32], said: Vectors, expected: Codes, context: Codes
    ) -> Flags:
        """Which messages [n] stay unsaid, because their agent is silent or the gate is shut."""
        dice, is_drawn = np.zeros(len(context)), silent.dtype != bool
        if self.gate.draws or is_drawn:
            routes = self.plan.trunks[trunk].routes
            thrown = [dice_of(self.gate.seed, self.number, r.sender, len(self.alive))[self.awake] for r in routes]
            dice = np.concatenate(thrown)
        quiet: Flags = dice < silent.ravel() if is_drawn else silent.ravel().astype(bool)
        if self.gate.rule != "none":
            quiet = quiet | self.gate.is_shut(said, self.codec.embed(expected, context), dice)
        return quiet


def says(codec: FrozenCodec, codes: Codes, expected: Codes, is_open: Flags) -> Flags:
    """Messages that say something: not the expected code, or, without a codeword for silence, not silent."""
    spoken: Flags = (codes != expected).any(-1) if codec.silence_is_coded else is_open.copy()
    return spoken
