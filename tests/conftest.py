"""Fixtures of the whole suite."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


_numbers = count()

# Laws hold on slow machines, too. Hypothesis warns if it cannot keep what failed in the checkout.
ROOT = Path(__file__).parents[1]
DATABASE = (
    DirectoryBasedExampleDatabase(ROOT / ".hypothesis/examples")
    if os.access(ROOT, os.W_OK)
    else None
)
settings.register_profile("suite", deadline=None, database=DATABASE)
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def nothing_from_the_shell() -> None:
    """Signals, umask and standard input are as in a new terminal, whoever started the tests."""
    for ignorable in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(ignorable) is signal.SIG_IGN:
            # The tests go on ignoring it. A program that they start does not inherit a handler.
            signal.signal(ignorable, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    if sys.__stdin__ is None:  # it was closed; pytest has opened the descriptor
        sys.__stdin__ = Path(os.devnull).open(encoding="utf-8")  # type: ignore[misc]  # noqa: SIM115


@pytest.fixture(autouse=True)
def nothing_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test may reach the real service by accident, or leave anything at home."""
    # A folder for each test: a port that is used again must not bring its quota with it.
    cache = tmp_path_factory.getbasetemp() / f"cache-{next(_numbers)}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in ("API_KEY", "BASE_URL", "SHARED_QUOTA", "POLL_INTERVAL"):
        monkeypatch.delenv(f"STABILITY_{name}", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def nothing_leaks() -> AsyncIterator[None]:
    """After the test there are as many tasks and open files or sockets as before it."""

    def open_files() -> set[str]:
        found = set()
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the one that lists the folder
                found.add(f"{entry.name} {entry.readlink()}")
        return found

    gc.collect()
    gc.freeze()  # what is alive now need not be searched again: that took seconds in a long session
    files, tasks = open_files(), asyncio.all_tasks()
    yield
    for _ in range(20):  # a closed transport leaves its loop an iteration or two later
        await asyncio.sleep(0)
    gc.collect()
    left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    assert not left, left
    assert not (more := open_files() - files), more
