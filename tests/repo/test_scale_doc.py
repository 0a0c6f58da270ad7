"""docs/scale.md tells what the record of the bench says."""

import json
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_tells_the_model_of_the_record() -> None:
    figures = json.loads((DOCS / "results" / "bench-scale-ray.json").read_text())["summary"]
    page = " ".join((DOCS / "scale.md").read_text().split())
    driver = (
        f"{1e3 * figures['model_driver_base']:.1f} ms + {1e6 * figures['model_driver_per_edge']:.2f} us x open edges"
    )
    host = f"{1e3 * figures['model_host_base']:.1f} ms + {1e6 * figures['model_host_per_edge']:.2f} us x open edges"
    per_message, per_round = figures["journal_bytes_per_message"], figures["large_round_seconds"]
    for told in (
        f"driver = {driver} + {1e3 * figures['model_driver_per_host']:.1f} ms x hosts",
        f"host = {host} of the host",
        f"it is {abs(100 * figures['model_error_at_the_largest']):.1f} % off the processor time",
        f"and {100 * figures['model_over_wall_at_the_largest']:.0f} % above the wall clock",
        f"**{per_round:.1f} s** | processor time: driver {figures['large_driver_seconds']:.1f} s, a host "
        f"{figures['large_host_seconds']:.3f} s |",
        f"{4 / per_round:.2f} million a second",
        f"| {figures['driver_bytes_per_agent'] / 1e3:.1f} GB | {figures['driver_bytes_per_agent'] / 1e3:.1f} kB",
        f"| {figures['hosts_bytes_per_agent'] / 100:.0f} MB, and {figures['bytes_of_a_host'] / 1e6:.0f} MB that any takes | "
        f"{figures['hosts_bytes_per_agent'] / 1e3:.1f} kB",
        f"| {2 * per_message:.0f} MB a round | {per_message:.0f} bytes",
        f"{100 * figures['large_driver_seconds'] / per_round:.1f} % of the round",
        f"At {2 * per_message / per_round:.0f} MB a second a thousand rounds are {2 * per_message:.0f} GB",
        f"cost {100 * figures['model_driver_per_host']:.2f} s a round",
    ):
        assert told in page
