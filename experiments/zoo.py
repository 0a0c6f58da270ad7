"""How the zoo of codecs that ship with the package is made: from finished runs, and from known sources.

python -m commlib.experiments.zoo RUN NAME      the codec of a run
python -m commlib.experiments.zoo gaussian      the codecs of Gaussian sources
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from commlib.codecs.fit import Settings, curve, fit_codec
from commlib.codecs.store import load_codec, read_header, save_codec
from commlib.codecs.words import ZOO
from commlib.config import read_yaml
from commlib.errors import ConfigError
from commlib.records import RunFolder

GAUSSIAN_MESSAGES = 40_000
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Rate weights, in variances per bit, of the curve in the label of a Gaussian codec: bits per message, and as `return_`
the negative squared error per float."""
FITTED_AT = 0.2


def from_run(run: Path, name: str) -> Path:
    """Put a run's codec into the zoo."""
    folder = RunFolder.existing(run)
    config = read_yaml(folder.config)
    made_by = f"commlib train {config['world']} --method {config['method']} --seed {config['seed']}"
    save_codec(load_codec(folder.codec), ZOO / name, read_header(folder.codec)["calibration"], made_by)
    return ZOO / name


def gaussian(width: int, seed: int = 0) -> Path:
    """A trellis codec for independent Gaussian floats, and its rate curve on messages that it was not fitted to."""
    draw = np.random.default_rng(seed)
    messages = draw.standard_normal((GAUSSIAN_MESSAGES, width)).astype(np.float32)
    codec = fit_codec(messages, Settings("trellis", 64, rate_weight=FITTED_AT, step=_step(FITTED_AT)), seed).codec
    unseen = draw.standard_normal((GAUSSIAN_MESSAGES // 4, 1, width)).astype(np.float32)
    rungs = [
        {"rate_weight": weight, "success": None, "return_": -error / width}
        | {"bits_per_agent_step": bits, "bits_per_agent_episode": bits}
        for weight, (bits, error) in zip(WEIGHTS, curve(codec, unseen, WEIGHTS), strict=True)
    ]
    calibration = {"rungs": rungs, "chosen": WEIGHTS.index(FITTED_AT), "n_steps": 0}
    save_codec(codec, ZOO / f"gaussian-{width}", calibration, "python -m commlib.experiments.zoo gaussian")
    return ZOO / f"gaussian-{width}"


def _step(rate_weight: float) -> float:
    """The step, in standard deviations, that goes with a rate weight; tried out on Gaussian sources."""
    return float(np.clip(1.6 * np.sqrt(rate_weight), 0.1, 0.8))


def main(words: list[str]) -> None:
    """Make what the words say."""
    if words == ["gaussian"]:
        made = [gaussian(width) for width in (4, 8, 16)]
    elif len(words) == 2:
        made = [from_run(Path(words[0]), words[1])]
    else:
        raise ConfigError("say RUN NAME, or gaussian")
    for folder in made:
        sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
