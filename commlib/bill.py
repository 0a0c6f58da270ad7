"""What a communication cost, on one sheet: three counts of bits, how each was obtained, and by what they are divided.

A bill that one house can hand to another: the sums, the tariff, the number of guests. Not a check of the books
(`commlib.audit`), and not the bill of one frame that both ends of a trunk make out in every round (`commlib.exchange.Bill`).
The record is called `BillRecord`, as a lease in the books is a `LeaseRecord`: the same thing, as it stands on paper.

    estimate   -log2 q, a float: what an ideal coder with the model q would need; never charged
    payload    whole bits of the codes as they were, or would be, written; no header
    wire       whole bits as sent, header included; this is what is charged

A count that nobody knows is null, and `basis` says of each whether it was measured, derived or assumed, and from what.
Readers turn what papers state (mask rates, numbers of floats, tokens) into bills; they reckon in fractions, and round up
to whole bits once, at the end. None of them calls a figure measured. docs/accounting.md is the standard that this is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from commlib.errors import ConfigError
from commlib.records import Result

VERSION: Final = 1
MOST: Final = 2**53
"""No count reaches this: beyond it readers of JSON that keep numbers as doubles would lose whole bits."""

Charging: TypeAlias = Literal["broadcast", "link"]
Absence: TypeAlias = Literal["numbered", "flagged", "never", "unstated"]
Certainty: TypeAlias = Literal["measured", "derived", "assumed", "unknown"]
Coverage: TypeAlias = Literal["counted", "left out", "none", "unknown"]
Count: TypeAlias = int | float
"""How many; a mean over episodes may have a fraction."""

_Bits: TypeAlias = Annotated[int, Field(ge=0, lt=MOST)]
_Estimate: TypeAlias = Annotated[float, Field(ge=0, lt=MOST)]
_Count: TypeAlias = Annotated[Count, Field(ge=0, lt=MOST)]
_Whole: TypeAlias = Annotated[int, Field(ge=1, lt=MOST)]
_Words: TypeAlias = Annotated[str, Field(min_length=1)]


class _Sheet(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Basis(_Sheet):
    """How a figure was obtained."""

    kind: Certainty
    """measured: counted as it was sent; derived: worked out from what the source states; assumed: something that the
    source does not state went into it; unknown: there is no figure."""
    text: _Words
    """The arithmetic or the counter, and every assumption, in words."""


class Bases(_Sheet):
    """How each of the three counts was obtained."""

    estimate: Basis
    payload: Basis
    wire: Basis


class ChargingRule(_Sheet):
    """What is paid, and what is free."""

    paid: Charging
    """broadcast: what one sender says at once is paid once, however many hear it; link: once for each that hears it."""
    absence: Absence
    """How a receiver tells that nothing was said. numbered: rounds are numbered, so that what is absent is noticed, and
    costs nothing; flagged: a mark is sent, and charged; never: somebody speaks in every slot; unstated: silence is free
    in the source's arithmetic, and the source does not say how it is told from loss."""
    basis: Basis
    """Whether the source states this rule."""


class Source(_Sheet):
    """Where the figures come from."""

    work: _Words
    """Paper, program or person."""
    place: str
    """Table, section or file."""
    command: str
    """What makes this bill anew."""


class Counts(_Sheet):
    """What the bits can be divided by; null where nobody knows."""

    agents: _Whole | None
    agent_steps: _Count | None
    """Agents x steps, over all episodes and worlds in which the episode still ran."""
    episodes: _Whole | None
    messages: _Count | None
    """Under `broadcast` what one agent says at once is one message; under `link` there is one for each that hears it."""
    frames: _Count | None
    """Labelled pieces in which the messages travelled."""
    parallel_worlds: _Whole | None
    """Worlds that shared a frame and its header; 1: none was shared."""
    rounds_per_step: _Whole | None


class Covered(_Sheet):
    """What is in the sums besides the messages: counted, left out though it happened, none of it happened, or unknown."""

    presence: Coverage
    """What tells who is silent."""
    signals: Coverage
    """What is said so that it is decided who speaks to whom: scheduler's weights, requests, gates, keys, actions passed on."""
    lost: Coverage
    """Frames that were sent and did not arrive."""
    repeats: Coverage
    """Frames sent once more, and acknowledgements."""
    training: Coverage
    """Messages sent while the team learned."""


class Item(_Sheet):
    """A line of the bill; lines add up to its sums."""

    name: _Words
    payload_bits: _Bits | None
    wire_bits: _Bits | None


class BillRecord(_Sheet):
    """What a communication cost. Sums are over everything in `counts`, not means."""

    bill: Literal[1]
    """Version of this schema."""
    title: _Words
    source: Source
    charging_rule: ChargingRule
    estimate_bits: _Estimate | None
    """-log2 q of all that was said, silence included, under the model q that the two ends share."""
    payload_bits: _Bits | None
    """Bits of the codes as written, without any header."""
    wire_bits: _Bits | None
    """Bits as sent, header included: the charged figure."""
    basis: Bases
    counts: Counts
    covered: Covered
    items: tuple[Item, ...] = ()
    """Lines by sender, edge or kind, if wanted; they add up exactly."""

    @model_validator(mode="after")
    def _adds_up(self) -> BillRecord:
        for name, bits in zip(BitsPer._fields, self.sums, strict=True):
            _check_basis(name, bits, getattr(self.basis, name))
        if self.payload_bits is not None and self.wire_bits is not None and self.payload_bits > self.wire_bits:
            raise ValueError(
                f"a payload of {self.payload_bits} bits is more than the {self.wire_bits} bits on the wire, which hold it; "
                f"one of the two was counted under another rule"
            )
        for name in ("payload_bits", "wire_bits"):
            self._check_items(name)
            if self.counts.frames == 0 and getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, yet there are 0 frames; count the frames")
        if self.charging_rule.absence == "flagged" and self.covered.presence != "counted":
            raise ValueError(
                f"silence is flagged, but the flags are {self.covered.presence!r}; count them, or say how silence is told"
            )
        return self

    def _check_items(self, name: str) -> None:
        total, parts = getattr(self, name), [getattr(item, name) for item in self.items]
        if parts and (None in parts) != (total is None):
            raise ValueError(f"{name} is {total}, but its lines are {parts}; a sum is known where all its parts are")
        if parts and total is not None and sum(parts) != total:
            raise ValueError(f"{name} is {total}, but its lines add up to {sum(parts)}; share out whole bits exactly")

    @property
    def sums(self) -> BitsPer:
        """The three counts, over everything."""
        return BitsPer(self.estimate_bits, self.payload_bits, self.wire_bits)

    @property
    def header_bits(self) -> int | None:
        """What is on the wire and not payload."""
        known = self.wire_bits is not None and self.payload_bits is not None
        return (self.wire_bits or 0) - (self.payload_bits or 0) if known else None

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: object) -> BillRecord:
        """Back from a plain object.

        Raises:
            ConfigError: it is no bill, or one that does not add up.
        """
        version = data.get("bill") if isinstance(data, dict) else None
        if version != VERSION or isinstance(version, bool):
            raise ConfigError(f"this is no bill of version {VERSION}: its field `bill` is {version!r}")
        try:
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from error


def _check_basis(name: str, bits: float | None, basis: Basis) -> None:
    if (bits is None) != (basis.kind == "unknown"):
        raise ValueError(
            f"{name}_bits is {bits}, and its basis is {basis.kind!r}; a figure is null exactly where its basis is 'unknown'"
        )


def schema() -> dict[str, Any]:
    """The JSON schema of a bill."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **BillRecord.model_json_schema()}


# --- divided ----------------------------------------------------------------------------------------------------------


class BitsPer(NamedTuple):
    """The three counts, side by side; None where one is not known."""

    estimate: float | None
    payload: float | None
    wire: float | None


class Figures(NamedTuple):
    """The sums of a bill, divided: per agent and step, per agent and episode, per episode (all agents), per message."""

    per_agent_step: BitsPer
    per_agent_episode: BitsPer
    per_episode: BitsPer
    per_message: BitsPer

    def to_json(self) -> dict[str, dict[str, float | None]]:
        """As a plain object."""
        return {name: bits._asdict() for name, bits in self._asdict().items()}


def figures(bill: BillRecord) -> Figures:
    """Divide the sums of a bill; None where a sum or what it is divided by is not known, or there is nothing to divide by."""
    counts = bill.counts
    agent_episodes = counts.agents * counts.episodes if counts.agents and counts.episodes else None
    return Figures(
        *(_divided(bill.sums, n) for n in (counts.agent_steps, agent_episodes, counts.episodes, counts.messages))
    )


def _divided(sums: BitsPer, n: Count | None) -> BitsPer:
    """Nothing is nothing, whatever it is divided by."""
    return BitsPer(*(0.0 if bits == 0 and n != 0 else bits / n if bits is not None and n else None for bits in sums))


# --- from a run -------------------------------------------------------------------------------------------------------

PLACE_OF_RUN: Final = "result.json of "
_SHOWN_TO = 5e-7
"""Half of the last decimal of the bits in a result."""


def bill_of_run(result: Result) -> BillRecord:
    """The bill of an evaluation, from its result.

    A result has means; sums are got back from them: wire bits from the bytes of its frames, payload from its mean and the
    number of agents and episodes. Where a run sent nothing at all, its result does not say how many agents there were.

    Raises:
        ConfigError: the result names no charging rule that is known here, or its means are too small to tell sums.
    """
    paid = result.charging_rule.partition(":")[0].strip()
    if paid not in ("broadcast", "link"):
        raise ConfigError(f"the result's charging rule is {paid!r}; only 'broadcast' and 'link' can be billed")
    n_episodes, wire_bits, mean = result.return_.n, 8 * result.wire_bytes, result.bits.per_agent_episode
    if wire_bits and not mean.wire:
        raise ConfigError(f"{wire_bits} bits over {n_episodes} episodes are too few for the six decimals of a result")
    n_agents = round(wire_bits / (mean.wire * n_episodes)) if wire_bits else None
    n_all = (n_agents or 0) * n_episodes
    steps = round((result.episode_steps.mean or 0) * n_episodes)
    error = _SHOWN_TO * n_all
    is_exact = error < 0.5
    return BillRecord(
        bill=1,
        title=f"{result.world}, {result.method}, seed {result.seed}",
        source=Source(work="commlib", place=PLACE_OF_RUN + result.run, command=result.command),
        charging_rule=ChargingRule(
            paid="broadcast" if paid == "broadcast" else "link",
            absence="numbered",
            basis=Basis(kind="measured", text="the rule by which the ledger charged"),
        ),
        estimate_bits=round(mean.estimate * n_all, 6),
        payload_bits=round(mean.payload * n_all),
        wire_bits=wire_bits,
        basis=Bases(
            estimate=Basis(kind="measured", text="-log2 q by the coder's own integer table, mean times its count"),
            payload=Basis(
                kind="measured" if is_exact else "derived",
                text="bits of the streams, mean times its count"
                + ("" if is_exact else f", to within {error:.0f} bits"),
            ),
            wire=Basis(kind="measured", text="8 x bytes of all frames"),
        ),
        counts=Counts(
            agents=n_agents,
            agent_steps=steps * n_agents if n_agents else None,
            episodes=n_episodes,
            messages=round(result.messages_per_agent_step * steps * n_agents) if n_agents else 0,
            frames=result.frames,
            parallel_worlds=result.parallel_worlds,
            rounds_per_step=result.rounds or 1,
        ),
        covered=Covered(presence="counted", signals="counted", lost="none", repeats="none", training="left out"),
    )


# --- from frames that were counted ------------------------------------------------------------------------------------


class SentFrame(NamedTuple):
    """A frame as it was sent: its size, and how often it went out (repeats and lost copies count) to how many hearers."""

    n_bytes: int
    payload_bits: int
    n_messages: int = 1
    n_hearers: int = 1
    n_sendings: int = 1


class Setting(NamedTuple):
    """Where something was said, as far as it is stated; steps are those of an episode, and may be a mean.

    `charging` None: the source does not state it, and `broadcast` is assumed. `header_bits` None: nothing is known of
    headers, and so nothing of the wire.
    """

    n_agents: int | None = None
    n_steps: Count | None = None
    n_episodes: int = 1
    n_rounds: int = 1
    charging: Charging | None = None
    header_bits: int | None = None


_PRESENCE: Final[dict[Absence, Coverage]] = {
    "numbered": "none",
    "flagged": "counted",
    "never": "none",
    "unstated": "unknown",
}
UNNAMED: Final = Source(work="stated by whoever asked", place="", command="")


def from_frames(
    frames: Iterable[SentFrame],
    setting: Setting,
    *,
    absence: Absence,
    estimate_bits: float | None = None,
    n_worlds: int = 1,
    title: str = "counted frames",
    source: Source = UNNAMED,
) -> BillRecord:
    """The bill of frames that were really sent: the one way to a measured bill for a program without our ledger.

    Under `link` a frame is paid once for each that hears it; under `broadcast` once. Each sending is paid. Flags for the
    silent, if there are any (`absence`), are in the bytes of the frames and not in their payload.

    >>> heard_by_two = SentFrame(n_bytes=19, payload_bits=8, n_hearers=2)
    >>> bill = from_frames([heard_by_two], Setting(n_agents=3, n_steps=1, charging="link"), absence="numbered")
    >>> bill.payload_bits, bill.wire_bits, bill.header_bits
    (16, 304, 288)
    """
    _check_setting(setting)
    sent = list(frames)
    for frame in sent:
        _check_frame(frame)
    copies = [frame.n_hearers if setting.charging == "link" else 1 for frame in sent]
    paid = [(frame, n * frame.n_sendings) for frame, n in zip(sent, copies, strict=True)]
    n_messages = sum(frame.n_messages * n for frame, n in zip(sent, copies, strict=True))
    return BillRecord(
        bill=1,
        title=title,
        source=source,
        charging_rule=_rule(setting, absence),
        estimate_bits=None if estimate_bits is None else float(estimate_bits),
        payload_bits=_in_range(sum(frame.payload_bits * n for frame, n in paid)),
        wire_bits=_in_range(sum(8 * frame.n_bytes * n for frame, n in paid)),
        basis=Bases(
            estimate=_unknown("no model of what is said was given")
            if estimate_bits is None
            else Basis(kind="measured", text="given beside the frames"),
            payload=Basis(kind="measured", text="payload of the frames, every sending counted"),
            wire=Basis(kind="measured", text="8 x bytes of the frames, every sending counted"),
        ),
        counts=_counts(setting, Fraction(n_messages), Fraction(sum(n for _, n in paid)), n_worlds),
        covered=Covered(
            presence=_PRESENCE[absence],
            signals="unknown",
            lost="counted",
            repeats="counted",
            training="unknown",
        ),
    )


def _check_frame(frame: SentFrame) -> None:
    if min(frame) < 0 or frame.n_hearers < 1 or frame.n_sendings < 1 or frame.payload_bits > 8 * frame.n_bytes:
        raise ConfigError(
            f"a frame of {frame.n_bytes} bytes with {frame.payload_bits} bits of payload, {frame.n_messages} messages, sent "
            f"{frame.n_sendings} times to {frame.n_hearers}, is impossible; count it anew"
        )


# --- from what papers state -------------------------------------------------------------------------------------------


def from_mask_rate(
    rate: float,
    n_floats: int,
    setting: Setting,
    *,
    float_bits: int | None = None,
    n_edges: int | None = None,
    title: str = "from a mask rate",
    source: Source = UNNAMED,
) -> BillRecord:
    """The bill of messages of `n_floats` numbers that are let through at a share `rate` of the chances to speak.

    A chance is an agent-step under `broadcast`, an edge-step under `link` (all edges of a full graph unless `n_edges` says
    otherwise), times the rounds of a step. Numbers have 32 bits unless told.

    >>> setting = Setting(n_agents=5, n_steps=20, charging="broadcast")
    >>> bill = from_mask_rate(0.4, 64, setting, float_bits=32)
    >>> bill.counts.messages, bill.payload_bits, figures(bill).per_agent_step.payload
    (40, 81920, 819.2)
    """
    _check_setting(setting)
    if setting.n_agents is None or setting.n_steps is None:
        raise ConfigError(
            "a mask rate is a share of agents x steps; say how many of both there are (--agents, --steps)"
        )
    _check_share(rate)
    n_speakers, whose = _speakers(setting, n_edges)
    chances = n_speakers * _exact(setting.n_steps, "steps") * setting.n_rounds * setting.n_episodes
    each_bits = _float_bits(float_bits)
    said = (
        f"{_shown(rate)} x {n_speakers} {whose} x {_shown(setting.n_steps)} steps"
        + (f" x {setting.n_rounds} rounds" if setting.n_rounds > 1 else "")
        + (f" x {setting.n_episodes} episodes" if setting.n_episodes > 1 else "")
        + f" x {_whole(n_floats, 'floats')} floats x {each_bits} bits"
    )
    n_messages = _exact(rate, "mask rate") * chances
    guessed = [
        *(["32 bits per float are assumed"] if float_bits is None else []),
        *(["that a message is paid once for all is assumed"] if setting.charging is None else []),
        *(["a full graph is assumed"] if setting.charging == "link" and n_edges is None else []),
    ]
    payload = Basis(kind="assumed" if guessed else "derived", text="; ".join([said, *guessed]))
    is_gated = rate < 1
    return _stated(
        setting,
        _Said(
            n_messages, n_messages * n_floats * each_bits, payload, None, _unknown("no model of what is said is stated")
        ),
        absence="unstated" if is_gated else "never",
        covered=_covered_as_stated("unknown" if is_gated else "none"),
        title=title,
        source=source,
    )


def from_float_count(
    n_floats: float,
    setting: Setting,
    *,
    float_bits: int | None = None,
    n_messages: float | None = None,
    title: str = "from a count of floats",
    source: Source = UNNAMED,
) -> BillRecord:
    """The bill of `n_floats` numbers that all agents together send in an episode, counted under the setting's rule.

    >>> bill = from_float_count(1000, Setting(n_agents=4), float_bits=16)
    >>> bill.payload_bits, bill.wire_bits
    (16000, None)
    """
    _check_setting(setting)
    each_bits = _float_bits(float_bits)
    bits = _exact(n_floats, "floats") * setting.n_episodes * each_bits
    text = f"{_shown(n_floats)} floats{_per_episodes(setting)} x {each_bits} bits"
    payload = (
        Basis(kind="assumed", text=f"{text}; 32 bits per float are assumed")
        if float_bits is None
        else Basis(kind="derived", text=text)
    )
    said = _Said(
        _messages(n_messages, setting),
        bits,
        payload,
        None,
        _unknown("no model of what is said is stated"),
    )
    return _stated(setting, said, absence="unstated", covered=_covered_as_stated("unknown"), title=title, source=source)


def from_tokens(
    n_tokens: float,
    setting: Setting,
    *,
    vocabulary: int | None = None,
    bytes_per_token: float | None = None,
    n_messages: float | None = None,
    title: str = "from a count of tokens",
    source: Source = UNNAMED,
) -> BillRecord:
    """The bill of `n_tokens` that all agents together send in an episode: words of a language model, or indices of a codebook.

    With a vocabulary the estimate is log2 of its size for each token: a bound, reached where all tokens are equally likely.
    The payload is the tokens' text if `bytes_per_token` is given, else their indices at a fixed length.

    >>> bill = from_tokens(200, Setting(n_agents=4), vocabulary=16)
    >>> bill.estimate_bits, bill.payload_bits
    (800.0, 800)
    """
    _check_setting(setting)
    if vocabulary is None and bytes_per_token is None:
        raise ConfigError("tokens have no size by themselves; say --vocabulary or --bytes-per-token")
    n = _exact(n_tokens, "tokens") * setting.n_episodes
    count = f"{_shown(n_tokens)} tokens{_per_episodes(setting)}"
    estimate_bits, estimate = None, _unknown("neither a vocabulary nor a model of what is said is stated")
    if vocabulary is not None and _whole(vocabulary, "tokens of a vocabulary"):
        estimate_bits = float(n) * math.log2(vocabulary)
        estimate = Basis(kind="assumed", text=f"{count} x log2 {vocabulary}, as if all tokens were equally likely")
    if bytes_per_token is not None:
        bits = n * 8 * _exact(bytes_per_token, "bytes per token")
        basis = Basis(kind="derived", text=f"{count} x {_shown(bytes_per_token)} bytes of text x 8 bits")
    else:
        fixed = ((vocabulary or 1) - 1).bit_length()
        bits = n * fixed
        basis = Basis(kind="derived", text=f"{count} x {fixed} bits, the fixed length of an index below {vocabulary}")
    said = _Said(_messages(n_messages, setting), bits, basis, estimate_bits, estimate)
    return _stated(setting, said, absence="unstated", covered=_covered_as_stated("unknown"), title=title, source=source)


class _Said(NamedTuple):
    """What a source says was sent: messages, if it says how many, and bits, not yet rounded."""

    n_messages: Fraction | None
    bits: Fraction
    payload: Basis
    estimate_bits: float | None
    estimate: Basis


def _stated(
    setting: Setting, said: _Said, *, absence: Absence, covered: Covered, title: str, source: Source
) -> BillRecord:
    """A bill of what a source states; every message is a frame of its own, if headers are known of at all."""
    wire_bits, wire = None, _unknown("no header was given; at least the payload")
    if setting.header_bits is not None:
        if said.n_messages is None:
            raise ConfigError("headers are paid by the message; say how many messages an episode has (--messages)")
        wire_bits = _in_range(_up(said.bits + said.n_messages * setting.header_bits))
        wire = Basis(
            kind="assumed",
            text=f"payload + {setting.header_bits} bits of header for each of {_shown(_count(said.n_messages))} messages, each "
            f"a frame of its own",
        )
    return BillRecord(
        bill=1,
        title=title,
        source=source,
        charging_rule=_rule(setting, absence),
        estimate_bits=said.estimate_bits,
        payload_bits=_in_range(_up(said.bits)),
        wire_bits=wire_bits,
        basis=Bases(estimate=said.estimate, payload=said.payload, wire=wire),
        counts=_counts(setting, said.n_messages, None if setting.header_bits is None else said.n_messages, 1),
        covered=covered,
    )


def _covered_as_stated(presence: Coverage) -> Covered:
    return Covered(presence=presence, signals="unknown", lost="unknown", repeats="unknown", training="left out")


def _float_bits(float_bits: int | None) -> int:
    return 32 if float_bits is None else _whole(float_bits, "bits per float")


def _speakers(setting: Setting, n_edges: int | None) -> tuple[int, str]:
    """How many can speak at once under the rule, and what they are."""
    n = setting.n_agents or 0
    if setting.charging != "link":
        if n_edges is not None:
            raise ConfigError(
                f"{n_edges} edges make no difference where a message is paid once for all; leave --edges out, or charge "
                f"by link (--charging link)"
            )
        return n, "agents"
    most = n * (n - 1)
    edges = most if n_edges is None else _whole(n_edges, "edges")
    if not most:
        raise ConfigError("one agent has nobody to talk to; say how many agents there are (--agents)")
    if edges > most:
        raise ConfigError(f"{n} agents have {most} edges at most, not {edges}; say how many of both there are")
    return edges, "edges" if n_edges is not None else "edges of the full graph"


def _rule(setting: Setting, absence: Absence) -> ChargingRule:
    if setting.charging is None:
        text = "the source does not state it; broadcast is assumed"
        return ChargingRule(paid="broadcast", absence=absence, basis=Basis(kind="assumed", text=text))
    return ChargingRule(
        paid=setting.charging, absence=absence, basis=Basis(kind="derived", text="as whoever made the bill says")
    )


def _counts(setting: Setting, n_messages: Fraction | None, n_frames: Fraction | None, n_worlds: int) -> Counts:
    steps = None if setting.n_steps is None else _exact(setting.n_steps, "steps")
    known = steps is not None and setting.n_agents is not None
    return Counts(
        agents=setting.n_agents,
        agent_steps=_count((steps or 0) * Fraction(setting.n_agents or 0) * setting.n_episodes) if known else None,
        episodes=setting.n_episodes,
        messages=None if n_messages is None else _count(n_messages),
        frames=None if n_frames is None else _count(n_frames),
        parallel_worlds=_whole(n_worlds, "worlds"),
        rounds_per_step=setting.n_rounds,
    )


def _messages(n_messages: float | None, setting: Setting) -> Fraction | None:
    return None if n_messages is None else _exact(n_messages, "messages") * setting.n_episodes


def _per_episodes(setting: Setting) -> str:
    return f" x {setting.n_episodes} episodes" if setting.n_episodes > 1 else ""


def _unknown(text: str) -> Basis:
    return Basis(kind="unknown", text=text)


def _check_setting(setting: Setting) -> None:
    for value, what in (
        (setting.n_agents, "agents"),
        (setting.n_episodes, "episodes"),
        (setting.n_rounds, "rounds"),
    ):
        if value is not None:
            _whole(value, what)
    if setting.n_steps is not None and _exact(setting.n_steps, "steps") == 0:
        raise ConfigError("0 steps are no episode; give 1 or more")
    if setting.header_bits is not None and not 0 <= setting.header_bits < MOST:
        raise ConfigError(f"{setting.header_bits} bits of header are impossible; give 0 or more")
    if setting.charging not in (None, "broadcast", "link"):
        raise ConfigError(f"there is no charging rule {setting.charging!r}; there are broadcast and link")


def _check_share(rate: float) -> None:
    if not 0 <= rate <= 1:  # NaN is not, either
        raise ConfigError(f"a mask rate of {rate} is no share; give the part that is let through, between 0 and 1")


def _whole(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < MOST:
        raise ConfigError(f"{value} {what} are impossible; give a whole number of 1 or more, below 2^53")
    return value


def _exact(value: float, what: str) -> Fraction:
    """A number as it was written: 0.07 is 7/100, not the double beside it."""
    if not 0 <= value < MOST:
        raise ConfigError(f"{value} {what} are impossible; give a finite number of 0 or more, below 2^53")
    return Fraction(str(value))


def _up(bits: Fraction) -> int:
    """Whole bits: rounded up, once."""
    return math.ceil(bits)


def _in_range(bits: int) -> int:
    if bits >= MOST:
        raise ConfigError(f"the bill comes to {bits} bits, 2^53 or more; bill fewer episodes")
    return bits


def _count(n: Fraction) -> Count:
    return int(n) if n.denominator == 1 else float(n)


def _shown(n: Count) -> str:
    """A number in the words of a basis."""
    return f"{n:g}" if isinstance(n, float) and abs(n) < 1e6 else str(n)
