"""What Ray carries: rounds of 64 agents on two hosts, with gate, codec, ledger and journal on, against a call per message.

Three ways to bring the same messages to the same listeners, in turn, lap by lap:

    ours         rounds of real play (`commlib.agents.play.PostOffice`): three calls per host and round, whatever is in them
    naive        what one writes first: each message is a torch tensor, and each listener is told it in a call of its own.
                 All calls of a round are under way at once, and nothing is coded, charged or written down
    in process   as ours, without Ray

Everybody hears everybody, and worlds are played side by side, as evaluation does: 16 of them, and for comparison one, where
what a round costs by itself (its books above all) is not shared by any other world. A message counts where it says
something and its listener has it: silence counts on neither side. What a frame takes on the socket is counted by the
machine's own network interfaces, less what they count in as long a time without rounds; the frame's own size stands beside
it. With the frames travel observations and actions, for the driver steps the world.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any

import torch

from commlib.agents.recovery import Recovering
from commlib.agents.runtime import LocalRuntime
from commlib.experiments.bench import Laps, Measured, Row, Say, Target, race, table
from commlib.experiments.town import WIDTH, Town
from commlib.gate import Gate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_AGENTS, N_HOSTS, N_WORLDS = 64, 2, 16
BUDGET = "1 Gbit"
"""Never short, but asked for in every round, as any is."""
NEWS = Gate("event", 0.5)
"""Silent is who says what its listeners have, give or take the noise."""
N_LAPS, N_ROUNDS, NAIVE_CALLS = 9, 20, 2_000
IDLE_SECONDS = 5.0
HOST_COUNTS = (1, 2, 4, 8)
TARGETS = {"vs_naive": Target(at_least=300), "audit_differences": Target(at_most=0)}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Laps of all ways in turn; then the sockets; then rounds on other numbers of hosts."""
    from commlib.agents.ray_runtime import OnRay, RayRuntime

    n_laps, n_rounds, n_calls = (2, 5, 200) if quick else (N_LAPS, N_ROUNDS, NAIVE_CALLS)
    n_most = (n_laps + 4) * n_rounds
    with TemporaryDirectory() as folder, OnRay(2 * N_HOSTS):

        def town(runtime: Any, n_worlds: int = N_WORLDS) -> Town:  # noqa: ANN401 (local or Ray)
            books = Path(mkdtemp(dir=folder))
            return Town("full", N_AGENTS, seed, n_most, books, runtime, budget=BUDGET, gate=NEWS, n_worlds=n_worlds)

        say(f"{N_AGENTS} agents on {N_HOSTS} hosts")
        towns = {
            "ours": town(Recovering(RayRuntime(N_HOSTS))),
            "ours, one world": town(Recovering(RayRuntime(N_HOSTS)), n_worlds=1),
            "in process": town(LocalRuntime(N_HOSTS)),
        }
        naive = Naive()
        for one in towns.values():
            one.round(0)
        naive.round(N_HOSTS)
        laps = race(
            {
                **{name: one.round_after_greeting for name, one in towns.items()},
                "naive": lambda number: naive.round(n_calls // n_rounds),
            },
            n_calls=n_rounds,
            n_laps=n_laps,
            clock=time.perf_counter,
        )
        say("sockets")
        socket = _on_the_socket(towns["ours"], n_laps * n_rounds + 1, n_rounds, 1.0 if quick else IDLE_SECONDS)
        rows = [{"kind": "way", "way": name, **one.row(laps[name])} for name, one in towns.items()]
        rows.append(naive.row(laps["naive"], n_calls // n_rounds))
        rows.append({"kind": "socket", **socket})
        for one in towns.values():
            one.close()
        naive.close()
        for n_hosts in (2,) if quick else HOST_COUNTS:
            say(f"{N_AGENTS} agents on {n_hosts} hosts")
            rows.append(_on_hosts(town(Recovering(RayRuntime(n_hosts))), n_rounds, n_laps))
    return Measured(rows, _summary(rows), _tables(rows))


class Listener:
    """One listener of the naive way."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.heard = torch.zeros(WIDTH)

    def hear(self, message: torch.Tensor) -> None:
        """A message."""
        self.heard = message

    def ping(self) -> None:
        """Answer, once the process is up."""


class Naive:
    """A remote call per message and listener, with a torch tensor; so many processes as ours has hosts."""

    def __init__(self) -> None:
        from commlib.agents.ray_runtime import Process

        self._processes = [Process(Listener, cpu_share=0.0) for _ in range(N_HOSTS)]
        for process in self._processes:
            process.call("ping")

    def round(self, n_messages: int) -> None:
        """So many messages, all under way at once."""
        pending = [
            self._processes[k % N_HOSTS].begin("hear", torch.full((WIDTH,), float(k))) for k in range(n_messages)
        ]
        for one in pending:
            one.answer()

    def row(self, laps: Laps, n_messages: int) -> Row:
        """What a round came to."""
        return {
            "kind": "way",
            "way": "naive",
            "seconds_per_round": laps.median,
            "said_per_second": n_messages / laps.median,
            "n_hosts": N_HOSTS,
        }

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.end()


def _on_the_socket(town: Town, first: int, n_rounds: int, idle_seconds: float) -> Row:
    """Bytes that a round takes on the machine's network interfaces, and its frames' own."""
    idle_from, counted_from = time.perf_counter(), _socket_bytes()
    time.sleep(idle_seconds)
    idle_rate = (_socket_bytes() - counted_from) / (time.perf_counter() - idle_from)
    started, before, frames_before = time.perf_counter(), _socket_bytes(), town.frame_bytes
    for number in range(first, first + n_rounds):
        town.round(number)
    seconds = time.perf_counter() - started
    on_the_socket = _socket_bytes() - before - idle_rate * seconds
    in_frames, n_frames = (after - earlier for after, earlier in zip(town.frame_bytes, frames_before, strict=True))
    return {
        "bytes_per_round": on_the_socket / n_rounds,
        "frame_bytes_per_round": in_frames / n_rounds,
        "socket_bytes_per_frame": on_the_socket / n_frames,
        "bytes_per_frame": in_frames / n_frames,
        "idle_bytes_per_second": idle_rate,
    }


def _socket_bytes() -> int:
    """Bytes sent so far over all network interfaces, the loopback included."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return sum(int(line.split(":")[1].split()[8]) for line in lines)


def _on_hosts(town: Town, n_rounds: int, n_laps: int) -> Row:
    """Rounds alone, on another number of hosts."""
    try:
        town.round(0)
        laps = race({"ours": town.round_after_greeting}, n_calls=n_rounds, n_laps=n_laps, clock=time.perf_counter)
        return {"kind": "hosts", **town.row(laps["ours"])}
    finally:
        town.close()


def _summary(rows: Sequence[Row]) -> Row:
    ways = {row["way"]: row for row in rows if row["kind"] == "way"}
    socket = next(row for row in rows if row["kind"] == "socket")
    ours, naive, here = ways["ours"], ways["naive"], ways["in process"]
    return {
        "vs_naive": ours["said_per_second"] / naive["said_per_second"],
        "vs_naive_one_world": ways["ours, one world"]["said_per_second"] / naive["said_per_second"],
        "vs_inprocess": ours["said_per_second"] / here["said_per_second"],
        "messages_per_second": ours["said_per_second"],
        "naive_messages_per_second": naive["said_per_second"],
        "milliseconds_per_round": 1000 * ours["seconds_per_round"],
        "socket_bytes_per_frame": socket["socket_bytes_per_frame"],
        "bytes_per_frame": socket["bytes_per_frame"],
        "audit_differences": sum(row.get("audit_differences", 0) for row in rows),
    }


def _tables(rows: Sequence[Row]) -> list[Any]:
    ways = {
        "way": "",
        "n_hosts": "hosts",
        "n_worlds": "worlds",
        "milliseconds": "ms per round",
        "said_per_second": "messages/s",
    }
    hosts = {"n_hosts": "hosts", "milliseconds": "ms per round", "said_per_second": "messages/s"}
    shown = [{**row, "milliseconds": 1000 * row["seconds_per_round"]} for row in rows if row["kind"] != "socket"]
    sockets = {
        "bytes_per_frame": "bytes of a frame",
        "socket_bytes_per_frame": "bytes on the socket, per frame",
        "bytes_per_round": "bytes on the socket, per round",
    }
    return [
        table(f"{N_AGENTS} agents, everybody hears everybody", ways, [r for r in shown if r["kind"] == "way"]),
        table("on so many hosts", hosts, [r for r in shown if r["kind"] == "hosts"]),
        table("on the socket", sockets, [r for r in rows if r["kind"] == "socket"]),
    ]


def draw(rows: Sequence[Row]) -> Figure:
    """Messages per second over hosts, beside the naive way."""
    from commlib.experiments.bench_figures import Line, lines

    mine = [row for row in rows if row["kind"] == "hosts"]
    naive = next(row["said_per_second"] for row in rows if row["kind"] == "way" and row["way"] == "naive")
    ours = Line("ours", [(row["n_hosts"], row["said_per_second"]) for row in mine])
    calls = Line("a call per message", [(row["n_hosts"], naive) for row in mine], is_bound=True)
    return lines({"messages delivered": [ours, calls]}, "agent hosts", "messages per second", log_x=True, log_y=True)
