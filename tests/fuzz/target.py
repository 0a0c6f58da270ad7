"""What is fuzzed: every place where bytes from elsewhere come in. Only `FrameError` and `CodecError` may come out.

The first byte of an input says where it goes; the rest is what arrives there.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np

from commlib.codec import fresh_context, next_context
from commlib.codecs.fit import Settings, fit_codec
from commlib.codecs.frozen import TableCodec
from commlib.codecs.store import load_codec, save_codec
from commlib.ends import Ear, Mouth
from commlib.errors import CodecError, FrameError
from commlib.frame import run_id, unpack_greeting, unpack_note
from commlib.message import Edge
from commlib.plan import make_plan

N_WORLDS = 5
RUN = b"runs"


@functools.cache
def codecs() -> list[TableCodec]:
    """Small codecs of every kind of quantiser and of prior."""
    x = np.random.default_rng(0).standard_normal((200, 3, 3)).astype(np.float32)
    kinds = [
        ("vq", None),
        ("vq", "held"),
        ("vq", "none"),
        ("rvq", None),
        ("int8", None),
        ("trellis", None),
        ("float16", None),
    ]
    return [fit_codec(x, Settings(name, 8, context=context)).codec for name, context in kinds]


def ends(codec: TableCodec) -> tuple[Mouth, Ear]:
    """Both ends of the only trunk between two hosts, with three rounds behind them."""
    plan = make_plan((Edge(0, 2), Edge(1, 2)), (0, 0, 1), "broadcast")
    run = run_id(codec.digest, repr(plan))
    mouth, ear = Mouth(0, plan, codec, run), Ear(0, plan, codec, run)
    alive, draw = np.ones(N_WORLDS, bool), np.random.default_rng(1)
    for end in (mouth, ear):
        end.reset(N_WORLDS)
    for number in range(3):
        data, codes = letter(mouth, number, draw)
        reading = ear.read(number, data, alive)
        ear.heard(reading, alive, has_frame=data is not None)
        mouth.said(codes, alive, was_sent=data is not None)
    return mouth, ear


def letter(mouth: Mouth, number: int, draw: np.random.Generator) -> tuple[bytes | None, np.ndarray]:
    """The frame of random messages, and their codes."""
    codec, alive = mouth.codec, np.ones(N_WORLDS, bool)
    context = mouth.context(alive)
    codes = codec.choose(draw.standard_normal((len(context), codec.width)).astype(np.float32), context)
    sent = mouth.frame(number, codes, context, np.ones(len(codes), bool))
    return (None if sent is None else sent.data), codes


@functools.cache
def ear_of(index: int) -> Ear:
    """The receiving end of a codec's trunk, due in round 3."""
    return ends(codecs()[index])[1]


@functools.cache
def folder_of(index: int) -> Path:
    """A codec on disk."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    save_codec(codecs()[index], folder)
    return folder


def one_input(data: bytes) -> bool:
    """Let bytes in; True if they were taken for something of ours."""
    where, rest = (data[0], data[1:]) if data else (0, b"")
    way, index = where % 5, where // 5 % len(codecs())
    codec = codecs()[index]
    try:
        if way == 0:
            unpack_greeting(rest)
        elif way == 1:
            unpack_note(rest, RUN, 3, 0, 1, 3)
        elif way == 2:
            ear_of(index).read(3, rest, np.ones(N_WORLDS, bool))
        elif way == 3:
            fresh = fresh_context(4, codec.n_positions)
            context = next_context(fresh, codec.expected(fresh))
            codes = codec.decode(rest, context)
            assert codes.min() >= 0 and codes.max() < codec.alphabet
            assert np.array_equal(codec.decode(codec.encode(codes, context), context), codes)
        else:
            _load(index, rest)
    except (FrameError, CodecError):
        return False
    return True


def _load(index: int, rest: bytes) -> None:
    """A codec whose label or arrays are these bytes."""
    folder = folder_of(index)
    file = folder / ("codec.json" if rest[:1] < b"\x80" else "codec.safetensors")
    sound = file.read_bytes()
    try:
        file.write_bytes(rest[1:])
        load_codec(folder)
    finally:
        file.write_bytes(sound)


def seeds() -> list[bytes]:
    """Sound inputs of every way in, to mutate."""
    found = []
    for index, codec in enumerate(codecs()):
        mouth, _ = ends(codec)
        data, _ = letter(mouth, 3, np.random.default_rng(2))
        assert data is not None
        found.append(bytes([2 + 5 * index]) + data)
        fresh = fresh_context(4, codec.n_positions)
        context = next_context(fresh, codec.expected(fresh))
        codes = codec.choose(np.ones((4, codec.width), np.float32), context)
        found.append(bytes([3 + 5 * index]) + codec.encode(codes, context))
        for mark, name in ((b"\0", "codec.json"), (b"\x80", "codec.safetensors")):
            found.append(bytes([4 + 5 * index]) + mark + (folder_of(index) / name).read_bytes())
    plan = make_plan((Edge(0, 1),), (0, 1), "link")
    mouth = Mouth(0, plan, codecs()[0], RUN)
    mouth.reset(N_WORLDS)
    greeting, codes = letter(mouth, 0, np.random.default_rng(3))
    assert greeting is not None
    mouth.said(codes, np.ones(N_WORLDS, bool), was_sent=True)
    note, _ = letter(mouth, 3, np.random.default_rng(4))
    assert note is not None
    return [*found, b"\0" + greeting, b"\1" + note]
