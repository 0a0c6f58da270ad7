"""Fitting: what goes of the drafts of a host when not all of it may, as its rationing says.

Packing one suitcase by several rules at once: not above so many kilos, no more than three pairs of shoes, this pocket for
the papers. What is packed is weighed, not guessed, so every rule holds. Not the rules themselves (`commlib.rationing`).

Every search here weighs frames that could be sent. It is a bisection over how many messages go, from the front of the
order in which they are served, or over how coarsely they are told; it ends with what was weighed and fits.

Shapes: n rows of a draft, m messages of all drafts that want to be sent, P positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from commlib.codec import Codes
from commlib.drafting import Coverage, Draft, Drafting, Values, says
from commlib.ends import Flags, Letter, Mouth
from commlib.errors import OverBudget
from commlib.frame import shares
from commlib.plan import Index
from commlib.rationing import EVERYBODY, Allowance, Cap, Claims, Rationing, Scope, order, within_shares
from commlib.units import Currency

COARSER = 4.0
"""From one tier to the next coarser one, the price of a bit grows by this, where messages are degraded to fit."""
N_BELOW, N_COARSER, N_FINER = 4, 10, 3
"""How many tiers below the price at which half of the messages would not be said at all the first one is, how many are
tried, and how many between the last that did not fit and the first that did."""


class Offer(NamedTuple):
    """What may go of a draft: codes [n, P], which messages they say, [n], and the frame that says them."""

    codes: Codes
    kept: Flags
    letter: Letter | None

    @property
    def bits(self) -> int:
        """What is charged."""
        return 0 if self.letter is None else self.letter.bits


class Limit(NamedTuple):
    """The most bits that some messages may be charged: those in a scope, or those in the frame of one draft."""

    amount: int
    scope: Scope = EVERYBODY
    draft: int | None = None
    guaranteed: tuple[int, ...] = ()

    @property
    def is_narrow(self) -> bool:
        """Whether it is for some messages only."""
        return self.draft is not None or self.scope != EVERYBODY


@dataclass(frozen=True)
class Charges:
    """What frames cost, and what each route of their trunks bears of that; worked out once for all caps that ask."""

    offers: Sequence[Offer]
    trunks: Sequence[int]
    coverage: Coverage

    @cached_property
    def messages(self) -> list[tuple[int, ...]]:
        """The messages of each route."""
        n_routes = [len(self.coverage.of(trunk, EVERYBODY)) for trunk in self.trunks]
        return [counted(offer.kept, n) for offer, n in zip(self.offers, n_routes, strict=True)]

    @cached_property
    def paid(self) -> list[list[int]]:
        """The bits that they bear."""
        return [shares(offer.bits, n) for offer, n in zip(self.offers, self.messages, strict=True)]

    def of(self, currency: Currency, scope: Scope) -> int:
        """What is charged in a currency for what is in a scope."""
        if currency == "bits" and scope == EVERYBODY:
            return sum(offer.bits for offer in self.offers)
        columns = self.paid if currency == "bits" else self.messages
        return sum(
            column[route]
            for column, trunk in zip(columns, self.trunks, strict=True)
            for route in self.coverage.routes(trunk, scope)
        )

    def under(self, limit: Limit) -> int:
        """What counts under a limit, in bits."""
        return self.of("bits", limit.scope) if limit.draft is None else self.offers[limit.draft].bits


class Fitting:
    """The drafts of a round before they are sent, and what can be made of them."""

    def __init__(
        self, drafting: Drafting, drafts: list[Draft], mouths: Mapping[int, Mouth], rationing: Rationing
    ) -> None:
        self.drafting, self.drafts, self._mouths, self._rationing = drafting, drafts, mouths, rationing
        self.full = [self._offer(draft, draft.wanted, draft.spoken) for draft in drafts]
        """All that the drafts want, if everything goes."""

    def _offer(self, draft: Draft, codes: Codes, kept: Flags) -> Offer:
        number = self.drafting.number
        return Offer(codes, kept, self._mouths[draft.trunk].frame(number, codes, draft.context, kept))

    # What is wanted, and what it would be charged.

    def claims(self, scopes: Sequence[Scope]) -> list[Claims]:
        """What the drafts want to send of what is in each scope, for whoever shares out a pool."""
        packing = self._packing(self.full)
        return [packing.part(packing.covered(scope)) for scope in scopes]

    def wanted(self, allowance: Allowance) -> tuple[int, ...]:
        """What each cap would be charged if everything went."""
        charges = self._charges(self.full)
        return tuple(charges.of(cap.currency, cap.scope) for cap in allowance.caps)

    def fitted(self, allowance: Allowance, wanted: Sequence[int]) -> list[Offer]:
        """What goes, of what is `wanted`.

        Raises:
            OverBudget: not everything does, and the rationing says that this ends the run.
        """
        frame_bits = allowance.frame_bits
        is_short = any(n > cap.amount for n, cap in zip(wanted, allowance.caps, strict=True))
        is_long = frame_bits is not None and any(offer.bits > frame_bits for offer in self.full)
        if not (is_short or is_long):
            return self.full
        if self._rationing.when_out == "raise":
            raise self._over(allowance, wanted)
        return self._rationed(allowance)

    def _over(self, allowance: Allowance, wanted: Sequence[int]) -> OverBudget:
        caps = [f"{n} {cap.currency} of {cap.amount}" for n, cap in zip(wanted, allowance.caps, strict=True)]
        caps += [] if allowance.frame_bits is None else [f"a frame of at most {allowance.frame_bits} bits"]
        n = sum(int(offer.kept.sum()) for offer in self.full)
        return OverBudget(
            f"host {self._host} has {n} messages in round {self.drafting.number}, and they do not fit ({', '.join(caps)} "
            f"allowed); raise the budget, or let messages be dropped, degraded or deferred (--when-out)"
        )

    @property
    def _host(self) -> int:
        return self.drafting.plan.trunks[self.drafts[0].trunk].source

    def _charges(self, offers: Sequence[Offer]) -> Charges:
        return Charges(offers, [draft.trunk for draft in self.drafts], self.drafting.coverage)

    def _over_of(self, limits: Sequence[Limit], offers: Sequence[Offer]) -> list[bool]:
        """Which limits these frames go beyond."""
        charges = self._charges(offers)
        return [charges.under(limit) > limit.amount for limit in limits]

    # What fits.

    def _rationed(self, allowance: Allowance) -> list[Offer]:
        """What goes of the drafts: first by how many messages there may be, then by their bits."""
        packing = self._packing(self.full)
        chosen = np.full(packing.n, allowance.frame_bits != 0)
        for cap in allowance.caps:
            if cap.currency == "messages":
                chosen = self._few(packing, chosen, cap)
        offers = self._offers(packing, chosen)
        limits = [
            Limit(cap.amount, cap.scope, None, cap.guaranteed) for cap in allowance.caps if cap.currency == "bits"
        ]
        limits.sort(key=lambda limit: limit.scope == EVERYBODY)  # narrow ones first, for they may make the others fit
        if allowance.frame_bits is not None:
            limits = [Limit(allowance.frame_bits, draft=nth) for nth in range(len(self.drafts))] + limits
        if self._rationing.when_out == "degrade":
            offers = self._degraded(offers, limits)
            packing = self._packing(offers)
            chosen = np.ones(packing.n, bool)
        if self._rationing.divides:
            for limit, is_over in zip(limits, self._over_of(limits, offers), strict=True):
                if is_over and limit.draft is None:
                    chosen = self._shared(packing, chosen, Cap("bits", limit.amount, limit.scope))
            offers = self._offers(packing, chosen)
        return self._cut(packing, chosen, offers, limits)

    def _few(self, packing: Packing, chosen: Flags, cap: Cap) -> Flags:
        """Of the chosen messages no more than a cap on messages allows."""
        mine = chosen & packing.covered(cap.scope)
        if mine.sum() <= cap.amount:
            return chosen
        if self._rationing.divides:
            chosen = self._shared(packing, chosen, cap)
            mine &= chosen
        few = chosen.copy()
        few[packing.queue(mine, self._rationing, "messages", cap.guaranteed)[cap.amount :]] = False
        return few

    def _shared(self, packing: Packing, chosen: Flags, cap: Cap) -> Flags:
        """Of the chosen messages those for which the part that each agent has of a cap is enough, by the estimate."""
        mine = np.flatnonzero(chosen & packing.covered(cap.scope))
        agents = [agent for agent in self.drafting.plan.agents_of(self._host) if cap.scope.has(agent)]
        fits = within_shares(packing.part(mine), self._rationing.allocation, agents, cap.amount, cap.currency)
        some = chosen.copy()
        some[mine[~fits]] = False
        return some

    def _cut(self, packing: Packing, chosen: Flags, offers: list[Offer], limits: Sequence[Limit]) -> list[Offer]:
        """As many of the chosen messages as fit under all limits.

        Each limit cuts off the end of its queue, less what is so short that it fits after all; the narrow ones first, all at
        once.
        """
        while (
            True
        ):  # each turn leaves fewer; a cut can break another limit, as fewer messages share what a frame weighs
            over = [limit for limit, is_over in zip(limits, self._over_of(limits, offers), strict=True) if is_over]
            if not over:
                return offers
            over = [limit for limit in over if limit.is_narrow] or over[:1]
            queues = [packing.queue(chosen & packing.under(o), self._rationing, "bits", o.guaranteed) for o in over]
            kept = self._bisected(packing, chosen, over, queues)
            chosen = without(chosen, [queue[n:] for n, queue in zip(kept, queues, strict=True)])
            offers = self._offers(packing, chosen)
            charges = self._charges(offers)
            more = [
                self._that_still_fit(packing, queue[n:], limit.amount - charges.under(limit))
                for n, queue, limit in zip(kept, queues, over, strict=True)
            ]
            fuller = union(chosen, more)
            if fuller.sum() > chosen.sum():
                fuller_offers = self._offers(packing, fuller)
                if not any(self._over_of(over, fuller_offers)):
                    chosen, offers = fuller, fuller_offers

    def _bisected(self, packing: Packing, chosen: Flags, over: Sequence[Limit], queues: Sequence[Index]) -> list[int]:
        """How many messages of each queue go, from its front, that all fit; fewer than all of each."""
        low, high = [0] * len(over), [len(queue) - 1 for queue in queues]
        while any(below < above for below, above in zip(low, high, strict=True)):
            keep = [(below + above + 1) // 2 for below, above in zip(low, high, strict=True)]
            tried = without(chosen, [queue[n:] for n, queue in zip(keep, queues, strict=True)])
            is_over = self._over_of(over, self._offers(packing, tried))
            low = [below if o else n for below, n, o in zip(low, keep, is_over, strict=True)]
            high = [
                max(below, n - 1) if o else above for below, above, n, o in zip(low, high, keep, is_over, strict=True)
            ]
        return low

    def _that_still_fit(self, packing: Packing, rest: Index, left: int) -> Index:
        """Of the rest of a queue, the messages for which a few bits are enough, by the estimate."""
        bits = packing.claims.bits
        small = rest[bits[rest] <= left]
        some: Index = small[np.cumsum(bits[small]) <= left]
        return some

    def _offers(self, packing: Packing, chosen: Flags) -> list[Offer]:
        """The frames that say the chosen messages, and what is expected for the others."""
        if chosen.all():
            return packing.offers
        made = []
        for nth, (draft, offer) in enumerate(zip(self.drafts, packing.offers, strict=True)):
            kept = np.zeros_like(offer.kept)
            kept[packing.row[chosen & (packing.draft_of == nth)]] = True
            made.append(self._offer(draft, np.where(kept[:, None], offer.codes, draft.expected), kept))
        return made

    # How coarsely it is told.

    def _degraded(self, offers: list[Offer], limits: Sequence[Limit]) -> list[Offer]:
        """The messages under limits that are too small told just so coarsely that they fit; at the coarsest, if they never
        do.
        """
        packing = self._packing(offers)
        over = [limit for limit, is_over in zip(limits, self._over_of(limits, offers), strict=True) if is_over]
        if not over:
            return offers
        covers = [packing.under(limit) for limit in over]
        own = self._own_weights(packing)
        density = packing.claims.density("bits")
        coarse = [max(float(np.median(density[mine])), 1e-9) / COARSER**N_BELOW for mine in covers]
        fine = [weight / COARSER for weight in coarse]
        for _ in range(N_COARSER):
            told = self._told_at(packing, own, covers, coarse)
            is_over = self._over_of(over, told)
            if not any(is_over):
                break
            fine = [c if o else f for f, c, o in zip(fine, coarse, is_over, strict=True)]
            coarse = [c * COARSER if o else c for c, o in zip(coarse, is_over, strict=True)]
        else:
            return told
        for _ in range(N_FINER):  # between the last that did not fit and the first that did
            middle = [(f * c) ** 0.5 for f, c in zip(fine, coarse, strict=True)]
            finer = self._told_at(packing, own, covers, middle)
            is_over = self._over_of(over, finer)
            fine = [m if o else f for f, m, o in zip(fine, middle, is_over, strict=True)]
            coarse = [c if o else m for c, m, o in zip(coarse, middle, is_over, strict=True)]
            if not any(is_over):
                told = finer
        return told

    def _own_weights(self, packing: Packing) -> Values:
        """The price of a bit that each message pays by the tariff, [m]."""
        d = self.drafting
        weights = [d.per_row(draft.trunk, d.weights("bits", draft.trunk)) for draft in self.drafts]
        return np.concatenate([np.zeros(0), *(w[packing.row[packing.draft_of == n]] for n, w in enumerate(weights))])

    def _told_at(self, packing: Packing, own: Values, covers: Sequence[Flags], weights: Sequence[float]) -> list[Offer]:
        """The messages, those that are covered at these prices of a bit, unless they pay more than that already.

        What is told so coarsely that silence is nearer is not told.
        """
        weight = own.copy()
        for mine, price in zip(covers, weights, strict=True):
            weight[mine] = np.maximum(weight[mine], price)
        made = []
        for nth, (draft, offer) in enumerate(zip(self.drafts, packing.offers, strict=True)):
            here = np.flatnonzero((packing.draft_of == nth) & (weight > own))
            rows = packing.row[here]
            past, expected = draft.context[rows], draft.expected[rows]
            told = self.drafting.told_at(weight[here], draft.trunk, draft.said[rows], past, expected, rows)
            is_worth = says(self.drafting.codec, told, expected, np.ones(len(rows), bool))
            is_worth &= self.drafting.gains(draft, told, rows) > 0
            codes, kept = offer.codes.copy(), offer.kept.copy()
            codes[rows] = np.where(is_worth[:, None], told, expected)
            kept[rows] = is_worth
            made.append(self._offer(draft, codes, kept))
        return made

    def _packing(self, offers: list[Offer]) -> Packing:
        rows = [np.flatnonzero(offer.kept) for offer in offers]
        senders, bits, values, routes = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)], [np.zeros(0, np.int64)]
        n_awake = max(1, len(self.drafting.awake))
        for draft, offer, here in zip(self.drafts, offers, rows, strict=True):
            sender = np.array([route.sender for route in self.drafting.plan.trunks[draft.trunk].routes], np.int64)
            codes = offer.codes[here]
            routes.append(here // n_awake)
            senders.append(sender[routes[-1]])
            bits.append(self.drafting.added_bits(draft, codes, here))
            values.append(self.drafting.values(draft, codes, here))
        claims = Claims(np.concatenate(senders), np.concatenate(bits), np.concatenate(values))
        draft_of = np.repeat(np.arange(len(rows)), [len(here) for here in rows])
        row = np.concatenate([np.zeros(0, np.int64), *rows])
        trunks = [draft.trunk for draft in self.drafts]
        return Packing(offers, claims, draft_of, row, np.concatenate(routes), trunks, self.drafting.coverage)


class Packing(NamedTuple):
    """The messages of all drafts side by side, as they are offered.

    Attributes:
        offers: what they are taken from.
        claims: what each adds to its frame, and is worth; no overhead.
        draft_of, row, route: the draft of each, which of its rows it is, and which route of the trunk, [m].
        trunks: that of each draft; coverage: of the plan.
    """

    offers: list[Offer]
    claims: Claims
    draft_of: Index
    row: Index
    route: Index
    trunks: list[int]
    coverage: Coverage

    @property
    def n(self) -> int:
        """How many messages there are."""
        return len(self.row)

    def covered(self, scope: Scope) -> Flags:
        """Which messages are in a scope, [m]."""
        mine = np.ones(self.n, bool)
        if not scope.is_everybodys:
            for nth, trunk in enumerate(self.trunks):
                here = self.draft_of == nth
                mine[here] = self.coverage.of(trunk, scope)[self.route[here]]
        return mine

    def under(self, limit: Limit) -> Flags:
        """Which messages count under a limit, [m]."""
        return self.covered(limit.scope) if limit.draft is None else self.draft_of == limit.draft

    def part(self, which: Flags | Index) -> Claims:
        """Some of the messages, and what they bear of what frames weigh beside their messages, which all bear alike."""
        claims = self.claims.of(which)
        n_all, n_mine = (np.bincount(d, minlength=len(self.offers)) for d in (self.draft_of, self.draft_of[which]))
        claimed = np.bincount(self.draft_of, self.claims.bits, len(self.offers))
        weighs = np.array([offer.bits for offer in self.offers])
        # Beside the messages are the header, and in the stream what the silent ones take.
        header = np.array(
            [0 if offer.letter is None else offer.bits - offer.letter.stream_bits for offer in self.offers]
        )
        beside = np.maximum(header, weighs - claimed)
        return claims._replace(overhead_bits=int(np.ceil((beside * n_mine / np.maximum(n_all, 1)).sum())))

    def queue(self, mine: Flags, rationing: Rationing, currency: Currency, guaranteed: Sequence[float]) -> Index:
        """Which messages [m] of these are to be served first, and so on."""
        which = np.flatnonzero(mine)
        served: Index = which[order(self.claims.of(which), rationing, currency, guaranteed)]
        return served


def counted(kept: Flags, n_routes: int) -> tuple[int, ...]:
    """How many messages are kept on each route."""
    return tuple(np.add.reduce(kept.reshape(n_routes, -1), 1, np.int64).tolist())


def without(chosen: Flags, some: Sequence[Index]) -> Flags:
    """The chosen messages, less some."""
    fewer = chosen.copy()
    for which in some:
        fewer[which] = False
    return fewer


def union(chosen: Flags, some: Sequence[Index]) -> Flags:
    """The chosen messages, and some more."""
    more = chosen.copy()
    for which in some:
        more[which] = True
    return more
