"""Two processes with other threads and other hash seeds write the same bytes, and read each other's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from commlib.codec import fresh_context, next_context
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, GridQuantiser, TableCodec
from commlib.codecs.prior import fit_prior
from commlib.codecs.store import load_codec, save_codec

ROOT = Path(__file__).resolve().parents[2]
N = 200
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(int(sys.argv[2]))
from commlib.codecs.store import load_codec
folder = Path(sys.argv[1])
codec, given = load_codec(folder), np.load(folder / "given.npz")
codes = codec.choose(given["vectors"], given["context"], 0.05)
payload = codec.encode(codes, given["context"])
decoded = codec.decode((folder / "payload").read_bytes(), given["context"])
print(json.dumps({
    "digest": codec.digest, "codes": codes.tolist(), "payload": payload.hex(), "decoded": decoded.tolist(),
    "embedded": codec.embed(decoded).tobytes().hex(), "expected": codec.expected(given["context"]).tolist(),
    "estimate": codec.estimate_bits(codes, given["context"]).tobytes().hex(),
}))
"""


def quantisers(numbers):
    return {
        "vq": CodebookQuantiser(numbers.normal(size=(64, 16)).astype(np.float32)),
        "int8": GridQuantiser(np.full(4, -3, np.float32), np.full(4, 6 / 255, np.float32), 256),
        "float32": ByteQuantiser(4),
    }


@pytest.mark.parametrize("name", ["vq", "int8", "float32"])
def test_another_process_writes_the_same_bytes_and_reads_ours(name, tmp_path):
    numbers = np.random.default_rng(0)
    quantiser = quantisers(numbers)[name]
    vectors = numbers.normal(size=(N, quantiser.width)).astype(np.float32)
    fresh = fresh_context(N, quantiser.n_positions)
    context = next_context(fresh, quantiser.nearest(np.roll(vectors, 1, axis=0)))
    context[:5] = fresh[:5]
    prior = fit_prior(
        quantiser.nearest(vectors), context, quantiser.alphabet, kind="none" if name == "float32" else "previous"
    )
    codec = TableCodec(name, quantiser, prior)
    save_codec(codec, tmp_path)
    np.savez(tmp_path / "given.npz", vectors=vectors, context=context)
    codes = codec.choose(vectors, context, 0.05)
    payload = codec.encode(codes, context)
    (tmp_path / "payload").write_bytes(payload)
    for threads, seed in ((1, "0"), (3, "12345")):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(threads)],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONHASHSEED": seed,
                "OMP_NUM_THREADS": str(threads),
                "OPENBLAS_NUM_THREADS": str(threads),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        there = json.loads(done.stdout)
        assert there["digest"] == codec.digest == load_codec(tmp_path).digest
        assert there["codes"] == codes.tolist()
        assert there["payload"] == payload.hex()
        assert there["decoded"] == codes.tolist()
        assert there["embedded"] == codec.embed(codes).tobytes().hex()
        assert there["expected"] == codec.expected(context).tolist()
        assert there["estimate"] == codec.estimate_bits(codes, context).tobytes().hex()
    assert len(payload) < N * codec.n_positions * 8
