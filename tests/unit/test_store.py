"""A stored codec comes back as it was, or not at all."""

import json
import shutil

import numpy as np
import pytest

from commlib.codec import fresh_context
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, GridQuantiser, TableCodec
from commlib.codecs.prior import Prior, fit_prior, to_integers, uniform_prior
from commlib.codecs.store import load_codec, read_header, save_codec
from commlib.errors import CodecError

NUMBERS = np.random.default_rng(0)
CALIBRATION = {"rungs": [{"rate_weight": 0.125, "success": 0.5}], "chosen": 0, "edges": [[0, 1]]}


def uneven(n_positions, alphabet, rows):
    return Prior(to_integers(NUMBERS.random((n_positions, rows, alphabet)) + 0.1))


def codebook():
    return TableCodec("vq", CodebookQuantiser(NUMBERS.random((4, 3)).astype(np.float32)), uneven(1, 4, 5))


def grid():
    low, step = NUMBERS.random((2, 2)).astype(np.float32)
    return TableCodec("int8", GridQuantiser(low, step, 8), uneven(2, 8, 9))


def floats():
    return TableCodec("float32", ByteQuantiser(1), uniform_prior(4, 256, kind="none"))


KINDS = [codebook, grid, floats]


@pytest.mark.parametrize("make", KINDS)
def test_a_codec_comes_back_as_it_was(make, tmp_path):
    codec = make()
    save_codec(codec, tmp_path / "codec", CALIBRATION)
    back = load_codec(tmp_path / "codec")
    assert (back.name, back.digest) == (codec.name, codec.digest)
    assert read_header(tmp_path / "codec")["calibration"] == CALIBRATION
    vectors = NUMBERS.random((20, codec.width)).astype(np.float32)
    fresh = fresh_context(20, codec.n_positions)
    codes = codec.choose(vectors, fresh, 0.01)
    assert np.array_equal(back.choose(vectors, fresh, 0.01), codes)
    assert back.encode(codes, fresh) == codec.encode(codes, fresh)
    assert np.array_equal(back.embed(codes), codec.embed(codes))
    assert sorted(path.name for path in (tmp_path / "codec").iterdir()) == ["codec.json", "codec.safetensors"]


def test_saving_again_replaces_the_old_one(tmp_path):
    save_codec(codebook(), tmp_path)
    other = grid()
    save_codec(other, tmp_path)
    assert load_codec(tmp_path).digest == other.digest


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["codec.json", "codec.safetensors"])
def test_damage_in_any_byte_is_noticed(make, name, tmp_path):
    codec = make()
    save_codec(codec, tmp_path, CALIBRATION)
    path = tmp_path / name
    sound = path.read_bytes()
    header = read_header(tmp_path)
    places = set(range(len(sound))) if len(sound) < 1200 else {*range(600), *range(600, len(sound), 7)}
    unnoticed = []
    for place in sorted(places):
        for flip in (0x01, 0x80):
            damaged = bytearray(sound)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            try:
                back = load_codec(tmp_path)
            except CodecError:
                continue
            unnoticed.append((place, flip, back.digest == codec.digest and read_header(tmp_path) == header))
    assert not unnoticed, f"{len(unnoticed)} damaged files were read: {unnoticed[:5]}"


@pytest.mark.parametrize("name", ["codec.json", "codec.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_is_refused(name, share, tmp_path):
    save_codec(codebook(), tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CodecError, match=r"damaged|cannot be read"):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"digest": "0" * 64}, "is damaged"),
        ({"digest": None}, "names no codec kind"),
        ({"format": 99}, "not of codec format 2"),
        ({"kind": "magic"}, "there are codebook, residual, levels, trellis, grid, bytes"),
        ({"name": "other"}, "is damaged"),
        ({"calibration": None}, "is damaged"),
        ({"colour": "red"}, "is damaged"),
    ],
)
def test_a_label_that_was_changed_is_refused(change, sentence, tmp_path):
    save_codec(codebook(), tmp_path, CALIBRATION)
    path = tmp_path / "codec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CodecError, match=sentence):
        load_codec(tmp_path)


def test_the_arrays_of_another_codec_are_refused_by_digest(tmp_path):
    for name in ("one", "other"):
        save_codec(codebook(), tmp_path / name)
    shutil.copy(tmp_path / "other" / "codec.safetensors", tmp_path / "one")
    with pytest.raises(CodecError, match="copy both files again"):
        load_codec(tmp_path / "one")


def test_a_refitted_prior_is_another_language():
    codec = codebook()
    prior = fit_prior(np.full((9, 1), 2), fresh_context(9, 1), 4)
    assert TableCodec(codec.name, codec.quantiser, prior).digest != codec.digest


def test_a_missing_codec_is_named(tmp_path):
    with pytest.raises(CodecError, match=r"codec\.json is missing"):
        load_codec(tmp_path / "nowhere")
    save_codec(codebook(), tmp_path)
    (tmp_path / "codec.safetensors").unlink()
    with pytest.raises(CodecError, match=str(tmp_path)):
        load_codec(tmp_path)


def test_a_quantiser_of_your_own_cannot_be_stored_and_says_so(tmp_path):
    class Mine(CodebookQuantiser.__base__):
        width, n_positions, alphabet = 1, 1, 2

        def arrays(self):
            return {}

    codec = TableCodec("mine", Mine(), uniform_prior(1, 2))
    with pytest.raises(CodecError, match="a Mine cannot be stored"):
        save_codec(codec, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CodecError, match=r"cannot write the codec to .*Not a directory"):
        save_codec(codebook(), tmp_path / "file" / "codec")
