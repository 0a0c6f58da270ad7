"""A learner cut at the messages, over any number of hosts, is the ordinary joint update."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch

from commlib.agents.learner import Gradients, Learner, Phase, Samples
from commlib.agents.policy import Policy, PolicySpec
from commlib.agents.runtime import LocalRuntime
from commlib.agents.training import Learning, Team, advantages, collect, reconsidered, update
from commlib.codec import START, fresh_context
from commlib.codecs.int8 import Int8Codec
from commlib.codecs.prior import fit_prior
from commlib.codecs.rate import fresh_like
from commlib.codecs.vq import VQCodec
from commlib.errors import AgentError, WorldError
from commlib.experiments.world_guide import Guide
from commlib.objective import LossTerms, Objective
from commlib.plan import Plan, partition
from commlib.topology import make_topology

SPEC = PolicySpec(n_agents=4, observation_width=6, action_counts=(3, 5, 2, 5), message_width=4, hidden=16)
GATED = dataclasses.replace(SPEC, gate="talk")
SPECS = {
    "always": SPEC,
    "gated": GATED,
    "sampled, attention": dataclasses.replace(SPEC, gate="sampled", aggregation="attention"),
    "mean": dataclasses.replace(SPEC, aggregation="mean"),
    "set, with foresight": dataclasses.replace(SPEC, aggregation="set", has_foresight=True),
    "set, with echoes": dataclasses.replace(SPEC, aggregation="set", has_foresight=True, echo=0.9),
    "relation": dataclasses.replace(SPEC, aggregation="relation"),
    "foresight, two rounds": dataclasses.replace(SPEC, n_rounds=2, has_foresight=True),
    "signature": dataclasses.replace(SPEC, aggregation="signature", message_width=20),
    "three rounds": dataclasses.replace(SPEC, n_rounds=3),
    "two rounds, attention": dataclasses.replace(SPEC, n_rounds=2, aggregation="attention"),
    "topk": dataclasses.replace(SPEC, signal="topk", n_speakers=2),
    "listen": dataclasses.replace(SPEC, signal="listen"),
    "topk, two rounds": dataclasses.replace(SPEC, signal="topk", n_speakers=1, n_rounds=2),
    "sampled, two rounds": dataclasses.replace(SPEC, gate="sampled", n_rounds=2),
}
PHASE = Phase(
    learning_rate=1e-3,
    edge_learning_rate=1e-2,
    entropy_weight=0.01,
    floor=0.0,
    noise=0.0,
    use_codec=False,
    use_gate=False,
    all_edges=False,
    objective=Objective(bit_price=0.05, foresight_weight=0.5),
)
PHASES = {
    "dense": PHASE,
    "noisy": PHASE._replace(noise=0.3, floor=0.1),
    "through the codec": PHASE._replace(use_codec=True),
    "priced": PHASE._replace(use_codec=True, use_gate=True),
    "warming up": PHASE._replace(all_edges=True),
    "imitating": PHASE._replace(imitation=0.7),
}
SPLITS = [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0, 1], [2], [3]], [[0], [1], [2], [3]]]
N_SAMPLES = 24


def source(seed):
    return torch.Generator().manual_seed(seed)


def fitted_codec(width=4):
    codec = VQCodec(width, 8)
    codec.fit(torch.rand(400, width, generator=source(0)) * 2 - 1, source(1))
    return codec


CODEC = fitted_codec()


def learners(blocks, spec=SPEC, topology="commformer", codec=CODEC):
    codecs = [codec if width == codec.width else fitted_codec(width) for width in spec.message_widths]
    return [Learner(spec, block, codecs, make_topology(topology, 4), seed=3) for block in blocks]


def load(learner, codec):
    """Give the learner the codec of its only round."""
    learner.load_codecs({f"0.{name}": tensor for name, tensor in codec.state_dict().items()})


def samples(block, widths=(SPEC.message_width,), echo_width=0):
    draw = source(5)
    N, L = SPEC.n_agents, N_SAMPLES
    state = torch.randn(L, N, SPEC.observation_width, generator=draw)
    uniform = torch.rand(L, N, generator=draw)
    whole = {
        "observation": state,
        "action": (uniform * torch.tensor(SPEC.action_counts)).long(),
        "log_prob": -1 - torch.rand(L, N, generator=draw),
        "advantage": torch.randn(L, N, generator=draw),
        "target": torch.randn(L, N, generator=draw),
        "active": torch.rand(L, N, generator=draw) < 0.8,
        "talk": (torch.rand(L, N, generator=draw) < 0.6).float(),
    }
    elapsed, age = torch.rand(L, generator=draw), torch.ones(L, N, 1, dtype=torch.int64)
    past = [torch.cat([torch.randint(START, 8, (L, N, 1), generator=draw), age], -1) for _ in widths]
    noise = [torch.randn(L, N, width, generator=draw) for width in widths]
    whole["advice"] = (torch.rand(L, N, generator=draw) * torch.tensor(SPEC.action_counts)).long()
    whole["echo"] = torch.randn(L, N, echo_width, generator=draw)
    return Samples(
        state=state,
        elapsed=elapsed,
        context=tuple(part[:, block] for part in past),
        held=tuple(-part[:, block] for part in noise[1:]),
        noise=tuple(part[:, block] for part in noise),
        **{name: part[:, block] for name, part in whole.items()},
    )


def say(learner, phase, s):
    return learner.say(phase, s.observation, s.elapsed, s.context[0], s.noise[0])


def one_update(team, phase, graph_seed=7, weight=None):
    """The summed gradients of weights and edges, and the summed loss terms."""
    index = torch.arange(N_SAMPLES)[::2]
    widths = team[0].policy.spec.message_widths
    for learner in team:
        learner.load(samples(learner.agents, widths, learner.policy.echo_width)._replace(weight=weight))
    z_all = torch.cat([learner.forward_messages(phase, index, None) for learner in team], 1)
    for _ in widths[1:]:
        z_all = torch.cat([learner.forward_replies(phase, z_all, graph_seed) for learner in team], 1)
    legs = [learner.backward_actions(phase, z_all, graph_seed) for learner in team]
    gradient = sum(leg[0] for leg in legs)
    for _ in widths[1:]:
        gradient = sum(learner.backward_replies(gradient[:, learner.agents]) for learner in team)
    shares = [learner.backward_messages(gradient[:, learner.agents]) for learner in team]
    terms = [sum(parts) for parts in zip(*(leg[1] for leg in legs), strict=True)]
    return sum(share[0] for share in shares), sum(share[1] for share in shares), torch.stack(terms)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())
def test_hosts_together_compute_the_gradient_of_one(phase, spec):
    alone = one_update(learners(SPLITS[0], spec), phase)
    assert alone[0].abs().max() > 1e-4
    assert all(torch.isfinite(part).all() for part in alone)
    for blocks in SPLITS[1:]:
        for one, many in zip(alone, one_update(learners(blocks, spec), phase), strict=True):
            assert torch.allclose(one, many, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())
def test_the_cut_gradient_is_that_of_the_joint_loss(phase, spec):
    (learner,) = learners(SPLITS[0], spec)
    weights, edges, _ = one_update([learner], phase)
    weights, edges = weights.clone(), edges.clone()
    s = samples([0, 1, 2, 3], spec.message_widths, learner.policy.echo_width)
    index = torch.arange(N_SAMPLES)[::2]
    inputs = learner.policy.inputs(s.observation, learner.agents, s.elapsed)[index]
    talk = s.talk[index] if spec.gate == "sampled" else None
    said = [learner._messages(phase, inputs, s.context[0][index], s.noise[0][index], talk)]
    graph = learner._graph(phase, 7)
    for context, held, noise in zip(s.context[1:], s.held, s.noise[1:], strict=True):
        learner._heard = [one.z for one in said]
        said.append(learner._replies(phase, inputs, graph, context[index], held[index], noise[index]))
    log_p = learner._log_probs(phase, inputs, [one.z for one in said], graph, s.echo[index])
    bits = sum(one.bits for one in said)
    even = torch.full_like(bits, 1 / bits.numel())
    active = even * s.active[index]
    log_ratio = log_p.gather(-1, s.action[index][..., None])[..., 0] - s.log_prob[index]
    entropy = -(log_p.exp() * log_p.clamp_min(-30)).sum(-1)
    loss = (
        phase.objective.policy(log_ratio, s.advantage[index], active)
        + phase.objective.value(learner.policy.value(s.state[index], s.elapsed[index]), s.target[index], even)
        - phase.entropy_weight * (entropy * active).sum()
        + phase.objective.rate(bits, even)
        + sum(sum(one.losses.values()) for one in said)
    )
    if spec.has_foresight:
        is_open = graph.T
        everywhere = [one.z[:, None].repeat(1, 4, 1, 1) for one in said]
        aware = learner.policy.aware(inputs, everywhere, is_open, s.echo[index])
        guessed = learner.policy.foresight(aware)[..., 0]
        loss = loss + 0.5 * ((guessed - s.target[index]).square() * active).sum()
    if phase.imitation:
        advised = log_p.gather(-1, s.advice[index][..., None])[..., 0]
        loss = loss - phase.imitation * (advised * active).sum()
    if talk is not None and phase.use_gate:
        p = learner.policy.speak(inputs)[1].sigmoid()
        log_p = torch.where(talk > 0, p, 1 - p).log()
        loss = loss + phase.objective.policy(log_p - log_p.detach(), s.advantage[index], active)
    parameters = [*learner.policy.parameters(), learner.topology.logits]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(parameters, gradients, strict=True)]
    joint = torch.cat(flat)
    assert torch.isfinite(joint).all()
    assert torch.allclose(joint, torch.cat([weights, edges]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "spec", [SPECS["set, with foresight"], SPECS["sampled, attention"]], ids=["foresight", "sampled"]
)
def test_a_sample_counts_by_its_weight_in_every_term(spec):
    phase = PHASES["priced"]._replace(noise=0.0)
    light, heavy = (
        one_update(learners(SPLITS[0], spec), phase, weight=torch.full((N_SAMPLES,), w)) for w in (1.0, 3.0)
    )
    assert light[2].equal(one_update(learners(SPLITS[0], spec), phase)[2])
    names = LossTerms._fields
    assert torch.allclose(
        heavy[2], torch.where(torch.tensor([name == "commitment" for name in names]), 1, 3) * light[2]
    )
    assert light[2][names.index("rate")] > 0
    first = (torch.arange(N_SAMPLES) < N_SAMPLES // 2).float()
    apart = [one_update(learners(SPLITS[0], spec), phase, weight=w)[2] for w in (first, 1 - first)]
    both = torch.tensor([name != "commitment" for name in names])
    assert torch.allclose((apart[0] + apart[1])[both], light[2][both], atol=1e-6)


def test_speech_that_is_fixed_stays_as_it_is_and_listeners_learn():
    team, world = guide_team(1)
    phases = PHASES["noisy"], PHASES["through the codec"]._replace(is_speech_fixed=True)
    moved = []
    for nth, phase in enumerate(phases):
        rollout = collect(team, world, phase, LEARNING, source(nth))
        meant, before = said_by(team, rollout), team.each("learner.deployed")[0][0]
        update(team, rollout, phase, LEARNING, source(nth), iteration=nth)
        after = team.each("learner.deployed")[0][0]
        assert any(not torch.equal(before[name], after[name]) for name in after if name.startswith("actor."))
        moved.append(float((said_by(team, rollout) - meant).abs().max()))
    assert moved[0] > 1e-3, "Adam is at work"
    assert moved[1] == 0, "and leaves nothing of it in what is said"


def said_by(team, rollout):
    """What the team would say in the first step of a rollout."""
    first = PHASES["dense"], rollout.observation[0], rollout.elapsed[0], rollout.context[0][0], None
    return team.each("learner.say", *first)[0].z


def test_a_message_carries_gradient_to_its_sender():
    """Only what is said depends on the encoder: its gradient came across the wire, or would be zero."""
    team = learners([[0, 1], [2, 3]], topology="full")
    one_update(team, PHASE)
    assert all(learner.policy.encoder[0].weight.grad.abs().max() > 0 for learner in team)
    team = learners([[0, 1], [2, 3]], topology="none")
    one_update(team, PHASE)
    assert not any(learner.policy.encoder[0].weight.grad.any() for learner in team)


# --- the learned graph


@pytest.mark.parametrize("phase", [PHASES["dense"], PHASES["warming up"]], ids=["drawn", "warming up"])
def test_a_gradient_reaches_every_edge_of_a_learned_graph(phase):
    _, edges, _ = one_update(learners(SPLITS[2]), phase)
    edges = edges.view(4, 4)
    assert (edges[~torch.eye(4, dtype=torch.bool)] != 0).all()
    assert not edges.diagonal().any()


def test_edges_and_weights_move_in_epochs_of_their_own():
    team = learners(SPLITS[1])
    weights, edges, _ = one_update(team, PHASE)
    before = [learner.state() for learner in team]
    for learner in team:
        learner.apply(PHASE, Gradients(weights, edges, True))
    after = team[0].state()
    assert torch.equal(after["weights.vector"], before[0]["weights.vector"])
    moved = (after["edges.vector"] - before[0]["edges.vector"]).view(4, 4)
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert torch.equal(moved[off_diagonal].sign(), -edges.view(4, 4)[off_diagonal].sign())
    assert moved.abs().max() <= PHASE.edge_learning_rate
    assert not moved.diagonal().any()
    assert torch.equal(team[0].topology.logits.view(-1), after["edges.vector"])
    for learner in team:
        learner.apply(PHASE, Gradients(weights, edges, False))
    assert torch.equal(team[0].state()["edges.vector"], after["edges.vector"])
    assert not torch.equal(team[0].state()["weights.vector"], after["weights.vector"])
    assert torch.equal(team[0].state()["weights.vector"], team[1].state()["weights.vector"])


def test_every_edge_is_open_while_a_learned_graph_warms_up():
    (learner,) = learners(SPLITS[0])
    assert learner.adjacency(PHASES["warming up"]).sum() == 12
    assert learner.adjacency(PHASE).sum() == 4


# --- the gate


def shut(learner):
    with torch.no_grad():
        learner.policy.encoder[-1].bias[-1] = -50


def test_a_shut_gate_says_the_expected_code_and_costs_nothing():
    (learner,) = learners(SPLITS[0], GATED)
    phase, s = PHASES["priced"], samples([0, 1, 2, 3])
    said = say(learner, phase, s)
    assert said.talk.all(), "a new gate is open"
    shut(learner)
    said = say(learner, phase, s)
    frozen = learner.codecs[0].freeze()
    expected = frozen.expected(s.context[0].flatten(0, 1).numpy())
    assert not said.talk.any()
    assert torch.equal(said.codes.flatten(0, 1), torch.from_numpy(expected))
    assert torch.equal(said.z.flatten(0, 1), torch.from_numpy(frozen.embed(expected)))


def test_a_half_open_gate_says_each_message_whole_or_not_at_all():
    (learner,) = learners(SPLITS[0], GATED)
    phase, s = PHASES["priced"], samples([0, 1, 2, 3])
    with torch.no_grad():
        learner.policy.encoder[-1].weight[-1] *= 10
        learner.policy.encoder[-1].bias[-1] = 0.0
    said = say(learner, phase, s)
    assert 0 < said.talk.sum() < said.talk.numel()
    assert set(said.talk.unique().tolist()) == {0.0, 1.0}
    codes = said.codes.flatten(0, 1).numpy()
    frozen = learner.codecs[0].freeze()
    assert torch.allclose(said.z.flatten(0, 1), torch.from_numpy(frozen.embed(codes)), atol=1e-6)
    silent = (said.talk == 0).flatten().numpy()
    assert (codes[silent] == frozen.expected(s.context[0].flatten(0, 1).numpy())[silent]).all()


@pytest.mark.parametrize("name", ["dense", "through the codec"])
def test_before_the_priced_stage_everybody_talks(name):
    said = []
    for is_shut in (False, True):
        (learner,) = learners(SPLITS[0], GATED)
        if is_shut:
            shut(learner)
        s = samples([0, 1, 2, 3])
        said.append(learner.say(PHASES[name], s.observation, s.elapsed, s.context[0], None))
    assert said[1].talk.all()
    assert all(torch.equal(one, other) for one, other in zip(*said, strict=True))


def test_a_fitted_prior_changes_what_silence_means():
    (learner,) = learners(SPLITS[0], GATED, codec=fitted_codec())
    shut(learner)
    s = samples([0, 1, 2, 3])
    before = learner.say(PHASES["priced"], s.observation, s.elapsed, s.context[0], None).codes
    assert not before.any(), "a uniform prior expects the first code"
    donor = fitted_codec()
    donor.set_prior(fit_prior(np.full((50, 1), 5), fresh_context(50, 1), 8))
    load(learner, donor)
    after = learner.say(PHASES["priced"], s.observation, s.elapsed, fresh_like(s.context[0][..., :-1]), None).codes
    assert (after == 5).all()


def test_a_gate_gets_a_gradient_from_reward_and_from_the_bit_price():
    gradients = {}
    for bit_price in (0.0, 5.0):
        (learner,) = learners(SPLITS[0], GATED, codec=fitted_codec())
        expects_five = fitted_codec()
        expects_five.set_prior(fit_prior(np.full((50, 1), 5), fresh_context(50, 1), 8))
        load(learner, expects_five)
        one_update([learner], PHASES["priced"]._replace(objective=Objective(bit_price=bit_price)))
        gradients[bit_price] = float(learner.policy.encoder[-1].bias.grad[-1])
    assert gradients[0.0] != 0
    assert gradients[5.0] > gradients[0.0], "talking costs: a higher price pushes the gate down"


# --- actions


def test_agents_take_only_actions_that_they_have():
    (learner,) = learners(SPLITS[0])
    s = samples([0, 1, 2, 3])
    for uniform in (torch.rand(N_SAMPLES, 4, generator=source(0)), torch.ones(N_SAMPLES, 4), torch.zeros(N_SAMPLES, 4)):
        for phase in (PHASE, PHASES["noisy"]):
            said = say(learner, phase, s)
            action, log_prob, _ = learner.choose(phase, said.z, uniform)
            assert (action < torch.tensor(SPEC.action_counts)).all()
            assert torch.isfinite(log_prob).all()


def test_a_floor_keeps_every_action_possible():
    (learner,) = learners(SPLITS[0])
    with torch.no_grad():
        learner.policy.actor[-1].bias[0] = 40
    s = samples([0, 1, 2, 3])
    say(learner, PHASE, s)
    phase, silence = PHASE._replace(floor=0.2), torch.zeros(N_SAMPLES, 4, 4)
    log_p = learner._log_probs(phase, learner._inputs, [silence], learner.adjacency(phase))
    expected = torch.tensor([0.2 / 3, 0.2 / 5, 0.2 / 2, 0.2 / 5])
    assert torch.allclose(log_p[:, :, 1].exp(), expected.expand(N_SAMPLES, 4), rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_the_update():
    (learner,) = learners(SPLITS[0])
    bad = samples([0, 1, 2, 3])
    bad.target[:] = torch.inf
    learner.load(bad)
    z = learner.forward_messages(PHASE, torch.arange(4), None)
    with pytest.raises(AgentError, match="the loss is not finite"):
        learner.backward_actions(PHASE, z, 0)


# --- state


def test_a_state_brings_another_learner_to_the_same_point():
    one, other = learners([[0, 1, 2, 3], [0, 1, 2, 3]])
    weights, edges, _ = one_update([one], PHASE)
    for step_edges in (False, True):
        one.apply(PHASE, Gradients(weights, edges, step_edges))
    other.load_state(one.state())
    assert all(torch.equal(value, other.state()[name]) for name, value in one.state().items())
    for learner in (one, other):
        weights, edges, _ = one_update([learner], PHASE)
        learner.apply(PHASE, Gradients(weights, edges, False))
    assert torch.equal(one.state()["weights.vector"], other.state()["weights.vector"])


def test_equal_seeds_make_equal_policies_and_leave_the_global_dice_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one, other = learners([[0, 1], [2, 3]])
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.state()["weights.vector"], other.state()["weights.vector"])


def test_a_policy_treats_each_agent_alone():
    """What an agent says depends on nothing but its own observation, id and time."""
    torch.manual_seed(0)
    policy = Policy(SPEC)
    s = samples([0, 1, 2, 3])
    together = policy.speak(policy.inputs(s.observation, [0, 1, 2, 3], s.elapsed))[0]
    for agent in range(4):
        alone = policy.speak(policy.inputs(s.observation[:, agent : agent + 1], [agent], s.elapsed))[0]
        assert torch.allclose(alone[:, 0], together[:, agent], atol=1e-6)


# --- whole iterations


class Led(Guide):
    """A guide with somebody who would have agent n always take action n + 1."""

    @property
    def spec(self):
        return replace(super().spec, has_expert=True)

    def expert(self):
        return torch.arange(1, 4).expand(len(self._cell_BN), 3)


def guide_team(n_hosts, **chosen):
    world = Led()
    spec = replace(PolicySpec.of(world.spec, message_width=4, hidden=16), **chosen)
    widths = spec.message_widths
    plan = Plan(partition(3, n_hosts), ())
    runtime = LocalRuntime(n_hosts)
    runtime.each(
        "set_learner",
        [
            (Learner, spec, plan.agents_of(h), [Int8Codec(w) for w in widths], make_topology("commformer", 3), 0)
            for h in range(n_hosts)
        ],
    )
    return Team(runtime, plan, widths, widths, has_ages=spec.has_ages), world


LEARNING = Learning(
    n_worlds=16, n_epochs=2, n_minibatches=2, gamma=0.95, gae_lambda=0.95, edges_every=2, has_learned_graph=True
)


@pytest.mark.parametrize(
    ("phase", "chosen"),
    [
        *((phase, {}) for phase in PHASES.values()),
        (PHASES["noisy"], {"n_rounds": 3}),
        (PHASES["priced"], {"n_rounds": 2}),
        (PHASES["noisy"], {"signal": "topk", "n_speakers": 1}),
        (PHASES["priced"], {"signal": "listen"}),
        (PHASES["priced"], {"aggregation": "aged", "n_rounds": 2}),
        (PHASES["imitating"], {"aggregation": "relation", "echo": 0.8}),
        (PHASES["priced"], {"n_rounds": 2, "echo": 0.8}),
    ],
    ids=[*PHASES.keys(), "three rounds", "two rounds, priced", "topk", "listen, priced", "aged", "relation", "echoes"],
)
def test_a_rollout_and_its_update_are_the_same_over_one_and_three_hosts(phase, chosen):
    results = []
    for n_hosts in (1, 3):
        team, world = guide_team(n_hosts, **chosen)
        rollout = collect(team, world, phase, LEARNING, source(0))
        terms = update(team, rollout, phase, LEARNING, source(1), iteration=0)
        results.append((rollout, terms, team.each("learner.state")))
    (one, one_terms, (state,)), (three, three_terms, states) = results
    assert torch.equal(one.action, three.action)
    for mine, others in zip(one.z, three.z, strict=True):
        assert torch.allclose(mine, others, atol=1e-5)
    assert torch.allclose(torch.stack(one_terms), torch.stack(three_terms), rtol=1e-3, atol=1e-5)
    for other in states:
        assert torch.equal(other["weights.vector"], states[0]["weights.vector"])
        assert torch.allclose(other["weights.vector"], state["weights.vector"], atol=2e-4)
    assert one.n_steps == 160


def test_who_imitates_comes_to_do_what_the_expert_would():
    team, world = guide_team(1)
    phase = PHASES["imitating"]._replace(learning_rate=0.02, entropy_weight=0.0)
    missed = []
    for nth in range(12):
        rollout = collect(team, world, phase, LEARNING, source(nth))
        assert (rollout.advice == torch.arange(1, 4)).all()
        missed.append(
            float(update(team, rollout, phase, LEARNING, source(nth), iteration=nth).imitation) / phase.imitation
        )
    assert missed[0] > 1
    assert missed[-1] < 0.3
    rollout = collect(team, world, PHASE, LEARNING, source(99))
    assert torch.equal(rollout.advice, rollout.action), "nobody is asked"
    assert float(update(team, rollout, PHASE, LEARNING, source(99), iteration=99).imitation) == 0


def test_a_world_without_an_expert_says_so():
    team, _ = guide_team(1)
    with pytest.raises(WorldError, match="guide_v1 has no expert to learn from"):
        collect(team, Guide(), PHASES["imitating"], LEARNING, source(0))


def test_without_a_graph_to_learn_every_epoch_steps_the_weights():
    """An epoch kept for edges that are not there would be work thrown away."""
    for has_learned_graph, n_steps in ((True, 2), (False, 4)):
        team, world = guide_team(1)
        learning = replace(LEARNING, has_learned_graph=has_learned_graph)
        rollout = collect(team, world, PHASE, learning, source(0))
        update(team, rollout, PHASE, learning, source(1), iteration=0)
        (state,) = team.each("learner.state")
        assert (int(state["weights.n_updates"]), int(state["edges.n_updates"])) == (n_steps, 4 - n_steps)


def test_advantages_are_exact_on_a_short_episode():
    """Schulman et al. 2016, eq. 16, by hand: two steps, one of them after the end."""
    team, world = guide_team(1)
    rollout = collect(team, world, PHASE, LEARNING, source(0))
    two = rollout._replace(
        alive=torch.tensor([[True], [True], [False]]),
        value=torch.tensor([1.0, 2.0, 9.0]).view(3, 1, 1),
    )
    reward = torch.tensor([3.0, 5.0, 7.0]).view(3, 1, 1)
    second = 5.0 - 2.0
    first = 3.0 + 0.95 * 2.0 - 1.0 + 0.95 * 0.95 * second
    for trust in (None, torch.ones(3, 1, 1)):
        found, target = advantages(two, reward, LEARNING, trust)
        assert found.flatten()[:2].tolist() == pytest.approx([first, second])
        assert target.flatten()[:2].tolist() == pytest.approx([1 + first, 2 + second])


def test_actions_of_another_policy_count_by_how_likely_they_still_are():
    """Espeholt et al. 2018, eq. 1, by hand: both truncated importances are a half in the second step, a quarter in the first."""
    team, world = guide_team(1)
    rollout = collect(team, world, PHASE, LEARNING, source(0))
    two = rollout._replace(alive=torch.tensor([[True], [True]]), value=torch.tensor([1.0, 2.0]).view(2, 1, 1))
    trust = torch.tensor([0.25, 0.5]).view(2, 1, 1)
    found, target = advantages(two, torch.tensor([3.0, 5.0]).view(2, 1, 1), LEARNING, trust)
    second = 5.0 - 2.0
    first = 3.0 + 0.95 * 2.0 - 1.0 + 0.95 * 0.95 * 0.5 * second
    assert found.flatten().tolist() == pytest.approx([first, second])
    assert target.flatten().tolist() == pytest.approx([1 + 0.25 * first, 2 + 0.5 * second])


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"n_rounds": 2},
        {"aggregation": "aged", "n_rounds": 2},
        {"echo": 0.8},
        {"aggregation": "relation", "echo": 0.8},
    ],
)
@pytest.mark.parametrize("phase", [PHASES["noisy"], PHASES["priced"]], ids=["noisy", "priced"])
def test_a_rollout_is_reconsidered_by_the_policy_of_now(phase, chosen):
    """To whoever played it, it is what it was; to others it is what they would have thought of it."""
    team, world = guide_team(1, **chosen)
    rollout = collect(team, world, phase, LEARNING, source(0))
    own, trust = reconsidered(team, rollout, phase)
    assert torch.allclose(own.log_prob[rollout.alive], rollout.log_prob[rollout.alive], atol=1e-4)
    assert torch.allclose(own.value[rollout.alive], rollout.value[rollout.alive], atol=1e-4)
    assert torch.allclose(trust, torch.ones(()), atol=1e-4)
    (state,) = team.each("learner.replica")
    other = {**state, "weights.vector": state["weights.vector"] + 0.1 * torch.randn(state["weights.vector"].shape)}
    team.each("learner.follow", other)
    later, trust = reconsidered(team, rollout, phase)
    assert not torch.allclose(later.value[rollout.alive], rollout.value[rollout.alive], atol=1e-2)
    active = rollout.active
    ratio = (later.log_prob - rollout.log_prob).exp()
    assert torch.equal(trust[active], ratio[active].clamp(max=1))
    assert (trust[active] < 0.99).any()
    assert (trust[~active] == 1).all()


def test_what_an_update_learns_from_an_older_policy_is_corrected():
    """What hosts are given: normalised advantages by V-trace, each times its trust; of its own rollout nothing changes."""
    team, world = guide_team(1)
    rollout = collect(team, world, PHASE, LEARNING, source(0))
    (replica,) = team.each("learner.replica")
    draw = 0.1 * torch.randn(replica["weights.vector"].shape, generator=source(2))
    team.each("learner.follow", {**replica, "weights.vector": replica["weights.vector"] + draw})
    seen, trust = reconsidered(team, rollout, PHASE)
    advantage, target = advantages(seen, rollout.reward - PHASE.objective.bit_price * rollout.bits, LEARNING, trust)
    alive, active = rollout.alive, rollout.active[rollout.alive]
    among = advantage[alive][active]
    wanted = (advantage[alive] - among.mean()) / (among.std() + 1e-6) * trust[alive]
    assert not torch.allclose(wanted, (advantage[alive] - among.mean()) / among.std(), atol=0.05)
    learner = team.runtime._hosts[0].learner
    update(team, rollout._replace(behind=torch.ones_like(rollout.behind)), PHASE, LEARNING, source(1), iteration=0)
    samples = learner._samples
    assert torch.allclose(samples.advantage, wanted, atol=1e-4)
    assert torch.allclose(samples.target, target[alive], atol=1e-4)
    assert torch.allclose(samples.log_prob, seen.log_prob[alive], atol=1e-5)
    team.each("learner.follow", replica)
    update(team, rollout, PHASE, LEARNING, source(1), iteration=0)
    assert torch.equal(learner._samples.log_prob, rollout.log_prob[alive])
