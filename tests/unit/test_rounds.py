"""Several rounds of messages in a step: what is heard can be passed on, all of it is charged, and signals decide who speaks."""

from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import commlib
from commlib.agent import Spoken
from commlib.agents.play import play
from commlib.agents.policy import may_speak
from commlib.agents.runtime import LocalRuntime
from commlib.agents.till import Books, open_books
from commlib.audit import audit
from commlib.budget import Budgets
from commlib.codec import fresh_context
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.int8 import Int8Codec
from commlib.codecs.prior import Prior, to_integers
from commlib.config import make_config, read_yaml
from commlib.errors import AgentError, CodecError, ConfigError
from commlib.experiments.compose import codecs_of, resolve, why_no_router
from commlib.experiments.model import Model, furnish
from commlib.experiments.progress import Quiet
from commlib.experiments.run import soloists
from commlib.experiments.train import counted, load_model, round_folder, train
from commlib.experiments.verify import verify
from commlib.experiments.world_guide import Guide, guide_relay
from commlib.experiments.worlds import make_world
from commlib.journal import Journal
from commlib.ledger import Ledger
from commlib.plan import make_plan, partition
from commlib.rationing import Rationing, Tariff
from commlib.records import RunFolder
from commlib.topology import full, ring

W, N = 32, 4
RING = ring(N).edges()


def numbers(alphabet=64):
    """A codec of one number, 0..63, that expects nothing in particular."""
    codebook = np.arange(alphabet, dtype=np.float32)[:, None]
    return TableCodec("vq", CodebookQuantiser(codebook), Prior(to_integers(np.ones((1, alphabet + 1, alphabet)))))


class Relay:
    """Agents in a ring that say a number of their own first, and then what they heard in the round before."""

    def __init__(self, agents, senders, is_capped=False):
        self.agents, self.step, self.is_capped = agents, 0, is_capped
        self.log: list[np.ndarray] = []

    def reset(self, n_worlds):
        self.step = 0

    def speak(self, observation, elapsed):
        self.step += 1
        said = [np.random.default_rng([agent, self.step]).integers(0, 64, len(observation)) for agent in self.agents]
        self.own = np.stack(said).astype(np.float32)[..., None]
        return Spoken(self.own, np.zeros(self.own.shape[:2], bool))

    def reply(self, inbox, own):
        assert self.is_capped or np.array_equal(own, self.own), "what listeners have is what was said"
        self.own = inbox[:, :, 0].swapaxes(0, 1).copy()
        return Spoken(self.own, np.zeros(self.own.shape[:2], bool))

    def act(self, inbox, uniform):
        self.log.append(inbox[:, :, 0, 0].copy())
        return (uniform * 5).astype(np.int64)


class _Still:
    """An agent with a method `act`: it says one thing in a step."""

    def __init__(self, agent_id):
        self.agent_id = agent_id

    def act(self, observation, inbox):
        return 0, np.zeros(1, np.float32)


class Stage:
    """The ring on some hosts, with its books."""

    def __init__(self, n_rounds, n_hosts, budget="unlimited", charging="broadcast"):
        self.teams, self.n_rounds, self.budgets = {}, n_rounds, Budgets.parse(budget)
        model = Model(self._team, numbers(), RING, earlier=(numbers(),) * (n_rounds - 1))
        self.runtime, self.world = LocalRuntime(n_hosts), Guide(N)
        self.plan = make_plan(RING, partition(N, n_hosts), charging)
        furnish(self.runtime, self.plan, model)
        self.ledger = Ledger(Journal.in_memory(), budget=self.budgets.main)
        open_books(self.ledger, self.budgets)
        self.seen = []

    def _team(self, agents, senders):
        self.teams[tuple(agents)] = Relay(agents, senders, bool(self.budgets))
        return self.teams[tuple(agents)]

    def play(self):
        tally = play(
            self.runtime,
            self.plan,
            self.world,
            Books(self.ledger, self.budgets, Rationing()),
            n_worlds=W,
            tariff=Tariff(),
            generator=torch.Generator().manual_seed(0),
            n_rounds=self.n_rounds,
            watcher=self.seen.append,
        )
        assert audit(self.ledger.journal).differences == []
        assert self.ledger.statement().spent == tally.wire_bits
        return tally

    def heard(self):
        """What each agent heard in the last round of each step, [T, W, N]."""
        return np.concatenate([np.stack(team.log) for _, team in sorted(self.teams.items())], -1)


@pytest.mark.parametrize("charging", ["broadcast", "link"])
@pytest.mark.parametrize("n_hosts", [1, 2, 4])
@pytest.mark.parametrize("n_rounds", [1, 2, 3])
def test_a_number_comes_as_far_round_the_ring_as_there_are_rounds(n_rounds, n_hosts, charging):
    stage = Stage(n_rounds, n_hosts, charging=charging)
    tally = stage.play()
    for step, heard in enumerate(stage.heard(), 1):
        for agent in range(N):
            said = np.random.default_rng([(agent - n_rounds) % N, step]).integers(0, 64, W)
            assert np.array_equal(heard[:, agent], said)
    assert tally.n_slots == N * W * 10
    assert tally.n_rounds == 10 * n_rounds
    assert tally.n_open == n_rounds * tally.n_slots
    assert [seen.number for seen in stage.seen] == [n_rounds * t for t in range(10)]
    assert {entry.round for entry in stage.ledger.journal.entries()} == set(range(10 * n_rounds))


def test_a_first_round_does_not_starve_the_second():
    """A greeting alone is 144 bits or more: what is too little for both rounds must not all go to the first."""
    stage = Stage(2, 1, "100 bit/step")
    stage.play()
    bits = {nth: sum(e.bits for e in stage.ledger.journal.entries() if e.round % 2 == nth) for nth in (0, 1)}
    assert min(bits.values()) > 0.3 * max(bits.values())


def test_a_team_that_is_not_asked_to_reply_says_so():
    stage = Stage(2, 1)
    stage.n_rounds = 1
    with pytest.raises(AgentError, match="play with n_rounds=2"):
        stage.play()


@pytest.mark.parametrize("n_hosts", [1, 2])
def test_a_step_has_one_allowance_for_all_its_rounds(n_hosts):
    free = Stage(2, n_hosts)
    free.play()
    by_step = {}
    for entry in free.ledger.journal.entries():
        by_step[entry.round // 2] = by_step.get(entry.round // 2, 0) + entry.bits
    bits = int(0.7 * max(by_step.values()) / W)
    stage = Stage(2, n_hosts, f"{bits} bit/step")
    tally = stage.play()
    spent = {}
    for entry in stage.ledger.journal.entries():
        spent[entry.round // 2] = spent.get(entry.round // 2, 0) + entry.bits
    assert all(bits_spent <= bits * W for bits_spent in spent.values())
    assert tally.n_dropped > 0
    assert len({entry.round % 2 for entry in stage.ledger.journal.entries()}) == 2, "both rounds have something left"
    assert stage.ledger.statement().available == 0, "what a step leaves expires"


# --- signals


def test_the_largest_signals_speak_and_of_equal_ones_the_first():
    signals = torch.tensor([[0.1, 0.9, 0.9, -1.0], [0.0, 0.0, 0.0, 0.0]])
    everybody = 1 - torch.eye(4)
    assert may_speak("topk", signals, everybody, 1).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert may_speak("topk", signals, everybody, 2).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert may_speak("topk", signals, everybody, 4).tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_those_speak_to_whom_somebody_listens():
    is_open_SR = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # a ring
    signals = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    assert may_speak("listen", signals, is_open_SR, 0).tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("rule", ["topk", "listen"])
def test_a_gradient_reaches_every_signal(rule):
    signals = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.2, -0.3]], requires_grad=True)
    worth = torch.tensor([[1.0, 2.0, 4.0], [3.0, -1.0, 1.0]])
    (may_speak(rule, signals, 1 - torch.eye(3), 1) * worth).sum().backward()
    assert torch.isfinite(signals.grad).all()
    at_stake = 2 if rule == "topk" else 3  # the last one in and the first one out set the mark for all others
    assert ((signals.grad != 0).sum(-1) >= at_stake).all()


def test_a_larger_signal_of_who_is_worth_more_is_what_the_gradient_asks_for():
    signals = torch.tensor([0.0, 0.1], requires_grad=True)
    (may_speak("topk", signals, 1 - torch.eye(2), 1) * torch.tensor([5.0, 1.0])).sum().backward()
    assert signals.grad[0] > 0 > signals.grad[1]


# --- whole runs


def test_a_scheduler_is_trained_where_episodes_end_early(tiny_settings, tmp_path):
    """Two recorded plays are not equally long then, and worlds that are over say nothing."""
    model, *_ = tiny(
        tiny_settings, tmp_path, world="predator_prey_easy", method="schednet", message_width=2, steps=6000, seed=0
    )
    assert len(model.codecs) == 2


def test_what_worlds_that_are_over_would_say_is_not_counted():
    """Ten steps of the same, of which two were alive: what is said again and again after the end must not be believed."""
    codec = Int8Codec(1)
    messages = torch.linspace(-1, 1, 10).view(10, 1, 1, 1).repeat(1, 64, 2, 1)
    messages[2:] = messages[1]
    alive = torch.zeros(10, 64, dtype=torch.bool)
    alive[:2] = True
    prior = counted(codec, [(messages, alive), (messages[:5], alive[:5])])
    past, code = codec.freeze().choose(messages[:2, 0, 0].numpy(), fresh_context(2, 1))[:, 0]
    again, moved = prior.estimate_bits(np.array([[past], [code]]), np.array([[past, 1]] * 2))
    assert moved < again, "in the step that was played the message moved"


def tiny(settings, tmp_path, **chosen):
    out = tmp_path / "run"
    world = chosen.pop("world", "guide")
    train(world, out=out, quiet=True, **{**deepcopy(settings), **chosen})
    folder = RunFolder(out)
    config = make_config(("run", read_yaml(folder.config)))
    made = make_world(world)
    return load_model(folder, made), config, made, folder


@pytest.mark.parametrize(
    "chosen",
    [
        {"world": "guide_relay"},
        {"rounds": 3, "topology": "full", "aggregation": "attention"},
        {"method": "schednet"},
        {"topology": "full", "gate": "listen", "stages": {"priced": 0.2, "calibrate_worlds": 8, "calibrate_rounds": 1}},
        {"topology": "topk", "charging": "link"},
        {"world": "guide_relay", "method": "schednet"},
        {"rounds": 2, "method": "random"},
        {"rounds": 2, "topology": "ring", "aggregation": "aged"},
        {"rounds": 2, "method": "etc"},
        {"rounds": 2, "method": "ic3net"},
        {"rounds": 2, "memory": "echoes"},
        {"aggregation": "set", "memory": "echoes"},
    ],
    ids=[
        "relay",
        "three rounds",
        "schednet",
        "listen",
        "topk, link",
        "scheduled relay",
        "random",
        "aged",
        "etc",
        "ic3net",
        "echoes",
        "echoes of a set",
    ],
)
def test_hosts_and_learner_agree(tiny_settings, tmp_path, chosen):
    model, config, world, folder = tiny(tiny_settings, tmp_path, **chosen)
    verdict = verify(model, config, world, LocalRuntime(3), folder, Quiet())
    assert verdict.differences == []
    assert verdict.n_codes > 0
    with Journal(folder.journal) as journal:
        assert audit(journal).differences == []
    result = folder.read_result()
    assert 0 <= result.gate_rate <= 1
    assert result.bits.per_agent_step.wire >= result.bits.per_agent_step.payload > 0


def test_a_step_costs_what_both_its_rounds_cost(tiny_settings, tmp_path):
    """Always-on floats: a signal of 8 bits at most, and k of N messages."""
    model, _, _, folder = tiny(
        tiny_settings, tmp_path, topology="topk", density=0.4, codec="float32", rate_aware=False, message_width=4
    )
    result = folder.read_result()
    assert [codec.name for codec in model.codecs] == ["int8", "float32"]
    assert result.messages_per_agent_step <= 1 / 3 + 1e-9, "signals are paid, and are no messages"
    assert result.gate_rate == pytest.approx(1 / 3)
    bits = result.bits.per_agent_step
    assert 0 < bits.payload <= bits.wire
    assert bits.payload < 9 + 4 * 32 / 3 + 4, "8 bits of a signal, a third of four floats, and a list of the silent"


def test_a_killed_run_of_several_rounds_goes_on_alike(tiny_settings, tmp_path, monkeypatch):
    from commlib.experiments import train as trainer

    settings = {**deepcopy(tiny_settings), "rounds": 2, "topology": "full"}
    whole = train("guide", out=tmp_path / "whole", quiet=True, **deepcopy(settings))
    stop = iter(range(4))
    note = trainer.Training.note

    def tired(self, *arguments):
        if next(stop, None) is None:
            raise KeyboardInterrupt
        note(self, *arguments)

    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(trainer.Training, "note", tired)
    with pytest.raises(KeyboardInterrupt):
        train("guide", out=tmp_path / "cut", quiet=True, **deepcopy(settings))
    monkeypatch.setattr(trainer.Training, "note", note)
    config = make_config(("run", read_yaml(tmp_path / "cut" / "config.yaml")))
    cut = trainer.run_training(config, tmp_path / "cut", display=Quiet(), resume=True)
    assert cut.journal_digest == whole.journal_digest
    assert cut.success == whole.success


def test_a_run_keeps_the_codec_of_every_round(tiny_settings, tmp_path):
    model, _, world, folder = tiny(tiny_settings, tmp_path, world="guide_relay")
    assert len(model.codecs) == 2
    (round_folder(folder, 0) / "codec.safetensors").unlink()
    with pytest.raises(CodecError, match="round-1"):
        load_model(folder, world)


# --- what does not go together


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"topology": "topk", "gate": "event"}, "the topology topk decides who speaks"),
        ({"topology": "ring", "gate": "listen", "stages": {"priced": 0.2}}, "needs the topology full"),
        ({"gate": "listen", "topology": "full"}, "is learned in the priced stage"),
        ({"rounds": 0}, "greater than or equal to 1"),
        ({"rounds": 2, "topology": "none"}, "2 rounds say nothing"),
        ({"stages": {"price": 0.016}}, "a stage without steps"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        resolve("guide", None, None, settings)


@pytest.mark.parametrize("settings", [{"rounds": 2}, {"topology": "topk"}])
def test_a_router_decides_about_one_round(settings):
    config = resolve("guide", None, None, {**settings, "router": "learned"})
    assert "one round of messages per step" in why_no_router(config, 3)


def test_a_router_does_not_know_what_its_receivers_remember():
    config = resolve("guide", None, None, {"router": "learned", "memory": "echoes"})
    assert "leave --memory echoes out" in why_no_router(config, 3)


def test_a_world_whose_goals_travel_two_edges_has_two_rounds():
    config = resolve("guide_relay")
    assert (config.rounds, config.topology) == (2, "ring")
    assert len(codecs_of(config)) == 2
    world = guide_relay()
    step = world.reset(5, torch.Generator().manual_seed(0))
    assert torch.equal(step.observation[..., 25:].argmax(-1), world._goal_BN.roll(-2, dims=1))


def test_a_team_that_cannot_reply_has_one_round():
    stage = Stage(2, 1)
    model = Model(partial(soloists, _Still, stage.world.spec, 1), numbers(), RING, earlier=(numbers(),))
    furnish(stage.runtime, stage.plan, model)
    with pytest.raises(AgentError, match="one round"):
        stage.play()


@pytest.mark.parametrize(
    "settings", [{"rounds": 2}, {"memory": "traces"}, {"topology": "topk"}, {"ids": "role"}, {"method": "ours"}]
)
def test_agents_of_your_own_are_not_asked_what_only_trained_ones_can(settings):
    with pytest.raises(ConfigError, match="agents of your own"):
        commlib.run("guide", _Still, quiet=True, **settings)


def test_full_is_the_graph_of_a_scheduler():
    from commlib.topology import make_topology

    assert make_topology("topk", 4).edges() == full(4).edges()
    assert Path(resolve("guide", "schednet").method).name == "schednet"
