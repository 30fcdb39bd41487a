"""Temporary files that carry a token of their owner, so that only abandoned ones are removed."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager, suppress
from random import getrandbits
from typing import TYPE_CHECKING

from stable_async.files import TEMPORARY_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["owner", "remove_left_over"]

OWNER_SUFFIX = ".owner"


@contextmanager
def owner(folder: Path) -> Iterator[str]:
    """Own temporary files below `folder`; the ownership ends with the process.

    Yields:
        The token that names of its files contain.
    """
    token = f"{getrandbits(64):016x}"
    path = folder / f".{token}{OWNER_SUFFIX}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield token
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def remove_left_over(folder: Path, folders: Iterable[Path]) -> int:
    """Remove the temporary files in `folders` whose owner, in `folder`, has ended; count them."""
    alive: dict[str, bool] = {}
    removed = 0
    for place in folders:
        for name in os.listdir(place):  # noqa: PTH208 - a Path for each of a million is slow
            if not (name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)):
                continue
            match = re.search(r"\.([0-9a-f]{16})-[0-9a-f]{16}\.part$", name)
            token = match[1] if match else ""
            if token not in alive:
                alive[token] = bool(token) and _is_alive(folder, token)
            if not alive[token]:
                (place / name).unlink(missing_ok=True)
                removed += 1
    for path in folder.glob(f".*{OWNER_SUFFIX}"):
        token = path.name[1 : -len(OWNER_SUFFIX)]
        if not alive.get(token) and not _is_alive(folder, token):
            path.unlink(missing_ok=True)
    return removed


def _is_alive(folder: Path, token: str) -> bool:
    try:
        descriptor = os.open(folder / f".{token}{OWNER_SUFFIX}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
