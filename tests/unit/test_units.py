import pytest

from commlib.errors import ConfigError
from commlib.units import format_bits, parse_budget_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64 bit/step", (64, "step")),
        ("64bits / step", (64, "step")),
        ("64 bits per step", (64, "step")),
        ("2 kB/episode", (16_000, "episode")),
        ("3 bytes/episode", (24, "episode")),
        ("1 Mbit/run", (1_000_000, "run")),
        ("0.5 GB/run", (4_000_000_000, "run")),
        ("300 bit", (300, "run")),
        ("1.5 kbit/step", (1_500, "step")),
        ("1_000 bit/step", (1_000, "step")),
        ("1e3 bit/step", (1_000, "step")),
        ("  7 bit/step ", (7, "step")),
        ("1.99 bit/step", (1, "step")),
        ("0.29 kB/run", (2_320, "run")),  # 0.29 * 8000 is 2319.99... in binary floating point
    ],
)
def test_a_budget_is_read(text, expected):
    assert parse_budget_text(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-5 bit/step", "at least '1 bit/step'"),
        ("0 bit/run", "at least '1 bit/run'"),
        ("0.9 bit/step", "less than one bit"),
        ("64/step", "no unit"),
        ("64", "no unit"),
        ("2 KB/step", "did you mean 'kB'"),
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
        ("1e99 bit/step", "unlimited"),
        ("9" * 5000 + " bit", "unlimited"),
        ("1e999999999 bit", "cannot read"),
    ],
)
def test_a_wrong_budget_is_refused_in_two_sentences_at_most(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_budget_text(text)
    assert said in str(caught.value)
    assert str(caught.value).count(". ") <= 1


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
