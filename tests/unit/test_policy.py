"""How agents listen and what they are known by: who is treated alike, what a closed edge means, and that every part learns."""

from dataclasses import replace

import pytest
import torch

from commlib.agents.policy import AGGREGATIONS, KEY_WIDTH, ROLE_WIDTH, Policy, PolicySpec, older, with_age
from commlib.errors import ConfigError

SPEC = PolicySpec(n_agents=5, observation_width=6, action_counts=(4,) * 5, message_width=20, hidden=16)
ALIKE = ("mean", "set", "relation", "signature")
"""Ways to listen to which it does not matter who speaks."""
NUMBERED = [(kind, ids) for kind in ("mean", "attention") for ids in ("onehot", "role")]
"""Ways to listen, with what tells agents apart."""


def floats(kind):
    """D, and a number for the age where that is looked at."""
    return 20 + (kind == "aged")


def heard_by(kind, ids="onehot"):
    """A policy that listens this way, its inputs, an inbox with two closed edges, and who is open."""
    torch.manual_seed(0)
    policy = Policy(replace(SPEC, aggregation=kind, ids=ids))
    inputs = policy.inputs(torch.randn(7, 2, 6), [1, 3], torch.rand(7))
    is_open = torch.tensor([[1.0, 0, 1, 1, 0], [1, 1, 1, 0, 1]])
    inbox = torch.randn(7, 2, 5, floats(kind)) * is_open[None, :, :, None]
    return policy, inputs, inbox, is_open


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_what_would_come_over_a_closed_edge_changes_nothing(kind):
    policy, inputs, inbox, is_open = heard_by(kind)
    features = policy.listeners[0](inputs, inbox, is_open)
    assert features.shape == (7, 2, policy.listeners[0].width)
    other = inbox + torch.randn_like(inbox) * (1 - is_open)[None, :, :, None]
    assert torch.allclose(policy.listeners[0](inputs, other, is_open), features)
    assert policy.act(inputs, [inbox], [1, 3], is_open).shape == (7, 2, 4)


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_only_some_ways_to_listen_tell_senders_apart(kind):
    policy, inputs, inbox, is_open = heard_by(kind)
    order = torch.tensor([2, 0, 4, 1, 3])
    one = policy.listeners[0](inputs, inbox, is_open)
    other = policy.listeners[0](inputs, inbox[..., order, :], is_open[:, order])
    assert torch.allclose(one, other, atol=1e-6) == (kind in ALIKE)


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_an_agent_that_hears_nobody_hears_nothing(kind):
    policy, inputs, inbox, _ = heard_by(kind)
    features = policy.listeners[0](inputs, torch.zeros_like(inbox), torch.zeros(2, 5))
    assert torch.isfinite(features).all()
    assert not features.any()


@pytest.mark.parametrize("ids", ["onehot", "role"])
@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_gradient_reaches_every_part_of_the_listener_every_message_and_every_edge(kind, ids):
    policy, inputs, _, is_open = heard_by(kind, ids)
    edges, message = is_open.clone().requires_grad_(), torch.randn(7, 5, floats(kind), requires_grad=True)
    told = message[:, None].expand(-1, 2, -1, -1)
    policy.act(inputs, [told], [1, 3], edges).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.listeners[0].parameters())
    assert message.grad.any(-1).all(), "each sender is heard by one of the two"
    assert edges.grad.all(), "closed ones, too: that is how a learned graph opens them"
    worth = edges.grad.clone()
    edges.grad = None
    with torch.no_grad():
        message[:, 1] *= 3  # of sender 1, whom the first agent does not hear
    policy.act(inputs, [told], [1, 3], edges).square().sum().backward()
    assert edges.grad[0, 1] != worth[0, 1], "what a closed edge is worth depends on what it would carry"


def test_an_age_is_for_how_long_the_same_was_held():
    age, before = torch.zeros(3), torch.zeros(3, 2)
    for now, found in (
        ([[1.0, 0], [0, 0], [5, 5]], [0, 1, 0]),
        ([[1.0, 0], [0, 0], [5, 6]], [1, 2, 0]),
        ([[1.0, 0], [0, 1], [5, 6]], [2, 0, 1]),
    ):
        age, before = older(age, before, torch.tensor(now)), torch.tensor(now)
        assert age.tolist() == found
    assert with_age(before, torch.tensor([0.0, 4, 12]))[:, -1].tolist() == [0, 0.5, 0.75]


def test_what_is_made_of_a_message_depends_on_its_age():
    policy, inputs, inbox, is_open = heard_by("aged")
    old = inbox.clone()
    old[..., -1] += is_open
    assert not torch.allclose(policy.listeners[0](inputs, old, is_open), policy.listeners[0](inputs, inbox, is_open))


def test_attention_cannot_overflow():
    policy, inputs, inbox, is_open = heard_by("attention")
    assert torch.isfinite(policy.listeners[0](inputs, 1e4 * inbox, is_open)).all()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (replace(SPEC, aggregation="sum"), "cannot listen by"),
        (replace(SPEC, aggregation="signature", message_width=KEY_WIDTH), "no room for a signature"),
        (replace(SPEC, ids="name"), "cannot be known by 'name'; there are onehot, none, role"),
        (replace(SPEC, ids="none"), "has no slot; listen by mean, set, relation, attention, aged, signature"),
        (replace(SPEC, ids="none", aggregation="mean", has_router=True), "cannot be taught with ids none"),
    ],
)
def test_a_way_to_listen_that_does_not_exist_is_refused(spec, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Policy(spec)


# --- what an agent is known by


def played(policy, seen, is_open):
    """What agents say, do and expect who see this [B, N, O] and hear each other over these edges [R, S]."""
    everyone, late = list(range(seen.shape[1])), torch.linspace(0, 1, len(seen))
    inputs = policy.inputs(seen, everyone, late)
    said = policy.speak(inputs)[0]
    if policy.spec.has_ages:
        said = with_age(said, seen[..., 0].abs())
    told = said[:, None].expand(-1, len(everyone), -1, -1)
    return said, policy.act(inputs, [told], everyone, is_open).log_softmax(-1), policy.value(seen, late)


@pytest.mark.parametrize(("kind", "ids"), [*((kind, "none") for kind in AGGREGATIONS[1:]), *NUMBERED])
def test_agents_are_exchangeable_where_they_are_known_by_nothing(kind, ids):
    torch.manual_seed(0)
    policy = Policy(replace(SPEC, aggregation=kind, ids=ids))
    torch.nn.init.normal_(policy.actor[-1].weight)  # at first all actions are about as likely
    seen, is_open = torch.randn(7, 5, 6), (torch.rand(5, 5) < 0.6).float().fill_diagonal_(0)
    order = torch.tensor([2, 0, 4, 1, 3])
    before = played(policy, seen, is_open)
    after = played(policy, seen[:, order], is_open[order][:, order])
    said, done, expected = (
        torch.allclose(one[:, order], other, atol=1e-4) for one, other in zip(before, after, strict=True)
    )
    assert said, "a message depends on what is seen alone"
    assert (done, expected) == ((True, True) if ids == "none" else (False, False))


@pytest.mark.parametrize("kind", AGGREGATIONS[1:])
def test_what_knows_nobody_by_an_id_is_of_one_shape_for_any_number_of_agents(kind):
    few, many = (
        Policy(PolicySpec(n, 6, (4,) * n, message_width=20, hidden=16, gate="talk", aggregation=kind, ids="none"))
        for n in (3, 9)
    )
    assert {k: v.shape for k, v in few.state_dict().items()} == {k: v.shape for k, v in many.state_dict().items()}
    many.load_state_dict(few.state_dict())
    told, is_open = torch.randn(7, 9, 9, floats(kind)), torch.zeros(9, 9)
    is_open[:3, :3] = 1
    seen, late = torch.randn(7, 9, 6), torch.rand(7)
    alone = few.act(few.inputs(seen[:, :3], [0, 1, 2], late), [told[:, :3, :3]], [0, 1, 2], is_open[:3, :3])
    among = many.act(many.inputs(seen, list(range(9)), late), [told], list(range(9)), is_open)
    assert torch.allclose(alone, among[:, :3], atol=1e-6), "whom one does not hear changes nothing"


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_a_role_colours_what_is_heard_and_nothing_at_first(kind):
    policy, inputs, inbox, is_open = heard_by(kind, "role")
    heard = policy.listeners[0](inputs, inbox, is_open)
    swapped = inputs.clone()
    swapped[..., 6:11] = inputs[:, [1, 0], 6:11]  # each with the other's id, and so with the other's role
    if kind in ("slots", "mean"):
        assert torch.equal(policy.listeners[0](swapped, inbox, is_open), heard)
    torch.nn.init.normal_(policy.listeners[0].colour.weight)
    assert not torch.allclose(policy.listeners[0](inputs, inbox, is_open), heard), "now it is read by role"
    assert not torch.allclose(policy.listeners[0](swapped, inbox, is_open), policy.listeners[0](inputs, inbox, is_open))


def test_a_role_is_the_same_to_the_last_bit_in_any_batch():
    policy, inputs, _, _ = heard_by("attention", "role")
    role = policy.listeners[0].known(inputs)[..., 6:-1]
    assert torch.equal(role, policy.listeners[0].roles.weight[[1, 3]].expand(7, -1, -1))
    assert policy.spec.known_width == inputs.shape[-1] - SPEC.n_agents + ROLE_WIDTH


@pytest.mark.parametrize("kind", ["set", "slots"])
def test_an_echo_is_the_most_of_what_was_heard_and_fades(kind):
    policy = Policy(replace(SPEC, aggregation=kind, echo=0.5))
    inputs, inbox, is_open = torch.randn(7, 2, 12), torch.randn(3, 7, 2, 5, 20), torch.ones(2, 5)
    features = [policy.listeners[0](inputs, told, is_open) for told in inbox]
    echo = None
    for step, told in enumerate(inbox):
        aware = policy.aware(inputs, [told], is_open, echo)
        echo = policy.echo(aware)
        faded = torch.stack([0.5 ** (step - nth) * features[nth] for nth in range(step + 1)])
        loudest = faded.abs().argmax(0, keepdim=True)
        assert torch.allclose(echo, faded.gather(0, loudest)[0])
        assert torch.equal(aware, torch.cat([inputs, features[step], echo], -1))
    assert (echo < 0).any() == (kind == "slots"), "its sign is kept"
    assert Policy(SPEC).echo_width == 0
