"""What each kind of prior knows before a symbol is said: by hand, in numpy and in torch."""

import numpy as np
import pytest
import torch

from commlib.codec import START
from commlib.codecs.rows import KINDS, codes_of, grid_of, n_rows, n_symbols, row, rows, symbols
from commlib.errors import CodecError

K, P, N = 5, 4, 200


def drawn(seed=0):
    """Pasts [N, P], a third of them fresh, and codes [N, P], half of them as last time."""
    numbers = np.random.default_rng(seed)
    past = numbers.integers(0, K, (N, P))
    past[: N // 3] = START
    codes = np.where((numbers.random((N, P)) < 0.5) & (past != START), past, numbers.integers(0, K, (N, P)))
    return past, codes


def one(kind, position, past, codes):
    return row(kind, position, np.array([past]), np.array([codes]), K).tolist()[0]


def test_a_table_has_as_many_rows_and_symbols_as_its_kind_tells_apart():
    assert [n_rows(kind, K) for kind in KINDS] == [1, K + 1, 2 * K + 1, 2, 2]
    assert [n_symbols(kind, K) for kind in KINDS] == [K, K, K, K + 1, K]
    with pytest.raises(CodecError, match="conditioned on 'magic'; there are none, previous, staged, held, trellis"):
        n_rows("magic", K)


def test_none_knows_nothing_and_previous_the_last_symbol():
    assert [one("none", p, [START, 3], [1, 1]) for p in (0, 1)] == [0, 0]
    assert [one("previous", p, [START, 3], [1, 1]) for p in (0, 1)] == [0, 4]


def test_held_knows_only_whether_the_link_is_fresh():
    assert one("held", 0, [START], [2]) == 0
    assert {one("held", 0, [past], [code]) for past in range(K) for code in range(K)} == {1}


def test_a_stage_knows_its_predecessor_and_where_all_before_is_as_last_time_its_own_past():
    assert one("staged", 0, [START, START], [2, 4]) == 0
    assert one("staged", 0, [3, 1], [2, 4]) == 4, "the first position: as `previous`"
    assert one("staged", 1, [START, START], [2, 4]) == 1 + 2, "a fresh link: the predecessor, 2"
    assert one("staged", 1, [3, 1], [2, 4]) == 1 + 2, "another first symbol: the predecessor again"
    assert one("staged", 1, [2, 1], [2, 4]) == K + 1 + 1, "the same first symbol: what came after it last time, 1"
    assert one("staged", 2, [2, 1, 3], [2, 4, 0]) == 1 + 4, "same, then different: the predecessor, 4"
    assert one("staged", 2, [2, 1, 3], [2, 1, 0]) == K + 1 + 3


def test_a_grid_follows_ungerboecks_recursion():
    """u[t] = parity[t] + u[t-1] + u[t-3], the grid at t is u[t-2]: written out with a list, for all parities of length 8."""
    parities = np.array(np.unravel_index(np.arange(256), (2,) * 8)).T
    wanted = []
    for bits in parities.tolist():
        u = [0, 0, 0]  # u[-3], u[-2], u[-1]
        grids = []
        for t in range(8):
            grids.append(u[t + 1])
            u.append((bits[t] + u[t + 2] + u[t]) % 2)
        wanted.append(grids)
    found = np.stack([grid_of(parities + 2 * np.arange(256)[:, None], t) for t in range(8)], 1)
    assert found.tolist() == wanted
    assert [np.unique(found[:, t]).tolist() for t in range(8)] == [[0], [0]] + [[0, 1]] * 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_nothing_that_is_said_later(kind):
    past, codes = drawn()
    for position in range(P):
        hidden = codes.copy()
        hidden[:, position:] = 0
        found = row(kind, position, past, hidden, K)
        assert np.array_equal(found, rows(kind, past, codes, K)[:, position])
        assert 0 <= found.min() <= found.max() < n_rows(kind, K)


@pytest.mark.parametrize("kind", KINDS)
def test_symbols_mean_their_codes_again(kind):
    past, codes = drawn()
    said = symbols(kind, codes, past, K)
    assert 0 <= said.min() <= said.max() < n_symbols(kind, K)
    assert np.array_equal(codes_of(kind, said, past, K), codes)
    assert (said == K).any() == (kind == "held")


@pytest.mark.parametrize("kind", ["none", "held", "trellis"])
def test_a_row_of_a_kind_that_survives_loss_is_the_same_with_another_past(kind):
    past, codes = drawn()
    other = np.where(past == START, START, (past + 1) % K)
    assert np.array_equal(rows(kind, past, codes, K), rows(kind, other, codes, K))


def test_the_same_again_means_nothing_on_a_fresh_link():
    assert codes_of("held", np.array([[K, 2]]), np.array([[START, START]]), K).tolist() == [[START, 2]]
    assert codes_of("held", np.array([[K, 2]]), np.array([[3, 3]]), K).tolist() == [[3, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_arrays_have_the_same_rows_and_symbols(kind):
    past, codes = drawn()
    pasts, coded = torch.from_numpy(past), torch.from_numpy(codes)
    for function in (lambda q, c: rows(kind, q, c, K), lambda q, c: symbols(kind, c, q, K)):
        tensor = function(pasts, coded)
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.int64
        assert np.array_equal(tensor.numpy(), function(past, codes))
