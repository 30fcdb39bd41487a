"""These tests need a browser, and so they run only when they are asked for: `make browser`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out unless the command line names it."""
    asked = any("browser" in argument for argument in config.invocation_params.args)
    return None if asked else True
