"""What the wire bench weighs: real frames on a link, and others' messages as they would send them."""

import msgpack
import numpy as np
import pytest

from commlib.channel import MarkovChannel
from commlib.experiments.bench_wire import ALPHABET, HOLD, Link, _array, _codec, _rivals, held_codes, measure, usages


def dice(seed=0):
    return np.random.default_rng(seed)


def test_usages_are_distributions():
    for shares in usages().values():
        assert shares.shape == (ALPHABET,)
        assert shares.sum() == pytest.approx(1)
    assert usages()["skewed"][0] == 0.9


def test_a_link_says_what_is_heard_and_what_it_weighed():
    codec = _codec(usages()["Zipf"])
    link, channel = Link(codec, 5), MarkovChannel(0.0, dice())
    codes = np.array([[3], [1], [4], [1], [5]])
    greeting, note = (link.round(number, codes, channel) for number in range(2))
    assert greeting.heard_right == note.heard_right == 1
    assert greeting.payload_bits == note.payload_bits, "this prior knows no past"
    assert note.wire_bits == note.payload_bits + 24
    assert greeting.wire_bits > note.wire_bits
    assert note.estimate_bits == pytest.approx(-np.log2(usages()["Zipf"][codes]).sum(), abs=0.02)


def test_what_is_expected_is_not_sent():
    link, channel = Link(_codec(usages()["skewed"]), 3), MarkovChannel(0.0, dice())
    nothing = link.round(0, np.zeros((3, 1), np.int64), channel)
    assert nothing[1:] == (0, 0, False, 1.0)


def test_held_codes_hold():
    codes = held_codes(200, 500, usages()["Zipf"], dice())
    assert codes.shape == (200, 500, 1)
    same = (codes[1:] == codes[:-1]).mean()
    assert same == pytest.approx(HOLD + (1 - HOLD) * (usages()["Zipf"] ** 2).sum(), abs=0.01)


def test_others_weigh_what_they_weigh():
    codec = _codec(usages()["uniform"])
    sizes = _rivals(np.arange(64)[:, None], codec)
    assert sizes["array_of_indices"] == 1
    assert sizes["float32_array"] == 64
    assert sizes["msgpack_dicts"] == len(msgpack.packb({"edge": [1, 2], "step": 1000, "index": 7}))
    assert sizes["pickled_tensor"] > 64
    array = np.arange(6, dtype=np.uint16).reshape(2, 3)
    back = msgpack.unpackb(msgpack.packb(_array(array)), raw=True)
    assert np.frombuffer(back[b"data"], back[b"type"].decode()).reshape(back[b"shape"]).tolist() == array.tolist()


def test_the_loss_table_has_all_remedies_at_all_losses_and_no_loss_is_heard_right():
    rows = [row for row in measure(0, True, print).rows if row["table"] == "loss"]
    assert len(rows) == 16
    assert {(row["context"], row["refresh_every"]) for row in rows} == {
        ("previous", 5),
        ("held", 0),
        ("held", 5),
        ("none", 0),
    }
    assert all(row["heard_right"] == 1 and row["n_lost"] == 0 for row in rows if row["loss"] == 0)
