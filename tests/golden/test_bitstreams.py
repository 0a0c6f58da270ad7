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

from commlib.agent import Spoken
from commlib.codec import fresh_context, next_context
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, GridQuantiser, TableCodec
from commlib.codecs.prior import Prior, to_integers
from commlib.codecs.rows import n_rows, n_symbols
from commlib.exchange import Endpoint
from commlib.frame import is_greeting, run_id, unpack_greeting, unpack_note
from commlib.message import Edge
from commlib.plan import make_plan

FILE = Path(__file__).with_name("bitstreams.json")
LAW = "a codec id's bitstream never changes; a new stream is a new id"


def table(n_positions, alphabet, skew, kind="previous", n_ages=1):
    """Frequencies 1 + skew * (i mod 7)^2: the same on every machine, since only whole numbers are in play."""
    shape = n_positions, n_ages * n_rows(kind, alphabet), n_symbols(kind, alphabet)
    cells = np.arange(np.prod(shape)) % 7
    return Prior(to_integers((1.0 + skew * cells**2).reshape(shape)), kind, n_ages)


def codebook(size, width):
    return (np.arange(size * width, dtype=np.float32).reshape(size, width) * 5 % 17 - 8) / 8


GRID = GridQuantiser(np.full(4, -1, np.float32), np.full(4, 1 / 8, np.float32), 16)
DITHER = np.arange(12, dtype=np.float32).reshape(3, 4) / 128

CODECS = {
    "vq, 16 codes, skewed prior": TableCodec("vq", CodebookQuantiser(codebook(16, 3)), table(1, 16, 9)),
    "vq, 300 codes, even prior": TableCodec("vq", CodebookQuantiser(codebook(300, 4)), table(1, 300, 0)),
    "int8, 3 floats": TableCodec(
        "int8",
        GridQuantiser(np.array([-1, -2, 0], np.float32), np.array([1, 2, 0.5], np.float32) / 128, 256),
        table(3, 256, 2),
    ),
    "float32, 2 floats": TableCodec("float32", ByteQuantiser(2), table(8, 256, 1, "none")),
    "float16, 3 floats": TableCodec("float16", ByteQuantiser(3, 2), table(6, 256, 1, "none")),
    "vq, 16 codes, held, 3 ages": TableCodec("vq", CodebookQuantiser(codebook(16, 3)), table(1, 16, 9, "held", 3)),
    "int8, 4 floats, staged": TableCodec("int8", GRID, table(4, 16, 3, "staged")),
    "int8, 4 floats, trellis, dither": TableCodec("int8", GRID, table(4, 16, 3, "trellis"), DITHER),
}
SIZES = (1, 2, 7, 64)
PLAN = make_plan((Edge(0, 1), Edge(1, 0)), (0, 0), "broadcast")


def codes_of(codec, n, step):
    """Codes [n, P] that visit the alphabet in steps."""
    return (np.arange(n * codec.n_positions).reshape(n, codec.n_positions) * step + 1) % codec.alphabet


def contexts(codec, n):
    """Fresh links, and links of several ages with a past."""
    fresh = fresh_context(n, codec.n_positions)
    used = next_context(fresh, codes_of(codec, n, 5))
    used[:, -1] += np.arange(n) % 4
    return {"fresh": fresh, "used": used}


def payloads(codec):
    """Payloads by size, on fresh links and on links with a past."""
    found = {}
    for n in SIZES:
        codes = codes_of(codec, n, 3)
        for name, context in contexts(codec, n).items():
            found[f"{n} {name}"] = codec.encode(codes, context)
    return found


def frames(codec):
    """The frames of two rounds of two agents, of whom one is silent at times."""
    end, found = Endpoint(0, PLAN, codec, n_worlds=3), {}
    for number in range(2):
        context = np.tile([*[-1] * codec.n_positions, number], (6, 1))
        vectors = codec.embed(codes_of(codec, 6, 3 + number), context).reshape(2, 3, codec.width)
        silent = np.array([[False, True, False], [False] * 3])
        sent = end.send(number, Spoken(np.nan_to_num(vectors, posinf=0, neginf=0), silent), np.ones(3, bool))
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
        context = contexts(codec, int(n))[links]
        assert np.array_equal(codec.decode(bytes.fromhex(data), context), codes_of(codec, int(n), 3)), LAW
    greeting, note = map(bytes.fromhex, golden()[name]["frames"].values())
    run = run_id(codec.digest, repr(PLAN))
    assert is_greeting(greeting), LAW
    assert unpack_greeting(greeting)[:4] == (run, 0, 0, 0), LAW
    assert unpack_note(note, run, 1, 0, n_heard=1, n_rounds=1).n_earlier == 1, LAW
