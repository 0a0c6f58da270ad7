"""The runtime: how the driver reaches the hosts; here, by a plain call in the same process.

A runtime is a telephone exchange: the driver asks every host the same question and gets the answers in host order. It
knows nothing of agents, messages or budgets. `commlib.agents.ray_runtime` is the same exchange with Ray actors at the
other end.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from commlib.agents.host import AgentHost


class Runtime(Protocol):
    """Calls to all hosts, answered in host order.

    Attributes:
        name: local or ray.
        n_hosts: how many there are.
        n_restarts: how often a host was brought back after it died.
    """

    name: str
    n_hosts: int
    n_restarts: int

    def each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every host, `arguments[h]` for host h; tensors and arrays arrive as writable copies.

        Raises:
            HostError: a host died or did not answer in time.
        """
        ...

    def checkpoint(self, room: str) -> None:
        """What came before is over: from here on a host that dies is brought back from its room's state as it is now."""
        ...

    def close(self) -> None:
        """Let the hosts go; a second call does nothing."""
        ...


class LocalRuntime:
    """All hosts in this process, called one after the other."""

    name = "local"
    n_restarts = 0

    def __init__(self, n_hosts: int) -> None:
        torch.set_num_threads(1)  # the same arithmetic as in a host of its own
        self.n_hosts = n_hosts
        self._hosts = [AgentHost(host) for host in range(n_hosts)]

    def each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every host in turn."""
        return [host.call(method, *args) for host, args in zip(self._hosts, arguments, strict=True)]

    def checkpoint(self, room: str) -> None:
        """Nothing to keep: hosts in this process die with it."""

    def close(self) -> None:
        """Nothing to let go."""
