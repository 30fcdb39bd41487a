"""What tests need besides the package: without it they fail, and say how to get it."""

from __future__ import annotations

import importlib
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


def module(name: str) -> ModuleType:
    """Return a module that is only installed for development."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.fail(f"{error}; `make test` installs what tests need", pytrace=False)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Return a disk that is soon full."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        why = "needs to mount a small disk: run it as root on Linux, such as in a container"
        pytest.fail(f"{why} (`unshare --map-root-user --mount make test` will do)", pytrace=False)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
