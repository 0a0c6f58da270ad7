"""Priors counted from known sources: each kind earns what it knows, and is not fooled by what it does not."""

import numpy as np
import pytest
import torch

from commlib.codec import fresh_context, next_context
from commlib.codecs.frozen import GridQuantiser, TableCodec
from commlib.codecs.prior import Prior, fit_prior, fit_prior_report, uniform_prior
from commlib.codecs.rate import RateTable, fresh_like
from commlib.codecs.rows import KINDS, grid_of
from commlib.errors import CodecError

K = 8


def chains(n_rounds=40, n_chains=100, n_positions=2, seed=0, hold=0.7):
    """Messages that are held or drawn anew; a new one's second number is the first plus 0 or 1, on average in between.

    Returns contexts [n, P + 1] and codes [n, P], by round and chain.
    """
    numbers = np.random.default_rng(seed)
    context = fresh_context(n_chains, n_positions)
    contexts, said = [], []
    for _ in range(n_rounds):
        first = numbers.choice(K, n_chains, p=0.7 ** np.arange(K) / (0.7 ** np.arange(K)).sum())
        steps = numbers.integers(0, 2, (n_chains, n_positions)).cumsum(-1) - 1
        new = (first[:, None] + steps * (np.arange(n_positions) > 0)) % K
        is_held = (numbers.random(n_chains) < hold) & (context[:, -1] > 0)
        codes = np.where(is_held[:, None], context[:, :-1], new)
        contexts.append(context)
        said.append(codes)
        context = next_context(context, codes)
    return np.concatenate(contexts), np.concatenate(said)


def fitted(kind, n_ages=1, **source):
    context, codes = chains(**source)
    return fit_prior(codes, context, K, kind, n_ages)


def grid(prior):
    n = prior.n_positions
    return TableCodec("grid", GridQuantiser(np.zeros(n, np.float32), np.ones(n, np.float32), K), prior)


@pytest.mark.parametrize("n_ages", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_500_messages_take_what_was_estimated(kind, n_ages):
    codec = grid(fitted(kind, n_ages, n_positions=3))
    context, codes = (part[-500:] for part in chains(seed=1, n_positions=3))
    payload = codec.encode(codes, context)
    estimate = codec.estimate_bits(codes, context).sum()
    assert np.array_equal(codec.decode(payload, context), codes)
    assert estimate - 1 <= 8 * len(payload) <= estimate + 17, "no stream is shorter than it can be, nor much longer"


def test_who_knows_more_pays_less_on_messages_that_hold():
    context, codes = chains(seed=1)
    bits = {kind: fitted(kind).estimate_bits(codes, context).mean() for kind in KINDS}
    assert bits["held"] < 0.6 * bits["none"]
    assert bits["previous"] < 0.6 * bits["none"]
    assert bits["staged"] < 0.9 * bits["previous"], "the second number hangs on the first"
    assert bits["trellis"] == pytest.approx(bits["none"], rel=0.05), "no trellis made these numbers"
    assert bits["held"] == pytest.approx(bits["previous"], rel=0.1), "a hold is all that there is to know of the past"


def test_a_trellis_prior_learns_what_lies_on_its_grids():
    numbers = np.random.default_rng(0)
    codes = numbers.integers(0, K, (3000, 5))
    for t in range(5):
        codes[:, t] = np.where(grid_of(codes, t) == 1, numbers.integers(0, 2, 3000), codes[:, t])
    context = fresh_context(3000, 5)
    bits = {
        kind: fit_prior(codes[:2000], context[:2000], K, kind).estimate_bits(codes[2000:], context[2000:]).mean()
        for kind in ("none", "trellis")
    }
    assert bits["trellis"] < bits["none"] - 0.5


def test_ages_pay_where_links_change_as_they_age_and_cost_little_where_not():
    context, codes = chains(n_rounds=6)
    later, later_codes = chains(n_rounds=6, seed=1)
    young = (later[:, -1] < 2)[:, None]
    codes, later_codes = np.where(context[:, -1:] < 2, 3, codes), np.where(young, 3, later_codes)
    bits = [fit_prior(codes, context, K, "none", n).estimate_bits(later_codes, later).mean() for n in (1, 3)]
    assert bits[1] < 0.8 * bits[0], "the first two rounds always say 3"
    same = [fitted("held", n).estimate_bits(*chains(seed=1)[::-1]).mean() for n in (1, 3)]
    assert same[1] == pytest.approx(same[0], rel=0.03)


def test_the_last_age_stands_for_all_later():
    prior = fitted("none", n_ages=3)
    codes = np.zeros((6, 2), np.int64)
    context = np.concatenate([np.zeros((6, 2), np.int64), np.arange(6)[:, None]], 1)
    bits = prior.estimate_bits(codes, context)
    assert len(set(bits[:3].tolist())) == 3
    assert len(set(bits[2:].tolist())) == 1


def test_a_held_out_rate_tells_which_kind_pays():
    context, codes = chains()
    reports = {kind: fit_prior_report(codes, context, K, kind) for kind in KINDS}
    later, later_codes = chains(seed=1)
    for report in reports.values():
        assert report.held_out_bits == pytest.approx(report.prior.estimate_bits(later_codes, later).mean(), rel=0.1)
    assert min(reports, key=lambda kind: reports[kind].held_out_bits) == "staged"


def test_a_held_stream_is_read_by_one_who_missed_the_last():
    codec = grid(fitted("held"))
    context, codes = (part[-300:] for part in chains(seed=1))
    missed = context.copy()
    missed[::3, :-1] = (missed[::3, :-1] + 1) % K
    found = codec.decode(codec.encode(codes, context), missed)
    is_again = codes == context[:, :-1]
    assert is_again.any() and not is_again.all()
    assert np.array_equal(found[~is_again], codes[~is_again])
    assert np.array_equal(found[is_again], missed[:, :-1][is_again])
    stranger = grid(fitted("previous"))
    assert (stranger.decode(stranger.encode(codes, context), missed)[~is_again] != codes[~is_again]).any()


def test_the_expected_message_of_a_held_prior_is_never_the_past_in_other_words():
    """Code 0 is likelier than "the same again"; where 0 was last said, it can only be said as "again", and 1 is likelier."""
    table = np.array([[[40000, 20000, 5000, 536], [40000, 20000, 4536, 1000]]], np.uint32)
    prior = Prior(table, "held")
    context = np.array([[-1, 0], [2, 1], [0, 1], [1, 1]])
    assert prior.expected(context).tolist() == [[0], [0], [1], [0]]
    assert prior.estimate_bits(prior.expected(context), context)[2] == pytest.approx(-np.log2(20000 / 65536))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: Prior(np.full((1, 3, 4), 1 << 14, np.uint32), "held"),
            "of kind 'held' over 3 codes needs 2 rows of 4",
        ),
        (
            lambda: Prior(np.full((1, 5, 4), 1 << 14, np.uint32), "previous", 2),
            "needs 10 rows of 4 symbols, not 5 of 4",
        ),
        (lambda: Prior(np.full((1, 5, 4), 1 << 14, np.uint32), "previous", 0), "at least one age"),
        (lambda: Prior(np.full((5, 4), 1 << 14, np.uint32)), r"needs the shape \[P, A R, S\]"),
        (lambda: uniform_prior(1, 1, "none"), "at least 2 codes to choose from, not 1"),
        (lambda: uniform_prior(1, 4, "second sight"), "conditioned on 'second sight'"),
        (lambda: fit_prior(np.zeros((1, 1), np.int64), fresh_context(1, 1), 4), "at least 2 messages"),
    ],
)
def test_a_table_of_another_shape_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(CodecError, match=sentence):
        call()


# --- the same prior in training


@pytest.mark.parametrize("n_ages", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_training_charges_what_the_wire_estimates(kind, n_ages):
    prior = fitted(kind, n_ages)
    context, codes = chains(seed=2)
    table = RateTable(2, K, kind, n_ages)
    table.set_prior(prior)
    bits = table(torch.from_numpy(codes), torch.from_numpy(context))
    assert np.allclose(bits.numpy(), prior.estimate_bits(codes, context), atol=1e-4)
    batch = table(torch.from_numpy(codes).view(40, 100, 2), torch.from_numpy(context).view(40, 100, 3))
    assert torch.equal(batch.flatten(), bits), "any number of leading dimensions"


def test_training_without_a_context_is_on_a_fresh_link():
    table = RateTable(2, K, "held")
    codes = torch.tensor([[1, 2], [3, 3]])
    assert fresh_like(codes).tolist() == fresh_context(2, 2).tolist()
    table.set_prior(fitted("held"))
    assert torch.equal(table(codes, None), table(codes, fresh_like(codes)))
    assert not torch.equal(table(codes, None), table(codes, torch.tensor([[1, 2, 1], [3, 3, 1]])))
