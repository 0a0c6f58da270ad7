"""The endpoint is scraped while an evaluation runs: between its batches, and as the last one is over."""

import socket
import urllib.request

from commlib.agents.meters import LOCALHOST
from commlib.config import make_config, read_yaml
from commlib.experiments.evaluate import evaluate_run
from commlib.experiments.progress import Quiet


def free_port():
    with socket.socket() as one:
        one.bind((LOCALHOST, 0))
        return one.getsockname()[1]


class Scraping(Quiet):
    """A display that scrapes the endpoint whenever the evaluation has come further."""

    def __init__(self, port):
        self.port, self.seen = port, []

    def advance(self, stage, share, figures):
        with urllib.request.urlopen(f"http://{LOCALHOST}:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("commlib"))
        self.seen.append({name: float(value) for name, value in pairs})


def test_the_endpoint_shows_a_run_as_it_goes(tiny_run, tmp_path):
    display = Scraping(free_port())
    changed = {"metrics_port": display.port, "parallel_worlds": 8}
    config = make_config(("run", read_yaml(tiny_run / "config.yaml")), ("test", changed))
    result = evaluate_run(tiny_run, config, tmp_path / "out", display)
    bits = [seen["commlib_wire_bits_total"] for seen in display.seen]
    assert len(bits) == 4
    assert bits == sorted(set(bits))
    assert bits[0] > 0
    last = display.seen[-1]
    assert last["commlib_wire_bits_total"] == 8 * result.wire_bytes
    assert last["commlib_messages_dropped_total"] == result.ledger.dropped
    assert last["commlib_step_seconds_count"] > 0
    assert 'commlib_price{account="bits"}' in last


def test_a_port_that_is_taken_ends_the_run_before_it_leaves_a_folder(command, tiny_run):
    with socket.socket() as other:
        other.bind((LOCALHOST, 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = command("evaluate", tiny_run, "--out", "again", "--metrics-port", port)
    assert code == 2
    assert f"port {port} of 127.0.0.1 cannot be listened on" in err
    code, _, err = command("evaluate", tiny_run, "--out", "again", "--metrics-port", "None", "--quiet")
    assert (code, err) == (0, "")
