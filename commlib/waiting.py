"""Waiting: messages that found no room in their round, and are said when there is room and their agent has no news.

Letters on the hall table: the next one to the same address replaces the one that lies there, and what lies too long is
thrown away. Not a queue: at most one message of a sender waits on each route and in each world. To want to say the same
again is news, too: what is said now is drafted afresh, and what waited is given up.

Shapes: W worlds side by side, D message width, r routes of a trunk, n = r times the worlds alive.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from commlib.codec import FrozenCodec
from commlib.drafting import Draft, Values, says
from commlib.ends import Flags
from commlib.plan import Index

NOBODY = -1
"""The age of a message that does not wait."""


class Wait(NamedTuple):
    """What became of messages that found no room: how many wait now for the first time, and how many waited too long."""

    n_new: int
    n_given_up: int


class Waiting:
    """The messages that wait on a trunk: vectors [r, W, D], for how many rounds, and what they were worth, [r, W]."""

    def __init__(self, n_routes: int, n_worlds: int, width: int) -> None:
        self._said = np.zeros((n_routes, n_worlds, width), np.float32)
        self._age = np.full((n_routes, n_worlds), NOBODY)
        self._value = np.zeros((n_routes, n_worlds))

    def __len__(self) -> int:
        """How many wait."""
        return int((self._age != NOBODY).sum())

    def remind(self, draft: Draft, awake: Index, codec: FrozenCodec, weights: Values) -> int:
        """Put what waits into a draft, in the place of those that say nothing new; how many are given up.

        News take the place of what waits, and what listeners expect by now need not be said. `weights` are the prices of
        a bit, [n].
        """
        age = self._age[:, awake].ravel()
        waits = age != NOBODY
        rows = np.flatnonzero(waits & ~draft.spoken)
        late = rows[:0]
        if len(rows):
            said = self._said[:, awake].reshape(draft.said.shape)[rows]
            codes = np.empty_like(draft.wanted[rows])
            for weight in np.unique(weights[rows]):
                m = np.flatnonzero(weights[rows] == weight)
                codes[m] = codec.choose(said[m], draft.context[rows[m]], float(weight))
            is_news = says(codec, codes, draft.expected[rows], np.ones(len(rows), bool))
            late = rows[is_news]
            draft.said[late], draft.wanted[late], draft.spoken[late] = said[is_news], codes[is_news], True
            draft.late_value = np.full(len(age), np.nan)
            draft.late_value[late] = self._value[:, awake].ravel()[late]
        is_given_up = waits.copy()
        is_given_up[late] = False
        age[is_given_up] = NOBODY
        self._age[:, awake] = age.reshape(len(self._age), -1)
        return int(is_given_up.sum())

    def put_off(self, draft: Draft, lost: Flags, values: Values, awake: Index, most_rounds: int) -> Wait:
        """Keep the `lost` messages [n] of a draft, worth `values` [n], for a later round, unless they waited `most_rounds`."""
        age = self._age[:, awake].ravel()
        was_late = age != NOBODY
        is_new = lost & ~was_late
        age[was_late] += 1
        is_over = lost & was_late & (age >= most_rounds)
        age[is_over | (was_late & ~lost)] = NOBODY
        age[is_new] = 0
        self._age[:, awake] = age.reshape(len(self._age), -1)
        new = np.flatnonzero(is_new)
        route, world = np.divmod(new, max(1, len(awake)))
        self._said[route, awake[world]] = draft.said[new]
        self._value[route, awake[world]] = values[new]
        return Wait(len(new), int(is_over.sum()))
