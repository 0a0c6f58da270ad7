"""A bill adds up or is refused; the test vectors hold, by every way to make a bill; a run's bill has the run's figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from commlib.bill import (
    BillRecord,
    SentFrame,
    Setting,
    bill_of_run,
    figures,
    from_float_count,
    from_frames,
    from_mask_rate,
    from_tokens,
    schema,
)
from commlib.errors import ConfigError
from commlib.frame import shares
from commlib.records import Result

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "docs" / "accounting" / "vectors.json").read_text())
RESULTS = sorted((ROOT / "docs" / "results").glob("*-ours*-0.json"))
EXAMPLE = VECTORS["example"]


def setting_of(told):
    names = {
        "n_agents": "agents",
        "n_steps": "steps",
        "n_episodes": "episodes",
        "n_rounds": "rounds",
        "charging": "charging",
        "header_bits": "header_bits",
    }
    return Setting(**{own: told[name] for own, name in names.items() if name in told})


def made(kind, told):
    """A bill as a vector says it is made."""
    setting = setting_of(told)
    if kind == "mask_rate":
        return from_mask_rate(
            told["mask_rate"], told["floats"], setting, float_bits=told["float_bits"], n_edges=told.get("edges")
        )
    if kind == "float_count":
        return from_float_count(
            told["float_count"], setting, float_bits=told["float_bits"], n_messages=told.get("messages")
        )
    if kind == "tokens":
        return from_tokens(
            told["tokens"],
            setting,
            vocabulary=told.get("vocabulary"),
            bytes_per_token=told.get("bytes_per_token"),
            n_messages=told.get("messages"),
        )
    assert kind == "frames"
    frames = [
        SentFrame(f["bytes"], f["payload_bits"], f["messages"], f["hearers"], f["sendings"]) for f in told["frames"]
    ]
    return from_frames(
        frames, setting, absence=told["absence"], estimate_bits=told["estimate_bits"], n_worlds=told["worlds"]
    )


def told_of(bill):
    """What a vector may expect of a bill, by name."""
    plain = bill.to_json()
    sums = {name: plain[name] for name in ("estimate_bits", "payload_bits", "wire_bits")}
    return {
        **sums,
        **plain["counts"],
        **figures(bill).to_json(),
        "header_bits": bill.header_bits,
        "covered": plain["covered"],
    }


def compare(found, expected, where):
    if isinstance(expected, dict):
        for name, value in expected.items():
            compare(found[name], value, f"{where}: {name}")
    elif expected is None or isinstance(expected, str):
        assert found == expected, where
    else:
        assert found == pytest.approx(expected, rel=1e-9, abs=0), where


CASES = {case["name"]: case for case in VECTORS["cases"]}
MADE = {name: case for name, case in CASES.items() if case["kind"] not in ("shares", "bill")}
PATCHED = {name: case for name, case in CASES.items() if case["kind"] == "bill"}


def test_there_are_vectors_of_every_kind():
    assert len(CASES) == len(VECTORS["cases"]) >= 35, "names are used once"
    assert {case["kind"] for case in CASES.values()} == {
        "mask_rate", "float_count", "tokens", "frames", "shares", "bill",
    }  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_vector_holds(name):
    case = MADE[name]
    bill = made(case["kind"], case["input"])
    compare(told_of(bill), case["expected"], name)
    assert BillRecord.from_json(json.loads(json.dumps(bill.to_json()))) == bill
    jsonschema.validate(bill.to_json(), schema())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["kind"] == "shares"])
def test_whole_shares_add_up(name):
    case = CASES[name]
    assert shares(case["input"]["bits"], case["input"]["messages"]) == case["expected"]
    assert sum(case["expected"]) == case["input"]["bits"]


@pytest.mark.parametrize("name", PATCHED)
def test_a_bill_is_taken_or_refused(name):
    data = {**EXAMPLE, **PATCHED[name]["input"]}
    if PATCHED[name]["expected"]:
        assert BillRecord.from_json(data).to_json() == data
    else:
        with pytest.raises(ConfigError):
            BillRecord.from_json(data)


REFUSED = {
    "payload": ({"payload_bits": 185, "items": []}, "a payload of 185 bits is more than the 184 bits on the wire"),
    "lines": ({"wire_bits": 192}, "wire_bits is 192, but its lines add up to 184"),
    "half a line": (
        {"items": [{"name": "all", "payload_bits": None, "wire_bits": 184}]},
        "payload_bits is 16, but its lines are [None]",
    ),
    "no frame": ({"counts": {**EXAMPLE["counts"], "frames": 0}}, "payload_bits is 16, yet there are 0 frames"),
    "nan": ({"estimate_bits": float("nan")}, "estimate_bits: Input should be a finite number"),
    "infinity": ({"estimate_bits": float("inf")}, "estimate_bits: Input should be a finite number"),
    "negative count": (
        {"counts": {**EXAMPLE["counts"], "messages": -1}},
        "counts.messages",
    ),
    "a number in words": ({"payload_bits": "16"}, "payload_bits: Input should be a valid integer"),
    "yes": ({"payload_bits": True, "items": []}, "payload_bits: Input should be a valid integer"),
    "too many bits": ({"wire_bits": 2**53, "items": []}, "wire_bits: Input should be less than 9007199254740992"),
    "a rule of its own": (
        {"charging_rule": {**EXAMPLE["charging_rule"], "paid": "free"}},
        "charging_rule.paid: Input should be 'broadcast' or 'link'",
    ),
    "no source": ({"source": {**EXAMPLE["source"], "work": ""}}, "source.work"),
    "version": ({"bill": 2}, "this is no bill of version 1: its field `bill` is 2"),
    "version yes": ({"bill": True}, "this is no bill of version 1: its field `bill` is True"),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_says_what_is_wrong(changes, sentence):
    with pytest.raises(ConfigError) as refused:
        BillRecord.from_json({**EXAMPLE, **changes})
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [[], None, 3, "bill", {}])
def test_what_is_no_bill_at_all_is_refused(data):
    with pytest.raises(ConfigError, match="this is no bill of version 1"):
        BillRecord.from_json(data)


@pytest.mark.parametrize("missing", ["wire_bits", "basis", "counts", "covered", "source", "charging_rule"])
def test_nothing_may_be_left_unsaid(missing):
    with pytest.raises(ConfigError, match=f"{missing}: Field required"):
        BillRecord.from_json({name: value for name, value in EXAMPLE.items() if name != missing})


def test_a_bill_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        BillRecord.from_json(EXAMPLE).wire_bits = 0


HERE = Setting(n_agents=5, n_steps=20)
IMPOSSIBLE = {
    "rate above 1": (lambda: from_mask_rate(1.4, 64, HERE), "a mask rate of 1.4 is no share"),
    "rate not a number": (lambda: from_mask_rate(float("nan"), 64, HERE), "a mask rate of nan is no share"),
    "no floats": (lambda: from_mask_rate(0.4, 0, HERE), "0 floats are impossible"),
    "no bits": (lambda: from_mask_rate(0.4, 64, HERE, float_bits=0), "0 bits per float are impossible"),
    "no agents": (lambda: from_mask_rate(0.4, 64, Setting(n_steps=20)), "say how many of both there are"),
    "no steps": (lambda: from_mask_rate(0.4, 64, Setting(5, 0)), "0 steps are no episode"),
    "edges, paid once": (lambda: from_mask_rate(0.4, 64, HERE, n_edges=4), "4 edges make no difference"),
    "too many edges": (
        lambda: from_mask_rate(0.4, 64, HERE._replace(charging="link"), n_edges=21),
        "5 agents have 20 edges at most, not 21",
    ),
    "alone": (lambda: from_mask_rate(0.4, 64, Setting(1, 20, charging="link")), "one agent has nobody to talk to"),
    "rule": (lambda: from_mask_rate(0.4, 64, HERE._replace(charging="free")), "there is no charging rule 'free'"),
    "header": (lambda: from_mask_rate(0.4, 64, HERE._replace(header_bits=-1)), "-1 bits of header are impossible"),
    "header of what": (
        lambda: from_float_count(9, HERE._replace(header_bits=8)),
        "say how many messages an episode has",
    ),
    "episodes": (lambda: from_float_count(9, HERE._replace(n_episodes=0)), "0 episodes are impossible"),
    "less than nothing": (lambda: from_float_count(-9, HERE), "-9 floats are impossible"),
    "without end": (lambda: from_float_count(float("inf"), HERE), "inf floats are impossible"),
    "too much": (lambda: from_float_count(2**52, HERE), "2^53 or more; bill fewer episodes"),
    "tokens without size": (lambda: from_tokens(9, HERE), "tokens have no size by themselves"),
    "no vocabulary": (lambda: from_tokens(9, HERE, vocabulary=0), "0 tokens of a vocabulary are impossible"),
    "frame too small": (
        lambda: from_frames([SentFrame(1, 9)], HERE, absence="numbered"),
        "a frame of 1 bytes with 9 bits of payload",
    ),
    "frame to nobody": (lambda: from_frames([SentFrame(1, 8, n_hearers=0)], HERE, absence="numbered"), "is impossible"),
}


@pytest.mark.parametrize(("make", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_the_impossible_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ConfigError) as refused:
        make()
    assert sentence in str(refused.value)


def kinds(bill):
    return bill.basis.estimate.kind, bill.basis.payload.kind, bill.basis.wire.kind, bill.charging_rule.basis.kind


def test_a_bill_says_what_was_assumed():
    said = from_mask_rate(0.4, 64, HERE._replace(charging="broadcast"), float_bits=32)
    assert kinds(said) == ("unknown", "derived", "unknown", "derived")
    assumed = from_mask_rate(0.4, 64, HERE._replace(header_bits=24))
    assert kinds(assumed) == ("unknown", "assumed", "assumed", "assumed")
    assert "32 bits per float are assumed; that a message is paid once for all is assumed" in assumed.basis.payload.text
    full = from_mask_rate(1, 64, HERE._replace(charging="link"), float_bits=32)
    assert full.basis.payload.kind == "assumed"
    assert "a full graph is assumed" in full.basis.payload.text
    assert from_float_count(9, HERE).basis.payload.kind == "assumed"
    assert kinds(from_tokens(9, HERE, vocabulary=4)) == ("assumed", "derived", "unknown", "assumed")


def test_silence_is_only_called_free_where_there_is_any():
    assert from_mask_rate(0.4, 64, HERE).charging_rule.absence == "unstated"
    assert from_mask_rate(1, 64, HERE).charging_rule.absence == "never"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_runs_bill_has_the_runs_figures(path):
    result = Result.from_json(json.loads(path.read_text()))
    bill = bill_of_run(result)
    assert bill.wire_bits == result.ledger.spent == 8 * result.wire_bytes
    assert kinds(bill) == ("measured",) * 4
    for name in ("per_agent_step", "per_agent_episode", "per_message"):
        own, theirs = getattr(figures(bill), name), getattr(result.bits, name)
        for kind in ("estimate", "payload", "wire"):
            shown_to = 5e-6 if kind == "estimate" else 1e-6  # a mean with six decimals, divided by fewer messages
            assert getattr(own, kind) == pytest.approx(getattr(theirs, kind), rel=0, abs=shown_to)
    assert bill.counts.agents > max(max(edge) for edge in result.edges)
    assert (bill.counts.frames, bill.counts.parallel_worlds) == (result.frames, result.parallel_worlds)


def test_a_run_without_messages_costs_nothing():
    result = Result.from_json(json.loads((ROOT / "docs" / "results" / "guide-ours-0.json").read_text()))
    nothing = result.bits.per_message.model_copy(update={"estimate": 0.0, "payload": 0.0, "wire": 0.0})
    bits = result.bits.model_copy(update=dict.fromkeys(("per_agent_step", "per_agent_episode", "per_message"), nothing))
    silent = result.model_copy(
        update={"bits": bits, "wire_bytes": 0, "frames": 0, "messages_per_agent_step": 0.0, "edges": []}
    )
    bill = bill_of_run(silent)
    assert bill.sums == (0, 0, 0)
    assert (bill.counts.agents, bill.counts.agent_steps, bill.counts.messages) == (None, None, 0)
    assert figures(bill).per_agent_step == (0, 0, 0)
    assert figures(bill).per_message == (None, None, None)
    with pytest.raises(ConfigError, match="charging rule is 'by weight'"):
        bill_of_run(result.model_copy(update={"charging_rule": "by weight: per kilogram"}))
    with pytest.raises(ConfigError, match="too few for the six decimals"):
        bill_of_run(result.model_copy(update={"bits": bits}))


def test_many_episodes_leave_the_payload_derived():
    result = Result.from_json(json.loads((ROOT / "docs" / "results" / "guide-ours-0.json").read_text()))
    many = result.return_.model_copy(update={"n": 1_000_000})
    bill = bill_of_run(result.model_copy(update={"return_": many, "wire_bytes": 1_763_916}))
    assert bill.basis.payload.kind == "derived"
    assert bill.basis.payload.text.endswith("to within 2 bits")


def test_a_bill_needs_neither_torch_nor_ray_nor_numpy():
    script = "import sys, commlib.bill; print(sorted({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
