"""Files are written whole, in whichever process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stable_async.files import TEMPORARY_SUFFIX, AtomicFile

if TYPE_CHECKING:
    from pathlib import Path

FORKED = """
import asyncio, os, signal
from stable_async.files import in_thread
asyncio.run(in_thread(int))
child = os.fork()
if not child:
    signal.alarm(10)
    os._exit(asyncio.run(in_thread(int, "7")))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    """As under servers that load the application before they fork their workers."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "7"


@pytest.mark.parametrize("name", ["picture.png", "\u753b" * 80 + ".png"])
def test_a_temporary_file_is_told_by_its_target(name: str, tmp_path: Path) -> None:
    """A job clears up after a crash by these names; long ones must not be too long for the disk."""
    file = AtomicFile(tmp_path / name)
    file.write([b"half"])
    [left] = tmp_path.iterdir()
    assert left.name.startswith(f".{name[:20]}")
    assert left.name.endswith(TEMPORARY_SUFFIX)
    file.commit([b" and half"])
    assert (tmp_path / name).read_bytes() == b"half and half"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
