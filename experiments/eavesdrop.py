"""Listening in on a play: every frame is decoded as its receivers decode it, and what was said and done is kept.

A fly on the wall of the post office: it has the same phrase book as everybody, opens every letter, and changes nothing.

Shapes: W worlds, N agents, E open edges, by sender and then receiver, P positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.agents.play import Step
from commlib.codec import Codes, fresh_context
from commlib.ends import Ear
from commlib.experiments.model import Model
from commlib.frame import run_id
from commlib.message import Edge
from commlib.plan import Plan


class Heard(NamedTuple):
    """One round: codes [E, W, P] as the listeners have them, edge by edge, actions [W, N], estimated bits."""

    codes: Codes
    action: NDArray[np.int64]
    estimate_bits: float


@dataclass
class Eavesdropper:
    """Decodes every frame as its receivers do, and keeps what was said and done, in one of the rounds of every step."""

    model: Model
    plan: Plan
    nth: int = 0
    rounds: list[Heard] = field(default_factory=list)
    _ears: list[Ear] = field(init=False)
    _past: Codes = field(default_factory=lambda: np.zeros((0, 0, 0), np.int64))

    def __post_init__(self) -> None:
        self.codec = self.model.codecs[self.nth]
        run = run_id(self.codec.digest, repr(self.plan))
        self._ears = [Ear(index, self.plan, self.codec, run) for index in range(len(self.plan.trunks))]
        edges = sorted(self.model.edges)
        place = {edge: row for row, edge in enumerate(edges)}
        self._first = {edge.sender: row for row, edge in reversed(list(enumerate(edges)))}
        self._rows = [
            np.array(
                [
                    (which, place[Edge(route.sender, receiver)])
                    for which, route in enumerate(trunk.routes)
                    for receiver in route.receivers
                ]
            ).T
            for trunk in self.plan.trunks
        ]

    def past(self, seen: Step) -> Codes:
        """What listeners had before this round, [E, W, P + 1]."""
        if seen.step == 0:
            n_edges, n_worlds = len(self.model.edges), len(seen.alive)
            fresh = fresh_context(n_edges * n_worlds, self.codec.n_positions)
            self._past = fresh.reshape(n_edges, n_worlds, fresh.shape[-1])
            for ear in self._ears:
                ear.reset(n_worlds)
        return self._past.copy()

    def by_sender(self, rows: Codes) -> Codes:
        """What was said to all alike, [E, W, ..], as one row for each agent, [N, W, ..]; zeros for those nobody hears."""
        told = np.zeros((len(self.plan.host_of), *rows.shape[1:]), np.int64)
        told[list(self._first)] = rows[list(self._first.values())]
        return told

    def __call__(self, seen: Step) -> None:
        """Take down one round."""
        alive, carried = np.flatnonzero(seen.alive), seen.rounds[self.nth]
        self.past(seen)
        for index, ear in enumerate(self._ears):
            data = carried.frames.get(index)
            ear.heard(ear.read(seen.number + self.nth, data, seen.alive), seen.alive, has_frame=data is not None)
            which, row = self._rows[index]
            context = ear.context(seen.alive).reshape(-1, len(alive), self._past.shape[-1])
            self._past[row[:, None], alive] = context[which]
        estimate = sum(s.estimate_bits for s in carried.sent)
        self.rounds.append(Heard(self._past[..., :-1].copy(), seen.action.copy(), estimate))
