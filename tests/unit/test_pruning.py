"""A graph that is cut back: the edges that matter stay, and a cut that costs too much is undone."""

import pytest
import torch

from commlib.agents.pruning import Judged, judge
from commlib.experiments.compose import resolve
from commlib.experiments.progress import Quiet
from commlib.experiments.train import run_training, train
from commlib.objective import holds, merit
from commlib.topology import MISSING, PrunedTopology, make_topology, ring


def test_a_pruned_graph_keeps_the_laws_and_forgets_what_was_cut():
    graph = make_topology("pruned", 4)
    assert isinstance(graph, PrunedTopology)
    assert len(graph.edges()) == 12
    graph.keep(ring(4).edges())
    assert graph.edges() == ring(4).edges()
    assert not (graph.sample(torch.Generator().manual_seed(0)) > ring(4).sample(torch.Generator())).any()
    assert torch.equal(graph.sample(torch.Generator(), temperature=0.0), ring(4).sample(torch.Generator()))
    draws = torch.stack([PrunedTopology(4).sample(torch.Generator().manual_seed(s)) for s in range(400)])
    missing = 1 - draws.sum((1, 2)).mean() / 12
    assert missing == pytest.approx(MISSING, abs=0.02)


@pytest.mark.parametrize(
    ("success", "return_", "best", "margin", "is_kept"),
    [
        (0.95, -9.0, 0.98, 0.04, True), (0.93, 9.0, 0.98, 0.04, False),
        (None, -1.04, None, 0.05, True), (None, -1.06, None, 0.05, False),
    ],
)  # fmt: skip
def test_a_graph_is_judged_by_success_or_else_by_return(success, return_, best, margin, is_kept):
    assert holds(Judged(success, return_, None), Judged(best, -1.0, None), margin) == is_kept
    assert merit(Judged(success, return_, None)) == (return_ if success is None else success)


SETTINGS = {
    "steps": 60_000, "episodes": 64, "topology": "pruned", "quiet": True,
    "stages": {"fine_tune": 0.1, "margin": 0.5, "rungs": 1, "calibrate_worlds": 32},
}  # fmt: skip


def test_what_nobody_acts_upon_is_cut_and_a_killed_run_goes_on_alike(tmp_path, monkeypatch):
    whole = train("guide", out=tmp_path / "whole", **SETTINGS)
    assert len(whole.edges) < 6, "with such a margin something is always cut"
    judged = []

    def dies(*given):
        judged.append(1)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return judge(*given)

    monkeypatch.setattr("commlib.experiments.train.judge", dies)
    config = resolve("guide", None, None, {k: v for k, v in SETTINGS.items() if k != "quiet"})
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "killed", display=Quiet())
    monkeypatch.undo()
    again = run_training(config, tmp_path / "killed", display=Quiet(), resume=True)
    assert (again.edges, again.success, again.bits) == (whole.edges, whole.success, whole.bits)


def test_a_cut_that_costs_too_much_is_undone(tmp_path, monkeypatch):
    monkeypatch.setattr("commlib.experiments.train.holds", lambda one, best, margin: False)
    result = train("guide", out=tmp_path / "run", **SETTINGS)
    assert len(result.edges) == 6
