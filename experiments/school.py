"""A school for routers: plays are listened to, lessons drawn from them, and the team comes back with a router.

The first lessons are from plays without a router, the next ones from plays in which it decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from commlib.agents.play import Step, Watcher
from commlib.agents.policy import Policy
from commlib.agents.routing import Lessons, Overheard, lessons, teach
from commlib.codec import Codes
from commlib.experiments.eavesdrop import Eavesdropper
from commlib.experiments.model import Model, learned_team, network_of
from commlib.plan import Plan
from commlib.topology import adjacency_of

Play = Callable[[Model, float, Watcher], None]
"""Plays a batch of episodes of a model at a rate weight, watched."""

N_TERMS, PRICES = 4, (1.0, 4.0, 1.0)
"""How often it is taught anew; and the shares of the rate weight in the plays of a term, of which the last is held out."""


@dataclass
class Recorder:
    """Takes down a play for lessons."""

    ear: Eavesdropper

    def __post_init__(self) -> None:
        self._seen: list[tuple[Step, Codes]] = []

    def __call__(self, seen: Step) -> None:
        """Keep one round."""
        before = self.ear.past(seen)
        self.ear(seen)
        copied = seen._replace(observation=seen.observation.copy(), active=seen.active.copy())  # a world may reuse them
        self._seen.append((copied, before))

    def overheard(self) -> Overheard:
        """The whole play; who has no listener said nothing that matters."""
        rounds = [seen for seen, _ in self._seen]
        codes = np.stack([self.ear.by_sender(heard.codes) for heard in self.ear.rounds]).swapaxes(1, 2)
        context = np.stack([self.ear.by_sender(before) for _, before in self._seen]).swapaxes(1, 2)
        return Overheard(
            torch.from_numpy(np.stack([seen.observation for seen in rounds])),
            torch.from_numpy(np.stack([seen.alive for seen in rounds])),
            torch.from_numpy(np.stack([seen.active for seen in rounds])),
            context,
            codes,
        )


@dataclass(frozen=True)
class School:
    """Where a team's network gets its router.

    Attributes:
        n_steps: of the world's longest episode.
        say: where what was learned is told.
    """

    n_steps: int
    say: Callable[[str], None]

    def graduate(self, model: Model, play: Play, plan: Plan, rate_weight: float, generator: torch.Generator) -> Model:
        """The model with a router taught on its own plays, at about this rate weight."""
        network = network_of(model)
        assert network is not None
        spec, weights = network
        is_open_RS = adjacency_of(model.edges, spec.n_agents).T.contiguous()
        torch.set_num_threads(1)  # the same sums whatever the machine, as on hosts
        policy = Policy(spec)
        policy.load_state_dict(weights)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        known: list[Lessons] = []
        team = model
        for term in range(N_TERMS):
            self.say(f"{'route':>10}  term {term + 1} of {N_TERMS}: plays, lessons, and learning what harms whom")
            drawn = []
            for weight in (share * rate_weight for share in PRICES):
                recorder = Recorder(Eavesdropper(team, plan))
                play(team, weight, recorder)
                overheard = recorder.overheard()
                drawn.append(lessons(policy, is_open_RS, model.codec, overheard, self.n_steps, weight, generator))
            *new, held_out = drawn
            known += new
            taught = teach(spec, weights, is_open_RS, known, held_out, seed)
            team = replace(model, build_team=partial(learned_team, taught.spec, taught.weights))
        n_lessons = sum(len(part.harm) for part in known)
        self.say(f"{'route':>10}  {n_lessons:,} lessons; {taught.explained:.0%} of the harm is foreseen")
        return team
