"""`commlib calibrate`: a codec for agents that were never trained with one, and for vectors on their own."""

import json

import numpy as np
import pytest

import commlib
from commlib.experiments.cli import main

AGENT = """
import numpy as np


class Walker:
    def __init__(self, me):
        self.knows_my_goal = (me - 1) % 3

    def act(self, observation, inbox):
        here, yours = observation[:25].argmax(), observation[25:].argmax()
        told = inbox.get(self.knows_my_goal)
        goal = here if told is None else (told > 0) @ (1 << np.arange(5))
        down, right = goal // 5 - here // 5, goal % 5 - here % 5
        move = (1 if down < 0 else 2) if down else (3 if right < 0 else 4) if right else 0
        return move, np.where(yours >> np.arange(5) & 1, 1.0, -1.0)
"""


def test_agents_are_compressed_without_losing_their_task(tmp_path, capsys):
    (tmp_path / "walkers.py").write_text(AGENT)
    words = ["calibrate", f"{tmp_path}/walkers.py:Walker", "--world", "guide", "--out", str(tmp_path / "codec")]
    words += ["--stages.rungs", "2", "--stages.calibrate-worlds", "64", "--json", str(tmp_path / "made.json")]
    assert main(words) == 0
    made = json.loads((tmp_path / "made.json").read_text())
    lossless, chosen = made["points"][0], made["points"][made["chosen"]]
    assert lossless["success"] == 1.0
    assert lossless["bits"] == pytest.approx(160, rel=0.2), "five floats of 32 bits, no prior counted"
    assert chosen["success"] >= 0.98
    assert chosen["bits"] < 0.6, "log2 25 bits once in 10 steps are needed"
    shown = capsys.readouterr().out
    assert "lossless: 160 bits" in shown
    assert "enough" in shown
    codec = commlib.load_codec(tmp_path / "codec")
    assert (codec.width, codec.frozen.digest) == (5, made["digest"])


def test_vectors_are_compressed_from_a_file(tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    words = ["calibrate", str(tmp_path / "x.npy"), "--codec", "trellis", "--out", str(tmp_path / "codec")]
    assert main([*words, "--most-distortion", "0.2"]) == 0
    assert "<- in use" in capsys.readouterr().out
    codec = commlib.load_codec(tmp_path / "codec")
    assert np.square(codec.decode_many(codec.encode_many(x), 3000) - x).mean() < 0.22


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.npy"], "there is no file"),
        (["nowhere.npy", "--out", "."], "is not empty; choose another --out"),
        (["nowhere.py:Agent"], "there is no file"),
        (["x.npy", "--codec", "fsq"], "no codec called 'fsq' can be fitted to messages"),
        (["x.npy", "--codec", "vq", "--most-distortion", "0.0001"], "take a larger --codebook-size"),
        (["x.npy", "--wrold", "guide"], "did you mean --world"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).standard_normal((300, 4)))
    assert main(["calibrate", *words]) in (1, 2)
    said = capsys.readouterr()
    assert sentence in said.out + said.err
    assert not (tmp_path / "codec").exists()
