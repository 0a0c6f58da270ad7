import pytest
import torch

from commlib.objective import LossTerms, Objective


def even(*shape):
    return torch.full(shape, 1.0 / torch.Size(shape).numel())


def test_the_total_is_the_sum_of_the_lines():
    terms = LossTerms(*(torch.tensor(float(x)) for x in (1, 2, 4, 8, 16, 32, 64, 128)))
    assert terms.total == 255


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate"),
    [(1.0, 2.0, 2.0), (1.5, 2.0, 2.4), (0.5, 2.0, 1.0), (1.5, -2.0, -3.0), (0.5, -2.0, -1.6)],
)
def test_the_surrogate_is_clipped_where_it_would_gain(ratio, advantage, surrogate):
    """Schulman et al. 2017, eq. 7, with a clip range of 0.2."""
    log_ratio = torch.tensor([[ratio]]).log().requires_grad_()
    loss = Objective(clip=0.2).policy(log_ratio, torch.tensor([[advantage]]), even(1, 1))
    assert loss.item() == pytest.approx(-surrogate)
    (gradient,) = torch.autograd.grad(loss, log_ratio)
    assert bool(gradient.any()) == (surrogate == pytest.approx(ratio * advantage))


def test_the_value_term_is_a_weighted_squared_error():
    predicted, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])
    assert float(Objective(value_weight=0.5).value(predicted, target, even(1, 2))) == pytest.approx(0.5 * 4 / 2)


def test_the_rate_term_is_the_bill():
    bits = torch.tensor([[3.0, 5.0], [0.0, 8.0]])
    assert float(Objective(bit_price=0.25).rate(bits, even(2, 2))) == pytest.approx(0.25 * 4)
    assert float(Objective().rate(bits, even(2, 2))) == 0


def test_samples_with_no_weight_do_not_count():
    weight = torch.tensor([[1.0, 0.0]])
    objective = Objective()
    assert float(objective.policy(torch.zeros(1, 2), torch.tensor([[2.0, 1e6]]), weight)) == pytest.approx(-2)
