"""A pytest fixture for applications: `stability_sandbox`.

    def test_poster(stability_sandbox):
        make_poster(base_url=stability_sandbox.url)
        assert stability_sandbox.log[-1].fields["aspect_ratio"] == "2:3"

The sandbox runs in a thread of its own, so synchronous and asynchronous tests of any library can
use it. Nothing of it is loaded until a test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.sandbox import Sandbox, SandboxSettings

__all__ = ["stability_sandbox", "stability_sandbox_settings"]


@pytest.fixture
def stability_sandbox_settings() -> SandboxSettings:
    """Settings of `stability_sandbox`: the defaults. Override this fixture to change them."""
    from stable_async.sandbox import SandboxSettings

    return SandboxSettings()


@pytest.fixture
def stability_sandbox(
    stability_sandbox_settings: SandboxSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """Run a fresh sandbox during the test, with its URL, log, statistics and switches.

    `STABILITY_BASE_URL` and `STABILITY_API_KEY` are set for the test, so that an application
    that reads them talks to the sandbox and has no real key.
    """
    from stable_async.sandbox.threaded import run_in_thread

    with run_in_thread(stability_sandbox_settings) as sandbox:
        monkeypatch.setenv("STABILITY_BASE_URL", sandbox.url)
        monkeypatch.setenv("STABILITY_API_KEY", "sk-sandbox")
        yield sandbox
