"""The command line: `stable-async`. It needs the extra `[cli]`, which nothing else loads."""

from __future__ import annotations

import sys

from stable_async.extras import install_command

__all__ = ["main"]


def main() -> None:
    """Run the command of `sys.argv`, and exit with its status."""
    try:
        from stable_async.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in {"cyclopts", "rich"}:
            raise
        sys.exit(f"stable-async: the command line needs: {install_command('cli')}")
    sys.exit(run(sys.argv[1:]))
