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
    "vq": (
        "commlib.codecs.vq",
        "VQCodec",
        "nearest of K learned vectors, prior on the link's last code (arXiv:1711.00937)",
    ),
    "int8": ("commlib.codecs.int8", "Int8Codec", "8 bits per float, same prior, silence and rate-aware encoder as vq"),
    "float32": ("commlib.codecs.floats", "Float32Codec", "every float as it is, bytes entropy-coded"),
    "float16": ("commlib.codecs.floats", "Float16Codec", "every float rounded to half precision, bytes entropy-coded"),
}


def make_codec(name: str, width: int, codebook_size: int) -> Any:  # noqa: ANN401 (an nn.Module that is also a Codec)
    """A trainable codec by name; a user's class is called with ``width=``.

    Raises:
        ConfigError: no codec has this name, or the object it names is not a codec.
    """
    if name in CODECS:
        module, attribute, _ = CODECS[name]
        maker = getattr(import_module(module), attribute)
        return maker(width, codebook_size) if name == "vq" else maker(width)
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
