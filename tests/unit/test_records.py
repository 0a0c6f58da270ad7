"""Files are replaced whole or not at all, and a result reads back as it was written."""

import json
import math

import pytest
from pydantic import ValidationError

from commlib import records
from commlib.errors import RunError
from commlib.records import Estimate, Result, RunFolder, read_json, write_json, write_whole

THREE = {"estimate": 1.25, "payload": 1.5, "wire": 2.0}
PLAIN = {
    "world": "guide_v1",
    "method": "ours",
    "codec": "vq",
    "topology": "ring",
    "router": "none",
    "gate": "listen",
    "aggregation": "slots",
    "ids": "role",
    "memory": "none",
    "rounds": 2,
    "priced": 0.2,
    "show_budget": True,
    "foresight": 0.5,
    "imitation": 2.0,
    "imitation_until": 1.0,
    "fine_tune_speech": False,
    "balance": "even",
    "schedule": "rex",
    "seed": 3,
    "steps": 100,
    "runtime": "local",
    "hosts": 1,
    "charging_rule": "broadcast",
    "budget": "64 bit/step",
    "bit_price": 0.01,
    "success": {"mean": None, "ci95": None, "n": 0},
    "return": {"mean": -0.5, "ci95": [-0.6, -0.4], "n": 32},
    "rate_weight": 0.02,
    "random_return": {"mean": -1.5, "ci95": [-1.7, -1.3], "n": 64},
    "episode_steps": {"mean": 10.0, "ci95": [10.0, 10.0], "n": 32},
    "bits": {"per_agent_step": THREE, "per_agent_episode": THREE, "per_message": THREE},
    "messages_per_agent_step": 0.5,
    "gate_rate": 1.0,
    "density": 0.5,
    "wire_bytes": 40,
    "frames": 4,
    "parallel_worlds": 16,
    "ledger": {"granted": 400, "spent": 320, "leased": 0, "available": 80, "dropped": 2, "degraded": 0, "deferred": 1},
    "budgets": [
        {
            "account": "bits",
            "budget": "64 bit/step",
            "currency": "bits",
            "granted": 400,
            "spent": 320,
            "wanted": 500,
            "n_full": 2,
            "price": 0.5,
            "bit_price": None,
            "is_binding": True,
            "hint": "",
        }
    ],
    "allocation": "value",
    "when_out": "drop",
    "codec_health": {"used_codes": 5, "perplexity": 3.5, "dead_codes": 3},
    "rate_gap": 0.2,
    "frontier": [{"bit_price": 0.1, "rate_weight": 0.2, "success": None, "return": 1.5, "bits_per_agent_step": 2.0}],
    "edges": [[0, 1], [1, 2]],
    "journal_digest": "ab" * 32,
    "throughput": {"training_steps_per_second": 9.0},
    "seconds": {"evaluation": 0.5},
    "restarts": 1,
    "channel": "loss=8.2%, refresh=5",
    "frames_lost": 3,
    "frames_unread": 1,
    "calls_refused": 2,
    "success_by_world": {"guide_v1": {"mean": 0.5, "ci95": [0.25, 0.75], "n": 16}},
    "versions": {"python": "3.11.1"},
    "git": "",
    "command": "commlib train guide",
    "run": "runs/one",
}


def test_a_result_reads_back_as_it_was_written(tmp_path):
    result = Result.from_json(PLAIN)
    assert result.return_.mean == -0.5
    assert (
        result.variant
        == "gate listen, ids role, 2 rounds, 20% of the steps priced, sees its budget, foresight 0.5, imitation 2 until 100%, "
        "speech fixed with the codec, all worlds alike, REX"
    )
    told = (
        "gate",
        "ids",
        "rounds",
        "priced",
        "show_budget",
        "foresight",
        "imitation",
        "fine_tune_speech",
        "balance",
        "schedule",
    )
    assert Result.from_json({k: v for k, v in PLAIN.items() if k not in told}).variant == ""
    assert result.binding == "64 bit/step"
    assert result.frontier[0].return_ == 1.5
    assert result.to_json() == PLAIN
    folder = RunFolder(tmp_path)
    write_json(folder.result, result.to_json())
    assert folder.read_result() == result
    assert '"return": {' in folder.result.read_text()
    assert "return_" not in folder.result.read_text()


def test_a_result_cannot_be_changed_and_has_no_unknown_field():
    result = Result.from_json(PLAIN)
    with pytest.raises(ValidationError, match="frozen"):
        result.seed = 4
    with pytest.raises(ValidationError, match="colour"):
        Result.from_json({**PLAIN, "colour": "red"})
    with pytest.raises(ValidationError, match="wire_bytes"):
        Result.from_json({name: value for name, value in PLAIN.items() if name != "wire_bytes"})


def test_a_missing_mean_stays_missing():
    assert Estimate(mean=None, ci95=None, n=0).model_dump() == {"mean": None, "ci95": None, "n": 0}


# --- whole or not at all


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"", b"three" * 1000):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(step, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    target = records.os if step == "fsync" else type(path)
    monkeypatch.setattr(target, step, full)
    with pytest.raises(RunError, match=r"cannot write .*file: No space left on device; free space or choose another"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_file_of_a_killed_process_does_no_harm(tmp_path):
    (tmp_path / "file.json.partial").write_bytes(b'{"half": ')
    write_json(tmp_path / "file.json", {"whole": 1})
    assert read_json(tmp_path / "file.json") == {"whole": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*nowhere.*No such file"):
        write_json(tmp_path / "nowhere" / "file.json", {})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_json_never_holds_what_others_cannot_read(bad, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"figure": bad})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"{", b"", b'{"a": 1}}', b"\xff\xfe\x00"])
def test_damaged_json_is_an_error_with_the_file_in_it(content, tmp_path):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(RunError, match=r"result\.json cannot be read"):
        read_json(tmp_path / "result.json")


# --- run folders


def test_a_folder_without_a_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"holds no run \(no config.yaml in it\); see `commlib list runs`"):
            RunFolder.existing(path)
    (tmp_path / "config.yaml").write_text("")
    assert RunFolder.existing(tmp_path).path == tmp_path


def test_an_unfinished_run_has_no_result(tmp_path):
    with pytest.raises(RunError, match=r"result\.json is missing; is .* a finished run"):
        RunFolder(tmp_path).read_result()


def test_a_result_of_another_version_is_told_from_damage(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.result, {**PLAIN, "colour": "red"})
    with pytest.raises(RunError, match="no result of this version of commlib; evaluate the run again"):
        folder.read_result()
    write_json(folder.result, [1, 2])
    with pytest.raises(RunError, match="no result of this version"):
        folder.read_result()


def test_a_torn_last_line_of_metrics_is_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    rows = [{"iteration": i, "return": 0.5 * i} for i in range(3)]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    last = len(json.dumps(rows[-1])) + 1
    for cut in range(2, last):
        folder.metrics.write_text(whole[:-cut])
        assert folder.read_metrics() == rows[:2]
    folder.metrics.write_text(whole)
    assert folder.read_metrics() == rows


def test_a_damaged_line_in_the_middle_of_metrics_is_told(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"iteration": 1}\n{"itera\n{"iteration": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged: .*; delete it to go on without the curve"):
        folder.read_metrics()
