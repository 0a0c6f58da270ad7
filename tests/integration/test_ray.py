"""The same run on Ray actors: same books, same figures; and what happens when an actor dies."""

import contextlib
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayTaskError

import commlib
from commlib.agents.host import HostProcess
from commlib.agents.ray_runtime import RayRuntime
from commlib.agents.recovery import Recovering
from commlib.agents.runtime import Errand, LocalRuntime
from commlib.audit import audit
from commlib.errors import AgentError, FrameError, HostError, HostLost
from commlib.experiments.books import audit_run
from commlib.experiments.compose import complete, resolve
from commlib.experiments.evaluate import evaluate_run_on
from commlib.experiments.progress import Quiet
from commlib.experiments.train import load_model, run_training
from commlib.experiments.verify import verify
from commlib.experiments.worlds import make_world
from commlib.journal import Journal
from commlib.records import RunFolder

N_HOSTS = 3
OF_THE_PLACE = {"runtime", "seconds", "throughput", "run", "command", "restarts"}


@pytest.fixture(scope="module")
def runtime():
    """Three hosts on a Ray that is running already, with room for more than one runtime at a time."""
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, configure_logging=False)
    opened = Recovering(RayRuntime(N_HOSTS, call_seconds=100), max_restarts=0)
    yield opened
    opened.close()
    is_left_running = ray.is_initialized()
    ray.shutdown()
    assert is_left_running, "we joined it, so it is not ours to end"


@pytest.fixture(scope="module")
def settings(tiny_settings):
    return {**tiny_settings, "hosts": N_HOSTS, "budget": "48 bit/step", "steps": 1280}


@pytest.fixture(scope="module")
def runs(runtime, settings, tmp_path_factory):
    """The same training and evaluation in this process and on actors."""
    folder = tmp_path_factory.mktemp("runs")
    local = run_training(resolve("guide", None, None, settings), folder / "local", display=Quiet())
    config = resolve("guide", None, None, {**settings, "runtime": "ray"})
    on_ray = run_training(config, folder / "ray", display=Quiet(), runtime=runtime)
    return folder, local, on_ray


def figures(result):
    return {name: value for name, value in result.to_json().items() if name not in OF_THE_PLACE}


def test_actors_and_one_process_write_the_same_books(runs):
    folder, local, on_ray = runs
    assert (local.runtime, on_ray.runtime, on_ray.hosts) == ("local", "ray", N_HOSTS)
    assert on_ray.journal_digest == local.journal_digest
    assert figures(on_ray) == figures(local)
    assert on_ray.ledger.spent > 0
    curves = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(folder / name).read_metrics()]
        for name in ("local", "ray")
    ]
    assert curves[0] == curves[1]
    files = [(folder / name / "codec" / "codec.safetensors").read_bytes() for name in ("local", "ray")]
    assert files[0] == files[1]


def test_the_books_of_a_run_on_actors_reconcile(runs):
    folder, _, on_ray = runs
    report, differences = audit_run(folder / "ray")
    assert differences == []
    assert report["spent"] == on_ray.ledger.spent
    with Journal.reader(folder / "ray" / "journal.sqlite") as journal:
        assert audit(journal).n_receipts == report["receipts"] > 0
        assert {entry.holder for entry in journal.entries()} <= {"host-0", "host-1", "host-2"}


def test_actors_compute_what_the_learner_computes(runs, runtime, settings):
    folder, _, _ = runs
    world = make_world("guide")
    config = complete(resolve("guide", None, None, {**settings, "runtime": "ray"}), world.spec)
    run = RunFolder(folder / "local")
    verdict = verify(load_model(run, world), config, world, runtime, run, Quiet())
    assert verdict.differences == []
    assert verdict.n_steps == 20


def test_a_run_trained_here_is_evaluated_there(runs, runtime, settings, tmp_path):
    folder, local, _ = runs
    world = make_world("guide")
    config = complete(resolve("guide", None, None, {**settings, "runtime": "ray"}), world.spec)
    result = evaluate_run_on(runtime, folder / "local", config, tmp_path / "again", Quiet())
    assert result.journal_digest == local.journal_digest


def test_one_two_and_four_hosts_write_the_books_of_as_many_in_one_process(runtime, tiny_settings, tmp_path):
    """A frame goes between two hosts, so other numbers of hosts have other books; what agents say and do is the same."""
    settings = {**tiny_settings, "steps": 640, "message_width": 2}
    trained = run_training(resolve("guide_8", None, None, settings), tmp_path / "run", display=Quiet())
    plays = {}
    for n_hosts in (1, 2, 4):
        actors = Recovering(RayRuntime(n_hosts), max_restarts=0)
        for name, hosts in (("local", LocalRuntime(n_hosts)), ("ray", actors)):
            config = resolve("guide_8", None, None, {**settings, "runtime": name, "hosts": n_hosts})
            out = tmp_path / f"{name}-{n_hosts}"
            plays[name, n_hosts] = evaluate_run_on(hosts, tmp_path / "run", config, out, Quiet())
        actors.close()
        assert plays["ray", n_hosts].journal_digest == plays["local", n_hosts].journal_digest
        assert figures(plays["ray", n_hosts]) == figures(plays["local", n_hosts])
        assert plays["ray", n_hosts].success == trained.success
        assert plays["ray", n_hosts].return_ == trained.return_
    assert plays["local", 1].journal_digest == trained.journal_digest
    assert len({play.journal_digest for play in plays.values()}) == 3


SEVERAL_BUDGETS = {
    "rounds": 2,
    "topology": "ring",
    "budget": "1 kbit/step, 2 messages/step, each agent: 30 messages/episode, 19 rounds/episode",
    "allocation": "priority",
    "priority": "agent 1: 40 %",
    "when_out": "defer",
}


@pytest.mark.parametrize(
    "chosen",
    [{"rounds": 2, "topology": "ring"}, {"method": "schednet"}, SEVERAL_BUDGETS],
    ids=["two rounds", "signals", "several budgets"],
)
def test_steps_of_several_rounds_have_the_same_books_on_actors(runtime, tiny_settings, tmp_path, chosen):
    settings = {**tiny_settings, "budget": "2000 bit/step", **chosen, "hosts": N_HOSTS, "steps": 640}
    method = settings.pop("method", None)
    local = run_training(resolve("guide", method, None, settings), tmp_path / "local", display=Quiet())
    config = resolve("guide", method, None, {**settings, "runtime": "ray"})
    on_ray = run_training(config, tmp_path / "ray", display=Quiet(), runtime=runtime)
    assert on_ray.journal_digest == local.journal_digest
    assert figures(on_ray) == figures(local)
    assert on_ray.ledger.spent > 0
    assert (on_ray.ledger.deferred > 0) == (chosen is SEVERAL_BUDGETS)
    assert all(one.spent <= one.granted for one in on_ray.budgets)


# --- a user's agent


def test_a_users_agent_lives_in_an_actor(runtime):
    """A class that only this process knows, and whose messages tell in which process it lives."""

    class Teller:
        def __init__(self, agent_id):
            self.agent_id = agent_id

        def act(self, observation, inbox):
            assert observation.flags.writeable
            assert all(heard.flags.writeable for heard in inbox.values())
            observation[:] = 0
            return 0, np.array([self.agent_id, len(inbox)], np.float32)

    results = [
        commlib.run(
            "guide", Teller, topology="ring", runtime=name, hosts=3, episodes=8,
            stages={"calibrate_worlds": 8, "calibrate_rounds": 1, "rungs": 2},
        )
        for name in ("local", "ray")
    ]  # fmt: skip
    assert results[0].journal_digest == results[1].journal_digest
    assert results[1].runtime == "ray"
    assert ray.is_initialized(), "a cluster that was running is left running"
    assert runtime.each("host.__index__", [()] * N_HOSTS) == [0, 1, 2], "and so are its other actors"


def test_what_an_agent_does_wrong_over_there_is_told_here(runtime):
    runtime.each("set_desk", [(_Broken, host) for host in range(N_HOSTS)])
    with pytest.raises(AgentError, match="agent 7 lost its way"):
        runtime.each("desk.fail_on_purpose", [()] * N_HOSTS)
    with pytest.raises(
        HostError, match="'desk.fail_by_accident' failed on a host: ZeroDivisionError: division by zero"
    ):
        runtime.each("desk.fail_by_accident", [()] * N_HOSTS)
    with pytest.raises(HostError, match="'desk.echo' failed on a host: TypeError"):
        runtime.each("desk.echo", [(1, 2)] * N_HOSTS)


# --- the boundary


def test_arrays_arrive_writable_and_do_not_come_back_changed(runtime):
    runtime.each("set_desk", [(_Broken, host) for host in range(N_HOSTS)])
    for n in (3, 1_000_000):  # shipped inline, and through the object store
        sent = torch.arange(n, dtype=torch.float32), np.arange(n), {"nested": [np.zeros(n)]}, None, "word"
        for answer in runtime.each("desk.scribble", [(sent,)] * N_HOSTS):
            tensor, array, nested, nothing, word = answer
            assert isinstance(tensor, torch.Tensor)
            assert (nothing, word) == (None, "word")
            assert array.flags.writeable
            tensor += 1
            array += 1
            assert (tensor[0], array[0], nested["nested"][0][0]) == (100, 100, 99)
        assert (sent[0][0], sent[1][0], sent[2]["nested"][0][0]) == (0, 0, 0)


def wait_until_gone(pid, seconds=60):
    deadline = time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.01)
        pytest.fail(f"process {pid} is still there {seconds} s after SIGKILL")


class _Broken:
    """Something to call on a host."""

    def __init__(self, host):
        self.host = host

    def fail_on_purpose(self):
        raise AgentError("agent 7 lost its way")

    def fail_by_accident(self):
        return 1 / 0

    def hang(self):
        threading.Event().wait()

    def pid(self):
        return os.getpid()

    def echo(self, value):
        return value

    def end_or_echo(self, value):
        return value

    def scribble(self, values):
        tensor, array, nested, *rest = values
        tensor[0], array[0], nested["nested"][0][0] = 99, 99, 99
        return (tensor, array, nested, *rest)


class _Suicidal(_Broken):
    """Ends its own process."""

    def end_or_echo(self, value):
        os._exit(1)


# --- strangers


class Bomb:
    """What somebody might send in place of a message: whoever unpickles it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return type(self.trace).touch, (self.trace,)


def actor_of(mortal, host):
    """The actor of a host as anybody finds it who is let into the cluster."""
    (name,) = [one for one in ray.util.list_named_actors() if one.startswith(f"commlib-{mortal._id}-host-{host}-")]
    return ray.get_actor(name)


def test_calls_of_strangers_are_refused_and_counted_and_nothing_in_a_message_is_unpickled(runs, settings, tmp_path):
    """Somebody calls a host all through an evaluation, with a frame that is a pickle: without the key, and with it."""
    folder, local, _ = runs
    trace = tmp_path / "was loaded"
    bomb = pickle.dumps(Bomb(trace))
    pickle.loads(bomb)
    assert trace.exists()
    trace.unlink()
    mortal = RayRuntime(N_HOSTS)
    victim, is_over, refused = actor_of(mortal, 1), threading.Event(), []
    plain = {name for name in dir(HostProcess) if not name.startswith("_")}
    assert plain == {"ping", "call_packed"}, "nothing else can be called from afar"
    bag = dict.fromkeys(range(N_HOSTS), bomb)

    def intrude():
        call = (0, bag, np.ones(1, bool), np.ones((1, 1), np.float32))
        while not is_over.wait(0.02):
            for key in (bytes(16), mortal._keys[1]):
                with pytest.raises(RayTaskError) as caught:
                    ray.get(victim.call_packed.remote(key, "desk.act", call), timeout=100)
                if "has no agents to play with yet" not in str(caught.value):
                    refused.append(type(caught.value.cause))

    config = complete(resolve("guide", None, None, {**settings, "runtime": "ray"}), make_world("guide").spec)
    intruder = threading.Thread(target=intrude)
    intruder.start()
    try:
        result = evaluate_run_on(Recovering(mortal), folder / "local", config, tmp_path / "again", Quiet())
    finally:
        is_over.set()
        intruder.join()
    (counted,) = mortal.ask([1], "refused", [()])
    assert set(refused) == {HostError, FrameError}
    assert counted == len(refused)
    assert 0 < result.calls_refused <= counted
    assert not trace.exists()
    assert result.journal_digest == local.journal_digest
    assert {**figures(result), "calls_refused": 0} == figures(local)
    mortal.close()


def test_the_key_of_a_host_that_was_replaced_opens_nothing(runtime):
    mortal = RayRuntime(2)
    mortal.ask([0, 1], "set_desk", [(_Broken, host) for host in range(2)])
    before = mortal._keys[0]
    mortal.restart([0])
    assert mortal._keys[0] != before
    with pytest.raises(RayTaskError, match="without the key of its run, or with that of a host that it replaces"):
        ray.get(mortal._actors[0].call_packed.remote(before, "set_desk", (_Broken, 0)))
    assert mortal.ask([0, 1], "refused", [()] * 2) == [1, 0]
    mortal.close()


# --- hosts that share out worlds


@pytest.mark.parametrize("blow", [None, signal.SIGKILL])
def test_worlds_on_actors_are_played_as_in_one_process_and_a_host_may_die(runtime, tiny_settings, tmp_path, blow):
    settings = {**tiny_settings, "spread": "worlds", "hosts": 2, "steps": 3000}
    local = run_training(resolve("guide", None, None, settings), tmp_path / "local", display=Quiet())
    config = resolve("guide", None, None, {**settings, "runtime": "ray"})
    mortal, is_over = RayRuntime(2), threading.Event()

    def strike():
        while not (tmp_path / "ray" / "metrics.jsonl").is_file() and not is_over.wait(0.05):
            pass
        os.kill(mortal.pids[0], blow)

    striker = threading.Thread(target=strike)
    if blow:
        striker.start()
    recovering = Recovering(mortal)
    try:
        on_ray = run_training(config, tmp_path / "ray", display=Quiet(), runtime=recovering)
    finally:
        is_over.set()
        if blow:
            striker.join()
        recovering.close()
    assert (on_ray.restarts > 0) == (blow is not None)
    assert on_ray.journal_digest == local.journal_digest
    assert figures(on_ray) == figures(local)
    curves = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(tmp_path / name).read_metrics()]
        for name in ("local", "ray")
    ]
    assert curves[0] == curves[1]


def test_nobody_waits_and_a_host_may_die(runtime, tiny_settings, tmp_path):
    settings = {
        **tiny_settings,
        "spread": "worlds",
        "hosts": 2,
        "steps": 6000,
        "runtime": "ray",
        "learning": {"staleness": 1, "n_worlds": 32},
    }
    mortal, is_over = RayRuntime(2), threading.Event()

    def strike():
        while not (tmp_path / "run" / "metrics.jsonl").is_file() and not is_over.wait(0.05):
            pass
        os.kill(mortal.pids[1], signal.SIGKILL)

    striker = threading.Thread(target=strike)
    striker.start()
    recovering = Recovering(mortal)
    try:
        result = run_training(
            resolve("guide", None, None, settings), tmp_path / "run", display=Quiet(), runtime=recovering
        )
    finally:
        is_over.set()
        striker.join()
        recovering.close()
    assert result.restarts > 0
    behind = [row["behind"] for row in RunFolder(tmp_path / "run").read_metrics()]
    assert 0 < max(behind) <= 1


def test_of_hosts_on_errands_one_that_hangs_is_given_up(runtime):
    hasty = RayRuntime(2)
    hasty.ask([0, 1], "set_desk", [(_Broken, host) for host in range(2)])
    hasty._call_seconds = 3.0
    stuck, quick = Errand(0, "desk.hang", ()), Errand(1, "desk.echo", ("word",))
    for errand in (stuck, quick):
        hasty.begin(errand)
    assert hasty.first([stuck, quick]) is quick
    assert (quick.is_over, quick.answer) == (True, "word")
    with pytest.raises(HostLost, match=r"host 0 did not come back from 'desk.hang' within 3 s") as lost:
        hasty.first([stuck])
    assert lost.value.hosts == (0,)
    hasty.close()


# --- last: a host dies, and its runtime with it


def test_a_host_that_hangs_is_given_up(runtime):
    hasty = RayRuntime(1)
    hasty.ask([0], "set_desk", [(_Broken, 0)])
    hasty._call_seconds = 0.5  # only now: importing torch may take longer
    with pytest.raises(HostLost, match=r"host 0 did not answer 'desk.hang' within 0.5 s; it hangs, is stopped") as lost:
        hasty.ask([0], "desk.hang", [()])
    assert lost.value.hosts == (0,)
    hasty.close()


def test_of_a_host_that_dies_in_the_middle_of_a_call_the_others_answers_are_kept(runtime):
    doomed = RayRuntime(2)
    doomed.ask([0, 1], "set_desk", [(_Suicidal, 0), (_Broken, 1)])
    with pytest.raises(HostLost, match=r"host 0 died during 'desk.end_or_echo' ") as lost:
        doomed.ask([0, 1], "desk.end_or_echo", [(torch.ones(2),)] * 2)
    assert lost.value.hosts == (0,)
    assert lost.value.answers[0] is None
    assert torch.equal(lost.value.answers[1], torch.ones(2))
    doomed.close()


def test_where_hosts_may_not_be_restarted_a_death_ends_the_run(runtime):
    doomed = Recovering(RayRuntime(2), max_restarts=0)
    doomed.each("set_desk", [(_Broken, host) for host in range(2)])
    _, victim = doomed.each("desk.pid", [()] * 2)
    os.kill(victim, signal.SIGKILL)  # `ray.kill` only asks: a call may still be answered after it
    wait_until_gone(victim)
    with pytest.raises(HostError, match=r"host 1 died during 'desk.echo' .*; hosts were restarted 0 times"):
        doomed.each("desk.echo", [(1,)] * 2)
    doomed.close()
    doomed.close()
    assert ray.is_initialized(), "the first runtime still needs it"


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_hosts_that_are_killed_or_stopped_in_the_middle_change_nothing(runs, runtime, settings, tmp_path, blow):
    """Training and evaluation, two blows once it goes; the books and the figures are those of a quiet run."""
    _, local, _ = runs
    said = []
    mortal = RayRuntime(N_HOSTS)
    recovering = Recovering(mortal, say=said.append)
    mortal.ask(range(N_HOSTS), "set_desk", [(_Broken, host) for host in range(N_HOSTS)])
    victims, is_over = mortal.ask(range(N_HOSTS), "desk.pid", [()] * N_HOSTS), threading.Event()
    mortal._call_seconds = 8.0

    def strike():
        for victim in victims[:2]:
            while not (tmp_path / "disturbed" / "metrics.jsonl").is_file() and not is_over.wait(0.05):
                pass
            os.kill(victim, blow)
            is_over.wait(1.0)

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        config = resolve("guide", None, None, {**settings, "runtime": "ray"})
        disturbed = run_training(config, tmp_path / "disturbed", display=Quiet(), runtime=recovering)
    finally:
        is_over.set()
        striker.join()
        recovering.close()
    assert disturbed.restarts >= len(said) > 0
    assert all("nothing is lost" in line for line in said)
    assert disturbed.journal_digest == local.journal_digest
    assert figures(disturbed) == figures(local)
    _, differences = audit_run(tmp_path / "disturbed")
    assert differences == []
