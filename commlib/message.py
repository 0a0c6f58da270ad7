"""Who says what to whom: an edge is a direction, a message is one payload on it at one step.

An edge is a street with a name, always sender first; a message is one letter that went down it. Not a frame: a frame is
the bag in which all letters of a round travel between two hosts (`commlib.frame`).
"""

from typing import NamedTuple

EVERYONE = -1
"""The receiver of a broadcast: every agent with an open edge from the sender."""


class Edge(NamedTuple):
    """A directed link between two agents; the sender always comes first."""

    sender: int
    receiver: int

    def __str__(self) -> str:
        return f"{self.sender}->{'*' if self.receiver == EVERYONE else self.receiver}"


class Message(NamedTuple):
    """One payload, one edge, one step.

    >>> Message(Edge(0, 1), step=3, codec_id="vq-1f0c", payload=b"x", bits=13).bits
    13

    `bits` is what the message is charged: its whole-bit share of the frame in which it travelled, header included.
    """

    edge: Edge
    step: int
    codec_id: str
    payload: bytes
    bits: int
