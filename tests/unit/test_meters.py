"""Meters show what the result says, and cost the play nothing but a call per step."""

import socket
import sys
import urllib.request
from contextlib import closing

import pytest

from commlib.agents import meters
from commlib.agents.meters import LOCALHOST, METRICS, PRICE, SECONDS, Figures, Metered, serve
from commlib.agents.runtime import LocalRuntime
from commlib.config import RunConfig, make_config, read_yaml
from commlib.errors import ConfigError
from commlib.experiments import compose, evaluate
from commlib.experiments.compose import open_meter
from commlib.experiments.evaluate import evaluate_run
from commlib.experiments.progress import Quiet

STEP = Figures(wire_bits=100, n_messages=7, n_dropped=2, n_lost=1, n_restarts=3, seconds=0.25)


@pytest.fixture
def port():
    with socket.socket() as one:
        one.bind((LOCALHOST, 0))
        return one.getsockname()[1]


def scraped(port):
    """Samples of the endpoint, by name and labels as written."""
    with urllib.request.urlopen(f"http://{LOCALHOST}:{port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


class Recorded:
    """Keeps what a meter records, by name of the metric and its labels."""

    def __init__(self):
        self.values, self.n_ends = {}, 0

    def make(self, metric, labels):
        values = self.values.setdefault((metric.name, *labels.values()), [])
        return values.append

    def end(self):
        self.n_ends += 1


def test_a_step_is_recorded_once_in_each_metric_and_nothing_where_there_is_nothing():
    recorded = Recorded()
    meter = Metered(recorded.make, recorded.end)
    meter.step(STEP)
    meter.step(STEP._replace(wire_bits=0, n_dropped=0, n_lost=0))
    meter.drop(0)
    assert recorded.values == {
        ("commlib_wire_bits_total",): [100],
        ("commlib_messages_total",): [7, 7],
        ("commlib_messages_dropped_total",): [2],
        ("commlib_frames_lost_total",): [1],
        ("commlib_host_restarts_total",): [3],  # they are told since the hosts were opened
        ("commlib_step_seconds",): [0.25, 0.25],
    }


def test_each_account_has_its_price():
    recorded = Recorded()
    meter = Metered(recorded.make, recorded.end)
    for account, price in (("bits", 1.0), ("messages", 3.0), ("bits", 2.0)):
        meter.price(account, price)
    assert recorded.values["commlib_price", "bits"] == [1.0, 2.0]
    assert recorded.values["commlib_price", "messages"] == [3.0]


def test_closing_twice_ends_the_export_once():
    recorded = Recorded()
    meter = Metered(recorded.make, recorded.end)
    meter.close()
    meter.close()
    assert recorded.n_ends == 1


def test_the_endpoint_shows_every_metric_and_is_gone_when_closed(port):
    with closing(serve(port)) as meter:
        meter.step(STEP)
        meter.price("bits", 0.5)
        seen = scraped(port)
        families = {name.partition("{")[0] for name in seen}
        assert {m.name for m in METRICS if m is not SECONDS} | {f"{SECONDS.name}_bucket"} <= families
        assert (seen["commlib_wire_bits_total"], seen['commlib_price{account="bits"}']) == (100.0, 0.5)
        assert (seen[f"{SECONDS.name}_count"], seen[f"{SECONDS.name}_sum"]) == (1.0, 0.25)
    with pytest.raises(OSError, match="refused"):
        scraped(port)
    serve(port).close()  # and may be listened on again


def test_a_port_that_is_taken_is_named(port):
    with closing(serve(port)), pytest.raises(ConfigError, match=rf"port {port} of 127.0.0.1 .* another --metrics-port"):
        serve(port)


def test_without_the_library_it_is_said_what_to_install(monkeypatch, port):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'commlib\[metrics\]'"):
        serve(port)


def test_only_a_cluster_that_was_joined_and_exports_shows_our_metrics(monkeypatch):
    runtime, served = LocalRuntime(1), []
    monkeypatch.setattr(compose, "serve", served.append)
    monkeypatch.setattr(compose, "ray_exports", lambda: True)
    config = RunConfig(metrics_port=9400)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    open_meter(config, runtime)
    runtime.name = "ray"
    assert isinstance(open_meter(config, runtime), Metered)
    monkeypatch.delenv("RAY_ADDRESS")
    open_meter(config, runtime)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    monkeypatch.setattr(compose, "ray_exports", lambda: False)
    open_meter(config, runtime)
    assert served == [9400] * 3


def test_ray_exports_where_all_that_it_needs_is_there(monkeypatch):
    there = set(meters.RAY_NEEDS)
    monkeypatch.setattr(meters.importlib.util, "find_spec", lambda name: name if name in there else None)
    assert meters.ray_exports()
    there.remove("aiohttp")
    assert not meters.ray_exports()


@pytest.mark.parametrize(
    "settings",
    [
        {"budget": "64 bit/step"},
        {"budget": "24 bit/step", "when_out": "defer"},
        {"budget": None, "hosts": 3, "channel": "loss=30%"},
    ],
    ids=["capped", "deferred", "lossy"],
)
def test_a_meter_counts_what_the_result_says(tiny_run, tmp_path, monkeypatch, settings):
    recorded = Recorded()
    monkeypatch.setattr(evaluate, "open_meter", lambda config, runtime: Metered(recorded.make, recorded.end))
    config = make_config(("run", read_yaml(tiny_run / "config.yaml")), ("test", settings))
    result = evaluate_run(tiny_run, config, tmp_path / "out", Quiet())
    sums = {name: sum(values) for (name, *labels), values in recorded.values.items() if not labels}
    assert sums["commlib_wire_bits_total"] == 8 * result.wire_bytes == result.ledger.spent > 0
    assert sums["commlib_messages_dropped_total"] == result.ledger.dropped
    assert sums["commlib_frames_lost_total"] == result.frames_lost
    assert sums["commlib_host_restarts_total"] == result.restarts == 0
    assert sums["commlib_messages_total"] > 0
    assert 0 < sums["commlib_step_seconds"] <= result.seconds["evaluation"] + 0.001
    assert {name for name, *labels in recorded.values if labels} == {PRICE.name}
    accounts = {labels[0] for _, *labels in recorded.values if labels}
    assert accounts == {one.account for one in result.budgets} | {"bits"}
    assert recorded.n_ends == 1
