"""Every checker passes what is sound, and catches a fake that breaks one law at a time."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import commlib
from commlib.budget import Budget
from commlib.codec import START
from commlib.codecs.floats import Float32Codec
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.int8 import Int8Codec
from commlib.codecs.prior import Prior, to_integers, uniform_prior
from commlib.codecs.vq import VQCodec
from commlib.errors import CodecError, CommlibError, LeaseError, OverBudget
from commlib.experiments.world_guide import Guide
from commlib.ledger import MAIN, Ledger
from commlib.message import Edge
from commlib.testing import ConformanceError, check_agent, check_codec, check_ledger, check_topology, check_world
from commlib.topology import CommFormerTopology, make_topology


def caught(sentence, check, *arguments, **settings):
    with pytest.raises(ConformanceError, match=sentence) as error:
        check(*arguments, **settings)
    assert "\n" not in str(error.value)


def test_the_error_is_one_of_ours_and_the_door_leads_here():
    assert issubclass(ConformanceError, CommlibError)
    assert commlib.testing.check_codec is check_codec


# --- codecs


def parts(skewed=False):
    codebook = np.array(list(itertools.product((-0.75, -0.25, 0.25, 0.75), repeat=2)), np.float32)
    if not skewed:
        return "fake", CodebookQuantiser(codebook), uniform_prior(1, 16)
    weights = 0.5 ** np.abs(np.arange(17)[:, None] - np.arange(16))
    return "fake", CodebookQuantiser(codebook), Prior(to_integers(weights[None]))


@pytest.mark.parametrize(
    "codec",
    [VQCodec(4, 8), Int8Codec(3), Float32Codec(2), TableCodec(*parts()), TableCodec(*parts(skewed=True))],
    ids=["vq", "int8", "float32", "uniform", "skewed"],
)
def test_sound_codecs_pass_and_are_left_as_they_were(codec):
    before = {k: v.clone() for k, v in codec.state_dict().items()} if isinstance(codec, nn.Module) else {}
    check_codec(codec)
    check_codec(codec, torch.Generator().manual_seed(7))
    for name, tensor in before.items():
        assert torch.equal(codec.state_dict()[name], tensor)


class WrongDecode(TableCodec):
    def decode(self, payload, context):
        return (super().decode(payload, context) + 1) % 16


class WrongSize(TableCodec):
    def payload_bits(self, codes, context):
        return super().payload_bits(codes, context) + 8


class Moody(TableCodec):
    n_calls = itertools.count()

    def encode(self, codes, context):
        return super().encode(codes, context) + b"\0" * (next(self.n_calls) % 2 if len(codes) else 0)

    def payload_bits(self, codes, context):
        return 8 * len(TableCodec.encode(self, codes, context))

    def decode(self, payload, context):
        return super().decode(payload.rstrip(b"\0"), context)


class ShortCodes(TableCodec):
    def choose(self, vectors, context, rate_weight=0.0):
        return super().choose(vectors, context, rate_weight).astype(np.int32)


class Greedy(TableCodec):
    def choose(self, vectors, context, rate_weight=0.0):
        codes = super().choose(vectors, context, rate_weight)
        vectors[:] = 0
        return codes


class Wide(TableCodec):
    def embed(self, codes, context=None):
        return super().embed(codes, context).astype(np.float64)


class NotANumber(TableCodec):
    def embed(self, codes, context=None):
        return super().embed(codes, context) / np.float32(np.nan)


class NoDigest(TableCodec):
    digest = "fake-1"


class NewDigest(TableCodec):
    readings = itertools.count()

    @property
    def digest(self):
        return f"{next(self.readings):064x}"


class Cheap(TableCodec):
    def estimate_bits(self, codes, context):
        return super().estimate_bits(codes, context) / 2


class NoPrior(TableCodec):
    def estimate_bits(self, codes, context):
        return super().estimate_bits(codes, context) - 0.1


class Negative(TableCodec):
    def estimate_bits(self, codes, context):
        return super().estimate_bits(codes, context) - 100


class Surprising(TableCodec):
    calls = itertools.count()

    def expected(self, context):
        return (super().expected(context) + next(self.calls)) % 16


class Spendthrift(TableCodec):
    def choose(self, vectors, context, rate_weight=0.0):
        if rate_weight == 0:
            return super().choose(vectors, context)
        return self.prior.bits[0, context[:, 0] - START].argmax(-1).reshape(-1, 1)


class Crashing(TableCodec):
    def decode(self, payload, context):
        try:
            return super().decode(payload, context)
        except CodecError:
            raise IndexError("list index out of range") from None


class Trusting(TableCodec):
    def decode(self, payload, context):
        try:
            return super().decode(payload, context)
        except CodecError:
            return np.full((len(context), self.n_positions), 99)


class Panicking(TableCodec):
    def decode(self, payload, context):
        if len(payload) > 1000:
            raise BaseException("a compiled coder panicked")
        return super().decode(payload, context)


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (WrongDecode, r"decode\(encode\(codes\)\) differs .* in 1 messages"),
        (WrongSize, "payload_bits tells 8 bits for 0 messages on fresh links, encode made 0"),
        (Moody, "encode made two different streams"),
        (ShortCodes, "choose must give int64 codes .* it gave int32"),
        (Greedy, "choose changed the vectors"),
        (Wide, r"embed must give finite float32 \[256, 2\], not float64"),
        (NotANumber, "embed must give finite"),
        (NoDigest, "digest must be 64 hex digits"),
        (NewDigest, "digest changed between two readings"),
        (Cheap, "take 1024 bits, the estimate is 512"),
        (NoPrior, "add up to 1.0[67]. in one context"),
        (Negative, "finite numbers >= 0"),
        (Surprising, "expected must give the same codes"),
        (Spendthrift, "a higher price must not cost more bits"),
        (Crashing, "raised IndexError: list index out of range; damaged bytes must raise CodecError"),
        (Trusting, "encode of codes decoded from a payload .* raised CodecError"),
        (Panicking, "raised BaseException: a compiled coder panicked; damaged bytes"),
    ],
)
def test_a_frozen_codec_that_breaks_one_law(fake, sentence):
    caught(sentence, check_codec, fake(*parts(skewed=fake is Spendthrift)))


class Sloppy(Int8Codec):
    def forward(self, x, context=None):
        q = super().forward(x, context)
        return q._replace(z=q.z + 1e-3)


class RoundsDown(Int8Codec):
    def forward(self, x, context=None):
        return super().forward(x - self.step / 2, context)


class NoGradient(Int8Codec):
    def forward(self, x, context=None):
        q = super().forward(x.detach(), context)
        return q._replace(z=q.z + 0 * x)


class FreeTalk(Int8Codec):
    def forward(self, x, context=None):
        q = super().forward(x, context)
        return q._replace(rate_bits=0 * q.rate_bits)


class NoContext(Int8Codec):
    def __init__(self, width):
        super().__init__(width)
        table = np.ones((width, 257, 256))
        table[:, 0, 0] = 256.0
        self.set_prior(Prior(to_integers(table)))

    def forward(self, x, context=None):
        return super().forward(x, None)


class FlatCodes(Int8Codec):
    def forward(self, x, context=None):
        q = super().forward(x, context)
        return q._replace(codes=q.codes[:, 0])


class BadLoss(Int8Codec):
    def forward(self, x, context=None):
        return super().forward(x, context)._replace(losses={"commitment": torch.tensor(torch.nan)})


class Drifting(Int8Codec):
    def freeze(self):
        self.low.sub_(0.01)
        return super().freeze()


class Anonymous(Int8Codec):
    def freeze(self):
        frozen = super().freeze()
        frozen.__dict__["digest"] = "0" * 64
        return frozen


class Unfit(Int8Codec):
    def fit(self, messages, generator):
        raise ZeroDivisionError("division by zero")


class NoFreezer(Int8Codec):
    def freeze(self):
        return "ice"


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (Sloppy, r"differs from embed\(codes\) by up to 0.001"),
        (RoundsDown, "forward and choose disagree on"),
        (NoGradient, "no finite gradient"),
        (FreeTalk, r"rate_bits \(0.000 bits a message\) differ .* on fresh links"),
        (NoContext, "rate_bits .* on used links"),
        (FlatCodes, r"codes \[256, 2\], rate_bits \[256\], not \[256, 2\], \[256\]"),
        (BadLoss, r"losses \(commitment\) must be one finite number"),
        (Drifting, "two digests for one codec"),
        (Anonymous, "have the same digest; put the codebook into it"),
        (Unfit, "fit on 4096 messages raised ZeroDivisionError: division by zero"),
        (NoFreezer, "freeze must give a FrozenCodec, it gave a str"),
    ],
)
def test_a_trainable_codec_that_breaks_one_law(fake, sentence):
    caught(sentence, check_codec, fake(2))


# --- topologies


@pytest.mark.parametrize("n_agents", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["none", "full", "ring", "commformer"])
def test_sound_topologies_pass(name, n_agents):
    check_topology(make_topology(name, n_agents))


def test_a_learned_topology_keeps_its_logits():
    topology = CommFormerTopology(5)
    with torch.no_grad():
        topology.logits.copy_(torch.arange(25.0).view(5, 5))
    check_topology(topology)
    assert torch.equal(topology.logits.detach(), torch.arange(25.0).view(5, 5))


class Plain:
    """A ring of three, from which each fake departs."""

    n_agents = 3
    adjacency = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])

    def sample(self, generator, temperature=1.0):
        return self.adjacency

    def edges(self):
        return (Edge(0, 1), Edge(1, 2), Edge(2, 0))


class ToItself(Plain):
    adjacency = Plain.adjacency + torch.eye(3)


class ReceiverFirst(Plain):
    adjacency = Plain.adjacency.T


class Grey(Plain):
    adjacency = Plain.adjacency * 0.9


class OneTooMany(Plain):
    adjacency = torch.zeros(4, 4)


class Unsorted(Plain):
    def edges(self):
        return super().edges()[::-1]


class OutOfRange(Plain):
    def edges(self):
        return (Edge(0, 3),)


class SelfEdge(Plain):
    def edges(self):
        return (Edge(1, 1),)


class GlobalDice(Plain):
    def sample(self, generator, temperature=1.0):
        if temperature == 0:
            return self.adjacency
        return torch.rand(3, 3).round().fill_diagonal_(0)


class Dead(CommFormerTopology):
    def sample(self, generator, temperature=1.0):
        return super().sample(generator, temperature).detach()


class OpenOnly(CommFormerTopology):
    def sample(self, generator, temperature=1.0):
        drawn = super().sample(generator, temperature)
        open_ = drawn.detach().round()
        live = open_ * self.logits * torch.triu(torch.ones(self.n_agents, self.n_agents))
        return open_ + live - live.detach()


class Partial(CommFormerTopology):
    def _scores(self):
        return super()._scores() + 3 * torch.eye(self.n_agents).roll(1, 0)


class Broken(Plain):
    def edges(self):
        raise KeyError("edges")


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (ToItself(), "opens an edge from an agent to itself"),
        (ReceiverFirst(), r"opens 3 edges and edges\(\) names 3, or others; .* indexed \[sender, receiver\]"),
        (Grey(), "sample must give 0 and 1 alone"),
        (OneTooMany(), r"must give an adjacency \[3, 3\] .* not \[4, 4\]"),
        (Unsorted(), "edges must be sorted"),
        (OutOfRange(), "two different agents of 0..2"),
        (SelfEdge(), "two different agents"),
        (GlobalDice(), "two graphs from equal generators"),
        (Dead(5), "no gradient reaches them"),
        (OpenOnly(5), "no gradient reaches 10 of the topology's parameters"),
        (Partial(5), "no agent may be special"),
        (Broken(), "edges raised KeyError"),
    ],
)
def test_a_topology_that_breaks_one_law(fake, sentence):
    torch.manual_seed(0)
    check_topology(Plain())
    caught(sentence, check_topology, fake)


# --- ledgers


@pytest.mark.parametrize(
    "make", [Ledger, lambda: Ledger(budget=Budget(None)), lambda: Ledger(budget=Budget(9, "step"))]
)
def test_sound_ledgers_pass(make):
    check_ledger(make)


class Misstates(Ledger):
    def misstate(self, now):
        return now

    def statement(self, account=MAIN):
        return self.misstate(super().statement(account))


class LosesBits(Misstates):
    def misstate(self, now):
        return now._replace(available=now.available - 1)


class Halves(Misstates):
    def misstate(self, now):
        return now._replace(spent=now.spent / 2)


class MakesBits(Misstates):
    def misstate(self, now):
        return now._replace(available=now.available + (now.spent > 0))


class Forgets(Misstates):
    def misstate(self, now):
        return now._replace(n_entries=0)


class GrantsAgain(Ledger):
    n_calls = 0

    def grant(self, bits, sequence, *, account=MAIN):
        self.n_calls += 1
        return super().grant(bits, self.n_calls, account=account)


class NoClamp(Ledger):
    def settle(self, lease, entries):
        rows = list(entries)
        if sum(row.bits for row in rows) > lease.bits:
            rows = [rows[0]._replace(bits=lease.bits)]
        return super().settle(lease, rows)


class ClampsToNothing(Ledger):
    def settle(self, lease, entries):
        rows = list(entries)
        if sum(row.bits for row in rows) > lease.bits:
            self.release(lease)
            raise LeaseError("too much")
        return super().settle(lease, rows)


class ClosesTwice(Ledger):
    def settle(self, lease, entries):
        try:
            return super().settle(lease, entries)
        except LeaseError:
            if self._is_open(lease) or sum(entry.bits for entry in entries) == 31:
                raise
            return self.statement()


class KeepsReleased(Ledger):
    def release(self, lease):
        return self.statement()


class ReleasesAnything(Ledger):
    def release(self, lease):
        return super().release(lease) if self._is_open(lease) else self.statement()


class TakesAll(Ledger):
    def withdraw(self, bits, sequence, *, account=MAIN):
        super().withdraw(bits, sequence, account=account)
        return bits


class NoFence(Ledger):
    def lease(self, holder, bits, sequence, *, epoch=None, account=MAIN, seconds=None):
        return super().lease(holder, bits, sequence, account=account, seconds=seconds)


class SameEpoch(Ledger):
    def fence(self, holder, *, epoch=None):
        return 0


class Stingy(Ledger):
    def lease(self, holder, bits, sequence, *, epoch=None, account=MAIN, seconds=None):
        if bits == 3:
            raise OverBudget("no")
        return super().lease(holder, bits, sequence, epoch=epoch, account=account, seconds=seconds)


class Uncapped(Ledger):
    def _is_capped(self, account):
        return account == MAIN


class OneJar(Ledger):
    def settle_at(self, lease, amount):
        super().settle_at(lease, amount)
        return self.grant(1, 10**6)


class ForgetsAccounts(Ledger):
    def accounts(self):
        return {}


class AnyTerms(Ledger):
    def open_account(self, account, terms):
        if account not in self.accounts():
            super().open_account(account, terms)


class SettlesWhole(Ledger):
    def settle_at(self, lease, amount):
        return super().settle_at(lease, lease.bits if amount == 12 else amount)


class SettlesAgain(Ledger):
    def settle_at(self, lease, amount):
        return super().settle_at(lease, amount) if self._is_open(lease) else self.statement(lease.account)


class NoClampAt(Ledger):
    def settle_at(self, lease, amount):
        return super().settle_at(lease, min(amount, lease.bits))


class TakesAllAt(Ledger):
    def withdraw(self, bits, sequence, *, account=MAIN):
        taken = super().withdraw(bits, sequence, account=account)
        return taken if account == MAIN else bits


class FencesMainOnly(Ledger):
    def fence(self, holder, *, epoch=None):
        with self.round():
            kept = [lease for lease in self.journal.held() if lease.account != MAIN]
            held = self.journal.held
            self.journal.held = lambda: [lease for lease in held() if lease not in kept]
            try:
                return super().fence(holder, epoch=epoch)
            finally:
                self.journal.held = held


class NeverExpires(Ledger):
    def expire(self):
        return []


class ExpiresAll(Ledger):
    def expire(self):
        self._clock = lambda: 10**12
        return super().expire()


class ReleasesExpired(Ledger):
    def expire(self):
        over = [lease for lease in self.journal.held() if lease.deadline is not None and lease.deadline < 10**15]
        over = [lease for lease in over if lease.sequence == 0]
        for lease in over:
            self.release(lease)
        return over


class NeverLate(Ledger):
    def settle(self, lease, entries):
        record = self.journal.lease(lease.key)
        return self.statement() if record and record.state == "expired" else super().settle(lease, entries)


class AlwaysLate(Ledger):
    def settle(self, lease, entries):
        record = self.journal.lease(lease.key)
        return self.statement() if record and record.state == "late" else super().settle(lease, entries)


class HearsTheDead(Ledger):
    def _check_epoch(self, holder, epoch):
        if holder != "b":
            super()._check_epoch(holder, epoch)


class CountsOneKind(Ledger):
    def note(self, kind, n_messages, bits, sequence):
        return super().note("dropped", n_messages, bits, sequence + ord(kind[2]))


class OldPrice(Ledger):
    def note_price(self, account, price, sequence):
        super().note_price(account, 0.25, sequence)


class NoRounds(Ledger):
    def __init__(self):
        super().__init__()
        self.round = contextlib.nullcontext


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (LosesBits, "after opening: .* must be whole numbers, none negative"),
        (Halves, "must be whole numbers"),
        (MakesBits, "after settling it at 25 . 15 bits: spent 40 . leased 0 . available 61 is not granted 100"),
        (Forgets, "and 0 entries; a statement is the sum of its entries"),
        (GrantsAgain, "a retry of grant of 100 bits must give the same and move nothing"),
        (NoClamp, "at 31 must raise LeaseError, and nothing was raised"),
        (ClampsToNothing, "left 0 spent and 0 leased; a report cannot exceed its lease"),
        (ClosesTwice, "settling a closed lease otherwise must raise LeaseError"),
        (KeepsReleased, "releasing a settled lease must raise LeaseError"),
        (ReleasesAnything, "releasing a settled lease must raise LeaseError"),
        (TakesAll, "a withdrawal of 80 bits from 50 took 80"),
        (NoFence, "a lease under a fenced epoch must raise LeaseError"),
        (SameEpoch, "fencing a holder must open a new epoch"),
        (Stingy, "a lease of 3 bits was refused with .* available"),
        (Uncapped, "a lease of 21 of 20 in it must raise OverBudget"),
        (OneJar, "what happened in another account moved bits"),
        (ForgetsAccounts, "must be among ledger.accounts"),
        (AnyTerms, "opening it with other terms must raise JournalError"),
        (SettlesWhole, "settled at 12, left 30 spent and 0 leased of 50"),
        (SettlesAgain, "settling it at 13 afterwards must raise LeaseError"),
        (NoClampAt, "settling a lease of 8 at 9 must raise LeaseError, and nothing was raised"),
        (TakesAllAt, "a withdrawal of 100 from an account with 30 took 100"),
        (FencesMainOnly, "a fence left 0 spent and 25 leased in another account"),
        (NeverExpires, "expire.. ended 0 of 2 leases"),
        (ExpiresAll, "expire.. ended 3 of 2 leases"),
        (ReleasesExpired, "that expired left 0 spent and 15 leased"),
        (NeverLate, "settled late at 15, left 20 spent"),
        (AlwaysLate, "another late settlement must raise LeaseError"),
        (HearsTheDead, "a late report of a fenced holder must raise LeaseError"),
        (CountsOneKind, "are counted as .9, 30, 0, 0."),
        (OldPrice, "the price noted last is 0.5, the journal has 0.25"),
        (NoRounds, "yet bits moved"),
    ],
)
def test_a_ledger_that_breaks_one_law(fake, sentence):
    caught(sentence, check_ledger, fake)


# --- agents


class Sound:
    """Says what it hears, now and then."""

    def __init__(self, agent_id):
        self.agent_id, self.n_calls = agent_id, 0

    def reset(self):
        self.n_calls = 0

    def act(self, observation, inbox):
        self.n_calls += 1
        if self.n_calls % 2:
            return 0, None
        return np.int64(1), sum(inbox.values(), np.zeros(4, np.float32))


class Mute(Sound):
    def act(self, observation, inbox):
        return 0, None


class NoTuple(Sound):
    def act(self, observation, inbox):
        return 0


class OutOfActions(Sound):
    def act(self, observation, inbox):
        return 2, None


class Narrow(Sound):
    def act(self, observation, inbox):
        return 0, np.zeros(3)


class Infinite(Sound):
    def act(self, observation, inbox):
        return 0, np.full(4, np.inf)


class Vandal(Sound):
    def act(self, observation, inbox):
        observation[0] = 5.0
        return 0, None


class Pickpocket(Sound):
    def act(self, observation, inbox):
        inbox.clear()
        return 0, None


class Scribbler(Sound):
    def act(self, observation, inbox):
        for vector in inbox.values():
            vector *= 2
        return 0, None


class NeedsPost(Sound):
    def act(self, observation, inbox):
        return int(next(iter(inbox.values()))[0] > 2), None


class NoReset(Sound):
    def reset(self):
        raise NotImplementedError


class Words(Sound):
    def act(self, observation, inbox):
        return 0, "hello"


class Growing(Sound):
    def act(self, observation, inbox):
        self.n_calls += 1
        return 0, np.zeros(self.n_calls)


class Silent:
    def __init__(self, agent_id):
        pass


ONE_FOR_ALL = Sound(0)
SIZES = {"observation_width": 5, "n_actions": 2, "message_width": 4}


@pytest.mark.parametrize("agent", [Sound, Mute])
@pytest.mark.parametrize("width", [4, None])
def test_sound_agents_pass(agent, width):
    check_agent(agent, **{**SIZES, "message_width": width} if agent is Mute or width else SIZES)


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (NoTuple, r"act must return \(action, message or None\), it returned a int"),
        (OutOfActions, r"the action must be an integer in 0..1, not 2"),
        (Narrow, r"the message has the shape \[3\], expected was \[4\]"),
        (Infinite, "holds NaN or infinity"),
        (Vandal, "changed the observation"),
        (Pickpocket, "changed the inbox"),
        (Scribbler, "changed the inbox"),
        (NeedsPost, r"act on an observation \[5\] and an empty inbox raised StopIteration"),
        (NoReset, "reset of agent 0 raised NotImplementedError"),
        (Words, "the message must be numbers, not a str"),
        (Silent, "a Silent has no method act"),
        (lambda agent_id: ONE_FOR_ALL, "one object for two agents"),
        (lambda: Sound(0), "making agent 0 raised TypeError"),
    ],
)
def test_an_agent_that_breaks_one_law(fake, sentence):
    caught(sentence, check_agent, fake, **SIZES)


def test_a_message_of_unknown_width_must_keep_its_width():
    caught(
        r"shape \[2\], expected was \[1\]", check_agent, Growing, observation_width=5, n_actions=2, message_width=None
    )


# --- worlds


@pytest.mark.parametrize("n_worlds", [1, 4])
def test_a_sound_world_passes(n_worlds):
    check_world(Guide(), n_worlds)


class Changed(Guide):
    """Guide with one field of its steps replaced."""

    n_seen = 0

    def change(self, step):
        return step

    def reset(self, n_worlds, generator):
        self.n_seen = 0
        return self.change(super().reset(n_worlds, generator))

    def step(self, action):
        self.n_seen += 1
        return self.change(super().step(action))


class Lazy(Changed):
    def change(self, step):
        return step._replace(done=step.done & False, active=step.active | True)


class Reopens(Changed):
    def change(self, step):
        is_done = torch.full_like(step.done, self.n_seen == 3) | step.done
        return step._replace(done=is_done, active=step.active & ~is_done[:, None])


class Overpays(Changed):
    def change(self, step):
        return step._replace(reward=step.reward + step.done[:, None])


class PaysOnReset(Changed):
    def change(self, step):
        return step._replace(reward=step.reward + 1)


class Doubles(Changed):
    def change(self, step):
        return step._replace(observation=step.observation.double())


class Trimmed(Changed):
    def change(self, step):
        return step._replace(observation=step.observation[..., 1:])


class Overflows(Changed):
    def change(self, step):
        return step._replace(observation=step.observation / 0.0)


class Restless(Changed):
    def change(self, step):
        return step._replace(active=step.active | True)


class Tuples(Changed):
    def change(self, step):
        return tuple(step)


class Dice(Guide):
    def reset(self, n_worlds, generator):
        return super().reset(n_worlds, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


class Deaf(Guide):
    def reset(self, n_worlds, generator):
        return super().reset(n_worlds, torch.Generator().manual_seed(0))


class Triumphant(Guide):
    def success(self):
        return super().success() + 1.5


class Overcounted(Guide):
    @property
    def spec(self):
        from dataclasses import replace

        return replace(super().spec, action_counts=(5, 5))


class Stuck(Guide):
    def step(self, action):
        raise RuntimeError("no path")


class NoSpec(Guide):
    spec = None


class Advised(Guide):
    @property
    def spec(self):
        from dataclasses import replace

        return replace(super().spec, has_expert=True)


class AdvisesOne(Advised):
    def expert(self):
        return torch.zeros(3, dtype=torch.int64)


class AdvisesTheImpossible(Advised):
    def expert(self):
        return torch.full((3, 3), 5)


class HoldsOutAnother(Guide):
    def held_out(self):
        return Overcounted()


class HoldsOutBroken(Guide):
    def held_out(self):
        return Triumphant()


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (Lazy, "3 of 3 episodes go on after n_steps = 10"),
        (Reopens, "step 4 reopens an episode"),
        (Overpays, "step 11 pays a reward in an episode that was over"),
        (PaysOnReset, "reset pays a reward"),
        (Doubles, "observation as torch.float64 .* it must be torch.float32"),
        (Trimmed, r"\[3, 3, 49\], it must be"),
        (Overflows, "observation with NaN or infinity"),
        (Restless, "calls agents of a finished episode active"),
        (Tuples, "reset must give a WorldStep, it gave a tuple"),
        (Dice, "the same seed and actions gave two different episodes"),
        (Deaf, "four seeds gave the same episodes"),
        (Triumphant, "success must be .3. numbers in 0..1"),
        (Overcounted, "for each of 3 agents, not .5, 5."),
        (Stuck, "step 1 raised RuntimeError: no path"),
        (HoldsOutAnother, "guide_v1: held_out gives a world of another spec"),
        (HoldsOutBroken, "success must be .3. numbers in 0..1"),
        (Advised, "expert raised AttributeError"),
        (
            AdvisesOne,
            r"the expert of guide_v1 gave torch.int64 of shape \(3,\); it must be int64 of shape \[worlds, 3\]",
        ),
        (AdvisesTheImpossible, "expert of guide_v1 would have agents take actions that they do not have"),
        (NoSpec, "spec must be a commlib.world.WorldSpec, not a NoneType"),
    ],
)
def test_a_world_that_breaks_one_law(fake, sentence):
    torch.manual_seed(0)
    caught(sentence, check_world, fake())


def test_contexts_of_fresh_links_are_start():
    seen = []

    class Watched(TableCodec):
        def choose(self, vectors, context, rate_weight=0.0):
            seen.append(context)
            return super().choose(vectors, context, rate_weight)

    check_codec(Watched(*parts()))
    assert any((context == [START, 0]).all() for context in seen)
    assert any((context >= [0, 1]).all() for context in seen)
