import itertools
import pickle
import zlib

import msgpack
import pytest

from commlib.errors import ForeignCodec, FrameError
from commlib.frame import (
    GREETING_BYTES,
    MAX_FRAME_BYTES,
    NOTE_BYTES,
    Frame,
    check_run,
    is_greeting,
    run_id,
    unpack_greeting,
    unpack_note,
)

RUN = run_id("digest", "plan")
FRAME = Frame(RUN, 3, 1, 0, b"payload")


def packed(*fields, checksum=None):
    """A label with a right checksum, whatever its fields."""
    body = msgpack.packb([*fields, 0])[:-1]
    return body + msgpack.packb(zlib.crc32(body) if checksum is None else checksum)


FRAMES = [
    FRAME,
    Frame(RUN, 0, 0, 0, b""),
    Frame(RUN, 2**40, 300, 9, b"x" * 70_000),
    Frame(b"\0\0\0\0", 127, 128, 200, b"\0"),
]


# --- greetings


@pytest.mark.parametrize("frame", FRAMES)
def test_a_greeting_comes_back(frame):
    assert is_greeting(frame.greeting())
    assert unpack_greeting(frame.greeting()) == frame


def test_a_small_greeting_has_a_small_label():
    assert len(Frame(RUN, 3, 1, 0, b"").greeting()) == 18


def test_a_greeting_is_an_array_with_the_checksum_last():
    fields = msgpack.unpackb(FRAME.greeting())
    assert fields[:6] == [2, RUN, 3, 1, 0, b"payload"]
    assert fields[6] == zlib.crc32(FRAME.greeting()[: -len(msgpack.packb(fields[6]))])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "0 bytes are no frame"),
        (FRAME.greeting()[:-1], "it was cut or damaged"),
        (FRAME.greeting() + b"\0", "it was cut or damaged"),
        (b"\xc0", "hold something else"),
        (b"\x91\x02", "a frame has 7 fields"),
        (packed(1, RUN, 3, 1, 0, None, b""), "of version 1, we read version 2; update the older end"),
        (packed(3, RUN, 3, 1, 0, b""), "of version 3, we read version 2; update the older end"),
        (packed("2", RUN, 3, 1, 0, b""), "the version of the frame is no number"),
        (packed(True, RUN, 3, 1, 0, b""), "the version of the frame is no number"),
        (packed(2, b"abc", 3, 1, 0, b""), "wrong type"),
        (packed(2, "abcd", 3, 1, 0, b""), "wrong type"),
        (packed(2, RUN, -3, 1, 0, b""), "wrong type"),
        (packed(2, RUN, 3, True, 0, b""), "wrong type"),
        (packed(2, RUN, 3.0, 1, 0, b""), "wrong type"),
        (packed(2, RUN, 3, 1, 0, None), "wrong type"),
        (packed(2, RUN, 3, 1, 0, ""), "wrong type"),
        (packed(2, RUN, 3, 1, -1, b""), "wrong type"),
        (packed(2, RUN, 3, 1, None, b""), "wrong type"),
        (packed(2, RUN, 3, 1, 2**63, b""), "wrong type"),
        (packed(2, RUN, 3, 1, 0, b"", checksum=1), "the checksum of a"),
        (packed(2, RUN, 3, 1, 0, b"").replace(b"\x03", b"\x04", 1), "the checksum of a"),
        (msgpack.packb({"version": 2}), "it was cut or damaged"),
        (pickle.dumps(FRAME._asdict()), "it was cut or damaged"),
        (b"\x97" + b"\xdd\xff\xff\xff\xff", "it was cut or damaged"),
        (b"\x97\x02\xc6\xff\xff\xff\xff", "it was cut or damaged"),
        (bytes(MAX_FRAME_BYTES + 1), "is over the limit"),
    ],
)
def test_what_is_no_greeting_is_refused_with_a_sentence(data, sentence):
    with pytest.raises(FrameError, match=sentence):
        unpack_greeting(data)


def test_another_spelling_of_the_same_fields_is_refused():
    """msgpack can write 3 in nine ways; only ours is a greeting, so that it has one length and one price."""
    long_three = FRAME.greeting().replace(b"\x03", b"\xcd\x00\x03", 1)
    body = long_three[: -len(msgpack.packb(msgpack.unpackb(FRAME.greeting())[6]))]
    with pytest.raises(FrameError, match="checksum"):
        unpack_greeting(body + msgpack.packb(zlib.crc32(body)))


@pytest.mark.parametrize("depth", [10, 500, 990, 1000, 1010, 1500, 100_000])
def test_deep_nesting_is_refused_and_overflows_no_stack(depth):
    for place in range(7):
        data = b"\x97" + b"\xc0" * place + b"\x91" * depth + b"\xc0" * (7 - place)
        with pytest.raises(FrameError):
            unpack_greeting(data)


def test_another_run_is_refused_by_name():
    check_run(FRAME, RUN)
    other = run_id("digest", "another plan")
    with pytest.raises(ForeignCodec, match=f"speaks {RUN.hex()}, we speak {other.hex()}"):
        check_run(FRAME, other)
    assert len({RUN, other, run_id("another digest", "plan")}) == 3


# --- notes


def read(data, frame=FRAME, n_heard=None, **changes):
    """A note, read by one who expects `frame` with these changes."""
    who = frame._replace(**changes)
    n_heard = frame.n_earlier if n_heard is None else n_heard
    return unpack_note(data, who.run, who.round, who.trunk, n_heard, n_heard + 127)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_note_comes_back(frame):
    assert not is_greeting(frame.note())
    assert read(frame.note(), frame) == frame


@pytest.mark.parametrize("payload", [b"", b"\0", b"payload"])
def test_a_greeting_is_eighteen_bytes_and_its_payload_or_more(payload):
    least = Frame(b"abcd", 0, 0, 0, payload)
    assert len(least.greeting()) == GREETING_BYTES + len(payload) == 18 + len(payload)
    assert len(least._replace(round=10**6).greeting()) > GREETING_BYTES + len(payload)


@pytest.mark.parametrize("payload", [b"", b"\0", b"\x97", b"payload"])
def test_a_note_is_three_bytes_and_its_payload(payload):
    note = FRAME._replace(payload=payload, n_earlier=129).note()
    assert len(note) == NOTE_BYTES + len(payload) == 3 + len(payload)
    assert note[0] == 1, "the count, modulo 128"
    assert note[1:-2] == payload


@pytest.mark.parametrize("n_heard", [0, 1, 126, 127, 128, 129, 255, 256, 2**33 - 1])
def test_a_count_is_told_modulo_128_and_understood_in_full(n_heard):
    for n_lost in (0, 1, 2, 126, 127):
        frame = FRAME._replace(n_earlier=n_heard + n_lost)
        assert read(frame.note(), frame, n_heard) == frame


@pytest.mark.parametrize("n_lost", [128, 129, 255, 256, 1000])
def test_more_lost_frames_than_a_count_can_tell_are_found_by_the_seal(n_lost):
    frame = FRAME._replace(n_earlier=5 + n_lost)
    with pytest.raises(FrameError, match="seal"):
        unpack_note(frame.note(), RUN, 3, 1, 5, n_rounds=n_lost + 4)
    assert unpack_note(frame.note(), RUN, 3, 1, 5, n_rounds=n_lost + 5) == frame


@pytest.mark.parametrize(
    "changes", [{"run": b"abcd"}, {"round": 3 + 2**16}, *({"round": n} for n in (2, *range(4, 500))), {"trunk": 0}]
)
def test_a_note_for_another_round_trunk_or_run_is_refused(changes):
    for n_earlier in (0, 5, 127, 128):
        frame = FRAME._replace(n_earlier=n_earlier)
        with pytest.raises(FrameError, match="the seal of a 10-byte frame is wrong"):
            read(frame.note(), frame, **changes)


@pytest.mark.parametrize("n_earlier", [0, 1, 127, 128, 300])
def test_a_note_that_was_heard_before_is_refused(n_earlier):
    frame = FRAME._replace(n_earlier=n_earlier)
    for n_since in (1, 2, 50, 127, 128):
        with pytest.raises(FrameError, match="was heard before"):
            read(frame.note(), frame, n_heard=n_earlier + n_since)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", FRAME.greeting(), b"\x80abc", bytes(MAX_FRAME_BYTES + 1)])
def test_what_is_no_note_is_refused_with_a_sentence(data):
    with pytest.raises(FrameError, match=f"{len(data)} bytes are no frame; it was cut or damaged"):
        read(data)


@pytest.mark.parametrize("n_bytes", [0, 1, 7, 600])
def test_a_note_with_one_damaged_byte_is_refused(n_bytes):
    """Every byte and every damage: the checksum is linear, so that what holds for one payload holds for all."""
    frame = FRAME._replace(payload=bytes(n % 256 for n in range(n_bytes)))
    note = frame.note()
    for at, flip in itertools.product(range(len(note)), range(1, 256)):
        with pytest.raises(FrameError):
            read(note[:at] + bytes([note[at] ^ flip]) + note[at + 1 :], frame)
