import pickle
import zlib

import msgpack
import pytest

from commlib.errors import ForeignCodec, FrameError
from commlib.frame import MAX_FRAME_BYTES, Frame, check_run, run_id, unpack

RUN = run_id("digest", "plan")
FRAME = Frame(RUN, 3, 1, 0, None, b"payload")


def packed(*fields, checksum=None):
    """A label with a right checksum, whatever its fields."""
    body = msgpack.packb([*fields, 0])[:-1]
    return body + msgpack.packb(zlib.crc32(body) if checksum is None else checksum)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        Frame(RUN, 0, 0, 0, None, b""),
        Frame(RUN, 2**40, 300, 9, b"\x80", b"x" * 70_000),
        Frame(b"\0\0\0\0", 127, 128, 200, b"", b"\0"),
    ],
)
def test_what_is_packed_comes_back(frame):
    assert unpack(frame.pack()) == frame


def test_a_small_frame_has_a_small_label():
    assert len(Frame(RUN, 3, 1, 0, None, b"").pack()) == 19


def test_the_label_is_an_array_with_the_checksum_last():
    fields = msgpack.unpackb(FRAME.pack())
    assert fields[:7] == [1, RUN, 3, 1, 0, None, b"payload"]
    assert fields[7] == zlib.crc32(FRAME.pack()[: -len(msgpack.packb(fields[7]))])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "0 bytes are no frame"),
        (FRAME.pack()[:-1], "it was cut or damaged"),
        (FRAME.pack() + b"\0", "it was cut or damaged"),
        (b"\xc0", "hold something else"),
        (b"\x91\x01", "a frame has 8 fields"),
        (packed(2, RUN, 3, 1, 0, None, b""), "of version 2, we read version 1; update the older end"),
        (packed("1", RUN, 3, 1, 0, None, b""), "the version of the frame is no number"),
        (packed(True, RUN, 3, 1, 0, None, b""), "the version of the frame is no number"),
        (packed(1, b"abc", 3, 1, 0, None, b""), "wrong type"),
        (packed(1, "abcd", 3, 1, 0, None, b""), "wrong type"),
        (packed(1, RUN, -3, 1, 0, None, b""), "wrong type"),
        (packed(1, RUN, 3, True, 0, None, b""), "wrong type"),
        (packed(1, RUN, 3.0, 1, 0, None, b""), "wrong type"),
        (packed(1, RUN, 3, 1, 0, 0, b""), "wrong type"),
        (packed(1, RUN, 3, 1, 0, None, None), "wrong type"),
        (packed(1, RUN, 3, 1, -1, None, b""), "wrong type"),
        (packed(1, RUN, 3, 1, 0, None, b"", checksum=1), "the checksum of a"),
        (packed(1, RUN, 3, 1, 0, None, b"", checksum=None).replace(b"\x03", b"\x04", 1), "the checksum of a"),
        (msgpack.packb({"version": 1}), "it was cut or damaged"),
        (pickle.dumps(FRAME._asdict()), "it was cut or damaged"),
        (b"\x98" + b"\xdd\xff\xff\xff\xff", "it was cut or damaged"),
        (b"\x98\x01\xc6\xff\xff\xff\xff", "it was cut or damaged"),
        (bytes(MAX_FRAME_BYTES + 1), "is over the limit"),
    ],
)
def test_what_is_no_frame_is_refused_with_a_sentence(data, sentence):
    with pytest.raises(FrameError, match=sentence):
        unpack(data)


def test_another_spelling_of_the_same_fields_is_refused():
    """msgpack can write 3 in nine ways; only ours is a frame, so that a frame has one length and one price."""
    long_three = FRAME.pack().replace(b"\x03", b"\xcd\x00\x03", 1)
    body = long_three[: -len(msgpack.packb(msgpack.unpackb(FRAME.pack())[7]))]
    with pytest.raises(FrameError, match="checksum"):
        unpack(body + msgpack.packb(zlib.crc32(body)))


@pytest.mark.parametrize("depth", [10, 500, 990, 1000, 1010, 1500, 100_000])
def test_deep_nesting_is_refused_and_overflows_no_stack(depth):
    for place in range(8):
        data = b"\x98" + b"\xc0" * place + b"\x91" * depth + b"\xc0" * (8 - place)
        with pytest.raises(FrameError):
            unpack(data)


def test_another_run_is_refused_by_name():
    check_run(FRAME, RUN)
    other = run_id("digest", "another plan")
    with pytest.raises(ForeignCodec, match=f"speaks {RUN.hex()}, we speak {other.hex()}"):
        check_run(FRAME, other)
    assert len({RUN, other, run_id("another digest", "plan")}) == 3
