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
    assert f"driver = {driver} + {1e3 * figures['model_driver_per_host']:.1f} ms x hosts" in page
    host = f"{1e3 * figures['model_host_base']:.1f} ms + {1e6 * figures['model_host_per_edge']:.2f} us x open edges"
    assert f"host = {host} of the host" in page
    assert f"it is {abs(100 * figures['model_error_at_the_largest']):.1f} % off" in page
    assert f"**{figures['large_round_seconds']:.1f} s**" in page
    assert f"{4 / figures['large_round_seconds']:.2f} million a second" in page
    assert f"| {figures['driver_bytes_per_agent'] / 1e3:.1f} GB |" in page
    assert f"| {2 * figures['journal_bytes_per_message']:.0f} MB a round |" in page
