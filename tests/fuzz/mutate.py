"""A million mutated inputs: `python tests/fuzz/mutate.py --inputs 1000000 --seed 0 [--json FILE]`.

Sound frames, streams and codec files are cut, flipped, spliced, repeated and filled; whatever comes out must be
`FrameError`, `CodecError`, or a valid reading. Tells how many were taken for ours, the slowest input, and how far memory
grew.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from target import one_input, seeds

MOST_SECONDS = 2.0


def mutated(sound: bytes, others: list[bytes], draw: np.random.Generator) -> bytes:
    """A damaged copy; the first byte, which says where the input goes, stays."""
    head, body = sound[:1], bytearray(sound[1:])
    for _ in range(int(draw.integers(1, 4))):
        kind, at = int(draw.integers(7)), int(draw.integers(len(body) + 1))
        if kind == 0 and body:
            body[at % len(body)] ^= 1 << int(draw.integers(8))
        elif kind == 1 and body:
            body[at % len(body)] = int(draw.integers(256))
        elif kind == 2:
            del body[at:]
        elif kind == 3:
            body[at:at] = draw.bytes(int(draw.integers(1, 9)))
        elif kind == 4:
            other = others[int(draw.integers(len(others)))][1:]
            body[at:] = other[int(draw.integers(len(other) + 1)) :]
        elif kind == 5:
            body[at : at + 4] = b"\xff\xff\xff\xff"
        else:
            del body[at : at + int(draw.integers(1, 9))]
    return head + bytes(body)


def run(n_inputs: int, seed: int) -> dict[str, float]:
    """Let `n_inputs` mutated inputs in; an input that raises anything else ends the run with that exception."""
    draw, sound = np.random.default_rng(seed), seeds()
    files = [i for i, data in enumerate(sound) if data[0] % 5 == 4]
    quick = [i for i in range(len(sound)) if i not in files]
    n_taken, slowest, before = 0, 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(n_inputs):
        ways = files if number % 10 == 0 else quick  # reading a file takes much longer than reading a frame
        data = mutated(sound[ways[int(draw.integers(len(ways)))]], sound, draw)
        started = time.perf_counter()
        n_taken += one_input(data)
        slowest = max(slowest, time.perf_counter() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"inputs": n_inputs, "taken": n_taken, "slowest_seconds": slowest, "memory_grown_mb": grown / 1024}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    known = parser.parse_args()
    figures = run(known.inputs, known.seed)
    sys.stdout.write(json.dumps(figures) + "\n")
    if known.json:
        known.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(figures["slowest_seconds"] > MOST_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
