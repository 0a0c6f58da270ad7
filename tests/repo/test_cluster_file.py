"""ray_cluster.yaml: Ray's own validator accepts it, and no node of it starts without a token."""

import ipaddress
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "ray_cluster.yaml"

# In a process of its own, so that this one stays free of Ray. Nothing is contacted.
PREPARE = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(open(sys.argv[1])))
validate_config(config)
print(json.dumps(config))
"""


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def prepare(file: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PREPARE, str(file)], capture_output=True, text=True, timeout=120, check=False
    )


def test_ray_accepts_it(written: dict[str, Any]) -> None:
    done = prepare(FILE)
    assert done.returncode == 0, done.stderr
    prepared = json.loads(done.stdout.splitlines()[-1])
    workers = len(written["provider"]["worker_ips"])
    assert prepared["max_workers"] == workers
    assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == workers
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key] == written[key]


def test_ray_refuses_a_field_that_it_does_not_know(written: dict[str, Any], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({**written, "workers": 3}))
    assert prepare(wrong).returncode != 0


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_starts_with_a_token(written: dict[str, Any], key: str) -> None:
    (start,) = [command for command in written[key] if "ray start" in command]
    assert start.index("RAY_AUTH_MODE=token") < start.index("ray start")


def test_it_carries_no_token_and_no_real_address(written: dict[str, Any]) -> None:
    assert "RAY_AUTH_TOKEN=" not in FILE.read_text()
    documentation = ipaddress.ip_network("192.0.2.0/24")
    provider = written["provider"]
    assert all(ipaddress.ip_address(ip) in documentation for ip in [provider["head_ip"], *provider["worker_ips"]])


def test_what_it_copies_to_the_nodes_is_there(written: dict[str, Any]) -> None:
    local = [source for source in written["file_mounts"].values() if not source.startswith("~")]
    assert [source for source in local if not (ROOT / source).exists()] == []
    assert {"commlib", "codecs", "agents", "experiments"} <= set(local)
