"""The two ends of a trunk when frames get lost: what is read, what is wrong and for how long, and what is refused."""

from copy import deepcopy
from functools import lru_cache

import numpy as np
import pytest

from commlib.codec import fresh_context
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, TableCodec
from commlib.codecs.prior import fit_prior, uniform_prior
from commlib.ends import Ear, Mouth
from commlib.errors import FrameError
from commlib.frame import NOTE_BYTES, is_greeting, run_id
from commlib.message import Edge
from commlib.plan import make_plan

K, W = 8, 6
ALIVE = np.ones(W, bool)
BOOK = CodebookQuantiser(np.array([[i % 4, i // 4] for i in range(K)], np.float32))


@lru_cache
def codec(kind):
    """Eight codes of which the last one is mostly said again; or bytes as they are, without a codeword for silence."""
    if kind == "bytes":
        return TableCodec("bytes", ByteQuantiser(2, 2), uniform_prior(4, 256, "none"))
    numbers = np.random.default_rng(0)
    past = numbers.integers(0, K, (4000, 1))
    codes = np.where(numbers.random((4000, 1)) < 0.8, past, numbers.integers(0, K, (4000, 1)))
    context = np.concatenate([past, np.ones_like(past)], 1)
    context[:400] = fresh_context(400, 1)
    return TableCodec(kind, BOOK, fit_prior(codes, context, K, kind=kind))


class Line:
    """One sender, one listener on another host, W worlds; frames are carried, lost or spoilt by hand."""

    def __init__(self, kind, is_lossy=True, refresh_every=0):
        self.codec = codec(kind)
        plan = make_plan((Edge(0, 1),), (0, 1), "broadcast")._replace(is_lossy=is_lossy, refresh_every=refresh_every)
        run = run_id(self.codec.digest, repr(plan))
        self.mouth, self.ear = (end(0, plan, self.codec, run) for end in (Mouth, Ear))
        self.number = 0
        self.reset()

    def reset(self):
        for end in (self.mouth, self.ear):
            end.reset(W)

    def say(self, codes, silent=None, alive=ALIVE):
        """The bytes of this round's frame, and the codes that were to be said."""
        context = self.mouth.context(alive)
        expected = self.codec.expected(context)
        codes = np.asarray(codes).reshape(len(context), -1)
        if self.codec.silence_is_coded:
            spoken = (codes != expected).any(-1)
        else:
            spoken = np.ones(len(context), bool) if silent is None else ~silent
            codes = np.where(spoken[:, None], codes, expected)
        letter = self.mouth.frame(self.number, codes, context, spoken)
        self.mouth.said(codes, alive, was_sent=letter is not None)
        return (letter.data if letter else None), codes

    def hear(self, data, alive=ALIVE):
        reading = self.ear.read(self.number, data, alive)
        self.ear.heard(reading, alive, has_frame=data is not None)
        self.number += 1
        return reading

    def round(self, codes, is_lost=False, **who):
        """What was said and what was read; a lost frame is no frame."""
        data, said = self.say(codes, **who)
        return said, self.hear(None if is_lost else data)

    def in_step(self):
        return np.array_equal(self.mouth.context(ALIVE), self.ear.context(ALIVE)) and (
            self.mouth.n_frames == self.ear.n_frames
        )


def draw(seed, line):
    return np.random.default_rng(seed).integers(0, line.codec.alphabet, (W, line.codec.n_positions))


# --- greetings and notes


@pytest.mark.parametrize("kind", ["previous", "held", "bytes"])
def test_the_first_frame_is_a_greeting_and_all_later_ones_are_notes(kind):
    line = Line(kind)
    assert line.say(line.codec.expected(line.mouth.context(ALIVE)), silent=np.ones(W, bool))[0] is None
    line.hear(None)
    frames = [line.say(draw(seed, line))[0] for seed in range(3)]
    assert [is_greeting(data) for data in frames] == [True, False, False]
    line.reset()
    assert not is_greeting(line.say(draw(0, line))[0]), "who has met does not introduce himself again"


def test_a_note_is_three_bytes_and_the_stream():
    line = Line("held")
    line.round(draw(0, line))
    data, said = line.say(draw(1, line))
    assert len(data) == NOTE_BYTES + len(line.codec.encode(said, line.ear.context(ALIVE)))


def test_a_listener_who_missed_the_greeting_understands_the_notes():
    line = Line("held")
    first, _ = line.round(draw(0, line), is_lost=True)
    said, reading = line.round(draw(1, line))
    assert (reading.n_lost, reading.is_read) == (1, True)
    is_new = said != first
    assert is_new.sum() >= 4
    assert np.array_equal(reading.codes[is_new], said[is_new])


# --- (a) codecs that survive loss


def test_a_held_frame_after_a_lost_one_is_right_but_for_what_is_held():
    """Worlds 0 and 1 change in the lost frame, 2 and 3 in the next; only 0 and 1 are wrong, until they change again."""
    line = Line("held")
    line.round([0, 1, 2, 3, 4, 5])
    said, reading = line.round([7, 7, 2, 3, 4, 5], is_lost=True)
    assert np.flatnonzero((reading.codes != said).any(-1)).tolist() == [0, 1]
    said, reading = line.round([7, 7, 0, 1, 4, 5])
    assert (reading.is_read, reading.n_lost) == (True, 1)
    assert np.flatnonzero((reading.codes != said).any(-1)).tolist() == [0, 1], "they hold what never arrived"
    assert reading.codes[2:4].tolist() == [[0], [1]]
    said, reading = line.round([3, 7, 0, 1, 4, 5])
    assert np.flatnonzero((reading.codes != said).any(-1)).tolist() == [1], "0 has said something new"
    said, reading = line.round([3, 6, 0, 1, 4, 5])
    assert np.array_equal(reading.codes, said)
    assert line.in_step()


def test_over_many_rounds_a_held_message_is_wrong_only_since_it_was_last_lost():
    """In every world: right as soon as a frame that says a new code arrives; wrong only between."""
    line, numbers = Line("held"), np.random.default_rng(0)
    codes, is_stale, n_stale, n_lost = draw(0, line)[:, 0], np.zeros(W, bool), 0, 0
    for _ in range(400):
        before = line.mouth.context(ALIVE)[:, 0]
        codes = np.where(numbers.random(W) < 0.7, codes, numbers.integers(0, K, W))
        is_lost = numbers.random() < 0.3
        data, _ = line.say(codes)
        n_lost += is_lost and data is not None
        reading = line.hear(None if is_lost else data)
        if is_lost and data is not None:
            is_stale |= codes != before
        elif data is not None:
            is_stale &= codes == before
        is_wrong = reading.codes[:, 0] != codes
        assert not (is_wrong & ~is_stale).any()
        assert reading.is_read
        n_stale += is_wrong.sum()
    assert n_lost > 50
    assert 0 < n_stale < 0.5 * 400 * W


@pytest.mark.parametrize("lost", [(1,), (1, 2), (0, 3)])
def test_bytes_that_know_no_past_are_right_whenever_they_arrive(lost):
    line = Line("bytes")
    for number in range(6):
        silent = np.random.default_rng(number).random(W) < 0.3
        said, reading = line.round(draw(number, line), number in lost, silent=silent)
        assert reading.is_read
        if number not in lost:
            assert np.array_equal(reading.codes[~silent], said[~silent])
            assert reading.stream_bits == 8 * len(line.codec.encode(said[~silent], fresh_context((~silent).sum(), 4)))


# --- (b) codecs that do not


@pytest.mark.parametrize("every", [4, 5])
def test_a_previous_frame_after_a_lost_one_is_not_read_until_the_refresh_and_then_right(every):
    line = Line("previous", refresh_every=every)
    readings = [(*line.round(draw(number, line), is_lost=number == 1), number) for number in range(2 * every)]
    for said, reading, number in readings:
        is_deaf = 2 <= number < every
        assert reading.is_read == (not is_deaf)
        assert reading.n_lost == (1 if number == 2 else 0), "noticed once"
        if is_deaf:
            assert np.array_equal(reading.codes, readings[1][1].codes), "what was last delivered is kept"
            assert not np.array_equal(reading.codes, said)
        elif number != 1:
            assert np.array_equal(reading.codes, said)
    assert line.in_step()


def test_a_previous_line_without_refresh_is_deaf_until_links_are_fresh():
    line = Line("previous")
    for number in range(8):
        said, reading = line.round(draw(number, line), is_lost=number == 1)
        assert reading.is_read == (number < 2)
    line.reset()
    said, reading = line.round(draw(9, line))
    assert np.array_equal(reading.codes, said)
    assert line.in_step()


def test_silence_on_a_deaf_line_holds_what_was_last_delivered():
    line = Line("previous")
    line.round(draw(0, line))
    line.round(draw(1, line), is_lost=True)
    line.round(draw(2, line))
    before = line.ear.context(ALIVE)[:, :-1]
    _, reading = line.round(line.codec.expected(line.mouth.context(ALIVE)))
    assert np.array_equal(reading.codes, before)


def test_a_lost_refresh_leaves_the_line_deaf_until_the_next_one():
    line = Line("previous", refresh_every=3)
    for number in range(9):
        said, reading = line.round(draw(number, line), is_lost=number == 3)
        assert reading.is_read == (number not in {4, 5})
        if number not in {3, 4, 5}:
            assert np.array_equal(reading.codes, said)


# --- (c) refreshing by the clock, without loss


@pytest.mark.parametrize("is_lossy", [False, True])
@pytest.mark.parametrize("kind", ["previous", "held", "bytes"])
def test_a_refresh_keeps_both_ends_equal_and_costs_more(kind, is_lossy):
    sizes = []
    for every in (0, 3):
        line, numbers, codes, n_bytes = Line(kind, is_lossy, every), np.random.default_rng(0), None, 0
        codes = draw(0, line)
        for number in range(30):
            codes = np.where(numbers.random((W, 1)) < 0.8, codes, draw(number, line))
            if every and number and number % every == 0:
                assert line.mouth.is_refreshed
                assert np.array_equal(line.mouth.context(ALIVE), fresh_context(W, line.codec.n_positions))
            data, said = line.say(codes)
            n_bytes += len(data or b"")
            reading = line.hear(data)
            assert np.array_equal(reading.codes, said)
            assert line.in_step()
            assert (reading.n_lost, reading.is_read) == (0, True)
            assert line.mouth.context(ALIVE)[0, -1] == (0 if line.mouth.is_refreshed else number % (every or 99) + 1)
        sizes.append(n_bytes)
    assert sizes[0] < sizes[1] if kind != "bytes" else sizes[0] == sizes[1]


def test_worlds_that_ended_stay_out_of_it():
    line, alive = Line("held", refresh_every=3), ALIVE.copy()
    for number in range(9):
        alive[number // 2] = False
        if alive.any():
            data, said = line.say(draw(number, line)[alive], alive=alive)
            assert np.array_equal(line.hear(data, alive).codes, said)


# --- (d) a plan that is not lossy


@pytest.mark.parametrize("kind", ["previous", "held", "bytes"])
def test_a_gap_on_a_plan_that_is_not_lossy_is_an_error_and_moves_nothing(kind):
    line = Line(kind, is_lossy=False)
    line.round(draw(0, line))
    line.round(draw(1, line), is_lost=True)
    data, _ = line.say(draw(2, line))
    before = deepcopy(line.ear)
    with pytest.raises(FrameError, match="1 frames were heard on trunk 0, 2 were sent before this one: some were lost"):
        line.ear.read(line.number, data, ALIVE)
    assert np.array_equal(line.ear.context(ALIVE), before.context(ALIVE))
    assert (line.ear.n_frames, line.ear._age, line.ear._is_deaf) == (before.n_frames, before._age, before._is_deaf)


# --- any plan


@pytest.mark.parametrize("is_lossy", [False, True])
def test_damage_duplicates_and_late_frames_are_refused_on_any_plan(is_lossy):
    line = Line("held", is_lossy=is_lossy)
    greeting, _ = line.say(draw(0, line))
    line.hear(greeting)
    first, _ = line.say(draw(1, line))
    line.hear(first)
    data, said = line.say(draw(2, line))
    before = line.ear.context(ALIVE)
    for wrong in (greeting, first, data[:-1], data[1:], data + b"\0", bytes([data[0], data[1] ^ 4]) + data[2:], b""):
        with pytest.raises(FrameError):
            line.ear.read(line.number, wrong, ALIVE)
    with pytest.raises(FrameError, match="another round"):
        line.ear.read(line.number + 1, data, ALIVE)
    assert np.array_equal(line.ear.context(ALIVE), before)
    assert np.array_equal(line.hear(data).codes, said)


@pytest.mark.parametrize("n_lost", [3, 127, 128, 300])
def test_any_number_of_lost_frames_in_a_row_is_counted(n_lost):
    line = Line("held")
    line.round(draw(0, line))
    sent = 0
    for number in range(n_lost):
        data, _ = line.say((draw(0, line) + number + 1) % K)
        sent += data is not None
        line.hear(None)
    assert sent == n_lost
    said, reading = line.round((draw(0, line) + n_lost + 1) % K)
    assert (reading.n_lost, reading.is_read) == (n_lost, True)
    assert np.array_equal(reading.codes, said)
    assert line.in_step()


def test_counts_go_round_at_128_and_nobody_notices():
    line = Line("previous", is_lossy=False)
    for number in range(300):
        data, said = line.say((draw(0, line) + number) % K)
        if number:
            assert data[0] == number % 128
        assert np.array_equal(line.hear(data).codes, said)
    assert line.mouth.n_frames == 300
