"""Every error that commlib raises on purpose, as one tree, each a sentence for the person who must act.

    CommlibError
      ConfigError        a wrong config file, flag, name or value
      BudgetError
        OverBudget       more bits were asked for than are left
        LeaseError       a lease was closed twice, outlived its epoch, or was overspent
      JournalError       the books cannot be written or read
      FrameError         bytes off the wire are not a frame for us
        ForeignCodec     ... because they were made by another codec
      CodecError         a codec breaks its contract, or its file is damaged
      AgentError         a user's agent breaks its contract
      WorldError         a world breaks its contract
      RunError           a run folder or checkpoint is missing or unusable
      HostError          an agent host died, hung or failed
        HostLost         ... and the others answered
      ConformanceError   an object breaks a law of its kind (`commlib.testing`)

What happened comes first, with numbers, then what to do about it.
"""

from collections.abc import Sequence


class CommlibError(Exception):
    """The root: catch this to catch everything that commlib raises on purpose."""


class ConfigError(CommlibError, ValueError):
    """A configuration file, a command-line flag or a name is wrong."""


class BudgetError(CommlibError):
    """The shared budget does not allow this."""


class OverBudget(BudgetError):
    """More bits were asked for than the jar holds."""


class LeaseError(BudgetError):
    """A lease was closed twice, belongs to a fenced holder, or was overspent."""


class JournalError(CommlibError):
    """The journal cannot be written or read; spending stops here."""


class FrameError(CommlibError, ValueError):
    """These bytes are not a frame that we can deliver."""


class ForeignCodec(FrameError):
    """The frame was made by another codec than ours."""


class CodecError(CommlibError, ValueError):
    """A codec breaks its contract, or its file is damaged."""


class AgentError(CommlibError):
    """An agent breaks its contract."""


class WorldError(CommlibError):
    """A world breaks its contract."""


class RunError(CommlibError):
    """A run folder or a checkpoint is missing, damaged or of another kind."""


class HostError(CommlibError):
    """An agent host died, hung or failed."""


class HostLost(HostError):
    """Some hosts died or hung in the middle of a call, and the others answered.

    Attributes:
        hosts: those that were lost.
        answers: of all hosts that were called, in the order of the call; None for the lost.
    """

    def __init__(self, message: str, hosts: Sequence[int], answers: Sequence[object]) -> None:
        super().__init__(message)
        self.hosts = tuple(hosts)
        self.answers = list(answers)


class ConformanceError(CommlibError):
    """A codec, topology, ledger, agent or world breaks a law of its kind."""
