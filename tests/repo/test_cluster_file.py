"""ray_cluster.yaml and its edition for AWS: Ray's own validator accepts them, and no node of them starts without a token."""

import ipaddress
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OWN, RENTED = ROOT / "ray_cluster.yaml", ROOT / "ray_cluster_aws.yaml"
DOCUMENTATION = ipaddress.ip_network("192.0.2.0/24")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")

# In a process of its own, so that this one stays free of Ray. Nothing is contacted.
PREPARE = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(open(sys.argv[1])))
validate_config(config)
print(json.dumps(config))
"""


def load(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


@pytest.fixture(params=[OWN, RENTED], ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def prepare(file: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PREPARE, str(file)], capture_output=True, text=True, timeout=120, check=False
    )


def test_ray_accepts_it(file: Path) -> None:
    done = prepare(file)
    assert done.returncode == 0, done.stderr
    prepared, written = json.loads(done.stdout.splitlines()[-1]), load(file)
    kinds = prepared["available_node_types"]
    workers = len(written["provider"]["worker_ips"]) if file == OWN else written["max_workers"]
    assert prepared["max_workers"] == workers
    assert kinds["local.cluster.node" if file == OWN else "worker"]["min_workers"] == workers
    assert prepared["provider"]["type"] == ("local" if file == OWN else "aws")
    for key in STARTS:
        assert prepared[key] == written[key]


def test_ray_refuses_a_field_that_it_does_not_know(file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({**load(file), "workers": 3}))
    assert prepare(wrong).returncode != 0


@pytest.mark.parametrize("key", STARTS)
def test_every_node_starts_with_a_token(file: Path, key: str) -> None:
    (start,) = [command for command in load(file)[key] if "ray start" in command]
    assert start.index("RAY_AUTH_MODE=token") < start.index("ray start")


def test_it_carries_no_token_and_no_real_address(file: Path) -> None:
    text = file.read_text()
    assert "RAY_AUTH_TOKEN=" not in text
    networks = [ipaddress.ip_network(found) for found in re.findall(r"\b\d+\.\d+\.\d+\.\d+(?:/\d+)?", text)]
    assert networks
    assert all(network.subnet_of(DOCUMENTATION) for network in networks)  # type: ignore[arg-type]


def test_rented_nodes_are_open_for_ssh_alone() -> None:
    (rule,) = load(RENTED)["provider"]["security_group"]["IpPermissions"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)


def test_what_it_copies_to_the_nodes_is_there(file: Path) -> None:
    local = [source for source in load(file)["file_mounts"].values() if not source.startswith("~")]
    assert [source for source in local if not (ROOT / source).exists()] == []
    assert {"commlib", "codecs", "agents", "experiments"} <= set(local)


def test_both_copy_the_same_and_install_the_same() -> None:
    assert load(OWN)["file_mounts"] == load(RENTED)["file_mounts"]
    for file in (OWN, RENTED):
        commands = " && ".join(load(file)["setup_commands"])
        assert "make -C ~/commlib venv" in commands
        assert "--constraint ~/commlib/constraints.txt 'ray[default]'" in commands
