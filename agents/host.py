"""The agent host: a block of agents that live, learn and talk in one place; as a Ray actor, one process.

A host is a house with some agents in it. It has two rooms: the *learner*, used in training, and the *desk*, used when
the agents play for real and every message is a charged frame. The same class serves in process and as a Ray actor.
"""

import os
from operator import attrgetter
from typing import Any

import torch

from commlib.agents.desk import Desk
from commlib.agents.learner import Learner
from commlib.agents.packing import to_arrays, to_tensors
from commlib.errors import HostError


class AgentHost:
    """A plain class; `commlib.agents.ray_runtime` makes an actor of it."""

    def __init__(self, host: int) -> None:
        torch.set_num_threads(1)
        self.host = host
        self._learner: Learner | None = None
        self._desk: Desk | None = None

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

    def set_learner(self, build: Any, *arguments: Any) -> None:  # noqa: ANN401 (any picklable recipe)
        """Furnish the learner: `build(*arguments)` makes it here, so that no module travels."""
        self._learner = build(*arguments)

    def set_desk(self, build: Any, *arguments: Any) -> None:  # noqa: ANN401
        """Furnish the desk."""
        self._desk = build(*arguments)

    def call(self, path: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Call a method by its dotted path, such as ``learner.say``."""
        return attrgetter(path)(self)(*arguments)


class HostProcess(AgentHost):
    """An agent host at the far end of a Ray call."""

    def ping(self) -> int:
        """Its process, once that is up."""
        return os.getpid()

    def call_packed(self, path: str, arguments: Any) -> Any:  # noqa: ANN401
        """`call` with tensors packed as arrays both ways."""
        return to_arrays(self.call(path, *to_tensors(arguments)))
