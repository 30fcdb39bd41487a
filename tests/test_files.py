"""Files are written whole, in whichever process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stable_async.files import TEMPORARY_SUFFIX, AtomicFile

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


def test_what_was_written_last_is_synced_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        steps.append(("sync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def noting_replace(source: str, target: str) -> None:
        steps.append(("rename", Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    for count in range(3):
        for last in ([], [b"end"]):
            steps.clear()
            file = AtomicFile(tmp_path / f"{count}")
            for _ in range(count):
                file.write([b"one"])
                file.sync()
            file.commit(last)
            size = 3 * count + 3 * len(last)
            assert steps[-2:] == [("sync", size), ("rename", size)]
            assert (tmp_path / f"{count}").stat().st_size == size
