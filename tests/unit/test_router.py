"""A router learns which messages matter, to whom; silence and edges follow from it, and it is dropped where it does not pay."""

import numpy as np
import pytest
import torch

from commlib.agent import Spoken
from commlib.agents.desk import LearnedTeam
from commlib.agents.policy import Policy, PolicySpec
from commlib.agents.router import Router, deviance
from commlib.agents.routing import Overheard, lessons, teach
from commlib.codec import fresh_context
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import fit_prior, uniform_prior
from commlib.codecs.residual import ResidualQuantiser
from commlib.errors import AgentError, ConfigError
from commlib.exchange import Endpoint
from commlib.experiments.compose import resolve
from commlib.experiments.train import check_names
from commlib.experiments.worlds import make_world
from commlib.message import Edge
from commlib.plan import make_plan

W = 6
BOOK = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
CODEC = TableCodec("vq", CodebookQuantiser(BOOK), uniform_prior(1, 4))
EDGES = (Edge(0, 1), Edge(0, 2))


def draw(n, width, seed=0):
    return torch.randn(n, 3, width, generator=torch.Generator().manual_seed(seed))


# --- what it predicts


def test_what_is_told_as_it_was_meant_harms_nobody_and_all_else_somebody():
    router, receivers = Router(3, 5, 2, 16), torch.tensor([[1, 2], [0, 2], [0, 1]])
    known, meant = draw(7, 5), draw(7, 2, 1)
    assert not router(known, meant, meant, receivers).any()
    assert (router(known, meant, meant + 1, receivers) > 0).all()
    assert router(known, meant, draw(7, 2, 2), receivers).shape == (7, 3, 2)


def test_a_gradient_reaches_every_part_of_the_router():
    router = Router(3, 5, 2, 16)
    router(draw(7, 5), draw(7, 2, 1), draw(7, 2, 2), torch.arange(3).expand(3, -1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in router.parameters())


@pytest.mark.parametrize("seen", [[0.0, 0.0, 1.0, 0.2], [0.5], [0.0, 1.0]])
def test_the_deviance_is_least_at_the_mean(seen):
    seen = torch.tensor(seen)
    levels = torch.linspace(0.01, 1.2, 2000)
    total = torch.stack([deviance(level.expand_as(seen), seen).sum() for level in levels])
    assert float(levels[total.argmin()]) == pytest.approx(float(seen.mean()), abs=2e-3)
    assert (total >= -1e-6).all()


# --- what it learns


class _Listens(torch.nn.Module):
    """Receiver 1 turns on the first number of what 0 says, whatever the second; receiver 2 does not listen."""

    def forward(self, joined):
        first = joined[..., -6]  # sender 0's slot of three with two numbers
        first = first * torch.tensor([0.0, 1.0, 0.0])
        return torch.stack([20 * (first - 0.5), torch.zeros_like(first)], -1)


def overheard(n_rounds=12, n_worlds=64):
    """A play in which every message of sender 0 is a corner of the square, and everybody heard what was said."""
    observation = torch.rand(n_rounds, n_worlds, 3, 2, generator=torch.Generator().manual_seed(1)).round()
    codes = CODEC.quantiser.nearest(observation.reshape(-1, 2).numpy()).reshape(n_rounds, n_worlds, 3, 1)
    context = np.stack([np.stack([fresh_context(3, 1)] * n_worlds)] * n_rounds)
    context[1:, ..., :1], context[..., 1] = codes[:-1], np.arange(n_rounds)[:, None, None]
    everywhere = torch.ones(n_rounds, n_worlds, dtype=torch.bool)
    return Overheard(observation, everywhere, everywhere[..., None].expand(-1, -1, 3), context, codes)


@pytest.fixture(scope="module")
def school():
    """The network, its lessons, and the network with a router."""
    spec = PolicySpec(3, 2, (2, 2, 2), 2, 16)
    policy = Policy(spec)
    policy.actor = _Listens()
    with torch.no_grad():  # it says what it sees, nearly: tanh of five times that
        policy.encoder[0].weight.copy_(torch.eye(16, 2))
        policy.encoder[2].weight.copy_(5 * torch.eye(2, 16))
    is_open = torch.zeros(3, 3)
    is_open[1, 0] = is_open[2, 0] = 1
    generator = torch.Generator().manual_seed(0)
    drawn = [lessons(policy, is_open, CODEC, overheard(), 12, 0.1, generator) for _ in range(3)]
    plain = Policy(spec)
    plain.encoder.load_state_dict(policy.encoder.state_dict())
    return spec, plain.state_dict(), is_open, drawn


def test_harm_is_done_to_those_who_act_upon_it_and_by_what_they_act_upon(school):
    _, _, _, drawn = school
    harm = torch.cat([part.harm for part in drawn])
    told = torch.cat([part.told - part.meant.round() for part in drawn])[:, 0]
    first_changed, second_changed = told[:, 0].abs() > 0.5, told[:, 1].abs() > 0.5
    assert not harm[:, 1:].any(), "only 0 is heard"
    assert not harm[:, :, 2].any(), "2 does not listen"
    assert (harm[first_changed, 0, 1] > 0.9).all()
    assert (harm[~first_changed & second_changed, 0, 1] < 0.01).all()
    assert first_changed.any()
    assert (~first_changed & second_changed).any()


def test_a_router_foresees_the_harm_and_is_the_same_for_the_same_seed(school):
    spec, weights, is_open, (one, two, held_out) = school
    taught, again = (teach(spec, weights, is_open, [one, two], held_out, seed=3) for _ in range(2))
    assert taught.explained > 0.8
    assert all(torch.equal(taught.weights[name], again.weights[name]) for name in taught.weights)
    assert all(torch.equal(weights[name], taught.weights[name]) for name in weights), "the team itself stays as it is"
    team = LearnedTeam(taught.spec, taught.weights, [0], np.array([[-1]]))
    team.reset(W)
    observation = np.tile(np.array([1.0, 1.0], np.float32), (W, 1, 1))
    spoken = team.speak(observation, 0.5)
    told = np.stack([np.tile(BOOK[k], (W, 1)) for k in (3, 1, 2)])  # as meant; the first number right; the second right
    harms = spoken.harm(0, (1,), np.arange(W), told)
    assert harms.shape == (3, W)
    assert (harms[2] > 5 * harms[1]).all()
    assert (spoken.harm(0, (2,), np.arange(W), told) < 0.2 * harms[2].max()).all()


def test_without_a_router_nothing_is_foreseen():
    policy = Policy(PolicySpec(3, 2, (2, 2, 2), 2, 16))
    with pytest.raises(AgentError, match="--router learned"):
        policy.harm(*[torch.zeros(1, 1, 2)] * 5, torch.zeros(1, 1, dtype=torch.int64))


# --- what the exchange makes of it


def endpoint(charging="broadcast", codec=CODEC, rate_weight=0.05):
    return Endpoint(0, make_plan(EDGES, (0, 0, 0), charging), codec, W, rate_weight)


def say(end, harm, vectors, number=0):
    everywhere = np.ones(W, bool)
    spoken = np.zeros((3, W, 2), np.float32)
    spoken[0] = vectors
    return end.send(number, Spoken(spoken, np.zeros((3, W), bool), harm), everywhere)


FAR = np.tile(np.array([1.0, 1.0], np.float32), (W, 1))


def squared(seat, receivers, worlds, heard):
    return (((heard - FAR[worlds]) ** 2).sum(-1) * len(receivers)).astype(np.float32)


def test_what_harms_nobody_is_not_said_and_what_harms_is():
    indifferent = say(endpoint(), lambda seat, receivers, worlds, heard: np.zeros(heard.shape[:2], np.float32), FAR)
    assert indifferent.n_spoken == 0
    assert not indifferent.frames
    assert say(endpoint(), squared, FAR).n_spoken == W


def test_each_edge_opens_by_itself_where_links_are_paid_one_by_one():
    def only_two_cares(seat, receivers, worlds, heard):
        return squared(seat, receivers, worlds, heard) * (receivers == (2,))

    end = endpoint("link")
    sent = say(end, only_two_cares, FAR)
    inbox = end.receive(0, sent.frames, np.ones(W, bool)).inbox
    assert sent.n_spoken == W, "one of two edges in each world"
    assert (inbox[:, 2, 0] == FAR).all()
    assert not inbox[:, 1, 0].any()


def test_at_no_price_harm_is_not_asked_and_what_is_expected_needs_no_decision():
    asked = []

    def note(seat, receivers, worlds, heard):
        asked.append(heard.shape)
        return squared(seat, receivers, worlds, heard)

    say(endpoint(rate_weight=0.0), note, FAR)
    assert not asked
    end = endpoint()
    say(end, note, np.zeros_like(FAR))  # the expected code of a fresh link
    assert not asked
    halfway = FAR.copy()
    halfway[: W // 2] = 0
    say(end, note, halfway, number=1)
    assert [shape[1] for shape in asked] == [W - W // 2]


def test_a_residual_message_is_told_as_finely_as_it_matters():
    books = np.zeros((2, 4, 2), np.float32)
    books[0], books[1] = 4 * BOOK, 0.5 * BOOK
    said = np.array([[0, 0]] * 60 + [[3, 0]] * 30 + [[3, 3]] * 10)  # mostly nothing, then coarse, seldom fine
    codec = TableCodec("rvq", ResidualQuantiser(books), fit_prior(said, fresh_context(100, 2), 4, "staged"))
    fine = np.tile(np.array([4.5, 4.5], np.float32), (W, 1))

    def harm_of(weight):
        def harm(seat, receivers, worlds, heard):
            return (weight[worlds] * ((heard - fine[worlds]) ** 2).sum(-1)).astype(np.float32)

        return harm

    weight = np.array([0.0, 0.0, 0.01, 0.01, 10.0, 10.0], np.float32)
    end = endpoint(codec=codec, rate_weight=0.1)
    end.recorded = []
    say(end, harm_of(weight), fine)
    (_, codes), *_ = end.recorded
    assert codes[:, 0].tolist() == [0, 0, 3, 3, 3, 3], "silence, or at least coarse"
    assert codes[:, 1].tolist() == [0, 0, 0, 0, 3, 3], "fine where it matters"


# --- the setting


def test_dynamic_edges_come_with_a_router_and_links_paid_one_by_one():
    config = resolve("guide", None, None, {"topology": "dynamic"})
    assert (config.router, config.charging) == ("learned", "link")
    with pytest.raises(ConfigError, match="needs --router learned and --charging link"):
        resolve("guide", None, None, {"topology": "dynamic", "charging": "broadcast"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codec": "float32"}, "--router learned has nothing to decide: the codec float32 cannot trade"),
        ({"rate_aware": False}, "--no-rate-aware makes an encoder without a price"),
        ({"topology": "dynamic", "codec": "float16"}, "the topology dynamic has nothing to decide: the codec float16"),
        ({"topology": "none"}, "nobody hears anybody in guide"),
        ({"prior": "none"}, "--prior none silence is no word"),
        ({"codec": "gvq"}, "--codec gvq --prior natural silence is no word"),
    ],
)
def test_a_router_with_nothing_to_decide_is_refused_before_training(settings, words):
    config = resolve("guide", None, None, {"router": "learned", **settings})
    with pytest.raises(ConfigError, match=words):
        check_names(config, make_world("guide").spec)
