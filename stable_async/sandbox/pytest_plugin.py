"""Pytest fixtures for applications: a sandbox for each test, for a module or for the session.

    def test_poster(stability_sandbox):
        make_poster(base_url=stability_sandbox.url)
        assert stability_sandbox.log[-1].fields["aspect_ratio"] == "2:3"

The sandbox runs in a separate thread, so that synchronous and asynchronous tests of any library can
use it. It is loaded only when a test uses it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.sandbox import Sandbox, SandboxSettings

__all__ = [
    "stability_sandbox",
    "stability_sandbox_module",
    "stability_sandbox_session",
    "stability_sandbox_settings",
]

POLL_SECONDS = "0.02"


@contextmanager
def _running(settings: SandboxSettings) -> Iterator[Sandbox]:
    """Run a sandbox, with the environment variables that point applications to it."""
    from stable_async.sandbox.running import run_in_thread

    with run_in_thread(settings) as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STABILITY_BASE_URL", sandbox.url)
        patch.setenv("STABILITY_API_KEY", "sk-sandbox")
        patch.setenv("STABILITY_POLL_INTERVAL", POLL_SECONDS)
        # The developer's own, such as a server for production: it does not know the sandbox yet,
        # and would let the first request wait for a window.
        patch.delenv("STABILITY_SHARED_QUOTA", raising=False)
        yield sandbox


@pytest.fixture(scope="session")
def stability_sandbox_settings() -> SandboxSettings:
    """Settings of the sandboxes: the defaults. Override this fixture to change them."""
    from stable_async.sandbox import SandboxSettings

    return SandboxSettings()


@pytest.fixture
def stability_sandbox(stability_sandbox_settings: SandboxSettings) -> Iterator[Sandbox]:
    """Run a fresh sandbox during the test, with its URL, log, statistics and faults.

    `STABILITY_BASE_URL` and `STABILITY_API_KEY` are set for the test, so that an application
    that reads them talks to the sandbox and has no real key; `STABILITY_POLL_INTERVAL` makes this
    package's client poll for results more often than the API allows. `STABILITY_SHARED_QUOTA` is
    not set during the test.
    """
    with _running(stability_sandbox_settings) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def stability_sandbox_module(stability_sandbox_settings: SandboxSettings) -> Iterator[Sandbox]:
    """Run one sandbox for the tests of a module; call `reset()` between them to start over."""
    with _running(stability_sandbox_settings) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def stability_sandbox_session(stability_sandbox_settings: SandboxSettings) -> Iterator[Sandbox]:
    """Run one sandbox for all tests; call `reset()` between them to start over."""
    with _running(stability_sandbox_settings) as sandbox:
        yield sandbox
