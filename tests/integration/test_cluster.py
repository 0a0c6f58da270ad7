"""A cluster of three nodes on this machine: the same books as in one process, also when a node is killed on the way."""

import contextlib
import threading

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from commlib.agents import ray_runtime
from commlib.agents.ray_runtime import RayRuntime
from commlib.agents.recovery import Recovering
from commlib.errors import HostError
from commlib.experiments.books import audit_run
from commlib.experiments.compose import resolve
from commlib.experiments.progress import Quiet
from commlib.experiments.train import run_training

N_HOSTS = 3
OF_THE_PLACE = {"runtime", "seconds", "throughput", "run", "command", "restarts"}
WATCHFUL = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    """A head and two more nodes, each with room for two hosts."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "_system_config": WATCHFUL})
    for _ in range(2):
        nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False, configure_logging=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def settings(tiny_settings):
    return {**tiny_settings, "hosts": N_HOSTS, "budget": "48 bit/step", "steps": 1280}


@pytest.fixture(scope="module")
def local(settings, tmp_path_factory):
    """The run in this process."""
    return run_training(
        resolve("guide", None, None, settings), tmp_path_factory.mktemp("local") / "run", display=Quiet()
    )


def figures(result):
    return {name: value for name, value in result.to_json().items() if name not in OF_THE_PLACE}


class _Place:
    """Tells on which node it is."""

    def node(self):
        return ray.get_runtime_context().get_node_id()


def nodes_of(runtime):
    runtime.ask(range(N_HOSTS), "set_desk", [(_Place,)] * N_HOSTS)
    return runtime.ask(range(N_HOSTS), "desk.node", [()] * N_HOSTS)


def test_hosts_are_packed_or_spread(cluster):
    n_nodes = {}
    for placement in ("pack", "spread"):
        runtime = RayRuntime(N_HOSTS, placement=placement)
        n_nodes[placement] = len(set(nodes_of(runtime)))
        runtime.close()
    assert n_nodes["spread"] == 3
    assert n_nodes["pack"] < 3


def test_a_node_with_another_version_is_named_before_anything_starts(cluster, monkeypatch):
    monkeypatch.setattr(ray_runtime, "versions", lambda: {"torch": "1.0.0"})
    monkeypatch.setattr(ray_runtime, "_versions_there", lambda: {"torch": "2.0.0"})
    with pytest.raises(HostError, match=r"node .* has torch 2.0.0 \(here 1.0.0\); .* install the same there"):
        ray_runtime.check_nodes()


def frozen(node):
    """All processes of a node stopped: to the others it is as if its cable were cut. The list, to be woken again."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    processes = [raylet, *raylet.children(recursive=True)]
    for process in processes:
        process.suspend()
    return processes


def test_a_node_that_is_cut_off_and_comes_back_changes_nothing(cluster, settings, local, tmp_path):
    """Its hosts are replaced elsewhere; when it wakes up, what it still wants to say reaches nobody."""
    config = resolve("guide", None, None, {**settings, "runtime": "ray"})
    runtime, said, asleep = RayRuntime(N_HOSTS, placement="spread"), [], []
    places = nodes_of(runtime)
    runtime._call_seconds = 20.0
    recovering = Recovering(runtime, say=said.append)
    doomed = next(node for node in cluster.list_all_nodes() if node.node_id in places and not node.head)
    is_over = threading.Event()

    def cut_off():
        while not (tmp_path / "cut" / "metrics.jsonl").is_file() and not is_over.wait(0.05):
            pass
        asleep.extend(frozen(doomed))
        while not said and not is_over.wait(0.05):
            pass
        for process in asleep:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    cutter = threading.Thread(target=cut_off)
    cutter.start()
    try:
        result = run_training(config, tmp_path / "cut", display=Quiet(), runtime=recovering)
    finally:
        is_over.set()
        cutter.join()
        recovering.close()
    assert asleep
    assert result.restarts > 0
    assert result.journal_digest == local.journal_digest
    assert figures(result) == figures(local)
    assert audit_run(tmp_path / "cut")[1] == []
    cluster.remove_node(doomed, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()


def test_three_nodes_write_the_books_of_one_process_and_so_do_two_after_one_was_killed(
    cluster, settings, local, tmp_path
):
    """In the second run the node of a host is killed once training goes; its host comes back on another one."""
    config = resolve("guide", None, None, {**settings, "runtime": "ray"})
    runtime, said = RayRuntime(N_HOSTS, placement="spread"), []
    places = nodes_of(runtime)
    recovering = Recovering(runtime, say=said.append)
    try:
        quiet = run_training(config, tmp_path / "quiet", display=Quiet(), runtime=recovering)
        assert (quiet.journal_digest, quiet.restarts) == (local.journal_digest, 0)
        assert figures(quiet) == figures(local)

        doomed = next(node for node in cluster.list_all_nodes() if node.node_id in places and not node.head)
        is_over = threading.Event()

        def kill():
            while not (tmp_path / "disturbed" / "metrics.jsonl").is_file() and not is_over.wait(0.05):
                pass
            cluster.remove_node(doomed, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        disturbed = run_training(config, tmp_path / "disturbed", display=Quiet(), runtime=recovering)
        is_over.set()
        killer.join()
    finally:
        recovering.close()
    assert disturbed.restarts > 0
    assert all("nothing is lost" in line for line in said)
    assert disturbed.journal_digest == local.journal_digest
    assert figures(disturbed) == figures(local)
    assert audit_run(tmp_path / "disturbed")[1] == []
