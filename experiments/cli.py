"""The command line: names in, exit code out; what happens in between is elsewhere.

Nothing heavy is imported until a command needs it, so that `commlib --help` answers at once. Exit codes: 0 good, 1 a check
or a run failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from pydantic import BaseModel, create_model
from rich.console import Console
from rich.markup import escape

from commlib import __version__
from commlib.config import PLAY_SETTINGS, RunConfig, make_config, read_yaml, replay_config
from commlib.errors import CommlibError, ConfigError

if TYPE_CHECKING:
    from commlib.experiments.sweep import Start
    from commlib.records import Result

GOOD, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
MOST_NAMES = 8
_AFTER_INTERRUPT = {
    "train": "a run that has a checkpoint continues with commlib train --resume --out RUN; without one, repeat the command",
    "evaluate": "nothing of this evaluation was kept, so repeat the command",
    "demo": "the same command begins anew",
}
_PER_UNIT = "in squared distortion (or harm) per unit"


class Usage(Exception):
    """The command line is wrong; the text says how."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, prog: str, *, description: str, add_help: bool = True) -> None:
        super().__init__(prog, description=description, add_help=add_help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message}; see `{self.prog} --help`")


# --- output -----------------------------------------------------------------------------------------------------------


def _console(json_target: str | None) -> Console:
    """Where people read: stdout, or stderr when stdout carries JSON. JSON is written first: a closed pipe must not lose it."""
    console = Console(stderr=json_target == "-")
    return console if console.is_terminal else Console(stderr=json_target == "-", width=160)


_for_json: list[TextIO] = []
"""Where JSON goes while everything else that is written to stdout goes to stderr."""


@contextmanager
def _json_alone(argv: list[str]) -> Iterator[None]:
    """Where --json - asks for one JSON object on stdout, keep all else off it: libraries write what and when they like."""
    if "--json=-" not in argv and ("--json", "-") not in pairwise(argv):
        yield
        return
    _for_json.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _for_json.pop()


def _write_json(target: str | None, value: object) -> None:
    if target is None:
        return
    if target == "-":
        (_for_json[-1] if _for_json else sys.stdout).write(json.dumps(value, indent=2) + "\n")
        return
    from commlib.records import write_json

    write_json(Path(target), value)


def _json_file(text: str) -> str:
    """A target for --json that can be written: asked before a run is spent, not after."""
    if text != "-" and not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder of {text} does not exist; make it first")
    return text


def _export_target(text: str) -> Path:
    """A file or folder that can be made, and whose name says which of the two it is."""
    path = Path(_json_file(text))
    if path.suffix not in ("", ".jsonl") and not path.is_dir() and not text.endswith("/"):
        raise argparse.ArgumentTypeError(
            f"{text} may be a file or a folder; name a file .jsonl, or end a folder's name with / for CSV files"
        )
    return path


def _png_file(text: str) -> str:
    """A target for --plot that can be drawn and written."""
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text} is no .png file; name it so")
    return _json_file(text)


def _only_a_file(text: str) -> str:
    """A file that can be written; stdout is no choice, because it may carry --json."""
    if text == "-":
        raise argparse.ArgumentTypeError("stdout is for --json; name a file")
    return _json_file(text)


def _share(text: str) -> float:
    """A share, as a number or in per cent."""
    from commlib.experiments.bills import share

    try:
        return share(text)
    except (ArithmeticError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write it like 0.4 or 40%") from None


def _warn(sentence: str) -> None:
    """A line on stderr of what does not stop a command, and people must know all the same."""
    sys.stderr.write(f"commlib: warning: {sentence}\n")


def _show(console: Console, results: list[Result]) -> None:
    from commlib.experiments.report import summary_table

    console.print(summary_table(results))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", type=_json_file, help="write one JSON object; - for stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _laid_over(config: RunConfig, given: dict[str, Any]) -> RunConfig:
    return make_config(("the configuration", config.model_dump()), ("command line", given))


def _of_a_trained_team(config: RunConfig, given: dict[str, Any]) -> RunConfig:
    return replay_config(config, ("command line", given))


def _settings(
    parser: argparse.ArgumentParser,
    argv: list[str],
    default: Callable[[argparse.Namespace], RunConfig],
    change: Callable[[RunConfig, dict[str, Any]], RunConfig] = _laid_over,
) -> tuple[argparse.Namespace, RunConfig]:
    """A command's own flags by argparse, and every other flag as a setting laid over the default configuration.

    `default` makes the configuration that the settings change, from the command's own flags; `change` lays them over it.
    """
    known, given = _own_and_given(parser, argv, is_trained=change is _of_a_trained_team)
    return known, change(default(known), given)


def _own_and_given(
    parser: argparse.ArgumentParser, argv: list[str], *, is_trained: bool = False
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """A command's own flags, and the settings given with them, nested where there is a dot.

    Of a trained team (`is_trained`) the help lists only what may change after training.
    """
    if {"-h", "--help"} & set(argv):
        _help_with_settings(parser, is_trained=is_trained)
    own, settings = _divided(parser, argv)
    known, unknown = parser.parse_known_args(own)
    own_flags = [flag for action in parser._actions for flag in action.option_strings]
    return known, _given(settings + unknown, parser.prog, own_flags)


def _divided(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[list[str], list[str]]:
    """A command's own words, and the settings with their values, which may stand before or after them."""
    names = _setting_names(RunConfig)
    own: list[str] = []
    settings: list[str] = []
    queue = list(argv)
    while queue:
        word = queue.pop(0)
        flag, equals, _ = word.partition("=")
        name = flag.replace("_", "-").removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in names or flag in parser._option_string_actions:
            own.append(word)
            continue
        settings.append(word)
        if names[name] is not bool and not equals and queue and not queue[0].startswith("--"):
            settings.append(queue.pop(0))
    return own, settings


def _help_with_settings(parser: argparse.ArgumentParser, *, is_trained: bool) -> NoReturn:
    """Print a command's own flags, then the settings with their meaning and default, and leave."""
    import tyro

    parser.print_help()
    settings: type[BaseModel] = RunConfig
    heading = "settings, which also stand in YAML files (--config), nested where there is a dot"
    if is_trained:
        fields: dict[str, Any] = {
            name: (RunConfig.model_fields[name].annotation, RunConfig.model_fields[name]) for name in PLAY_SETTINGS
        }
        settings = create_model("PlaySettings", **fields)
        heading = (
            "settings that may change after training; what is left out stays as the run has it, whatever its default"
        )
    sys.stdout.write(f"\n{heading}:\n\n")
    sys.stdout.flush()
    tyro.cli(settings, args=["--help"], prog=parser.prog, config=(tyro.conf.AvoidSubcommands,))
    raise SystemExit(GOOD)


def _given(words: list[str], prog: str, own_flags: Sequence[str] = ()) -> dict[str, Any]:
    """The settings in ``--name value``, ``--name=value``, ``--flag`` and ``--no-flag``; nested names have dots."""
    names = _setting_names(RunConfig)
    flags = {"--" + name.replace("_", "-"): name for name in names}
    given: dict[str, Any] = {}
    queue = list(words)
    while queue:
        word, equals, value = queue.pop(0).partition("=")
        flag = word.replace("_", "-")
        off = "--" + flag.removeprefix("--no-") if flag.startswith("--no-") else ""
        if flag not in flags and names.get(flags.get(off, "")) is not bool:
            near = difflib.get_close_matches(flag, [*own_flags, *flags], n=1)
            what = f"unknown flag {word}" if word.startswith("-") else f"unexpected {word!r}"
            raise Usage(what + (f"; did you mean {near[0]}?" if near else f"; see `{prog} --help`"))
        name = flags.get(flag) or flags[off]
        if names[name] is bool and not equals:
            setting: Any = flag in flags
        elif not equals and (not queue or queue[0].startswith("--")):
            raise Usage(f"{word} needs a value")
        else:
            setting = value if equals else queue.pop(0)
        inner = given
        *outer, last = name.split(".")
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = None if setting == "None" else setting
    return given


def _setting_names(model: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 (a pydantic model class)
    """Dotted names of all settings, with their types."""
    names: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            names |= _setting_names(inner, f"{prefix}{name}.")
        else:
            names[prefix + name] = inner
    return names


# --- commands ---------------------------------------------------------------------------------------------------------


def _train(argv: list[str]) -> int:
    parser = _Parser(
        "commlib train", description="Train a team in stages and evaluate it over charged frames.", add_help=False
    )
    parser.add_argument(
        "world",
        metavar="WORLD",
        nargs="?",
        help="a name from `commlib list worlds`, pettingzoo:..., mpe2:..., package.module:Class; or several, joined by +",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.add_argument("--method", help="a recipe from `commlib list methods`")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder; default runs/WORLD-METHOD-SEED")
    parser.add_argument(
        "--resume", action="store_true", help="continue a run that was cut off; with --out alone, as it was"
    )
    _add_common(parser)

    def default(known: argparse.Namespace) -> RunConfig:
        from commlib.experiments.compose import resolve

        if known.resume and known.out and not (known.world or known.config or known.method):
            return _config_of(known.out)  # the folder says what it is
        named = read_yaml(known.config).get("world") if known.config else None
        world = known.world or named
        if world is None:
            raise Usage("which world? `commlib train WORLD`; `commlib list worlds` names them")
        return resolve(str(world), known.method, known.config)

    known, config = _settings(parser, argv, default)
    from commlib.experiments.progress import make_display
    from commlib.experiments.train import DEFAULT_OUT, run_name, run_training
    from commlib.records import RunFolder

    out = known.out or DEFAULT_OUT / run_name(config)
    was_finished = known.resume and RunFolder(out).result.is_file()
    display = make_display(is_quiet=known.quiet)
    try:
        result = run_training(config, out, display=display, resume=known.resume)
    finally:
        display.close()
    _write_json(known.json, result.to_json())
    console = _console(known.json)
    _show(console, [result])
    _say_bill(console, result)
    _say_speed(console, result)
    done = ", which was finished already: nothing was trained or played again" if was_finished else ""
    console.print(f"run folder: {out}{done}; next: commlib report {out}", highlight=False)
    return GOOD


def _say_bill(console: Console, result: Result) -> None:
    """What each budget was used for, which one binds, and what became of messages that found no room."""
    from commlib.experiments.report import price_in_words

    if result.success_by_world:
        by_world = (f"{name} {100 * (one.mean or 0):.1f} %" for name, one in result.success_by_world.items())
        console.print(f"success by world: {', '.join(by_world)}", highlight=False, soft_wrap=True)
    price = f"bit price {price_in_words(result)}"
    if not result.budgets:
        told = f"budget {result.budget or 'not capped'}, {price}"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    for one in result.budgets:
        used = f"{one.spent / one.granted:.1%} of {one.granted:,} used" if one.granted else "nothing granted"
        short = f", {one.n_full:,} rounds were short" if one.n_full else ""
        cost = f", price {one.price:.3g} {_PER_UNIT}" if one.price else ""
        binds = "; it binds" if one.is_binding else ""
        console.print(f"budget {one.budget}: {used}{short}{cost}{binds}", highlight=False, markup=False)
        if one.hint:
            console.print(f"warning: {one.hint}", style="bold yellow", highlight=False, markup=False)
    fates = {"dropped": result.ledger.dropped, "degraded": result.ledger.degraded, "deferred": result.ledger.deferred}
    told = ", ".join(f"{n:,} {fate}" for fate, n in fates.items() if n)
    lost = f"messages for want of budget: {told}" if told else ""
    if result.budgets:
        console.print("; ".join(filter(None, [price, lost])), highlight=False, markup=False, soft_wrap=True)
    if result.channel:
        console.print(
            f"channel {result.channel}: {result.frames_lost:,} frames did not arrive at a host, {result.frames_unread:,} arrived "
            f"and could not be read, or came too late; they are charged",
            highlight=False,
            markup=False,
        )


def _say_speed(console: Console, result: Result) -> None:
    random = result.random_return
    if random is not None and random.mean is not None and result.return_.mean is not None:
        low = result.return_.ci95[0] if result.return_.ci95 else result.return_.mean
        high = random.ci95[1] if random.ci95 else random.mean
        verdict = "better than" if low > high else "not clearly better than"
        console.print(f"return {result.return_.mean:.3f}, {verdict} random play ({random.mean:.3f})", highlight=False)
    per_core = result.throughput.get("training_steps_per_cpu_second")
    speed = result.throughput.get("training_steps_per_second", 0.0)
    core = f", {per_core:,.0f} per second of one core" if per_core else ""
    console.print(f"training: {speed:,.0f} environment steps per second{core}, learning included", highlight=False)


def _evaluate(argv: list[str]) -> int:
    parser = _Parser("commlib evaluate", description="Play a trained team again over charged frames.", add_help=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="run folder of the figures; default RUN/evaluation-1, -2, ..., so that RUN stays",
    )
    _add_common(parser)
    known, config = _settings(parser, argv, lambda known: _config_of(known.run), _of_a_trained_team)
    from commlib.experiments.evaluate import evaluate_run, next_evaluation
    from commlib.experiments.progress import make_display

    display = make_display(is_quiet=known.quiet)
    try:
        out = known.out or next_evaluation(known.run)
        result = evaluate_run(known.run, config, out, display)
    finally:
        display.close()
    _write_json(known.json, result.to_json())
    console = _console(known.json)
    _show(console, [result])
    _say_bill(console, result)
    console.print(f"run folder: {out}", highlight=False)
    return GOOD


def _sweep(argv: list[str]) -> int:
    parser = _Parser(
        "commlib sweep",
        description="Train worlds x methods x seeds, play each team at budgets x prices, and average over seeds. What is "
        "done already is not done again; what was cut off goes on.",
        add_help=False,
    )
    parser.add_argument("worlds", metavar="WORLD", nargs="+", help="as for `commlib train`")
    parser.add_argument("--methods", default="ours", metavar="A,B", help="recipes; default ours")
    parser.add_argument("--seeds", default="5", metavar="N|A,B", help="how many, or which, with a comma; default 5")
    parser.add_argument(
        "--budgets", default="", metavar="A,B", help='"8 bit/step,none": played after training; default: as trained'
    )
    parser.add_argument(
        "--bit-prices", default="", metavar="A,B", help='"default,0,0.01": played after training; default: as trained'
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes at a time, of one thread; default: the cores")
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="the processes are tasks of a Ray cluster: that of RAY_ADDRESS, or one here",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings, for all trainings")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("runs/sweep"), help="default runs/sweep")
    _add_common(parser)
    known, given = _own_and_given(parser, argv)
    for name, plural in {"world": "WORLD", "method": "--methods", "seed": "--seeds"}.items():
        if name in given:
            raise Usage(f"a sweep takes {plural}, not --{name}; see `{parser.prog} --help`")
    if given.get("metrics_port") is not None:
        raise Usage("a sweep is many processes, and one port is for one of them; leave --metrics-port out")
    if known.jobs is not None and known.jobs < 1:
        raise Usage(f"--jobs {known.jobs} would never end; give 1 or more")
    if known.cluster and given.get("runtime", "local") != "local":
        raise Usage("with --cluster each run is one task, with its hosts in its process; leave --runtime out")
    from commlib.experiments.children import Commlib, interrupted_by_signals, locked
    from commlib.experiments.sweep import Standing, is_finished, run_sweep
    from commlib.experiments.sweep_plan import Axes, check_folders, plan_sweep, seeds_in, words_in
    from commlib.experiments.sweep_table import make_board, sweep_json, sweep_table

    axes = Axes(
        list(dict.fromkeys(known.worlds)),
        words_in(known.methods) or ["ours"],
        seeds_in(known.seeds),
        words_in(known.budgets),
        words_in(known.bit_prices),
    )
    plan = plan_sweep(axes, given, known.config, known.out)
    check_folders(plan)
    standing = Standing(plan)
    with locked(known.out) as lock, interrupted_by_signals(), ExitStack() as stack:
        board = make_board(is_quiet=known.quiet)
        n_cores, start = _cores(), cast("Start", lambda task, words: Commlib(words, task.log, lock))
        n_there = sum(map(is_finished, plan.tasks))
        if n_there and not known.quiet:
            sys.stderr.write(f"{n_there} of {len(plan.tasks)} runs are there already\n")
        if known.cluster and n_there < len(plan.tasks):
            from commlib.agents.ray_runtime import OnRay
            from commlib.experiments.remote import RemoteRun

            n_cores = stack.enter_context(OnRay()).n_cpus
            start = cast("Start", lambda task, words: RemoteRun(plan, task, words, known.config))
        try:
            run_sweep(standing, known.jobs or n_cores, board, start)
        except KeyboardInterrupt:
            board.close()
            sys.stderr.write(
                f"\ncommlib: interrupted with {len(standing.results)} of {len(plan.tasks)} runs done; the same command "
                f"goes on from there\n"
            )
            return INTERRUPTED
        finally:
            board.close()
    _write_json(known.json, sweep_json(standing))
    console = _console(known.json)
    console.print(sweep_table(standing))
    console.print(f"run folders: {known.out}; next: commlib report {known.out}", highlight=False)
    return GOOD if standing.is_good else FAILED


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _config_of(run: Path) -> RunConfig:
    from commlib.records import RunFolder

    folder = RunFolder.existing(run)
    return make_config((str(folder.config), read_yaml(folder.config)))


def _audit(argv: list[str]) -> int:
    parser = _Parser("commlib audit", description="Reconcile a run's books edge by edge; exit 1 on any difference.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a journal file")
    _add_common(parser)
    known = parser.parse_args(argv)
    from commlib.experiments.books import audit_run

    report, differences = audit_run(known.run)
    _write_json(known.json, {**report, "differences": differences})
    console = _console(known.json)
    for sentence in (*report["explanations"], *report["summary"]):
        console.print(sentence, highlight=False, markup=False)
    verdict = "the books reconcile" if not differences else f"{len(differences):,} differences"
    console.print(
        f"{verdict}: {report['entries']} debits of {report['bits_debited']} bits, {report['receipts']} receipts, "
        f"{report['spent']} bits spent of {report['granted']} granted",
        highlight=False,
    )
    return FAILED if differences else GOOD


def _journal(argv: list[str]) -> int:
    parser = _Parser("commlib journal", description="Look into a run's books; export them, compact them.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a journal file")
    parser.add_argument(
        "--export", metavar="TARGET", type=_export_target, help="FILE.jsonl, or a new folder for one CSV file per table"
    )
    parser.add_argument(
        "--compact", action="store_true", help="add up what is closed and reconciled (after the export), to save space"
    )
    _add_common(parser)
    known = parser.parse_args(argv)
    from commlib.experiments.books import keep_books

    books = keep_books(known.run, known.export, is_compacted=known.compact)
    _write_json(known.json, books)
    console = _console(known.json)
    for line in _account_lines(books["accounts"]) + _who_lines(books):
        console.print(line, highlight=False, markup=False)
    if "exported" in books:
        exported = books["exported"]
        console.print(f"exported: {_counted(exported['rows'], 'row')} to {exported['to']}", highlight=False)
    if "compacted" in books:
        done = books["compacted"]
        console.print(
            f"compacted: {_counted(done['n_leases'], 'lease')}, {_counted(done['n_entries'], 'debit')}, "
            f"{_counted(done['n_receipts'], 'receipt')} and {_counted(done['n_allowances'], 'allowance')}; "
            f"{done['bytes_before']:,} bytes became {done['bytes_after']:,}",
            highlight=False,
        )
    return GOOD


def _account_lines(accounts: dict[str, dict[str, Any]]) -> list[str]:
    """What stands in each account; an account that is granted freely has no allowance to name."""
    lines = []
    for name, account in accounts.items():
        cap = (
            "no cap"
            if account["amount"] is None
            else f"{account['amount']:,} per {account['per']}" * bool(account["per"])
        )
        told = ", ".join(filter(None, ["" if account["currency"] in name else account["currency"], cap]))
        price = "" if account["price"] is None else f", price {account['price']:.3g} {_PER_UNIT}"
        lines.append(
            name
            + (f" ({told})" if told else "")
            + f": {account['spent']:,} spent, {account['leased']:,} leased, {account['available']:,} available of "
            f"{account['granted']:,} granted{price}"
        )
    return lines


def _who_lines(books: dict[str, Any]) -> list[str]:
    """Who is in the books, and how often."""
    fenced = [f"{holder} {_counted(n, 'time')}" for holder, n in books["fences"].items()]
    return [
        f"senders: {_listed(books['senders'])}",
        f"holders: {_listed(books['holders'])}",
        f"entries: {_counted(books['entries'], 'debit')}, {_counted(books['receipts'], 'receipt')}, "
        f"{_counted(books['open_leases'], 'open lease')}",
        f"fences: {_listed(fenced)}",
    ]


def _listed(names: list[Any]) -> str:
    """How many there are, and the first ones."""
    more = f", and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"{len(names):,}" + (f" ({', '.join(map(str, names[:MOST_NAMES]))}{more})" if names else "")


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" + "s" * (n != 1)


def _top(argv: list[str]) -> int:
    parser = _Parser("commlib top", description="Watch who spends how much of which budget while a run goes on.")
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="a run folder, of which the newest books are shown, or a journal file"
    )
    parser.add_argument(
        "--once", action="store_true", help="one picture, as when stdout is no terminal, or with --json"
    )
    parser.add_argument("--follow", action="store_true", help="wait for books, and do not end when the run is finished")
    _add_common(parser)
    known = parser.parse_args(argv)
    if known.once and known.follow:
        raise Usage("--once ends at once and --follow never does; take one of them")
    from commlib.experiments.top import View, picture, watch

    console = _console(known.json)
    if known.json is None and not known.once and (known.follow or console.is_terminal):
        watch(known.run, console, follow=known.follow)
        return GOOD
    found = View(known.run).look()
    _write_json(known.json, found.to_json())
    console.print(picture(found, console.options))
    return GOOD


def _verify(argv: list[str]) -> int:
    parser = _Parser(
        "commlib verify", description="Check that separate hosts compute what the learner computes.", add_help=False
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    _add_common(parser)
    known, config = _settings(parser, argv, lambda known: _config_of(known.run), _of_a_trained_team)
    from commlib.experiments.books import MOST_DIFFERENCES, verify_run
    from commlib.experiments.progress import make_display

    display = make_display(is_quiet=known.quiet)
    try:
        verdict = verify_run(known.run, config, display)
    finally:
        display.close()
    _write_json(known.json, verdict._asdict())
    console = _console(known.json)
    for difference in verdict.differences[:MOST_DIFFERENCES]:
        console.print(difference, highlight=False)
    if len(verdict.differences) > MOST_DIFFERENCES:
        console.print(f"and {len(verdict.differences) - MOST_DIFFERENCES} more", highlight=False)
    console.print(
        f"{'hosts and learner agree' if not verdict.differences else f'{len(verdict.differences)} differences'}: "
        f"{verdict.n_steps} steps, {verdict.n_codes} codes, {verdict.n_actions} actions compared; {verdict.n_probes} "
        f"messages through the trainable and the frozen codec ({verdict.n_ties} ties)",
        highlight=False,
    )
    return FAILED if verdict.differences else GOOD


def _calibrate(argv: list[str]) -> int:
    parser = _Parser(
        "commlib calibrate",
        description="Fit a codec to what is said already: by your own agents in a world, or in a .npy file of vectors.",
    )
    parser.add_argument(
        "source", metavar="AGENT|FILE.npy", help="package.module:Class, file.py:Class, or vectors [n, D]"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("codec"), help="where the codec goes")
    parser.add_argument(
        "--most-distortion", type=float, metavar="SHARE", help="of the variance of vectors; default: nearest codes"
    )
    _add_common(parser)
    known, config = _settings(parser, argv, lambda known: RunConfig(prior="best"))
    if known.out.exists() and any(known.out.iterdir() if known.out.is_dir() else [known.out]):
        raise Usage(f"{known.out} is not empty; choose another --out")
    from commlib.experiments.compress import compress_agent, compress_vectors, read_vectors

    console = _console(known.json)
    is_file = known.source.endswith(".npy")
    if is_file:
        from commlib.codecs.fit import Settings

        kinds = {"best": None, "natural": Settings(config.codec).kinds[0]}
        context = kinds.get(config.prior, config.prior)
        settings = Settings(config.codec, config.codebook_size, context=context, n_ages=config.ages)
        if known.most_distortion is not None and not 0 <= known.most_distortion <= 1:
            raise Usage(f"--most-distortion {known.most_distortion} must lie in 0..1; it is a share of the variance")
        made = compress_vectors(read_vectors(Path(known.source)), settings, config.seed, known.most_distortion)
    else:
        from commlib.experiments.compose import complete, world_of
        from commlib.plugins import load_object

        world = world_of(config)
        try:
            made = compress_agent(load_object(known.source), world, complete(config, world.spec))
        finally:
            world.close()
    made.save(known.out, "commlib calibrate " + " ".join(argv))
    _write_json(known.json, made.to_json())
    for index, point in enumerate(made.points):
        what = "lossless" if index == 0 and not is_file else f"rate weight {point.rate_weight:.4g}"
        score = [] if point.distortion is None else [f"distortion {point.distortion:.2%} of the variance"]
        score += [] if point.success is None else [f"success {point.success:.1%}"]
        score += [] if point.return_ is None else [f"return {point.return_:.4g}"]
        per = "per message" if is_file else "per agent and step"
        mark = "  <- in use" if index == made.chosen else ""
        console.print(f"{what}: {point.bits:.4g} bits {per}, {', '.join(score)}{mark}", highlight=False)
    prior = made.codec.prior
    told = f"what the prior knows: {prior.kind}" + (f", {prior.n_ages} ages" if prior.n_ages > 1 else "")
    console.print(told, highlight=False)
    enough = "enough: more would hardly help" if made.has_enough else "too few: twice as many would save bits"
    console.print(f"fitted to {made.n_messages} messages, {enough}", highlight=False)
    console.print(f"codec: {known.out}; in Python: commlib.load_codec({str(known.out)!r})", highlight=False)
    return GOOD


def _report(argv: list[str]) -> int:
    parser = _Parser(
        "commlib report", description="Table, figures and one self-contained HTML page of one or more runs."
    )
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="a run, or a folder of runs, such as a sweep's"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page; default report.html in the run, or beside several"
    )
    _add_common(parser)
    known = parser.parse_args(argv)
    from commlib.experiments.report import write_report
    from commlib.records import RunFolder

    found = [folder for path in known.runs for folder in RunFolder.all_in(path) or [RunFolder.existing(path)]]
    folders = list({folder.path.resolve(): folder for folder in found}.values())
    results = [folder.read_result() for folder in folders if folder.result.is_file() or folder.path in known.runs]
    page = known.out or _folder_of(known.runs) / folders[0].report.name
    plots = page.parent / "plots"
    write_report(folders, page, plots_dir=plots, warn=_warn)
    _write_json(known.json, {"page": str(page), "plots": str(plots), "results": [r.to_json() for r in results]})
    console = _console(known.json)
    _show(console, results)
    console.print(f"page: {page}; figures: {plots}", highlight=False)
    return GOOD


def _folder_of(paths: Sequence[Path]) -> Path:
    """Where a page about these runs goes: into the only one, or beside those that lie side by side; else into the first."""
    parents = {path.resolve().parent for path in paths}
    return parents.pop() if len(paths) > 1 and len(parents) == 1 else paths[0]


def _demo(argv: list[str]) -> int:
    parser = _Parser(
        "commlib demo",
        description="The main job, small: train none, dense, int8 and ours on guide, each agent in a Ray actor, and compare.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the runs")
    parser.add_argument("--runtime", choices=["ray", "local"], default="ray")
    parser.add_argument("--steps", type=int, default=None, help="environment steps of training for each method")
    parser.add_argument("--seed", type=int, default=0)
    _add_common(parser)
    known = parser.parse_args(argv)
    from commlib.experiments.demo import run_demo
    from commlib.experiments.progress import make_display

    display = make_display(is_quiet=known.quiet)
    console = _console(known.json)
    try:
        outcome = run_demo(known.out, known.runtime, known.seed, known.steps, display, console)
    finally:
        display.close()
    _write_json(known.json, outcome.to_json())
    return GOOD if outcome.is_good else FAILED


def _in_words(key: str, value: object) -> str:
    """One cell of a list in words; empty where there is nothing to say."""
    if key == "bound_bits" and value is not None:
        return f"no perfect team needs fewer than {value:.3g} bits per agent and episode"
    return "" if value is None else str(value)


def _list(argv: list[str]) -> int:
    parser = _Parser("commlib list", description="What there is.")
    parser.add_argument("what", choices=["worlds", "codecs", "topologies", "methods", "runs"])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where to look for runs")
    _add_common(parser)
    known = parser.parse_args(argv)
    from commlib.experiments.listing import listing

    rows = listing(known.what, known.runs_dir)
    _write_json(known.json, {known.what: rows})
    console = _console(known.json)
    if known.what == "runs" and not rows:
        console.print(f"no runs in {known.runs_dir}")
    for row in rows:
        name, *rest = (_in_words(key, value) for key, value in row.items())
        console.print(f"[bold]{name}[/]  " + "; ".join(filter(None, rest)), highlight=False)
    return GOOD


def _doctor(argv: list[str]) -> int:
    parser = _Parser("commlib doctor", description="Check this machine and install, or a user's agent, codec or world.")
    parser.add_argument("target", metavar="TARGET", nargs="?", help="package.module:Class or file.py:Class")
    _add_common(parser)
    known = parser.parse_args(argv)
    from commlib.experiments.doctor import diagnose, diagnose_target

    findings = diagnose_target(known.target) if known.target else diagnose()
    _write_json(known.json, {"findings": [finding._asdict() for finding in findings]})
    console = _console(known.json)
    for finding in findings:
        mark = "[green]good[/]" if finding.is_good else "[red]bad [/]"
        console.print(f"{mark}  {escape(f'{finding.name}: {finding.text}')}", highlight=False)
    return GOOD if all(finding.is_good for finding in findings) else FAILED


def _bench(argv: list[str]) -> int:
    parser = _Parser("commlib bench", description="Measure one thing on this machine, side by side with its rivals.")
    parser.add_argument(
        "name",
        metavar="NAME",
        help="codec, wire, shannon, collapse, train, scale, ray, routes, cluster, tiers, allocation, price or ledger",
    )
    parser.add_argument("--chaos", action="store_true", help="of the ledger: its hosts and its own process are killed")
    parser.add_argument(
        "--runtime", choices=["local", "ray"], default="local", help="of scale and train: on Ray or not"
    )
    parser.add_argument("--plot", metavar="FILE.png", type=_png_file, help="draw the figure into this file")
    parser.add_argument("--quick", action="store_true", help="little of everything, in seconds: a try, no measurement")
    parser.add_argument("--seed", type=int, default=0)
    _add_common(parser)
    known = parser.parse_args(argv)
    from commlib.experiments import bench

    if known.chaos and known.name != "ledger":
        raise ConfigError(f"there is no chaos in the bench {known.name!r}; write commlib bench ledger --chaos")
    if known.runtime == "ray" and known.name not in ("scale", "ray", "train"):
        raise ConfigError(f"the bench {known.name!r} has no --runtime to choose; leave it out")
    name = "chaos" if known.chaos else known.name
    name = f"{name}-ray" if known.runtime == "ray" and name != "ray" else name
    bench.find(name)
    from commlib.experiments.evaluate import command_line
    from commlib.experiments.progress import make_display

    display = make_display(is_quiet=known.quiet)
    try:
        outcome = bench.run_bench(name, known.seed, command_line(), display.say, quick=known.quick)
    finally:
        display.close()
    _write_json(known.json, outcome.record)
    console = _console(known.json)
    for table in outcome.tables:
        console.print(table)
    for text, holds in outcome.verdicts:
        console.print(f"{'reached' if holds else 'MISSED '}  {text}", highlight=False)
    if known.plot is not None:
        from commlib.experiments.figures import to_png

        Path(known.plot).write_bytes(to_png(bench.draw(outcome.record)))
        console.print(f"figure: {known.plot}", highlight=False)
    return GOOD


def _bill(argv: list[str]) -> int:
    parser = _Parser(
        "commlib bill",
        description="What a communication cost, by the standard of docs/accounting.md: from runs and files, or from what a "
        "paper states (a mask rate, a number of floats, of tokens); several side by side.",
    )
    parser.add_argument("paths", metavar="RUN|FILE.json", type=Path, nargs="*", help="run folders, results, bills")
    parser.add_argument(
        "--mask-rate", metavar="R", type=_share, help="share of the chances to speak that is let through: 0.4 or 40%%"
    )
    parser.add_argument("--floats", metavar="N", type=int, help="numbers in a message; with --mask-rate")
    parser.add_argument("--float-count", metavar="N", type=float, help="numbers sent in an episode, by all agents")
    parser.add_argument(
        "--float-bits", metavar="N", type=int, help="bits of a number; 32 if not given, as an assumption"
    )
    parser.add_argument("--tokens", metavar="N", type=float, help="tokens sent in an episode, by all agents")
    parser.add_argument("--vocabulary", metavar="N", type=int, help="how many tokens, or codes, there are")
    parser.add_argument("--bytes-per-token", metavar="X", type=float, help="of text; with --tokens")
    parser.add_argument("--messages", metavar="N", type=float, help="in an episode; with --float-count or --tokens")
    parser.add_argument("--agents", metavar="N", type=int)
    parser.add_argument("--steps", metavar="N", type=float, help="of an episode; may be a mean")
    parser.add_argument("--episodes", metavar="N", type=int, default=1, help="default 1")
    parser.add_argument("--rounds", metavar="N", type=int, default=1, help="rounds of messages in a step; default 1")
    parser.add_argument("--edges", metavar="N", type=int, help="open edges, under --charging link; default: all")
    parser.add_argument("--charging", choices=["link", "broadcast"], help="broadcast if not given, as an assumption")
    parser.add_argument(
        "--header-bits", metavar="N", type=int, help="of each message; without it nothing is said of wire"
    )
    parser.add_argument("--title", metavar="TEXT", help="name of the bill")
    parser.add_argument("--source", metavar="TEXT", help="paper or program that states the figures")
    parser.add_argument("--place", metavar="TEXT", default="", help="table or section of it")
    parser.add_argument("--schema", action="store_true", help="write the JSON schema of a bill, and nothing else")
    _add_common(parser)
    known = parser.parse_args(argv)
    if known.schema:
        from commlib.bill import schema

        _write_json(known.json or "-", schema())
        return GOOD
    from commlib.experiments.bills import assumed, bills_json, bills_table, explained, read_bills, stated_bill

    stated = stated_bill(known)
    bills = [*([stated] if stated else []), *(bill for path in known.paths for bill in read_bills(path))]
    if not bills:
        raise Usage(
            f"nothing to bill: give a run, a file, --mask-rate, --float-count or --tokens; see `{parser.prog} --help`"
        )
    _warn_of_unproved(known.paths)
    _write_json(known.json, bills_json(bills))
    console = _console(known.json)
    console.print(bills_table(bills))
    for line in explained(bills[0]) if len(bills) == 1 else assumed(bills):
        console.print(line, highlight=False, markup=False)
    if known.vocabulary == 1:
        console.print(
            "warning: with a vocabulary of 1 all tokens are alike, so that each is of 0 bits; give the number of different "
            "tokens",
            style="bold yellow",
            highlight=False,
        )
    return GOOD


def _compare(argv: list[str]) -> int:
    parser = _Parser(
        "commlib compare",
        description="Two sides over the worlds that they have in common: score, wire bits, and bits at the same score, each "
        "with its interval over runs. A side is a run folder, a result file, a folder of runs, or a quoted glob of them "
        "('runs/sweep/*guide-ours-*'), and of one method in each world.",
    )
    parser.add_argument("sides", metavar="A B", nargs="*", help="the two sides; quote a glob, or the shell expands it")
    parser.add_argument(
        "--floor",
        metavar="SIDE",
        help="runs of a team that sends nothing: at scores that it reaches, bits are not compared",
    )
    parser.add_argument(
        "--marl-eval",
        metavar="FILE",
        type=_only_a_file,
        help="write all runs of both sides as a file for marl-eval, whose tables and plots take it",
    )
    _add_common(parser)
    known = parser.parse_args(argv)
    if len(known.sides) != 2:
        raise Usage(
            f"compare takes two sides, not {len(known.sides)}; write commlib compare A B, with quotes around a glob"
        )
    from commlib.experiments.compare import compare
    from commlib.experiments.compare_table import compare_json, compare_table, sentences
    from commlib.experiments.sides import read_side

    a, b = (read_side(side) for side in known.sides)
    comparison = compare(a, b, read_side(known.floor) if known.floor else None)
    for warning in comparison.warnings:
        _warn(warning)
    _warn_of_unproved([run.path for run in a.runs + b.runs])
    _write_json(known.json, compare_json(comparison, shlex.join(["commlib", "compare", *argv])))
    console = _console(known.json)
    console.print(compare_table(comparison))
    for sentence in sentences(comparison):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    if known.marl_eval is not None:
        from commlib.experiments.marl_eval import exported, unevenness

        made = exported(a, b)
        _write_json(known.marl_eval, made)
        for sentence in unevenness(made):
            _warn(sentence)
        console.print(f"for marl-eval: {known.marl_eval}", highlight=False, markup=False)
    return GOOD


def _warn_of_unproved(paths: Sequence[Path]) -> None:
    """Say of which run folders the figures cannot be held against their books."""
    from commlib.experiments.evidence import why_unproved
    from commlib.records import RunFolder

    for path in paths:
        if path.is_dir() and (sentence := why_unproved(RunFolder(path))):
            _warn(f"{path}: {sentence}")


COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "demo": ("the main job, small: four methods on Ray actors, the table, a report", _demo),
    "train": ("train a team in stages, then evaluate it over charged frames", _train),
    "evaluate": ("play a trained team again: other runtime, budget, price, episodes", _evaluate),
    "sweep": ("train worlds x methods x seeds in processes of their own; averages over seeds", _sweep),
    "calibrate": ("fit a codec to your own agents or vectors, without training", _calibrate),
    "report": ("table, figures and one self-contained HTML page", _report),
    "compare": ("two sides, each of many runs: score, wire bits, bits at the same score, with intervals", _compare),
    "audit": ("reconcile a run's books; exit 1 on any difference", _audit),
    "bill": ("what a communication cost: a run's, or what a paper states, on one axis", _bill),
    "journal": ("a run's books: what stands in them, export, compaction", _journal),
    "top": ("watch a run: who spends how much of which budget, live", _top),
    "verify": ("check that hosts compute what the learner computes", _verify),
    "bench": (
        "measure one thing, side by side with its rivals: codec, wire, scale, allocation, price, ledger, ...",
        _bench,
    ),
    "list": ("worlds, codecs, topologies, methods or runs", _list),
    "doctor": ("check this machine, or your own agent, codec or world", _doctor),
}


def _help() -> str:
    lines = ["usage: commlib COMMAND ...", "", "Multi-agent messages with a price per bit.", ""]
    lines += [f"  {name:10} {text}" for name, (text, _) in COMMANDS.items()]
    lines += ["", "commlib COMMAND --help tells more; every command takes --json FILE (or - for stdout).", ""]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return GOOD if argv else WRONG_USAGE
    if argv[0] == "--version":
        sys.stdout.write(f"commlib {__version__}\n")
        return GOOD
    name, rest = argv[0], argv[1:]
    try:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
            raise Usage(f"no command is called {name!r}; {hint}")
        with _json_alone(rest):
            return COMMANDS[name][1](rest)
    except (Usage, ConfigError) as error:
        return _fail(error, WRONG_USAGE, rest)
    except CommlibError as error:
        return _fail(error, FAILED, rest)
    except KeyboardInterrupt:
        sys.stderr.write(f"\ncommlib: interrupted; {_AFTER_INTERRUPT.get(name, 'repeat the command')}\n")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except Exception as error:  # the last resort: one sentence, the traceback on request
        if "--debug" in rest or isinstance(error, ModuleNotFoundError):  # the door says what to install
            raise
        sys.stderr.write(
            f"commlib: unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}; run again with --debug and "
            f"report it\n"
        )
        return FAILED


def _fail(error: Exception, code: int, argv: list[str]) -> int:
    if "--debug" in argv:
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"commlib: {error}\n")
    return code
