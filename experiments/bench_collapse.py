"""Whether a codebook that learns together with its sender and receiver collapses: ours with its defaults, and a plain one.

A sender sees one of 64 symbols, a receiver has to name it, and the only way is through the codebook. Everybody learns at
once, from scratch. A codebook has collapsed when it uses too few of its codes for what there is to say. The plain one
is vector quantisation as first published (van den Oord et al. 2017, arXiv:1711.00937, eq. 3): straight through, a
codebook loss, a commitment loss, nothing against dead codes.

Shapes: B symbols, S their number, D message width, K codebook size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from commlib.codecs.through import straight_through
from commlib.codecs.vq import VQCodec
from commlib.experiments.bench import Measured, Row, Say, Target, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_SYMBOLS, WIDTH, CODEBOOK_SIZE, HIDDEN, BATCH = 64, 16, 64, 64, 256
ENOUGH = 0.8
"""A codebook has not collapsed if it uses this share of the codes that the source needs."""
TARGETS = {"least_used_share": Target(at_least=ENOUGH), "n_collapsed": Target(at_most=0)}


class _Size(NamedTuple):
    n_seeds: int
    n_steps: int


_FULL, _QUICK = _Size(10, 1500), _Size(1, 150)


class Plain(nn.Module):
    """Vector quantisation as first published; float [B, D] to what is heard, indices, loss."""

    def __init__(self, width: int, codebook_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codebook_size, width, generator=generator))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest row of the codebook."""
        index = torch.cdist(x.detach(), self.codebook.detach()).argmin(-1)
        row = self.codebook[index]
        loss = (row - x.detach()).square().mean() + 0.25 * (x - row.detach()).square().mean()
        return straight_through(row, x), index, loss


class Ours(nn.Module):
    """`VQCodec` with its default settings, in the same form."""

    def __init__(self, width: int, codebook_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.codec = VQCodec(width, codebook_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The codec's training path."""
        q = self.codec(x)
        return q.z, q.codes[:, 0], q.losses["commitment"]


def learn(make: type[Plain] | type[Ours], seed: int, n_steps: int) -> Row:
    """Codes used and symbols named after learning from scratch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers, and the library's revival of dead codes, draw from torch's global generator
        generator = torch.Generator().manual_seed(seed)
        sender = nn.Sequential(nn.Linear(N_SYMBOLS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))
        receiver = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, N_SYMBOLS))
        quantiser = make(WIDTH, CODEBOOK_SIZE, generator)
        adam = torch.optim.Adam([p for m in (sender, receiver, quantiser) for p in m.parameters()], 1e-3)
        symbols = torch.eye(N_SYMBOLS)
        for _ in range(n_steps):
            drawn = torch.randint(N_SYMBOLS, (BATCH,), generator=generator)
            heard, _, loss = quantiser(sender(symbols[drawn]))
            adam.zero_grad()
            (functional.cross_entropy(receiver(heard), drawn) + loss).backward()
            adam.step()
        quantiser.eval()
        with torch.no_grad():
            heard, index, _ = quantiser(sender(symbols))
            named = (receiver(heard).argmax(-1) == torch.arange(N_SYMBOLS)).float().mean()
    return {"seed": seed, "used_codes": len(index.unique()), "named": float(named)}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Seeds `seed` and on, each with both."""
    size = _QUICK if quick else _FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        for one in range(seed, seed + size.n_seeds):
            say(f"seed {one}")
            rows += [
                {"codec": "vq"} | learn(Ours, one, size.n_steps),
                {"codec": "plain"} | learn(Plain, one, size.n_steps),
            ]
    finally:
        torch.set_num_threads(threads)
    used = {name: [row["used_codes"] for row in rows if row["codec"] == name] for name in ("vq", "plain")}
    summary = {
        "least_used_share": min(used["vq"]) / N_SYMBOLS,
        "n_collapsed": sum(n < ENOUGH * N_SYMBOLS for n in used["vq"]),
        "n_collapsed_plain": sum(n < ENOUGH * N_SYMBOLS for n in used["plain"]),
        "least_named": min(row["named"] for row in rows if row["codec"] == "vq"),
        "n_seeds": size.n_seeds,
    }
    columns = {"codec": "codec", "seed": "seed", "used_codes": f"codes used of {N_SYMBOLS}", "named": "symbols named"}
    return Measured(rows, summary, [table("64 symbols through 64 codes, learnt from scratch", columns, rows)])


def draw(rows: Sequence[Row]) -> Figure:
    """Codes used, seed by seed."""
    from commlib.experiments.bench_figures import bars

    panels = {
        name: [(f"{name} {row['seed']}", float(row["used_codes"])) for row in rows if row["codec"] == name]
        for name in ("vq", "plain")
    }
    return bars(panels, f"codes used of {N_SYMBOLS}")
