"""A stated bill is in whole bits, rounded up by less than one, and never says that it was measured."""

from hypothesis import given
from hypothesis import strategies as st

from commlib.bill import BillRecord, Setting, from_mask_rate


@given(
    st.integers(0, 1000), st.integers(1, 64), st.integers(1, 64), st.integers(2, 9), st.integers(1, 99),
    st.integers(0, 99), st.sampled_from(["broadcast", "link"]), st.integers(1, 9),
)  # fmt: skip
def test_a_stated_bill_is_in_whole_bits_and_never_claims_too_much(
    mille, n_floats, bits, n_agents, n_steps, header, charging, n_episodes
):
    setting = Setting(n_agents, n_steps, n_episodes, 1, charging, header)
    bill = from_mask_rate(mille / 1000, n_floats, setting, float_bits=bits)
    speakers = n_agents * (n_agents - 1 if charging == "link" else 1)
    thousandths = mille * speakers * n_steps * n_episodes  # of a message
    assert 0 <= 1000 * bill.payload_bits - thousandths * n_floats * bits < 1000
    assert 0 <= 1000 * bill.wire_bits - thousandths * (n_floats * bits + header) < 1000
    assert bill.payload_bits <= bill.wire_bits
    assert "measured" not in {basis.kind for _, basis in bill.basis}
    assert BillRecord.from_json(bill.to_json()) == bill
