"""Coverage-guided fuzzing: `pip install atheris`, then `python tests/fuzz/fuzz_atheris.py -max_total_time=60`."""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent))
with atheris.instrument_imports(include=["commlib", "target"]):
    from target import one_input, seeds


def main() -> None:
    """Start from sound inputs and go on until the time given is up; any other exception than ours is a finding."""
    corpus = Path(tempfile.mkdtemp(prefix="corpus"))
    for number, data in enumerate(seeds()):
        (corpus / str(number)).write_bytes(data)
    atheris.Setup([*sys.argv, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
