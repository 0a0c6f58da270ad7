"""Meters: what a run is doing, told step by step to whoever watches it from outside.

The dial on a petrol pump: it turns while the fuel flows, and nobody is paid by it. Not the books: those are the ledger's,
and they are exact after a crash, too; a meter begins at nought with each run, and nothing is decided by what it shows.

Updating a metric costs some microseconds, so a meter is told once per step what that came to, not of every message.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from commlib.errors import ConfigError

LOCALHOST = "127.0.0.1"
RAY_NEEDS = ("aiohttp", "opencensus", "opentelemetry", "prometheus_client")
"""What of ray[default] a node exports metrics with; a plain ray takes them in and shows them nowhere."""


class Figures(NamedTuple):
    """What a step came to.

    Attributes:
        wire_bits: of all frames sent.
        n_messages: messages that said something; signals are none.
        n_dropped: messages that were never said, because an allowance was too small.
        n_lost: frames that got lost on the way to a host.
        n_restarts: how often hosts were brought back, since they were opened.
        seconds: from the observations of a step to those of the next one.
    """

    wire_bits: int
    n_messages: int
    n_dropped: int
    n_lost: int
    n_restarts: int
    seconds: float


class Meter(Protocol):
    """Is told how a play goes."""

    def step(self, figures: Figures) -> None:
        """A step is over."""
        ...

    def drop(self, n_messages: int) -> None:
        """Messages that were put off are never said now: their episodes are over."""
        ...

    def price(self, account: str, price: float) -> None:
        """What a unit of an account costs from now on, in squared distortion (or harm)."""
        ...

    def close(self) -> None:
        """The run is over; a second call does nothing."""
        ...


class Silent:
    """Shows nothing."""

    def step(self, figures: Figures) -> None:
        """Nothing."""

    def drop(self, n_messages: int) -> None:
        """Nothing."""

    def price(self, account: str, price: float) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Metric(NamedTuple):
    """One metric: its name without a prefix, what it counts, and the labels that it is told apart by."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


WIRE_BITS = Metric("commlib_wire_bits_total", "counter", "Bits of all frames sent, headers included.")
MESSAGES = Metric("commlib_messages_total", "counter", "Messages that said something.")
DROPPED = Metric("commlib_messages_dropped_total", "counter", "Messages never said, for want of budget.")
LOST = Metric("commlib_frames_lost_total", "counter", "Frames lost on the way to a host; they are charged.")
RESTARTS = Metric("commlib_host_restarts_total", "counter", "Hosts that died and were brought back.")
SECONDS = Metric("commlib_step_seconds", "histogram", "Seconds of a step: messages, actions and the world.")
PRICE = Metric("commlib_price", "gauge", "Price of a unit, in squared distortion or harm.", ("account",))
METRICS = (WIRE_BITS, MESSAGES, DROPPED, LOST, RESTARTS, SECONDS, PRICE)
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)
"""Of `SECONDS`: the last one is what a host may take to answer."""

VERBS = {"counter": "inc", "gauge": "set", "histogram": "observe"}
"""How each kind records, for prometheus_client and for Ray alike."""

Record = Callable[[float], None]
"""Adds to a counter, observes in a histogram, sets a gauge."""


class Metered:
    """Turns what it is told into metrics, whoever exports them.

    Args:
        make: a metric, ready to be recorded; called once for each, and for `PRICE` once for each account.
        end: stops the export.
    """

    def __init__(self, make: Callable[[Metric, dict[str, str]], Record], end: Callable[[], None]) -> None:
        self._make, self._end = make, end
        self._records = {metric: make(metric, {}) for metric in METRICS if not metric.labels}
        self._prices: dict[str, Record] = {}
        self._n_restarts = 0

    def _add(self, metric: Metric, amount: int) -> None:
        if amount:
            self._records[metric](amount)

    def step(self, figures: Figures) -> None:
        """A step is over."""
        self._records[SECONDS](figures.seconds)
        self._add(WIRE_BITS, figures.wire_bits)
        self._add(MESSAGES, figures.n_messages)
        self._add(DROPPED, figures.n_dropped)
        self._add(LOST, figures.n_lost)
        self._add(RESTARTS, figures.n_restarts - self._n_restarts)
        self._n_restarts = figures.n_restarts

    def drop(self, n_messages: int) -> None:
        """Messages that were put off are never said now."""
        self._add(DROPPED, n_messages)

    def price(self, account: str, price: float) -> None:
        """What a unit of an account costs from now on."""
        if account not in self._prices:
            self._prices[account] = self._make(PRICE, {"account": account})
        self._prices[account](price)

    def close(self) -> None:
        """Stop the export; a second call does nothing."""
        end, self._end = self._end, lambda: None
        end()


def serve(port: int) -> Metered:
    """A meter with a Prometheus endpoint of its own, at http://127.0.0.1:PORT/metrics, until it is closed.

    Raises:
        ConfigError: prometheus_client is not installed, or the port is taken.
    """
    try:
        import prometheus_client as prometheus
    except ImportError as error:
        raise ConfigError(
            "--metrics-port needs prometheus_client, which is not installed; pip install 'commlib[metrics]', or leave it out"
        ) from error
    registry = prometheus.CollectorRegistry()  # of this run alone
    try:
        server, thread = prometheus.start_http_server(port, LOCALHOST, registry)
    except OSError as error:
        raise ConfigError(
            f"port {port} of {LOCALHOST} cannot be listened on ({error.strerror}); choose another --metrics-port"
        ) from error
    families: dict[str, Any] = {}

    def make(metric: Metric, labels: dict[str, str]) -> Record:
        if metric.name not in families:
            kind = {"counter": prometheus.Counter, "gauge": prometheus.Gauge, "histogram": prometheus.Histogram}[
                metric.kind
            ]
            more: dict[str, Any] = {"buckets": BUCKETS} if metric.kind == "histogram" else {}
            families[metric.name] = kind(metric.name, metric.text, metric.labels, registry=registry, **more)
        one = families[metric.name].labels(**labels) if labels else families[metric.name]
        record: Record = getattr(one, VERBS[metric.kind])
        return record

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return Metered(make, end)


def ray_exports() -> bool:
    """Whether a Ray node with what is installed here exports metrics; told without importing anything."""
    return all(importlib.util.find_spec(name) is not None for name in RAY_NEEDS)
