"""Whether anybody has a journal open: what tells books at which somebody works from those that were left behind.

A hand on the door handle, which is not pressed: SQLite is asked by its locks alone, and nothing is opened, waited for or
written. Not a proof that the somebody is alive: a process that hangs has its books open, too.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from pathlib import Path
from typing import Final

_SHARED: Final = (0x40000002, 510)
"""The bytes that each connection to books in WAL mode locks from its first look to its end: https://sqlite.org/lockingv3.html
and SHARED_FIRST, SHARED_SIZE in SQLite's os.h."""
_FLOCK: Final = "hhqqi0q"
"""l_type, l_whence, l_start, l_len, l_pid as Linux has them."""
_kept: Final[dict[tuple[int, int], int]] = {}
"""Descriptors by device and inode. They are never closed: to close one would let go of every lock that this process has on
the file (https://sqlite.org/howtocorrupt.html, sec. 2.2)."""


def is_open(journal: Path) -> bool | None:
    """Whether a process of this machine has a journal open, to write or to read it; None where that cannot be told.

    Of books that were never in use, and those that were put away, nobody holds a lock: False.
    """
    if sys.platform != "linux":
        return None
    try:
        found = journal.stat()
    except FileNotFoundError:
        return False
    try:
        key = found.st_dev, found.st_ino
        if key not in _kept:
            _kept[key] = os.open(journal, os.O_RDONLY | os.O_CLOEXEC)
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *_SHARED, 0)
        answer = fcntl.fcntl(_kept[key], fcntl.F_OFD_GETLK, asked)
    except OSError:
        return None
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
