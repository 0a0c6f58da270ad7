"""What an agent is: something that sees, hears, acts, and may say something.

There is no base class: any object with a method `act` is an agent. A *team* is the batched form that hosts work with:
all agents of a host times all parallel worlds, with speaking and acting as two calls between which messages travel.

Shapes: W worlds, n local agents, K slots of an inbox, O observation width, D message width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from commlib.codec import Vectors
from commlib.errors import AgentError

Inbox = dict[int, NDArray[np.float32]]
"""What an agent heard, by sender: float32 [D]; only senders with an open edge to it are there."""


@runtime_checkable
class Agent(Protocol):
    """One agent in one world. What it says in step t is heard by the others in step t + 1.

    Give `commlib.run` a class or factory that takes the agent's id: `MyAgent(agent_id)`. An optional method
    `reset(self) -> None` is called when an episode starts.
    """

    def act(self, observation: NDArray[np.float32], inbox: Inbox) -> tuple[int, NDArray[np.float32] | None]:
        """An action for an observation [O] and what was heard, and a message [D] for the others; None says nothing."""
        ...


class Harm(Protocol):
    """What a sender expects it to cost that listeners hear something else than it meant."""

    def __call__(
        self, seat: int, receivers: Sequence[int], worlds: NDArray[np.int64], heard: Vectors
    ) -> NDArray[np.float32]:
        """The harm, not negative, [M, w], summed over the receivers, in units of squared distortion.

        Args:
            seat: which of the local agents speaks.
            receivers: the agents that hear it.
            worlds: in which worlds, [w].
            heard: M ways to tell the message in each of them, [M, w, D].
        """
        ...


class Spoken(NamedTuple):
    """What local agents want to say.

    Attributes:
        vectors: float32 [n, W, D].
        silent: who says nothing, bool [n, W]; or the probability of it, float32 in 0..1, of an agent that draws: the desk
            throws the dice.
        harm: what it costs to tell these messages otherwise; None: their squared distortion, for all alike.
        value: what each message is worth, float32 [n, W], in any unit that all agents share: under a budget, most value per
            bit goes first. None: the harm that it spares.
    """

    vectors: Vectors
    silent: NDArray[np.bool_] | NDArray[np.float32]
    harm: Harm | None = None
    value: NDArray[np.float32] | None = None


class BatchedTeam(Protocol):
    """All agents of a host, in all worlds at once.

    Who hears whom does not change while they play, so a team is told when it is built: `senders`, int64 [n, K], whose
    message lies in which slot of an inbox, -1 for none (`commlib.plan.senders_of`).
    """

    def reset(self, n_worlds: int) -> None:
        """New episodes start."""
        ...

    def speak(self, observation: Vectors, elapsed: float) -> Spoken:
        """Messages for observations [W, n, O]; `elapsed` is the share of the episode that is over."""
        ...

    def act(self, inbox: Vectors, uniform: NDArray[np.float32]) -> NDArray[np.int64]:
        """Actions [W, n] after hearing the inbox [W, n, K, D] of the last round (zeros in slots without a sender).

        Teams that draw their actions use the uniform numbers [W, n] that they are dealt, and no dice of their own.
        """
        ...


@runtime_checkable
class ReplyingTeam(BatchedTeam, Protocol):
    """A team whose steps have several rounds of messages: between speaking and acting it is asked to reply."""

    def reply(self, inbox: Vectors, own: Vectors) -> Spoken:
        """What to say in the next round, after hearing the inbox [W, n, K, D] of this one.

        `own` is what listeners now have from the local agents themselves, [n, W, D].
        """
        ...


class Soloists:
    """Single agents made into a team: a loop over agents and worlds, one object for each.

    Args:
        factory: makes an agent from its id.
        ids: the local agents.
        senders: whom each local agent hears, int64 [n, K]; -1 for none.
        width: D, the width that messages must have.
        action_counts: number of actions of each local agent.
    """

    def __init__(
        self,
        factory: Callable[[int], Agent],
        ids: list[int],
        senders: NDArray[np.int64],
        width: int,
        action_counts: list[int],
    ) -> None:
        self._factory, self._ids = factory, ids
        self._slots = [[(slot, sender) for slot, sender in enumerate(row) if sender >= 0] for row in senders.tolist()]
        self._width, self._counts = width, action_counts
        self._agents: list[list[Agent]] = []
        self.reset(1)

    def reset(self, n_worlds: int) -> None:
        """Forget what was heard, make agents for new worlds, and tell those that have a `reset`."""
        while len(self._agents) < n_worlds:
            self._agents.append([self._factory(agent_id) for agent_id in self._ids])
        self._inboxes: list[list[Inbox]] = [[{} for _ in self._ids] for _ in range(n_worlds)]
        for agents in self._agents[:n_worlds]:
            for agent in agents:
                reset = getattr(agent, "reset", None)
                if callable(reset):
                    reset()

    def speak(self, observation: Vectors, elapsed: float) -> Spoken:
        """Ask every agent to act; its action waits until the messages have travelled."""
        n_worlds, n = len(self._inboxes), len(self._ids)
        self._actions = np.zeros((n_worlds, n), np.int64)
        vectors = np.zeros((n, n_worlds, self._width), np.float32)
        silent = np.ones((n, n_worlds), bool)
        for w, agents in enumerate(self._agents[:n_worlds]):
            for k, agent in enumerate(agents):
                try:
                    reply = agent.act(observation[w, k].copy(), self._inboxes[w][k])
                except Exception as error:  # a user's code can fail in any way
                    raise AgentError(f"agent {self._ids[k]} failed in act: {type(error).__name__}: {error}") from error
                action, message = checked_reply(reply, self._ids[k], self._counts[k], self._width)
                self._actions[w, k] = action
                if message is not None:
                    vectors[k, w], silent[k, w] = message, False
        return Spoken(vectors, silent)

    def act(self, inbox: Vectors, uniform: NDArray[np.float32]) -> NDArray[np.int64]:
        """The actions chosen in `speak`; the inbox is read in the next step."""
        for w in range(len(self._inboxes)):
            for k, slots in enumerate(self._slots):
                self._inboxes[w][k] = {sender: inbox[w, k, slot].copy() for slot, sender in slots}
        return self._actions


def checked_reply(reply: object, agent_id: int, n_actions: int, width: int) -> tuple[int, NDArray[np.float32] | None]:
    """An agent's reply as an action and a message, or a sentence that says what is wrong with it.

    Raises:
        AgentError: the reply is not ``(action, message or None)``, the action is none of the world's, or the message is
            not a finite vector of the right width.
    """
    if not isinstance(reply, tuple) or len(reply) != 2:
        raise AgentError(
            f"agent {agent_id}: act must return (action, message or None), it returned a {type(reply).__name__}"
        )
    action, message = reply
    if isinstance(action, bool) or not isinstance(action, int | np.integer) or not 0 <= action < n_actions:
        raise AgentError(f"agent {agent_id}: the action must be an integer in 0..{n_actions - 1}, not {action!r:.60}")
    if message is None:
        return int(action), None
    try:
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinity, which is refused below
            vector = np.asarray(message, np.float32)
    except (TypeError, ValueError) as error:
        raise AgentError(f"agent {agent_id}: the message must be numbers, not a {type(message).__name__}") from error
    if vector.shape != (width,):
        raise AgentError(
            f"agent {agent_id}: the message has the shape {list(vector.shape)}, the codec expects [{width}]"
        )
    if not np.isfinite(vector).all():
        raise AgentError(f"agent {agent_id}: the message holds NaN or infinity; check its computation")
    return int(action), vector
