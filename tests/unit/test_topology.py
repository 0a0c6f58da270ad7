import numpy as np
import pytest
import torch

from commlib.errors import ConfigError
from commlib.message import Edge
from commlib.testing import check_topology
from commlib.topology import (
    TOPOLOGIES,
    CommFormerTopology,
    FixedTopology,
    adjacency_of,
    chain,
    edges_of,
    full,
    grid,
    knn,
    make_topology,
    none,
    random,
    ring,
)


def source(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("n_agents", [1, 2, 3, 5, 12])
def test_every_topology_keeps_the_laws(name, n_agents):
    check_topology(make_topology(name, n_agents))


def test_the_fixed_graphs():
    assert none(3).edges() == ()
    assert full(3).edges() == ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
    assert ring(3).edges() == ((0, 1), (1, 2), (2, 0))
    assert ring(2).edges() == ((0, 1), (1, 0))
    assert chain(3).edges() == ((0, 1), (1, 2))
    assert chain(2).edges() == ((0, 1),)
    assert ring(1).edges() == full(1).edges() == chain(1).edges() == ()
    assert FixedTopology((Edge(2, 0), Edge(0, 1), Edge(2, 0)), 3).edges() == ((0, 1), (2, 0))


def test_an_adjacency_is_sender_first():
    adjacency_SR = adjacency_of((Edge(0, 2),), 3)
    assert adjacency_SR.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert edges_of(adjacency_SR) == (Edge(0, 2),)


@pytest.mark.parametrize("edge", [Edge(1, 1), Edge(0, 3), Edge(-1, 0)])
def test_an_impossible_edge_is_refused(edge):
    with pytest.raises(ConfigError, match=f"edge {edge.sender}->"):
        FixedTopology((edge,), 3)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match="no topology is called 'star'; there are none, full, ring, chain, commformer"
    ):
        make_topology("star", 3)


@pytest.mark.parametrize(
    ("n_agents", "density", "n_kept"), [(5, 0.4, 2), (10, 0.4, 4), (3, 0.1, 1), (4, 1.0, 3), (2, 0.5, 1)]
)
def test_every_receiver_keeps_as_many_senders_as_the_density_says(n_agents, density, n_kept):
    topology = CommFormerTopology(n_agents, density)
    for seed in range(5):
        assert (topology.sample(source(seed)).detach().round().sum(0) == n_kept).all()
    assert len(topology.edges()) == n_agents * n_kept


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1])
def test_an_impossible_density_is_refused(density):
    with pytest.raises(ConfigError, match="density must be in"):
        CommFormerTopology(4, density)


def test_the_edges_in_use_are_the_largest_logits_of_each_receiver():
    topology = CommFormerTopology(4, 0.5)
    with torch.no_grad():
        topology.logits.copy_(torch.tensor([[9.0, 1, 2, 3], [1, 9, 3, 1], [2, 2, 9, 2], [3, 3, 1, 9]]))
    assert topology.edges() == ((0, 2), (0, 3), (1, 2), (2, 0), (2, 1), (2, 3), (3, 0), (3, 1))


def test_sampling_follows_the_logits():
    topology = CommFormerTopology(4, 0.25)
    with torch.no_grad():
        topology.logits[0, 1] = 2.0
    generator = source(0)
    n_open = sum(topology.sample(generator).detach().round() for _ in range(400))
    share = float(n_open[0, 1]) / 400  # e^2 / (e^2 + 2)
    assert share == pytest.approx(0.787, abs=0.06)
    assert float(n_open[2, 3]) / 400 == pytest.approx(1 / 3, abs=0.08)


def test_a_gradient_opens_the_edge_that_pays():
    topology = CommFormerTopology(4, 0.25)
    generator = source(0)
    optimiser = torch.optim.Adam(topology.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        (-topology.sample(generator)[2, 0]).backward()
        optimiser.step()
    assert Edge(2, 0) in topology.edges()
    assert topology.logits[2, 0] > topology.logits[[1, 3], 0].max() + 1


def senders(topology):
    """Whom each agent hears."""
    return [[s for s, r in topology.edges() if r == agent] for agent in range(topology.n_agents)]


@pytest.mark.parametrize("n_agents", [1, 2, 3, 6, 9, 30])
@pytest.mark.parametrize("n_senders", [0, 1, 2, 5, 8, 29])
def test_a_random_receiver_hears_so_many_different_others(n_agents, n_senders):
    for seed in range(5):
        heard = senders(random(n_agents, n_senders, source(seed)))
        assert all(len(set(row) - {agent}) == min(n_senders, n_agents - 1) for agent, row in enumerate(heard))


@pytest.mark.parametrize("n_senders", [2, 3])
def test_random_senders_are_evenly_drawn(n_senders):
    """Both by drawing whom to hear and by drawing whom not to."""
    count = sum(adjacency_of(random(6, n_senders, source(seed)).edges(), 6) for seed in range(500)) / 500
    assert count.sum(0).allclose(torch.tensor(float(n_senders)))
    assert (count + n_senders / 5 * torch.eye(6) - n_senders / 5).abs().max() < 0.1


def test_a_random_graph_is_that_of_its_seed():
    one, other, same = (make_topology("random", 20, 0.2, seed).edges() for seed in (0, 1, 0))
    assert one == same != other


def test_neighbours_on_a_grid():
    assert senders(grid(9)) == [
        [1, 3],
        [0, 2, 4],
        [1, 5],
        [0, 4, 6],
        [1, 3, 5, 7],
        [2, 4, 8],
        [3, 7],
        [4, 6, 8],
        [5, 7],
    ]
    assert senders(grid(5)) == [[1, 3], [0, 2, 4], [1], [0, 4], [1, 3]], "the last row is not full"
    assert grid(1).edges() == ()


@pytest.mark.parametrize("n_agents", [1, 2, 5, 10, 17, 36, 50])
@pytest.mark.parametrize("n_senders", [1, 4, 9, 49])
def test_the_nearest_are_those_that_a_search_of_all_pairs_finds(n_agents, n_senders):
    side = int(np.ceil(n_agents**0.5))
    place = np.array([divmod(agent, side) for agent in range(n_agents)])
    far = ((place[:, None] - place) ** 2).sum(-1)
    np.fill_diagonal(far, 10**6)
    nearest = far.argsort(1, kind="stable")[:, : min(n_senders, n_agents - 1)]
    assert senders(knn(n_agents, n_senders)) == np.sort(nearest, 1).tolist()
