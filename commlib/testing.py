"""Conformance checks that ship to users: whether a codec, topology, ledger, agent or world keeps the laws of its kind.

A checker is a driving test: it takes the object round a fixed course and stops at the first broken law with a sentence
that says which one. Not a proof, and not a measure of quality: a codec that says nothing useful, lawfully, passes.

    from commlib.testing import check_codec
    check_codec(MyCodec(width=16))

Every check works on copies or fresh objects where it must change something, draws from a generator, and raises
`ConformanceError`; coming back quietly is passing.

Shapes: B messages or worlds, n messages, D message width, P positions, N agents, S senders, R receivers, O
observation width.
"""

from __future__ import annotations

import copy
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from commlib.agent import Agent, Inbox, checked_reply
from commlib.codec import Codec, Codes, FrozenCodec, Quantized, fresh_context, next_context
from commlib.errors import AgentError, CodecError, ConformanceError, JournalError, LeaseError, OverBudget
from commlib.ledger import MAIN, Entry, Lease, Ledger, Statement, Terms
from commlib.message import Edge
from commlib.topology import Topology, adjacency_of
from commlib.world import HoldsOut, World, WorldSpec, WorldStep, expert_of

__all__ = ["ConformanceError", "check_agent", "check_codec", "check_ledger", "check_topology", "check_world"]

SLACK_BITS = 64
SLACK_SHARE = 0.01
"""A stream may exceed its estimate by 64 bits and 1 %: its flush and the rounding of probabilities."""

SEARCH_SLACK = 1.01
"""A search that is not exhaustive may find a nearer code that costs a little more than the first one."""
CLOSE = 1e-5
"""Relative and absolute difference below which training path and wire path reconstruct the same vector."""

_N_FIT, _N_MESSAGES, _N_MUTATED = 4096, 256, 24
_RATE_WEIGHTS = (0.0, 0.01, 0.1, 1.0)
_T = TypeVar("_T")


def _law(is_kept: bool | np.bool_, sentence: str) -> None:
    if not is_kept:
        raise ConformanceError(sentence)


def _call(what: str, call: Callable[[], _T]) -> _T:
    """The result of a call that must not raise."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, ConformanceError):
        raise
    except BaseException as error:  # a panic in a compiled coder is no Exception
        raise ConformanceError(f"{what} raised {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


# --- codecs -----------------------------------------------------------------------------------------------------------


def check_codec(codec: Codec | FrozenCodec, generator: torch.Generator | None = None) -> None:
    """Check the laws of a codec, on messages drawn uniformly from -1..1.

    A trainable codec is copied, fitted to such messages, checked on its training path, and then its frozen edition is
    checked; a frozen one is checked as it is. That another *process* makes the same bytes is not checked here.

    Raises:
        ConformanceError: the first law that is broken.
    """
    generator = generator or torch.Generator().manual_seed(0)
    if isinstance(codec, FrozenCodec):
        _check_frozen(codec, generator)
        return
    fitted = copy.deepcopy(codec)
    messages_BD = _messages(_N_FIT, codec.width, generator)
    _call(f"fit on {_N_FIT} messages", lambda: fitted.fit(messages_BD, generator))
    if isinstance(fitted, nn.Module):
        fitted.eval()
    frozen = _call("freeze", fitted.freeze)
    _law(
        isinstance(frozen, FrozenCodec),
        f"freeze must give a FrozenCodec, it gave a {type(frozen).__name__}; see commlib.codec for its methods",
    )
    _check_frozen(frozen, generator)
    _check_refreeze(fitted, frozen, generator)
    _check_other_codebook(codec, frozen, generator)
    _check_training_path(fitted, frozen, generator)


def _messages(n: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, width, generator=generator) * 2 - 1


def _fresh(n: int, frozen: FrozenCodec) -> Codes:
    return fresh_context(n, frozen.n_positions)


def _check_frozen(frozen: FrozenCodec, generator: torch.Generator) -> None:
    _law(
        re.fullmatch("[0-9a-f]{64}", frozen.digest) is not None,
        f"digest must be 64 hex digits (SHA-256), not {frozen.digest!r:.80}",
    )
    _law(frozen.digest == frozen.digest, "digest changed between two readings; compute it from what both ends share")
    vectors = _messages(_N_MESSAGES, frozen.width, generator).numpy()
    before = _messages(_N_MESSAGES, frozen.width, generator).numpy()
    fresh = _fresh(_N_MESSAGES, frozen)
    said = _chosen(frozen, before, fresh)
    used = next_context(fresh, said)
    for name, context in (("fresh", fresh), ("used", used)):
        codes = _chosen(frozen, vectors, context)
        vectors_nD = _call("embed", lambda codes=codes, context=context: frozen.embed(codes, context))  # type: ignore[misc]
        _law(
            vectors_nD.shape == vectors.shape
            and vectors_nD.dtype == np.float32
            and bool(np.isfinite(vectors_nD).all()),
            f"embed must give finite float32 {list(vectors.shape)}, not {vectors_nD.dtype} {list(vectors_nD.shape)}",
        )
        for n in (0, 1, _N_MESSAGES):
            _check_stream(frozen, codes[:n], context[:n], f"{n} messages on {name} links")
        _check_estimate(frozen, codes, context, name)
        _check_expected(frozen, context, name)
        _check_price(frozen, vectors, context, name)
    _check_kraft(frozen, said)
    _check_damage(frozen, said[:_N_MUTATED], generator)


def _chosen(frozen: FrozenCodec, vectors: NDArray[np.float32], context: Codes, rate_weight: float = 0.0) -> Codes:
    given = vectors.copy(), context.copy()
    codes = _call("choose", lambda: frozen.choose(vectors, context, rate_weight))
    wanted = (len(vectors), frozen.n_positions)
    _law(
        codes.shape == wanted and codes.dtype == np.int64,
        f"choose must give int64 codes {list(wanted)}, it gave {codes.dtype} {list(codes.shape)}",
    )
    _law(
        np.array_equal(given[0], vectors) and np.array_equal(given[1], context),
        "choose changed the vectors or the context that it was given; work on a copy",
    )
    return codes


def _check_stream(frozen: FrozenCodec, codes: Codes, context: Codes, where: str) -> None:
    payload = _call(f"encode of {where}", lambda: frozen.encode(codes, context))
    told = _call("payload_bits", lambda: frozen.payload_bits(codes, context))
    _law(
        told == 8 * len(payload),
        f"payload_bits tells {told} bits for {where}, encode made {8 * len(payload)}; they must agree",
    )
    _law(
        payload == frozen.encode(codes, context),
        f"encode made two different streams of the same {where}; it must depend on codes and context alone",
    )
    decoded = _call(f"decode of {where}", lambda: frozen.decode(payload, context))
    _law(
        decoded.shape == codes.shape and np.array_equal(decoded, codes),
        f"decode(encode(codes)) differs from the codes for {where}, in {_n_differing(decoded, codes)} messages",
    )


def _n_differing(one: Codes, other: Codes) -> int:
    return int((one != other).any(-1).sum()) if one.shape == other.shape else len(other)


def _check_estimate(frozen: FrozenCodec, codes: Codes, context: Codes, name: str) -> None:
    bits = _call("estimate_bits", lambda: frozen.estimate_bits(codes, context))
    _law(
        bits.shape == (len(codes),) and bool(np.isfinite(bits).all()) and bool((bits >= 0).all()),
        f"estimate_bits must give {len(codes)} finite numbers >= 0 on {name} links; -log2 of a probability is one",
    )
    payload, estimate = frozen.payload_bits(codes, context), float(bits.sum())
    most = estimate * (1 + SLACK_SHARE) + SLACK_BITS
    _law(
        payload <= most,
        f"{len(codes)} messages on {name} links take {payload} bits, the estimate is {estimate:.0f}: more than "
        f"{SLACK_BITS} bits and {SLACK_SHARE:.0%} above it; estimate and coder must use the same prior",
    )


def _check_expected(frozen: FrozenCodec, context: Codes, name: str) -> None:
    expected = _call("expected", lambda: frozen.expected(context))
    _law(
        expected.shape == (len(context), frozen.n_positions) and np.array_equal(expected, frozen.expected(context)),
        f"expected must give the same codes [{len(context)}, {frozen.n_positions}] each time on {name} links: "
        "both ends compute it",
    )
    _check_stream(frozen, expected, context, f"expected messages on {name} links")


def _check_price(frozen: FrozenCodec, vectors: NDArray[np.float32], context: Codes, name: str) -> None:
    """A higher price buys fewer bits, or, where the search is not exhaustive, a better trade at that price."""
    tried: list[tuple[float, float, float]] = []
    for weight in _RATE_WEIGHTS:
        codes = _chosen(frozen, vectors, context, weight)
        apart = float(((frozen.embed(codes, context) - vectors) ** 2).sum(-1).mean())
        tried.append((weight, float(frozen.estimate_bits(codes, context).mean()), apart))
    for (low, cheap, far), (high, dear, near) in itertools.pairwise(tried):
        _law(
            dear <= cheap * SEARCH_SLACK + 1e-9 or near + high * dear <= far + high * cheap,
            f"on {name} links choose takes {cheap:.3f} bits a message at rate_weight {low} and {dear:.3f} at {high}; "
            f"a higher price must not cost more bits",
        )


def _check_kraft(frozen: FrozenCodec, codes: Codes) -> None:
    """Probabilities of different codes in one context add up to 1 at most."""
    different = np.unique(codes, axis=0)
    total = float(np.exp2(-frozen.estimate_bits(different, _fresh(len(different), frozen))).sum())
    _law(
        total <= 1 + 1e-6,
        f"the probabilities 2^-estimate_bits of {len(different)} different codes add up to {total:.3f} in one context; "
        f"more than 1 is no prior",
    )


def _check_damage(frozen: FrozenCodec, codes: Codes, generator: torch.Generator) -> None:
    """Decoding is total: damaged bytes are refused, or are other valid codes."""
    context = _fresh(len(codes), frozen)
    payload = frozen.encode(codes, context)
    for what, damaged in _damages(payload, generator):
        try:
            decoded = _call(f"decode of a payload {what}", lambda damaged=damaged: _decoded(frozen, damaged, context))  # type: ignore[misc]
        except ConformanceError as error:
            raise ConformanceError(f"{error}; damaged bytes must raise CodecError or decode to valid codes") from error
        if decoded is not None:
            _check_stream(frozen, decoded, context, f"codes decoded from a payload {what}")
            where = f"embed of codes decoded from a payload {what}"
            _call(where, lambda decoded=decoded: frozen.embed(decoded, context))  # type: ignore[misc]


def _decoded(frozen: FrozenCodec, payload: bytes, context: Codes) -> Codes | None:
    try:
        return frozen.decode(payload, context)
    except CodecError:
        return None


def _damages(payload: bytes, generator: torch.Generator) -> Iterator[tuple[str, bytes]]:
    n = len(payload)
    for at in torch.randperm(n, generator=generator)[:32].tolist():
        flip = 1 + int(torch.randint(255, (), generator=generator))
        yield f"with byte {at} of {n} flipped", payload[:at] + bytes([payload[at] ^ flip]) + payload[at + 1 :]
        yield f"cut to {at} of {n} bytes", payload[:at]
    yield "with 3 bytes added", payload + b"\xff\x00\x7f"
    yield "of 4096 bytes 0xff", b"\xff" * 4096
    yield "without a byte", b""


def _check_refreeze(fitted: Codec, frozen: FrozenCodec, generator: torch.Generator) -> None:
    again = fitted.freeze()
    _law(
        again.digest == frozen.digest,
        "freeze gave two digests for one codec; the digest must depend on nothing but codebook and prior",
    )
    context = _fresh(_N_MESSAGES, frozen)
    codes = frozen.choose(_messages(_N_MESSAGES, frozen.width, generator).numpy(), context)
    _law(
        again.encode(codes, context) == frozen.encode(codes, context),
        "two frozen editions with one digest made different bytes; same id must mean same bitstream",
    )


def _check_other_codebook(codec: Codec, frozen: FrozenCodec, generator: torch.Generator) -> None:
    """A codec fitted to other messages has another digest, if its codes stand for other vectors."""
    other = copy.deepcopy(codec)
    other.fit(0.5 * _messages(_N_FIT, codec.width, generator) + 0.3, generator)
    stranger = other.freeze()
    fresh = _fresh(_N_MESSAGES, frozen)
    codes = frozen.choose(_messages(_N_MESSAGES, frozen.width, generator).numpy(), fresh)
    if not np.array_equal(frozen.embed(codes, fresh), stranger.embed(codes, fresh)):
        _law(
            frozen.digest != stranger.digest,
            "two codecs whose codes stand for different vectors have the same digest; put the codebook into it",
        )


def _check_training_path(codec: Codec, frozen: FrozenCodec, generator: torch.Generator) -> None:
    x_BD = _messages(_N_MESSAGES, codec.width, generator).requires_grad_()
    fresh = _fresh(_N_MESSAGES, frozen)
    q = _call("forward", lambda: codec(x_BD))
    _check_quantized(q, x_BD, frozen)
    codes = q.codes.numpy()
    chosen = frozen.choose(x_BD.detach().numpy(), fresh)
    gap = _distance(x_BD, frozen.embed(codes, fresh)) - _distance(x_BD, frozen.embed(chosen, fresh))
    _law(
        np.array_equal(codes, chosen) or bool((gap <= CLOSE).all()),
        f"forward and choose disagree on {_n_differing(codes, chosen)} of {len(codes)} codes (ties not counted); "
        f"training and wire must send the same",
    )
    embedded = frozen.embed(codes, fresh)
    worst = float(np.abs(q.z.detach().numpy() - embedded).max())
    _law(
        np.allclose(q.z.detach().numpy(), embedded, rtol=CLOSE, atol=CLOSE),
        f"at evaluation forward(x).z differs from embed(codes) by up to {worst:.2g}; receivers hear another one",
    )
    for name, context in (("fresh", fresh), ("used", next_context(fresh, chosen[::-1]))):
        said = codec(x_BD.detach(), torch.from_numpy(context))
        rate = said.rate_bits.detach().numpy()
        estimate = frozen.estimate_bits(said.codes.numpy(), context)
        _law(
            np.allclose(rate, estimate, rtol=1e-3, atol=1e-3),
            f"forward's rate_bits ({rate.mean():.3f} bits a message) differ from estimate_bits ({estimate.mean():.3f}) "
            f"on {name} links; the loss must be in the currency of the bill",
        )
    (gradient,) = torch.autograd.grad(
        (q.z * _messages(len(x_BD), codec.width, generator)).sum(), x_BD, allow_unused=True
    )
    _law(
        gradient is not None and bool(torch.isfinite(gradient).all()) and bool(gradient.any()),
        "no finite gradient passes from forward(x).z to x; use a straight-through estimator",
    )


def _distance(x_BD: Tensor, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    distance: NDArray[np.float32] = ((x_BD.detach().numpy() - vectors) ** 2).sum(-1)
    return distance


def _check_quantized(q: Quantized, x_BD: Tensor, frozen: FrozenCodec) -> None:
    n = len(x_BD)
    _law(
        q.z.shape == x_BD.shape and q.codes.shape == (n, frozen.n_positions) and q.rate_bits.shape == (n,),
        f"forward of {list(x_BD.shape)} must give z of that shape, codes {[n, frozen.n_positions]}, rate_bits {[n]}, "
        f"not {list(q.z.shape)}, {list(q.codes.shape)}, {list(q.rate_bits.shape)}",
    )
    _law(q.codes.dtype == torch.int64, f"forward's codes must be int64, not {q.codes.dtype}")
    _law(
        all(loss.shape == () and bool(torch.isfinite(loss)) for loss in q.losses.values()),
        f"each of forward's losses ({', '.join(q.losses)}) must be one finite number",
    )


# --- topologies -------------------------------------------------------------------------------------------------------


def check_topology(topology: Topology) -> None:
    """Check the laws of a topology; one with parameters must also be learnable.

    Raises:
        ConformanceError: the first law that is broken.
    """
    n, edges = topology.n_agents, _call("edges", topology.edges)
    _law(
        all(e.sender != e.receiver and 0 <= e.sender < n and 0 <= e.receiver < n for e in edges),
        f"edges must join two different agents of 0..{n - 1}; sender first",
    )
    _law(
        list(edges) == sorted(set(edges)) and edges == topology.edges(),
        "edges must be sorted, without repetition, and the same in each call",
    )
    greedy_SR = _sample(topology, 0, temperature=0.0)
    _law(
        torch.equal(greedy_SR.detach().round(), adjacency_of(edges, n)),
        f"sample(temperature=0) opens {int(greedy_SR.detach().round().sum())} edges and edges() names {len(edges)}, or "
        f"others; both must be the graph in use, indexed [sender, receiver]",
    )
    for seed in range(8):
        adjacency_SR = _sample(topology, seed, temperature=1.0)
        _law(
            torch.equal(adjacency_SR, _sample(topology, seed, temperature=1.0)),
            "sample drew two graphs from equal generators; draw from the generator alone",
        )
    if isinstance(topology, nn.Module):
        learned = [p for p in topology.parameters() if p.requires_grad]
        if learned and n > 2:
            _check_gradient(topology, learned)
        if [tuple(p.shape) for p in learned] == [(n, n)]:
            _check_permutation(topology, learned[0])


def _sample(topology: Topology, seed: int, temperature: float) -> Tensor:
    n = topology.n_agents
    adjacency_SR = _call("sample", lambda: topology.sample(torch.Generator().manual_seed(seed), temperature))
    _law(
        adjacency_SR.shape == (n, n),
        f"sample must give an adjacency {[n, n]} of senders and receivers, not {list(adjacency_SR.shape)}",
    )
    hard_SR = adjacency_SR.detach()
    _law(
        bool(((hard_SR - hard_SR.round()).abs() <= CLOSE).all())
        and bool(((hard_SR.round() == 0) | (hard_SR.round() == 1)).all()),
        f"sample must give 0 and 1 alone, up to {CLOSE}; use a straight-through estimator for the gradient",
    )
    _law(
        not hard_SR.diagonal().any(),
        "sample opens an edge from an agent to itself; keep the diagonal at zero",
    )
    return adjacency_SR


def _check_gradient(topology: Topology, learned: list[nn.Parameter]) -> None:
    """Over a few draws, each off-diagonal logit (each parameter, for other shapes) moves the graph."""
    n, generator = topology.n_agents, torch.Generator().manual_seed(0)
    reached = [torch.zeros_like(p, dtype=torch.bool) for p in learned]
    for seed in range(4):
        weight_SR = torch.randn(n, n, generator=generator)
        value = (_sample(topology, seed, temperature=1.0) * weight_SR).sum()
        _law(value.requires_grad, "the topology has parameters, but no gradient reaches them through sample")
        for mask, gradient in zip(reached, torch.autograd.grad(value, learned, allow_unused=True), strict=True):
            if gradient is not None:
                _law(bool(torch.isfinite(gradient).all()), "a gradient through sample is NaN or infinite")
                mask |= gradient != 0
    for mask in reached:
        if mask.shape == (n, n):
            mask = mask | torch.eye(n, dtype=torch.bool)
        missed = int((~mask).sum()) if mask.shape == (n, n) else int(not mask.any())
        _law(
            missed == 0,
            f"no gradient reaches {missed} of the topology's parameters through sample; a closed edge must be able to "
            f"learn to open",
        )


def _check_permutation(topology: Topology, logits_SR: nn.Parameter) -> None:
    """Renaming the agents renames the edges and changes nothing else; the logits are put back afterwards."""
    n, generator = topology.n_agents, torch.Generator().manual_seed(0)
    kept, drawn_SR = logits_SR.detach().clone(), torch.randn(n, n, generator=generator)
    order = torch.randperm(n, generator=generator)
    place = {int(agent): new for new, agent in enumerate(order)}
    with torch.no_grad():
        try:
            logits_SR.copy_(drawn_SR)
            expected = tuple(sorted(Edge(place[e.sender], place[e.receiver]) for e in topology.edges()))
            logits_SR.copy_(drawn_SR[order][:, order])
            found = topology.edges()
        finally:
            logits_SR.copy_(kept)
    _law(found == expected, "permuting the agents does not permute the edges; no agent may be special")


# --- ledgers ----------------------------------------------------------------------------------------------------------


def check_ledger(make_ledger: Callable[[], Ledger]) -> None:
    """Check the laws of a ledger on fresh ones from `make_ledger`: fixed cases, then a random sequence of calls.

    Raises:
        ConformanceError: the first law that is broken.
    """
    scripts = (
        *(_script_settle, _script_clamp, _script_release, _script_fence, _script_accounts, _script_account_fence),
        *(_script_expire, _script_notes, _script_round, _script_random),
    )
    for script in scripts:
        ledger = make_ledger()
        try:
            _invariant(ledger, "opening")
            script(ledger)
        finally:
            ledger.close()


def _invariant(ledger: Ledger, after: str, account: str = MAIN) -> Statement:
    now = ledger.statement(account)
    numbers = (now.granted, now.spent, now.leased, now.available)
    _law(
        all(type(bits) is int and bits >= 0 for bits in numbers),
        f"after {after}: granted, spent, leased, available are {numbers}; they must be whole numbers, none negative",
    )
    _law(
        now.spent + now.leased + now.available == now.granted,
        f"after {after}: spent {now.spent} + leased {now.leased} + available {now.available} "
        f"is not granted {now.granted}",
    )
    return now


def _entry(lease: Lease, bits: int, sender: int = 0) -> Entry:
    return Entry(lease.epoch, lease.sequence, 0, sender, (sender + 1,), 1, bits, 0, lease.holder)


def _refused(kinds: tuple[type[Exception], ...], what: str, ledger: Ledger, call: Callable[[], object]) -> None:
    """The call raises one of these errors and moves no bits, in any account."""
    before = ledger.statements()
    try:
        call()
    except kinds:
        after = ledger.statements()
        _law(after == before, f"{what} was refused, yet bits moved: {before} became {after}")
        return
    raise ConformanceError(f"{what} must raise {' or '.join(k.__name__ for k in kinds)}, and nothing was raised")


def _twice(what: str, ledger: Ledger, call: Callable[[], _T]) -> _T:
    """The same call again gives the same and changes nothing."""
    first = _call(what, call)
    before = _invariant(ledger, what)
    again = _call(f"a retry of {what}", call)
    _law(
        again == first and ledger.statement() == before,
        f"a retry of {what} must give the same and move nothing; {before} became {ledger.statement()}",
    )
    return first


def _script_settle(ledger: Ledger) -> None:
    _twice("grant of 100 bits", ledger, lambda: ledger.grant(100, 0))
    _law(ledger.statement().granted == 100, f"a grant of 100 bits left {ledger.statement().granted} granted")
    lease = _twice("a lease of 60 bits", ledger, lambda: ledger.lease("a", 60, 0))
    _law(ledger.statement().leased == 60, f"a lease of 60 bits left {ledger.statement().leased} leased")
    _twice(
        "settling it at 25 + 15 bits", ledger, lambda: ledger.settle(lease, [_entry(lease, 25), _entry(lease, 15, 3)])
    )
    now = ledger.statement()
    _law(
        (now.spent, now.leased, now.n_entries) == (40, 0, 2),
        f"settling at 25 + 15 bits left {now.spent} spent, {now.leased} leased and {now.n_entries} entries; "
        f"a statement is the sum of its entries",
    )
    closed = (LeaseError,)
    _refused(closed, "settling a closed lease otherwise", ledger, lambda: ledger.settle(lease, [_entry(lease, 41)]))
    _refused(closed, "releasing a settled lease", ledger, lambda: ledger.release(lease))


def _script_clamp(ledger: Ledger) -> None:
    ledger.grant(100, 0)
    lease = ledger.lease("a", 30, 0)
    try:
        ledger.settle(lease, [_entry(lease, 31)])
        raise ConformanceError("settling a lease of 30 bits at 31 must raise LeaseError, and nothing was raised")
    except LeaseError:
        pass
    now = _invariant(ledger, "an overspent lease")
    _law(
        (now.spent, now.leased) == (30, 0),
        f"31 bits reported on a lease of 30 left {now.spent} spent and {now.leased} leased; a report "
        f"cannot exceed its lease, and all of it counts as spent",
    )


def _script_release(ledger: Ledger) -> None:
    ledger.grant(50, 0)
    lease = ledger.lease("a", 50, 0)
    _twice("releasing a lease", ledger, lambda: ledger.release(lease))
    now = ledger.statement()
    _law((now.spent, now.available) == (0, 50), f"a released lease of 50 bits left {now.available} of 50 available")
    _refused((LeaseError,), "settling a released lease", ledger, lambda: ledger.settle(lease, [_entry(lease, 1)]))
    taken = _twice("a withdrawal of 80 of 50 bits", ledger, lambda: ledger.withdraw(80, 0))
    _law(taken == 50, f"a withdrawal of 80 bits from 50 took {taken}; it takes at most what is available")


def _script_fence(ledger: Ledger) -> None:
    ledger.grant(50, 0)
    lease, epoch = ledger.lease("a", 20, 0), ledger.epoch("a")
    _law(ledger.fence("a") > epoch, "fencing a holder must open a new epoch for it")
    now = _invariant(ledger, "a fence")
    _law(
        (now.spent, now.leased) == (20, 0),
        f"a fenced lease of 20 bits left {now.spent} spent; what a dead holder held is spent",
    )
    _refused((LeaseError,), "a lease under a fenced epoch", ledger, lambda: ledger.lease("a", 1, 1, epoch=epoch))
    _refused((LeaseError,), "settling a fenced lease", ledger, lambda: ledger.settle(lease, [_entry(lease, 1)]))


def _script_accounts(ledger: Ledger) -> None:
    """Another account is a jar of its own, with the same laws."""
    terms = Terms("messages", "", 50)
    _twice("opening an account", ledger, lambda: ledger.open_account("other", terms))
    _law(ledger.accounts().get("other") == terms, "an account that was opened must be among ledger.accounts()")
    other_terms = terms._replace(amount=51)
    _refused((JournalError,), "opening it with other terms", ledger, lambda: ledger.open_account("other", other_terms))
    ledger.grant(100, 0)
    main = ledger.statement()
    _twice("a grant to an account", ledger, lambda: ledger.grant(50, 0, account="other"))
    lease = _twice("a lease in an account", ledger, lambda: ledger.lease("a", 30, 0, account="other"))
    more = (OverBudget,)
    _refused(more, "a lease of 21 of 20 in it", ledger, lambda: ledger.lease("a", 21, 1, account="other"))
    _twice("settling it at 12", ledger, lambda: ledger.settle_at(lease, 12))
    now = _invariant(ledger, "settling at 12 in an account", "other")
    _law(
        (now.granted, now.spent, now.leased) == (50, 12, 0),
        f"a lease of 30 of 50, settled at 12, left {now.spent} spent and {now.leased} leased of {now.granted}",
    )
    _refused((LeaseError,), "settling it at 13 afterwards", ledger, lambda: ledger.settle_at(lease, 13))
    over = ledger.lease("a", 8, 1, account="other")
    try:
        ledger.settle_at(over, 9)
        raise ConformanceError("settling a lease of 8 at 9 must raise LeaseError, and nothing was raised")
    except LeaseError:
        pass
    spent = _invariant(ledger, "an overspent lease in an account", "other").spent
    _law(spent == 20, f"9 used of a lease of 8 in an account left {spent - 12} spent; all of it counts, and no more")
    taken = ledger.withdraw(100, 0, account="other")
    _law(taken == 30, f"a withdrawal of 100 from an account with 30 took {taken}; it takes at most what is available")
    _law(ledger.statement() == main, f"what happened in another account moved bits: {main} became {ledger.statement()}")


def _script_account_fence(ledger: Ledger) -> None:
    ledger.open_account("other", Terms("messages", "", 50))
    ledger.grant(50, 0, account="other")
    dead = ledger.lease("a", 20, 0, account="other")
    ledger.lease("b", 5, 0, account="other")
    ledger.fence("a")
    now = _invariant(ledger, "a fence", "other")
    _law(
        (now.spent, now.leased) == (20, 5),
        f"a fence left {now.spent} spent and {now.leased} leased in another account where the dead holder held 20 and "
        f"another one 5; it covers all accounts of its holder",
    )
    _refused((LeaseError,), "settling a fenced lease of an account", ledger, lambda: ledger.settle_at(dead, 1))


def _script_expire(ledger: Ledger) -> None:
    """Deadlines that are over at once, and one that is not: whatever clock the ledger has."""
    ledger.grant(100, 0)
    slow, gone = ledger.lease("a", 20, 0, seconds=0), ledger.lease("b", 30, 0, seconds=0)
    ledger.lease("a", 10, 1, seconds=10**6)
    ledger.lease("a", 5, 2)
    ended = sorted(lease.key for lease in ledger.expire())
    _law(
        ended == [slow.key, gone.key],
        f"expire() ended {len(ended)} of 2 leases whose deadline had passed, among 2 for which it had not",
    )
    now = _invariant(ledger, "leases that expired")
    _law(
        (now.spent, now.leased) == (50, 15),
        f"leases of 20 and 30 bits that expired left {now.spent} spent and {now.leased} leased; they count as spent whole",
    )
    _twice("a late settlement", ledger, lambda: ledger.settle(slow, [_entry(slow, 15)]))
    now = _invariant(ledger, "a late settlement")
    _law(
        now.spent == 45,
        f"an expired lease of 20, settled late at 15, left {now.spent - 30} spent; it is told truthfully",
    )
    _refused((LeaseError,), "another late settlement", ledger, lambda: ledger.settle(slow, [_entry(slow, 14)]))
    ledger.fence("b")
    _refused((LeaseError,), "a late report of a fenced holder", ledger, lambda: ledger.settle(gone, [_entry(gone, 1)]))


def _script_notes(ledger: Ledger) -> None:
    for kind, n in (("dropped", 2), ("degraded", 3), ("deferred", 4)):
        _twice(f"noting {kind} messages", ledger, lambda kind=kind, n=n: ledger.note(kind, n, 10, 0))  # type: ignore[misc]
    now = ledger.statement()
    counts = (now.dropped_messages, now.dropped_bits, now.degraded_messages, now.deferred_messages)
    _law(
        counts == (2, 10, 3, 4),
        f"2 dropped messages of 10 bits, 3 degraded and 4 deferred ones are counted as {counts}",
    )
    _twice("noting a price", ledger, lambda: ledger.note_price(MAIN, 0.25, 0))
    ledger.note_price(MAIN, 0.5, 1)
    noted = ledger.journal.last_price(MAIN)
    _law(noted == 0.5, f"the price noted last is 0.5, the journal has {noted}")


def _script_round(ledger: Ledger) -> None:
    """What fails within a round takes back all of it."""
    ledger.open_account("other", Terms("messages", "", 50))
    ledger.grant(10, 0)

    def fail() -> None:
        with ledger.round():
            ledger.grant(5, 1)
            ledger.lease("a", 4, 0)
            ledger.lease("a", 1, 0, account="other")

    _refused((OverBudget,), "a round with a lease that an empty account cannot give", ledger, fail)
    _invariant(ledger, "a round that failed")


def _script_random(ledger: Ledger) -> None:
    """300 calls in an order drawn once and for all."""
    draw, open_leases = random.Random(0), list[Lease]()
    for number in range(300):
        before = ledger.statement()
        kind = draw.choice(("grant", "lease", "lease", "settle", "release", "withdraw", "fence"))
        bits = draw.randrange(40)
        if kind == "grant":
            ledger.grant(bits, number)
        elif kind == "withdraw":
            ledger.withdraw(bits, number)
        elif kind == "lease":
            try:
                open_leases.append(ledger.lease(draw.choice("ab"), bits, number))
                _law(
                    ledger.statement().leased == before.leased + bits,
                    f"a lease of {bits} bits did not add {bits} to what is leased",
                )
            except OverBudget:
                _law(bits > before.available, f"a lease of {bits} bits was refused with {before.available} available")
        elif kind == "fence" and number % 5 == 0:
            ledger.fence("b")
            open_leases = [lease for lease in open_leases if lease.holder != "b"]
        elif open_leases and kind in ("settle", "release"):
            lease = open_leases.pop(draw.randrange(len(open_leases)))
            spent = draw.randint(0, lease.bits) if kind == "settle" else 0
            if kind == "settle":
                ledger.settle(lease, [_entry(lease, spent)])
            else:
                ledger.release(lease)
            _law(
                ledger.statement().spent == before.spent + spent,
                f"a {kind} at {spent} bits did not add {spent} to what is spent",
            )
        _invariant(ledger, f"call {number} of a random sequence ({kind})")


# --- agents -----------------------------------------------------------------------------------------------------------


def check_agent(
    factory: Callable[[int], Agent], *, observation_width: int, n_actions: int, message_width: int | None
) -> None:
    """Check that `factory(agent_id)` makes agents that keep the contract of `commlib.agent.Agent`.

    Args:
        factory: a class or function that takes the agent's id.
        observation_width: O, floats per observation.
        n_actions: the number of actions; replies must lie in 0..n_actions-1.
        message_width: D, floats per message; None accepts any width that stays the same.

    Raises:
        ConformanceError: the first law that is broken.
    """
    agents = [_call(f"making agent {agent_id}", lambda agent_id=agent_id: factory(agent_id)) for agent_id in (0, 1)]  # type: ignore[misc]
    _law(agents[0] is not agents[1], "the factory gave one object for two agents; make a new one for each id")
    draw = np.random.default_rng(0)
    for agent_id, agent in enumerate(agents):
        _law(callable(getattr(agent, "act", None)), f"a {type(agent).__name__} has no method act(observation, inbox)")
        for _ in range(2):  # an episode, and another one after its reset
            reset = getattr(agent, "reset", None)
            if callable(reset):
                _call(f"reset of agent {agent_id}", reset)
            for senders in ((), (), (2,), (1 - agent_id, 2), (2,), ()):
                inbox_width = 1 if message_width is None else message_width
                inbox = {s: draw.uniform(-1, 1, inbox_width).astype(np.float32) for s in senders}
                observation = draw.uniform(-1, 1, observation_width).astype(np.float32)
                message_width = _check_reply(agent, agent_id, observation, inbox, n_actions, message_width)


def _check_reply(
    agent: Agent,
    agent_id: int,
    observation: NDArray[np.float32],
    inbox: Inbox,
    n_actions: int,
    width: int | None,
) -> int | None:
    """Ask once; the width of its messages as far as it is known now."""
    seen, heard = observation.copy(), {sender: vector.copy() for sender, vector in inbox.items()}
    post = f"{len(inbox)} messages" if inbox else "an empty inbox"
    what = f"agent {agent_id}: act on an observation [{len(observation)}] and {post}"
    reply = _call(what, lambda: agent.act(observation, inbox))
    _law(
        np.array_equal(seen, observation),
        f"agent {agent_id} changed the observation that it was given; work on a copy",
    )
    _law(
        inbox.keys() == heard.keys() and all(np.array_equal(heard[s], inbox[s]) for s in heard),
        f"agent {agent_id} changed the inbox that it was given; work on a copy",
    )
    message = reply[1] if isinstance(reply, tuple) and len(reply) == 2 else None
    if width is None and message is not None:
        width = _call(f"agent {agent_id}: reading its message", lambda: int(np.asarray(message, np.float32).size))
    try:
        checked_reply(reply, agent_id, n_actions, 0 if width is None else width)
    except AgentError as error:
        raise ConformanceError(str(error).replace("the codec expects", "expected was")) from error
    return width


# --- worlds -----------------------------------------------------------------------------------------------------------


def check_world(world: World, n_worlds: int = 3) -> None:
    """Check the laws of a world by playing it with random actions; it is left reset, and is not closed.

    A world that holds material out for the evaluation is checked in both editions.

    Raises:
        ConformanceError: the first law that is broken.
    """
    _check_spec(world.spec)
    if isinstance(world, HoldsOut):
        judged = _call("held_out", world.held_out)
        _law(
            judged.spec == world.spec,
            f"{world.spec.name}: held_out gives a world of another spec; what was trained here must fit there",
        )
        _check_playing(judged, n_worlds)
    if world.spec.has_expert:
        _check_expert(world, n_worlds)
    _check_playing(world, n_worlds)


def _check_expert(world: World, n_worlds: int) -> None:
    _call("reset", lambda: world.reset(n_worlds, torch.Generator().manual_seed(0)))
    advice = _call("expert", lambda: expert_of(world))
    _law(len(advice) == n_worlds, f"{world.spec.name}: expert advises {len(advice)} worlds of {n_worlds}")


def _check_playing(world: World, n_worlds: int) -> None:
    spec = world.spec
    _call("set_progress(1.0)", lambda: world.set_progress(1.0))
    whole = _play(world, n_worlds, seed=0, n_steps=spec.n_steps + 2)
    _law(
        bool(whole[spec.n_steps].done.all()) if len(whole) > spec.n_steps else True,
        f"{spec.name}: {int((~whole[-1].done).sum())} of {n_worlds} episodes go on after n_steps = {spec.n_steps}",
    )
    success = _call("success", world.success)
    _law(
        success.shape == (n_worlds,) and bool(((success >= 0) & (success <= 1)).all()),
        f"{spec.name}: success must be {[n_worlds]} numbers in 0..1, it is {list(success.shape)}",
    )
    few = min(spec.n_steps, 20)
    first = _play(world, n_worlds, seed=0, n_steps=few)
    _law(
        _alike(first, whole[: len(first)]),
        f"{spec.name}: the same seed and actions gave two different episodes; draw from reset's generator alone, "
        f"and forget the last episode",
    )
    _law(
        any(not _alike(first, _play(world, n_worlds, seed=seed, n_steps=few)) for seed in (1, 2, 3)),
        f"{spec.name}: four seeds gave the same episodes; use the generator that reset is given",
    )
    world.reset(n_worlds, torch.Generator().manual_seed(0))


def _check_spec(spec: object) -> None:
    if not isinstance(spec, WorldSpec):
        raise ConformanceError(f"spec must be a commlib.world.WorldSpec, not a {type(spec).__name__}")
    _law(
        bool(spec.name) and spec.n_agents >= 1 and spec.observation_width >= 1 and spec.n_steps >= 1,
        f"the spec needs a name and at least one agent, one float of observation and one step, not {spec.name!r}, "
        f"{spec.n_agents}, {spec.observation_width} and {spec.n_steps}",
    )
    _law(
        len(spec.action_counts) == spec.n_agents and all(count >= 1 for count in spec.action_counts),
        f"{spec.name}: action_counts must hold a count of at least 1 for each of {spec.n_agents} agents, "
        f"not {spec.action_counts}",
    )


def _play(world: World, n_worlds: int, seed: int, n_steps: int) -> list[WorldStep]:
    """An episode with actions that depend on nothing but the step; checked on the way, and copied."""
    spec, draw = world.spec, torch.Generator().manual_seed(1)
    high = torch.tensor(spec.action_counts)
    generator = torch.Generator().manual_seed(seed)
    steps = [_copied(_call("reset", lambda: world.reset(n_worlds, generator)))]
    _check_step(steps[0], spec, n_worlds, "reset")
    _law(not steps[0].reward.any(), f"{spec.name}: reset pays a reward; only a step may")
    for number in range(1, n_steps + 1):
        action = (torch.rand(n_worlds, spec.n_agents, generator=draw) * high).long()
        step = _copied(_call(f"step {number}", lambda action=action: world.step(action)))  # type: ignore[misc]
        _check_step(step, spec, n_worlds, f"step {number}")
        was_done = steps[-1].done
        _law(
            bool(step.done[was_done].all()),
            f"{spec.name}: step {number} reopens an episode that was over; done stays true until the next reset",
        )
        _law(
            not step.reward[was_done].any(),
            f"{spec.name}: step {number} pays a reward in an episode that was over; it must be 0",
        )
        steps.append(step)
    return steps


def _copied(step: WorldStep) -> WorldStep:
    return WorldStep(*(part.clone() for part in step)) if isinstance(step, WorldStep) else step


def _check_step(step: WorldStep, spec: WorldSpec, n_worlds: int, when: str) -> None:
    _law(isinstance(step, WorldStep), f"{spec.name}: {when} must give a WorldStep, it gave a {type(step).__name__}")
    shapes: Iterable[tuple[str, Tensor, tuple[int, ...], torch.dtype]] = (
        ("observation", step.observation, (n_worlds, spec.n_agents, spec.observation_width), torch.float32),
        ("reward", step.reward, (n_worlds, spec.n_agents), torch.float32),
        ("done", step.done, (n_worlds,), torch.bool),
        ("active", step.active, (n_worlds, spec.n_agents), torch.bool),
    )
    for name, part, shape, dtype in shapes:
        _law(
            part.shape == shape and part.dtype == dtype,
            f"{spec.name}: {when} gives {name} as {part.dtype} {list(part.shape)}, it must be {dtype} {list(shape)}",
        )
        _law(
            not part.is_floating_point() or bool(torch.isfinite(part).all()),
            f"{spec.name}: {when} gives {name} with NaN or infinity",
        )
    _law(
        not step.active[step.done].any(),
        f"{spec.name}: {when} calls agents of a finished episode active; their actions can change nothing",
    )


def _alike(one: list[WorldStep], other: list[WorldStep]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )
