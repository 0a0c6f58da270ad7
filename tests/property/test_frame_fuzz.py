"""Decoding a frame is total: any bytes give a frame or a FrameError, and a damaged frame does not pass as sound."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from commlib.errors import FrameError
from commlib.frame import Frame, unpack

counts = st.integers(0, 2**64 - 1)
frames = st.builds(
    Frame,
    run=st.binary(min_size=4, max_size=4),
    round=counts,
    trunk=counts,
    n_earlier=counts,
    silent=st.none() | st.binary(max_size=40),
    payload=st.binary(max_size=300),
)


@given(frames)
@settings(deadline=None)
def test_round_trip(frame):
    assert unpack(frame.pack()) == frame


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\x98\x01\xc4\x04" + tail))
@example(b"\x98" + b"\x91" * 1000 + b"\xc0" * 8)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_frame_or_a_frame_error(data):
    try:
        frame = unpack(data)
    except FrameError as error:
        assert "\n" not in str(error)
    else:
        assert frame.pack() == data


@given(frames, st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_frame_is_refused(frame, data):
    """A CRC-32 finds every change within 32 bits in a row; longer ones are cut or grown here."""
    sound = frame.pack()
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
        found = unpack(mutated)
    except FrameError:
        return
    raise AssertionError(f"{kind} at {at} passed as {found}")
