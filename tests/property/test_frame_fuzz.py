"""Decoding a frame is total: any bytes give a frame or a FrameError, and a damaged frame does not pass as sound."""

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from commlib.errors import FrameError
from commlib.frame import NOTE_BYTES, Frame, is_greeting, unpack_greeting, unpack_note

counts = st.integers(0, 2**63 - 1)
runs = st.binary(min_size=4, max_size=4)
frames = st.builds(Frame, run=runs, round=counts, trunk=counts, n_earlier=counts, payload=st.binary(max_size=1000))


def read(data, frame, n_heard=None):
    """What a receiver who expects `frame` makes of these bytes."""
    if is_greeting(data):
        return unpack_greeting(data)
    n_heard = frame.n_earlier if n_heard is None else n_heard
    return unpack_note(data, frame.run, frame.round, frame.trunk, n_heard, n_heard + 127)


@given(frames, st.integers(0, 127))
@settings(deadline=None)
def test_round_trip(frame, n_lost):
    assert read(frame.greeting(), frame) == frame
    assume(n_lost <= frame.n_earlier)
    assert read(frame.note(), frame, frame.n_earlier - n_lost) == frame
    assert len(frame.note()) == NOTE_BYTES + len(frame.payload) < len(frame.greeting())


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\x97\x02\xc4\x04" + tail))
@example(b"\x97" + b"\x91" * 1000 + b"\xc0" * 8)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_greeting_or_a_frame_error(data):
    try:
        frame = unpack_greeting(data)
    except FrameError as error:
        assert "\n" not in str(error)
    else:
        assert frame.greeting() == data


@given(st.binary(max_size=60), frames, st.integers(0, 1000))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_note_or_a_frame_error(data, frame, n_rounds):
    try:
        found = unpack_note(data, frame.run, frame.round, frame.trunk, frame.n_earlier, frame.n_earlier + n_rounds)
    except FrameError as error:
        assert "\n" not in str(error)
    else:
        assert found.note() == data
        assert frame.n_earlier <= found.n_earlier <= frame.n_earlier + n_rounds


@given(frames, st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_greeting_is_refused(frame, data):
    """A CRC-32 finds every change within 32 bits in a row; longer ones are cut or grown here."""
    sound = frame.greeting()
    at = data.draw(st.integers(0, len(sound) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "repeat"]))
    if kind == "flip":
        mutated = sound[:at] + bytes([sound[at] ^ data.draw(st.integers(1, 255))]) + sound[at + 1 :]
    elif kind == "cut":
        mutated = sound[:at]
    elif kind == "grow":
        mutated = sound + data.draw(st.binary(min_size=1, max_size=8))
    else:
        mutated = sound * 2
    try:
        found = unpack_greeting(mutated)
    except FrameError:
        return
    raise AssertionError(f"{kind} at {at} passed as {found}")


@given(frames, st.data())
@settings(max_examples=300, deadline=None)
def test_a_note_with_two_damaged_bytes_in_a_row_is_refused(frame, data):
    """A CRC-16 finds every change within 16 bits in a row."""
    sound = frame.note() if frame.payload else frame._replace(payload=b"x").note()
    at, burst = data.draw(st.integers(1, len(sound) - 2)), data.draw(st.integers(1, 2**16 - 1)).to_bytes(2, "big")
    mutated = sound[:at] + bytes([sound[at] ^ burst[0], sound[at + 1] ^ burst[1]]) + sound[at + 2 :]
    try:
        found = read(mutated, frame)
    except FrameError:
        return
    raise AssertionError(f"a flip at {at} passed as {found}")
