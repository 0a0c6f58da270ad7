"""What a run leaves behind: a folder with fixed names, and a result that anybody can read.

    RUN/config.yaml      the resolved configuration
    RUN/metrics.jsonl    one line per iteration of training
    RUN/journal.sqlite   the books: every charged message of the evaluation
    RUN/checkpoint/      learner state (safetensors) and position (JSON)
    RUN/codec/           the frozen codec (safetensors + JSON)
    RUN/result.json      the figures
    RUN/report.html      one self-contained page

    RUN/evaluation.partial/      what an evaluation into this folder has not put in place yet

Files are replaced whole or not at all: a killed process leaves the old one or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from commlib.errors import RunError

PACKAGES = ("commlib", "torch", "numpy", "ray", "vector-quantize-pytorch", "constriction", "msgpack", "pettingzoo")
"""What figures depend on."""


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Figures):
    """A mean over n episodes with its 95 % bootstrap interval; mean is None where the world defines no such figure."""

    mean: float | None
    ci95: tuple[float, float] | None
    n: int


class Bits(_Figures):
    """The three numbers that are never mixed up, each in bits: -log2 q, the stream, the frame."""

    estimate: float
    payload: float
    wire: float


class BitFigures(_Figures):
    """Bits per agent and live step, and per agent and episode."""

    per_agent_step: Bits
    per_agent_episode: Bits
    per_message: Bits


class LedgerFigures(_Figures):
    """The final statement of the ledger's account of bits; dropped, degraded and deferred in messages."""

    granted: int
    spent: int
    leased: int
    available: int
    dropped: int
    degraded: int
    deferred: int = 0


class BudgetFigures(_Figures):
    """What one budget was used for, in its own units (latency in microseconds).

    Attributes:
        account: its name in the books.
        budget: as it was asked for.
        currency: bits, messages, rounds or latency.
        granted, spent: over the run.
        wanted: what would have been spent if no allowance had been too small.
        n_full: rounds in which there was too little.
        price: the last price, in squared distortion (or harm) per unit, and `bit_price` in reward per bit, where one is known.
        hint: why nothing was ever said, where that is because the smallest frame is too dear for this budget; else empty.
        is_binding: whether this is the budget that holds the others back: the one with the greatest share spent among those
            that were ever too small, or have a price.
    """

    account: str
    budget: str
    currency: str
    granted: int
    spent: int
    wanted: int
    n_full: int
    price: float = 0.0
    bit_price: float | None = None
    is_binding: bool = False
    hint: str = ""


class CodecHealth(_Figures):
    """How the codes were used in the evaluation, in the last round of a step: distinct codes, 2^entropy of their use, and
    codes never used.
    """

    used_codes: int
    perplexity: float
    dead_codes: int


class FrontierPoint(_Figures):
    """One setting of the encoder's price knob, measured in calibration: the least bit price (reward per bit) at which it
    pays, its rate weight (squared distortion per bit), and what it gives; bits are estimates.
    """

    bit_price: float
    rate_weight: float
    success: float | None
    return_: float
    bits_per_agent_step: float


class Result(_Figures):
    """The figures of one run: `result.json`, and what `commlib.run` and `commlib.train` return."""

    world: str
    method: str
    codec: str
    topology: str
    router: Literal["none", "kept", "dropped"] = "none"
    gate: str | None = None
    aggregation: str | None = None
    ids: str | None = None
    memory: str | None = None
    rounds: int | None = None
    priced: float | None = None
    show_budget: bool = False
    foresight: float = 0.0
    imitation: float = 0.0
    imitation_until: float | None = None
    fine_tune_speech: bool | None = None
    balance: str | None = None
    schedule: str = "linear"
    seed: int
    steps: int
    runtime: str
    hosts: int
    charging_rule: str
    budget: str | None
    bit_price: float
    rate_weight: float
    success: Estimate
    return_: Estimate
    random_return: Estimate | None
    episode_steps: Estimate
    bits: BitFigures
    messages_per_agent_step: float
    gate_rate: float
    density: float
    wire_bytes: int
    frames: int
    parallel_worlds: int
    ledger: LedgerFigures
    budgets: list[BudgetFigures] = []
    allocation: str | None = None
    when_out: str | None = None
    codec_health: CodecHealth
    rate_gap: float
    frontier: list[FrontierPoint]
    edges: list[tuple[int, int]]
    journal_digest: str
    throughput: dict[str, float]
    seconds: dict[str, float]
    restarts: int = 0
    channel: str | None = None
    frames_lost: int = 0
    frames_unread: int = 0
    calls_refused: int = 0
    success_by_world: dict[str, Estimate] = {}
    versions: dict[str, str]
    git: str
    command: str
    run: str

    @property
    def binding(self) -> str | None:
        """The budget that holds the others back; None if all had room."""
        return next((figures.budget for figures in self.budgets if figures.is_binding), None)

    @property
    def variant(self) -> str:
        """What else tells a team from others of its method, codec and graph: whatever is not as it is by default."""
        usual = {"gate": "none", "aggregation": "slots", "ids": "onehot", "memory": "none"}
        words = [
            f"{name} {value}" for name, plain in usual.items() if (value := getattr(self, name)) not in (None, plain)
        ]
        words += [f"{self.rounds} rounds"] if (self.rounds or 1) > 1 else []
        words += [f"{self.priced:.0%} of the steps priced"] if self.priced else []
        words += ["sees its budget"] if self.show_budget else []
        words += [f"foresight {self.foresight:g}"] if self.foresight else []
        until = f" until {self.imitation_until:.0%}" if self.imitation_until not in (None, 0.5) else ""
        words += [f"imitation {self.imitation:g}{until}"] if self.imitation else []
        words += ["speech fixed with the codec"] if self.fine_tune_speech is False else []
        words += ["all worlds alike"] if self.balance == "even" else []
        words += [self.schedule.upper()] if self.schedule != "linear" else []
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """As a plain object; `return_` is called `return` there."""
        plain: dict[str, Any] = _renamed(self.model_dump(mode="json"), "return_", "return")
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """Back from the plain object."""
        return cls.model_validate(_renamed(data, "return", "return_"))


def _renamed(value: Any, old: str, new: str) -> Any:  # noqa: ANN401 (any JSON value)
    if isinstance(value, dict):
        return {new if key == old else key: _renamed(item, old, new) for key, item in value.items()}
    return [_renamed(item, old, new) for item in value] if isinstance(value, list) else value


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file's content, all or nothing, durably."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}; free space or choose another --out") from error


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file, all or nothing."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The content of a JSON file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; is {path.parent} a finished run?") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class RunFolder:
    """The fixed names inside a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON line per iteration."""
        return self.path / "metrics.jsonl"

    @property
    def journal(self) -> Path:
        """The books."""
        return self.path / "journal.sqlite"

    @property
    def checkpoint(self) -> Path:
        """Learner state and position."""
        return self.path / "checkpoint"

    @property
    def codec(self) -> Path:
        """The frozen codec."""
        return self.path / "codec"

    @property
    def result(self) -> Path:
        """The figures."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def staged(self) -> RunFolder:
        """What an evaluation into this folder has not put in place yet."""
        return RunFolder(self.path / "evaluation.partial")

    @property
    def is_cut_off(self) -> bool:
        """Whether an evaluation into this folder did not come to its end: its config.yaml is put in place last."""
        return self.staged.path.is_dir() and not self.config.is_file()

    def check_not_cut_off(self) -> None:
        """Refuse to take what an evaluation left behind for a run.

        Raises:
            RunError: an evaluation did not come to its end here.
        """
        if self.is_cut_off:
            raise RunError(
                f"{self.path} holds an evaluation that was cut off, or is still at work; repeat its commlib evaluate "
                f"with --out {self.path}, which replaces what is left of it"
            )

    def read_result(self) -> Result:
        """The figures of a finished run."""
        try:
            return Result.from_json(read_json(self.result))
        except ValueError as error:
            raise RunError(f"{self.result} is no result of this version of commlib; evaluate the run again") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of the training curve; a torn last line is left out."""
        if not self.metrics.is_file():
            return []
        text = self.metrics.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise RunError(f"{self.metrics} is damaged: {error}; delete it to go on without the curve") from error

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """A folder that holds a run.

        Raises:
            RunError: there is none, or only what an evaluation left behind that was cut off.
        """
        folder = cls(Path(path))
        folder.check_not_cut_off()
        if not folder.config.is_file():
            raise RunError(f"{path} holds no run (no config.yaml in it); see `commlib list runs`")
        return folder

    @classmethod
    def all_in(cls, path: Path) -> list[RunFolder]:
        """The runs of a folder of runs, such as a sweep's, finished or not; none if it is none, or itself a run."""
        here = cls(Path(path))
        if here.is_cut_off or any(part.exists() for part in (here.config, here.metrics, here.journal, here.result)):
            return []
        return [cls(config.parent) for config in sorted(here.path.glob(f"*/{here.config.name}"))]


def versions() -> dict[str, str]:
    """The versions of what the figures depend on."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
