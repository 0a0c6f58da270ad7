"""What there is: worlds, codecs, topologies, methods, runs; each as rows of plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commlib.errors import ConfigError, RunError
from commlib.records import RunFolder


def listing(what: str, runs_dir: Path) -> list[dict[str, Any]]:
    """Rows about one kind of thing, its name first."""
    return {"worlds": worlds, "codecs": codecs, "topologies": topologies, "methods": methods, "runs": runs}[what](
        runs_dir
    )


def worlds(_: Path) -> list[dict[str, Any]]:
    """Built-in worlds, and what must be said in them."""
    from commlib.experiments.worlds import list_worlds

    return [
        {
            "name": spec.name,
            "agents": f"{spec.n_agents} agents, {spec.n_steps} steps",
            "success": spec.success,
            "must_say": spec.must_say,
            "bound_bits": spec.bound_bits,
            "source": spec.source,
        }
        for spec in list_worlds()
    ]


def codecs(_: Path) -> list[dict[str, Any]]:
    """Built-in codecs."""
    from commlib.codecs.build import CODECS

    return [{"name": name, "what": what} for name, (_, _, what) in CODECS.items()]


def topologies(_: Path) -> list[dict[str, Any]]:
    """Built-in topologies."""
    from commlib.topology import TOPOLOGIES

    return [{"name": name, "what": what} for name, what in TOPOLOGIES.items()]


def methods(_: Path) -> list[dict[str, Any]]:
    """Recipes of methods."""
    from commlib.experiments.compose import methods as recipes

    return [{"name": name, "what": what} for name, what in recipes().items()]


def runs(folder: Path) -> list[dict[str, Any]]:
    """Run folders below a folder, with their figures where they are finished."""
    rows = []
    for config in sorted(folder.glob("**/config.yaml")):
        run = RunFolder(config.parent)
        row: dict[str, Any] = {"name": str(run.path)}
        try:
            result = run.read_result()
            success = "" if result.success.mean is None else f"success {result.success.mean:.1%}"
            row |= {
                "method": result.method,
                "success": success,
                "bits": f"{result.bits.per_agent_step.wire:.4g} wire bits per agent-step",
            }
        except (RunError, ConfigError):
            row |= {"method": "", "success": "unfinished", "bits": "continue it with --resume"}
        rows.append(row)
    return rows
