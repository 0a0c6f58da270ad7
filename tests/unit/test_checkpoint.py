"""A checkpoint is there whole or not at all, and runs no code."""

import json
import pickle

import pytest
import torch

from commlib import records
from commlib.errors import RunError
from commlib.experiments.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

SOUND = Checkpoint(
    {
        "weights": torch.arange(12, dtype=torch.float32).view(3, 4),
        "strided": torch.arange(12).view(3, 4).T,
        "flags": torch.tensor([True, False]),
        "count": torch.tensor(7),
        "generator": torch.Generator().manual_seed(3).get_state(),
    },
    {"iteration": 3, "steps": 960, "bit_price": 0.1 + 0.2, "fitted": True},
)


def same(one, other):
    return one.position == other.position and {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in one.tensors.items()
    } == {name: (tensor.dtype, tensor.tolist()) for name, tensor in other.tensors.items()}


def test_tensors_and_position_come_back_exactly(tmp_path):
    write_checkpoint(tmp_path / "new" / "checkpoint", SOUND)
    assert same(read_checkpoint(tmp_path / "new" / "checkpoint"), SOUND)
    assert json.loads((tmp_path / "new" / "checkpoint" / "position.json").read_text()) == SOUND.position


def test_no_checkpoint_is_none(tmp_path):
    assert read_checkpoint(tmp_path) is None
    assert read_checkpoint(tmp_path / "nowhere") is None


def test_the_position_beside_the_tensors_is_for_people_and_never_read(tmp_path):
    """The two files cannot be replaced at once; one that lags behind must do no harm."""
    write_checkpoint(tmp_path, SOUND)
    (tmp_path / "position.json").write_text("{")
    assert same(read_checkpoint(tmp_path), SOUND)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, SOUND)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; free space"):
        write_checkpoint(tmp_path, Checkpoint({"weights": torch.zeros(1)}, {"iteration": 4}))
    assert same(read_checkpoint(tmp_path), SOUND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["position.json", "state.safetensors"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write to .*choose another --out"):
        write_checkpoint(tmp_path / "file" / "checkpoint", SOUND)


def test_damage_in_any_byte_is_noticed(tmp_path):
    write_checkpoint(tmp_path, Checkpoint({"weights": torch.rand(3)}, SOUND.position))
    path = tmp_path / "state.safetensors"
    sound = path.read_bytes()
    unnoticed = []
    for place in range(len(sound)):
        for flip in (0x01, 0x80):
            damaged = bytearray(sound)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            try:
                read_checkpoint(tmp_path)
            except RunError:
                continue
            unnoticed.append((place, flip))
    assert not unnoticed, f"{len(unnoticed)} damaged files of {2 * len(sound)} were read: {unnoticed[:5]}"


@pytest.mark.parametrize("length", [0, 7, 8, 100])
def test_a_file_that_was_cut_is_refused(length, tmp_path):
    write_checkpoint(tmp_path, SOUND)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError, match=r"state.safetensors is damaged .*; restore it from a copy or train again"):
        read_checkpoint(tmp_path)


def test_a_pickle_is_refused_unread(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    (tmp_path / "state.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RunError, match="is damaged"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "sprung").exists()
