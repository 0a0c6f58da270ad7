"""A damaged or hindered run folder is told in one sentence, and nothing is left half-written."""

import json
import os
import stat

import pytest

from commlib import records
from commlib.experiments.cli import main
from commlib.records import RunFolder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command, folder, *words, code=1):
    """The command fails with one sentence and changes nothing; the sentence."""
    before = content(folder)
    found, out, err = command(*words)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("commlib: ")
    assert "unexpected" not in err
    assert content(folder) == before
    return err


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x20
    path.write_bytes(data)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_journal_is_told_by_the_audit(command, run_copy, share):
    path = RunFolder(run_copy).journal
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "journal.sqlite" in refused(command, run_copy, "audit", run_copy)


def test_a_missing_journal_is_told_by_the_audit(command, run_copy):
    RunFolder(run_copy).journal.unlink()
    assert "is missing: the run has no books yet" in refused(command, run_copy, "audit", run_copy)


@pytest.mark.parametrize("name", ["codec.json", "codec.safetensors"])
@pytest.mark.parametrize("command_name", ["evaluate", "verify"])
def test_a_missing_codec_is_told(command, run_copy, name, command_name):
    (run_copy / "codec" / name).unlink()
    assert str(run_copy / "codec") in refused(command, run_copy, command_name, run_copy, "--quiet")


@pytest.mark.parametrize("name", ["codec.json", "codec.safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_changed_byte_of_the_codec_is_told(command, run_copy, name, share):
    path = run_copy / "codec" / name
    flip(path, int(share * path.stat().st_size))
    sentence = refused(command, run_copy, "evaluate", run_copy, "--quiet")
    assert str(run_copy / "codec") in sentence


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_changed_byte_of_the_policy_is_told(command, run_copy, share):
    path = run_copy / "policy" / "state.safetensors"
    flip(path, int(share * path.stat().st_size))
    assert "is damaged" in refused(command, run_copy, "evaluate", run_copy, "--quiet")


def test_a_codec_of_another_run_is_told(command, run_copy, tmp_path):
    """Both files of it: each is sound, but the checkpoint holds another codec."""
    import numpy as np

    from commlib.codecs.frozen import CodebookQuantiser, TableCodec
    from commlib.codecs.store import load_codec, read_header, save_codec

    codec = load_codec(run_copy / "codec")
    other = TableCodec("vq", CodebookQuantiser(np.roll(codec.quantiser.codebook, 1, 0).copy()), codec.prior)
    save_codec(other, run_copy / "codec", read_header(run_copy / "codec")["calibration"])
    code, out, _ = command("verify", run_copy, "--quiet")
    assert code == 1
    assert "the trainable and the frozen codec disagree" in out


def test_a_run_without_a_team_is_told(command, run_copy):
    (run_copy / "policy" / "state.safetensors").unlink()
    assert "holds no trained team; finish the run" in refused(command, run_copy, "evaluate", run_copy, "--quiet")


@pytest.mark.parametrize("text", ["{", "[]", '{"world": "guide_v1"}'])
def test_a_damaged_result_is_told(command, run_copy, text):
    RunFolder(run_copy).result.write_text(text)
    assert "result.json" in refused(command, run_copy, "report", run_copy)
    assert "result.json" in refused(command, run_copy, "audit", run_copy)


def test_a_damaged_configuration_is_told(command, run_copy):
    config = RunFolder(run_copy).config
    config.write_text(config.read_text() + "colour: red\n")
    assert "unknown setting 'colour'" in refused(command, run_copy, "evaluate", run_copy, code=2)
    config.write_text("a: [1\n")
    assert "config.yaml is not YAML" in refused(command, run_copy, "evaluate", run_copy, code=2)


def test_a_full_disk_leaves_the_old_figures(command, run_copy, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    found, out, err = command("evaluate", run_copy, "--quiet", "--episodes", "8")
    assert (found, out, err.count("\n")) == (1, "", 1)
    assert "No space left on device" in err
    monkeypatch.undo()
    assert not list(run_copy.rglob("*.partial*"))
    assert command("audit", run_copy)[0] == 0, "figures and books belong together, old or new"


@pytest.mark.parametrize("place", ["config.yaml", "codec"])
def test_a_folder_that_cannot_be_written_is_told(command, tmp_path, place):
    """A file where a folder must be: whoever may write everywhere cannot write here."""
    (tmp_path / "file").write_text("in the way")
    before = content(tmp_path)
    found, out, err = command("train", "guide", "--steps", "320", "--out", tmp_path / "file" / place, "--quiet")
    assert (found, out, err.count("\n")) == (1, "", 1)
    assert "choose another --out" in err
    assert content(tmp_path) == before


def test_a_read_only_run_can_be_audited_and_is_not_changed(command, run_copy):
    """Whoever may not write still reads the books; for root, who may always write, the bits alone are set."""
    before = content(run_copy)
    for path in [*run_copy.rglob("*"), run_copy]:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    try:
        assert command("audit", run_copy)[0] == 0
        if os.geteuid() != 0:
            found, out, err = command("evaluate", run_copy, "--quiet", "--episodes", "8")
            assert (found, out, err.count("\n")) == (1, "", 1)
    finally:
        for path in [run_copy, *run_copy.rglob("*")]:
            path.chmod(0o700)
    assert content(run_copy) == before


def test_an_evaluation_that_is_interrupted_leaves_the_old_figures(run_copy, monkeypatch, capsys):
    from commlib.experiments import control

    before = content(run_copy)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(control, "play", interrupted)
    assert main(["evaluate", str(run_copy), "--quiet"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert content(run_copy) == before
    assert json.loads((run_copy / "result.json").read_text())["world"] == "guide_v1"
