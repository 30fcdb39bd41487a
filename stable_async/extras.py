"""How to install the optional parts of the package; the one place to change at a release."""

from __future__ import annotations

__all__ = ["install_command"]


def install_command(extra: str) -> str:
    """Return the command that installs `extra`, for messages."""
    return f'pip install ".[{extra}]" (in a clone of stable_async)'
