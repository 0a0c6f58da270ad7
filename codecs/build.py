"""Codecs by name: the built-in ones, those of installed plug-ins, and any ``package.module:Class``."""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from commlib.errors import ConfigError
from commlib.plugins import load_object

CODECS = {
    "vq": ("commlib.codecs.vq", "VQCodec", "nearest of K learned vectors (arXiv:1711.00937)"),
    "rvq": ("commlib.codecs.rvq", "RVQCodec", "residual stages: a message told coarse, then fine (arXiv:2107.03312)"),
    "fsq": ("commlib.codecs.fsq", "FSQCodec", "a few numbers of a few levels each (arXiv:2309.15505)"),
    "trellis": ("commlib.codecs.tcq", "TrellisCodec", "trellis-coded floats, for more than a bit per float"),
    "vq-vib": (
        "commlib.codecs.vqvib",
        "VQVIBCodec",
        "vq with a stochastic code and an information price (arXiv:2207.00088)",
    ),
    "dither": (
        "commlib.codecs.dither",
        "DitherCodec",
        "subtractive dither, gradient exactly 1 (DDCL, arXiv:2511.01554)",
    ),
    "gvq": ("commlib.codecs.gvq", "GVQCodec", "16 codes without context (arXiv:2602.02035)"),
    "int8": ("commlib.codecs.int8", "Int8Codec", "8 bits per float, same prior, silence and rate-aware encoder as vq"),
    "float16": ("commlib.codecs.floats", "Float16Codec", "every float in half precision, bytes entropy-coded"),
    "float32": ("commlib.codecs.floats", "Float32Codec", "every float as it is, bytes entropy-coded"),
}
SIZED = ("vq", "rvq", "fsq", "trellis", "vq-vib")
"""The codecs that have a codebook size (for rvq: of each stage; for trellis: levels)."""


WEIGHTED = {"dither": "magnitude_weight", "vq-vib": "complexity_weight"}
"""The codecs that have a cost of information of their own, and the name of its weight."""


def make_codec(
    name: str, width: int, codebook_size: int, weight: float | None = None, n_stages: int | None = None
) -> Any:  # noqa: ANN401 (an nn.Module that is also a Codec)
    """A trainable codec by name; a user's class is called with ``width=``.

    `weight` is that of a cost of the codec's own, `n_stages` the number of its stages, where it has such things.

    Raises:
        ConfigError: no codec has this name, or the object it names is not a codec.
    """
    if name in CODECS:
        module, attribute, _ = CODECS[name]
        maker = getattr(import_module(module), attribute)
        if weight is not None and name not in WEIGHTED:
            raise ConfigError(f"the codec {name} has no cost of its own to weigh; {', '.join(WEIGHTED)} have one")
        if n_stages is not None and name != "rvq":
            raise ConfigError(f"the codec {name} has no stages; rvq has")
        own: dict[str, Any] = {} if weight is None else {WEIGHTED[name]: weight}
        own |= {} if n_stages is None else {"n_stages": n_stages}
        return maker(width, codebook_size, **own) if name in SIZED else maker(width, **own)
    plugins = {point.name: point for point in entry_points(group="commlib.codecs")}
    if name not in plugins and ":" not in name:
        known = [*CODECS, *plugins]
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"no codec is called {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")
        )
    maker = plugins[name].load() if name in plugins else load_object(name)
    try:
        codec = maker(width=width)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be made into a codec ({error}); it is called with width=") from error
    missing = [method for method in ("forward", "fit", "set_prior", "freeze") if not hasattr(codec, method)]
    if missing or not isinstance(codec, nn.Module):
        lacks = f"lacks {', '.join(missing)}" if missing else "is no torch.nn.Module"
        raise ConfigError(f"{name} is no codec: it {lacks}; see commlib.codec.Codec")
    return codec
