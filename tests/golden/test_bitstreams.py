"""A codec id's bitstream never changes; a new stream is a new id.

`bitstreams.json` holds, for small codecs made of plain arithmetic, their digest, a payload and a frame. A case that is
not in the file yet is added by

    COMMLIB_GOLDEN=add python -m pytest tests/golden/test_bitstreams.py

which leaves what is there as it is: to change a case, give the stream a new name (`commlib.codecs.entropy.STREAM`), and
delete the case from the file by hand, where everybody sees it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from commlib.codec import START
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, GridQuantiser, TableCodec
from commlib.codecs.prior import Prior, to_integers
from commlib.exchange import Endpoint
from commlib.frame import unpack
from commlib.message import Edge
from commlib.plan import make_plan

FILE = Path(__file__).with_name("bitstreams.json")
LAW = "a codec id's bitstream never changes; a new stream is a new id"


def table(n_positions, n_rows, alphabet, skew):
    """Frequencies 1 + skew * (i mod 7)^2: the same on every machine, since only whole numbers are in play."""
    cells = np.arange(n_positions * n_rows * alphabet) % 7
    return Prior(to_integers((1.0 + skew * cells**2).reshape(n_positions, n_rows, alphabet)))


def codebook(size, width):
    return (np.arange(size * width, dtype=np.float32).reshape(size, width) * 5 % 17 - 8) / 8


CODECS = {
    "vq, 16 codes, skewed prior": TableCodec("vq", CodebookQuantiser(codebook(16, 3)), table(1, 17, 16, 9)),
    "vq, 300 codes, even prior": TableCodec("vq", CodebookQuantiser(codebook(300, 4)), table(1, 301, 300, 0)),
    "int8, 3 floats": TableCodec(
        "int8",
        GridQuantiser(np.array([-1, -2, 0], np.float32), np.array([1, 2, 0.5], np.float32) / 128, 256),
        table(3, 257, 256, 2),
    ),
    "float32, 2 floats": TableCodec("float32", ByteQuantiser(2), table(8, 1, 256, 1)),
}
SIZES = (1, 2, 7, 64)


def codes_of(codec, n, step):
    """Codes [n, P] that visit the alphabet in steps."""
    return (np.arange(n * codec.n_positions).reshape(n, codec.n_positions) * step + 1) % codec.alphabet


def payloads(codec):
    """Payloads by size, on fresh links and on links with a past."""
    found = {}
    for n in SIZES:
        codes = codes_of(codec, n, 3)
        for name, context in (("fresh", np.full_like(codes, START)), ("used", codes_of(codec, n, 5))):
            found[f"{n} {name}"] = codec.encode(codes, context)
    return found


def frames(codec):
    """The frames of two rounds of two agents, of whom one is silent at times."""
    plan = make_plan((Edge(0, 1), Edge(1, 0)), (0, 0), "broadcast")
    end, found = Endpoint(0, plan, codec, n_worlds=3), {}
    for number in range(2):
        vectors = codec.embed(codes_of(codec, 6, 3 + number)).reshape(2, 3, codec.width)
        silent = np.array([[False, True, False], [False] * 3])
        sent = end.send(number, np.nan_to_num(vectors, posinf=0, neginf=0), silent, np.ones(3, bool), None)
        found |= {f"round {number}, trunk {index}": data for index, data in sent.frames.items()}
    return found


def golden():
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def found(codec):
    return {
        "digest": codec.digest,
        "payloads": {name: data.hex() for name, data in payloads(codec).items()},
        "frames": {name: data.hex() for name, data in frames(codec).items()},
    }


if os.environ.get("COMMLIB_GOLDEN") == "add":
    cases = {name: found(codec) for name, codec in CODECS.items()} | golden()
    FILE.write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def test_the_file_has_every_case_and_no_other():
    assert set(golden()) == set(CODECS)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("part", ["digest", "payloads", "frames"])
def test_a_bitstream_never_changes(name, part):
    assert found(CODECS[name])[part] == golden()[name][part], LAW


@pytest.mark.parametrize("name", CODECS)
def test_old_bytes_are_still_understood(name):
    codec = CODECS[name]
    for size, data in golden()[name]["payloads"].items():
        n, links = size.split()
        context = codes_of(codec, int(n), 5) if links == "used" else np.full((int(n), codec.n_positions), START)
        assert np.array_equal(codec.decode(bytes.fromhex(data), context), codes_of(codec, int(n), 3)), LAW
    for number, data in enumerate(golden()[name]["frames"].values()):
        assert unpack(bytes.fromhex(data)).round == number, LAW
