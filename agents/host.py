"""The agent host: a block of agents that live, learn and talk in one place; as a Ray actor, one process.

A host is a house with some agents in it. It has rooms: the *learner*, used in training; the *desk*, used when the agents
play for real and every message is a charged frame; and the *player*, where hosts share out worlds in training, not agents.
The same class serves in process and as a Ray actor.
"""

import os
from hmac import compare_digest
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch

from commlib.agents.desk import Desk
from commlib.agents.learner import Learner
from commlib.agents.packing import to_arrays, to_tensors
from commlib.errors import FrameError, HostError

if TYPE_CHECKING:
    from commlib.agents.rollouts import Player


class AgentHost:
    """A plain class; `commlib.agents.ray_runtime` makes an actor of it."""

    def __init__(self, host: int) -> None:
        torch.set_num_threads(1)
        self.host = host
        self._learner: Learner | None = None
        self._desk: Desk | None = None
        self._player: Player | None = None
        self.n_refused = 0

    @property
    def learner(self) -> Learner:
        """The learner, once `set_learner` was called."""
        if self._learner is None:
            raise HostError(f"host {self.host} has no learner yet; call set_learner first")
        return self._learner

    @property
    def desk(self) -> Desk:
        """The desk, once `set_desk` was called."""
        if self._desk is None:
            raise HostError(f"host {self.host} has no agents to play with yet; call set_desk first")
        return self._desk

    @property
    def player(self) -> "Player":
        """The player, once `set_player` was called."""
        if self._player is None:
            raise HostError(f"host {self.host} has no world to play yet; call set_player first")
        return self._player

    def set_learner(self, build: Any, *arguments: Any) -> None:  # noqa: ANN401 (any picklable recipe)
        """Furnish the learner: `build(*arguments)` makes it here, so that no module travels."""
        self._learner = build(*arguments)

    def set_desk(self, build: Any, *arguments: Any) -> None:  # noqa: ANN401
        """Furnish the desk."""
        self._desk = build(*arguments)

    def set_player(self, build: Any, *arguments: Any) -> None:  # noqa: ANN401
        """Furnish the player."""
        self._player = build(*arguments)

    def call(self, path: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Call a method by its dotted path, such as ``learner.say``."""
        try:
            return attrgetter(path)(self)(*arguments)
        except FrameError:
            self.n_refused += 1
            raise

    def refused(self) -> int:
        """How many calls were refused: for a frame that is not for us or, from afar, for want of the key."""
        return self.n_refused


class HostProcess:
    """An agent host at the far end of a Ray call. Whoever calls must have the key that it was made with.

    Whoever is let into a cluster finds its actors by name. The key keeps out frames of other runs, and of a driver that knows
    only a host that was replaced: each start has a key of its own. It is a fence, not a fortress: Ray lets whoever is in run
    code of their own.
    """

    def __init__(self, host: int, key: bytes) -> None:
        self._host, self._key = AgentHost(host), key

    def ping(self) -> int:
        """Its process, once that is up."""
        return os.getpid()

    def call_packed(self, key: bytes, path: str, arguments: Any) -> Any:  # noqa: ANN401
        """`AgentHost.call` with tensors packed as arrays both ways.

        Raises:
            HostError: this is not the key.
        """
        if not (isinstance(key, bytes) and compare_digest(key, self._key)):
            self._host.n_refused += 1
            raise HostError(
                f"host {self._host.host} was called without the key of its run, or with that of a host that it replaces; "
                f"refused"
            )
        return to_arrays(self._host.call(path, *to_tensors(arguments)))
