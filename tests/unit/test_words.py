"""A codec in anybody's agent: vectors to bytes and back, links, the zoo."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import commlib
from commlib.codecs.fit import Settings, fit_codec
from commlib.codecs.store import save_codec
from commlib.codecs.words import ZOO, MessageCodec, load_codec, zoo
from commlib.errors import CodecError

HELD = np.random.default_rng(3).standard_normal((60, 10, 6)).repeat(3, axis=1).astype(np.float32)
FITTED = fit_codec(HELD, Settings("vq", 16)).codec


def talk(codec, vectors):
    here, there = codec.link(), codec.link()
    sent = [here.encode(vector) for vector in vectors]
    return sent, np.stack([there.decode(data) for data in sent])


@pytest.mark.parametrize("name", zoo())
def test_every_codec_of_the_zoo_speaks_and_names_the_command_that_made_it(name):
    codec = load_codec(f"zoo:{name}")
    vectors = np.random.default_rng(1).standard_normal((40, codec.width)).astype(np.float32)
    alone = np.stack([codec.decode(codec.encode(vector)) for vector in vectors])
    assert alone.dtype == np.float32
    assert alone.shape == vectors.shape
    assert np.array_equal(codec.decode_many(codec.encode_many(vectors), 40), alone)
    label = json.loads((ZOO / name / "codec.json").read_text())
    assert "commlib" in label["made_by"]
    assert len(label["calibration"]["rungs"]) >= 3, "a rate curve"


def test_the_zoo_is_small_and_what_its_labels_say():
    assert sum(file.stat().st_size for file in ZOO.rglob("*")) < 1_000_000
    codec = load_codec("zoo:gaussian-8")
    x = np.random.default_rng(11).standard_normal((4000, 8)).astype(np.float32)
    label = json.loads((ZOO / "gaussian-8" / "codec.json").read_text())["calibration"]
    assert codec.rate_weight == label["rungs"][label["chosen"]]["rate_weight"]
    for rung in label["rungs"]:
        data = codec.encode_many(x, rung["rate_weight"])
        assert np.square(codec.decode_many(data, 4000) - x).mean() == pytest.approx(-rung["return_"], rel=0.05)
        assert 8 * len(data) / 4000 == pytest.approx(rung["bits_per_agent_episode"], rel=0.05)


def test_a_link_says_nothing_where_all_is_as_expected():
    codec = MessageCodec(FITTED)
    sent, heard = talk(codec, HELD[-1])
    assert [len(data) > 0 for data in sent].count(True) <= 11
    assert np.array_equal(heard[::3], heard[2::3]), "a repeated message is held"
    fresh = codec.link()
    assert np.array_equal(fresh.decode(b""), fresh._codec.frozen.embed(FITTED.expected(codec._fresh))[0])


@given(st.lists(st.integers(0, 15), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_both_ends_of_a_link_agree_on_any_conversation(said):
    codec = MessageCodec(FITTED)
    vectors = FITTED.embed(np.array(said)[:, None])
    _, heard = talk(codec, vectors)
    assert np.array_equal(heard, vectors), "codewords are their own nearest codes"


def test_a_dear_bit_makes_messages_shorter_and_coarser():
    codec = load_codec("zoo:gaussian-16")
    x = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float32)
    sizes, errors = [], []
    for weight in (0.0, 0.2, 0.8):
        data = codec.encode_many(x, rate_weight=weight)
        sizes.append(len(data))
        errors.append(np.square(codec.decode_many(data, 500) - x).mean())
    assert sizes[0] > sizes[1] > sizes[2]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda c: c.encode([1.0, 2.0]), r"a message of this codec is \[6\], not \[2\]"),
        (lambda c: c.encode([np.nan] * 6), "NaN or infinity"),
        (lambda c: c.encode_many(np.zeros((2, 5), np.float32)), r"messages must be \[n, 6\]"),
        (lambda c: c.decode(b"x" * 99), "payload bytes|packed bytes"),
        (lambda c: load_codec("zoo:lion"), "the zoo has no codec 'lion'; there are digits, gaussian-16"),
        (lambda c: load_codec("nowhere"), "is missing"),
    ],
)
def test_what_is_wrong_is_said(call, sentence):
    with pytest.raises(CodecError, match=sentence):
        call(MessageCodec(FITTED))


def test_a_codec_is_found_in_a_run_folder_or_a_folder_of_its_own(tmp_path):
    save_codec(FITTED, tmp_path / "run" / "codec")
    for place in (tmp_path / "run", tmp_path / "run" / "codec", str(tmp_path / "run")):
        assert commlib.load_codec(place).frozen.digest == FITTED.digest


def test_a_codec_needs_neither_torch_nor_ray():
    code = (
        "import sys, commlib; c = commlib.load_codec('zoo:gaussian-8'); c.decode(c.encode([0.5] * 8)); "
        "print([name for name in ('torch', 'ray', 'vector_quantize_pytorch') if name in sys.modules])"
    )
    root = Path(commlib.__file__).resolve().parent.parent
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"
