"""The command line: `stable-async`. It needs the extra `[cli]`, which nothing else loads."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from stable_async.extras import install_command

__all__ = ["main"]


def main() -> None:
    """Run the command of `sys.argv`, and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        # Prompts and paths have letters that the encoding of a terminal may lack. JSON is ASCII.
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        from stable_async.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in {"cyclopts", "rich"}:
            raise
        sys.exit(f"stable-async: the command line needs: {install_command('cli')}")
    sys.exit(run(sys.argv[1:]))
