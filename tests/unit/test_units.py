import pytest

from commlib.errors import ConfigError
from commlib.units import format_bits, parse_amount, parse_microseconds, parse_rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64 bit/step", (64, "bits", "step")),
        ("64bits / step", (64, "bits", "step")),
        ("64 bits per step", (64, "bits", "step")),
        ("2 kB/episode", (16_000, "bits", "episode")),
        ("3 bytes/episode", (24, "bits", "episode")),
        ("1 Mbit/run", (1_000_000, "bits", "run")),
        ("0.5 GB/run", (4_000_000_000, "bits", "run")),
        ("300 bit", (300, "bits", "run")),
        ("1.5 kbit/step", (1_500, "bits", "step")),
        ("1_000 bit/step", (1_000, "bits", "step")),
        ("1e3 bit/step", (1_000, "bits", "step")),
        ("  7 bit/step ", (7, "bits", "step")),
        ("1 Mbit/s", (1_000_000, "bits", "second")),
        ("3 messages/episode", (3, "messages", "episode")),
        ("1 message per round", (1, "messages", "round")),
        ("2 rounds/episode", (2, "rounds", "episode")),
        ("1.5 ms/step", (1_500, "latency", "step")),
        ("2 s", (2_000_000, "latency", "run")),
        ("0.29 kB/run", (2_320, "bits", "run")),  # 0.29 * 8000 is 2319.99... in binary floating point
    ],
)
def test_a_budget_is_read(text, expected):
    assert parse_amount(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-5 bit/step", "is negative; it must be at least '1 bit/step'"),
        ("-0.5 messages/step", "is negative; it must be at least '1 message/step'"),
        ("1.9 messages/episode", "comes to 1.9 messages, and only whole ones count; write 1 or 2"),
        ("14.5 bit/episode", "comes to 14.5 bits, and only whole ones count; write 14 or 15"),
        ("2.5 rounds/step", "comes to 2.5 rounds, and only whole ones count; write 2 or 3"),
        ("0.3333 ms/step", "comes to 333.3 us, and only whole ones count; write 333 or 334"),
        ("1.00001 kB/run", "comes to 8000.08 bits, and only whole ones count; write 8000 or 8001"),
        ("0 bit/run", "at least '1 bit/run'"),
        ("0.9 bit/step", "less than one bit"),
        ("64/step", "no unit"),
        ("64", "no unit"),
        ("2 KB/step", "did you mean 'kB'"),
        ("64 kb/step", "did you mean 'kbit'?"),
        ("64 Kb/step", "did you mean 'kbit'?"),
        ("8 b/step", "did you mean 'bit'?"),
        ("64 kbps", "did you mean 'kbit/s'?"),
        ("1 Mbps", "did you mean 'Mbit/s'?"),
        ("1 mBps", "did you mean 'MB/s'?"),
        ("9 bps", "did you mean 'bit/s'?"),
        ("2 Kbit/step", "did you mean 'kbit'?"),
        ("2 kbits_/step", "cannot read"),
        ("2 kbyes/step", "did you mean 'kbyte"),
        ("2 zz/step", "did you mean 'bit'"),
        ("2 bit/stpe", "did you mean 'step'"),
        ("2 bit/epsiode", "did you mean 'episode'"),
        ("2 bit/", "cannot read"),
        ("bit/step", "cannot read"),
        ("", "cannot read"),
        ("inf bit/step", "cannot read"),
        ("nan", "cannot read"),
        ("1e99 bit/step", "leave it out"),
        ("9" * 5000 + " bit", "leave it out"),
        ("1e999999999 bit", "cannot read"),
    ],
)
def test_a_wrong_budget_is_refused_in_two_sentences_at_most(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_amount(text)
    assert said in str(caught.value)
    assert str(caught.value).count(". ") <= 1


def test_a_network_is_read_in_whole_units_too():
    assert (parse_rate("1.5 kbit/s"), parse_microseconds("1.5 ms")) == (1_500, 1_500)
    with pytest.raises(ConfigError, match=r"comes to 1.5 us, and only whole ones count; write 1 or 2"):
        parse_microseconds("1.5 us")
    with pytest.raises(ConfigError, match=r"comes to 1.5 bits, and only whole ones count; write 1 or 2"):
        parse_rate("1.5 bit/s")


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, "0 bit"),
        (999, "999 bit"),
        (1_000, "1 kbit"),
        (1_234, "1.2 kbit"),
        (999_949, "999.9 kbit"),
        (999_950, "1 Mbit"),
        (16_000_000, "16 Mbit"),
        (5 * 10**12, "5000 Gbit"),
        (-1_500, "-1.5 kbit"),
    ],
)
def test_bits_are_written_for_people(n, expected):
    assert format_bits(n) == expected
