"""Codecs, worlds and agents of one's own, in a module of one's own, without a base class of ours."""

import sys

import pytest

import commlib
from commlib.experiments.cli import main
from commlib.experiments.train import train
from commlib.records import RunFolder

CODEC = '''
"""One bit per message: the sign of its mean."""
import numpy as np
from torch import nn

from commlib.codec import Quantized
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.rate import RateTable


class SignCodec(nn.Module):
    name = "sign"

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.rate = RateTable(1, 2)

    def forward(self, x, context=None):
        codes = (x.detach().mean(-1, keepdim=True) > 0).long()
        hard = (2.0 * codes - 1).expand_as(x)
        return Quantized(hard + (x - x.detach()), codes, self.rate(codes, context), {})

    def fit(self, messages, generator):
        pass

    def set_prior(self, prior):
        self.rate.set_prior(prior)

    def freeze(self):
        codebook = np.repeat(np.array([[-1.0], [1.0]], np.float32), self.width, 1)
        return TableCodec("sign", CodebookQuantiser(codebook), self.rate.prior)


class Unstored(SignCodec):
    def freeze(self):
        return TableCodec("sign", type("Other", (CodebookQuantiser.__base__,), {
            "n_positions": 1, "alphabet": 2, "width": 1, "arrays": lambda self: {},
        })(), self.rate.prior)


class Half(nn.Module):
    def __init__(self, width):
        super().__init__()
'''
WORLD = '''
"""Two agents must do what the other one sees."""
import torch

from commlib.world import WorldSpec, WorldStep


class Mirror:
    spec = WorldSpec("mirror", 2, 1, (2, 2), 3, success="share of right answers", is_batched=True)

    def reset(self, n_worlds, generator):
        self.seen = torch.randint(2, (n_worlds, 2), generator=generator)
        self.right, self.clock = torch.zeros(n_worlds), 0
        return self._out(torch.zeros(n_worlds, 2))

    def step(self, action):
        if self.clock == 3:
            return self._out(torch.zeros(len(self.seen), 2))
        self.clock += 1
        hit = (action == self.seen.flip(1)).float()
        self.right += hit.mean(1) / 3
        return self._out(hit)

    def success(self):
        return self.right

    def set_progress(self, progress):
        pass

    def close(self):
        pass

    def _out(self, reward):
        over = torch.full((len(self.seen),), self.clock == 3)
        return WorldStep(self.seen.float()[..., None], reward, over, ~over[:, None].expand(-1, 2))
'''
AGENT = '''
import numpy as np


class Teller:
    """Says what it sees, does what it heard."""

    def __init__(self, agent_id):
        self.other = 1 - agent_id

    def act(self, observation, inbox):
        heard = inbox.get(self.other, np.zeros(1))
        return int(heard[0] > 0.5), observation[:1]


class Bad:
    def __init__(self, agent_id):
        pass

    def act(self, observation, inbox):
        return "left", None
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package of the user's, `mine`, with a codec, a world and agents; gone again afterwards."""
    (tmp_path / "mine_plugins").mkdir()
    for name, text in {"__init__": "", "codec": CODEC, "world": WORLD, "agent": AGENT}.items():
        (tmp_path / "mine_plugins" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("mine_plugins")]:
        del sys.modules[name]


def test_a_world_and_a_codec_of_ones_own_train_together(mine):
    settings = {
        "codec": "mine_plugins.codec:SignCodec", "message_width": 2, "steps": 24_000, "episodes": 64, "hosts": 2,
        "learning": {"n_worlds": 100, "hidden": 16, "learning_rate": 0.003, "gamma": 0.5},
        "stages": {"calibrate_worlds": 16},
    }  # fmt: skip
    result = train("mine_plugins.world:Mirror", out=mine / "run", quiet=True, **settings)
    assert (result.world, result.codec, result.hosts) == ("mirror", "mine_plugins.codec:SignCodec", 2)
    assert result.success.mean > 0.9, "one bit each way is all it takes"
    assert result.bits.per_agent_step.estimate <= 1.0
    assert result.codec_health.used_codes == 2
    assert RunFolder(mine / "run").read_result() == result
    assert main(["audit", str(mine / "run")]) == 0


def test_agents_of_ones_own_in_a_world_of_ones_own(mine):
    from mine_plugins.agent import Teller
    from mine_plugins.world import Mirror

    for world in (Mirror(), Mirror, "mine_plugins.world:Mirror"):
        result = commlib.run(world, Teller, rate_aware=False, episodes=32, stages={"calibrate_worlds": 32})
        assert result.success.mean > 0.75, "two of three steps at the least"
        assert result.wire_bytes > 0


@pytest.mark.parametrize(
    ("target", "code", "sentence"),
    [
        ("mine_plugins.agent:Teller", 0, "Teller"),
        ("mine_plugins.codec:SignCodec", 0, "SignCodec"),
        ("mine_plugins.world:Mirror", 0, "Mirror"),
        ("mine_plugins.agent:Bad", 1, "the action must be an integer"),
        ("mine_plugins.agent:Tellr", 1, "did you mean Teller?"),
        ("mine_plugins.nowhere:Agent", 1, "there is no module 'mine_plugins.nowhere'"),
    ],
)
def test_the_doctor_looks_at_what_users_bring(mine, capsys, target, code, sentence):
    assert main(["doctor", target]) == code
    assert sentence in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--codec", "mine_plugins.codec:Half", "is no codec: it lacks fit, set_prior, freeze"),
        ("--codec", "mine_plugins.codec:Sign", "has no 'Sign'; did you mean Sign"),
        ("--codec", "mine_plugins.agent:Teller", "mine_plugins.agent:Teller cannot be made into a codec"),
    ],
)
def test_what_is_no_codec_is_told_before_anything_is_written(mine, capsys, flag, value, sentence):
    before = sorted(mine.iterdir())
    assert main(["train", "guide", flag, value, "--out", "run", "--quiet"]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(mine.iterdir()) == before


def test_a_codec_that_could_not_be_stored_is_told_before_the_training(mine, capsys):
    before = sorted(mine.iterdir())
    assert main(["train", "guide", "--codec", "mine_plugins.codec:Unstored", "--out", "run", "--quiet"]) == 1
    assert "a Other cannot be stored in a run folder" in capsys.readouterr().err
    assert sorted(mine.iterdir()) == before
