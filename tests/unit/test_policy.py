"""How agents listen: who is treated alike, what a closed edge means, and that every part can learn."""

from dataclasses import replace

import pytest
import torch

from commlib.agents.policy import AGGREGATIONS, KEY_WIDTH, Policy, PolicySpec
from commlib.errors import ConfigError

SPEC = PolicySpec(n_agents=5, observation_width=6, action_counts=(4,) * 5, message_width=20, hidden=16)
ALIKE = ("mean", "signature")
"""Ways to listen to which it does not matter who speaks."""


def heard_by(kind, seed=0):
    """A policy that listens this way, its inputs, an inbox with two closed edges, and who is open."""
    torch.manual_seed(seed)
    policy = Policy(replace(SPEC, aggregation=kind))
    inputs = policy.inputs(torch.randn(7, 2, 6), [1, 3], torch.rand(7))
    is_open = torch.tensor([[1.0, 0, 1, 1, 0], [1, 1, 1, 0, 1]])
    inbox = torch.randn(7, 2, 5, 20) * is_open[None, :, :, None]
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


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_gradient_reaches_every_part_of_the_listener_every_message_and_every_edge(kind):
    policy, inputs, _, is_open = heard_by(kind)
    edges, message = is_open.clone().requires_grad_(), torch.randn(7, 5, 20, requires_grad=True)
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


def test_attention_cannot_overflow():
    policy, inputs, inbox, is_open = heard_by("attention")
    assert torch.isfinite(policy.listeners[0](inputs, 1e4 * inbox, is_open)).all()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (replace(SPEC, aggregation="sum"), "cannot listen by"),
        (replace(SPEC, aggregation="signature", message_width=KEY_WIDTH), "no room for a signature"),
    ],
)
def test_a_way_to_listen_that_does_not_exist_is_refused(spec, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Policy(spec)
