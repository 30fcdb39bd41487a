"""`python -m tests.cli.reference` writes docs/cli.md from the commands themselves."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from stable_async.api.services import SERVICES
from stable_async.cli.app import COMMANDS, make_app

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
WIDTH = 96

INTRODUCTION = """# The command line

`pip install ".[cli]"`, in a clone, brings `stable-async`; `[sandbox]` is needed by `stable-async
sandbox` and by `--sandbox`. The key comes from `STABILITY_API_KEY`, never from the command line,
where every user of the machine could read it.

Progress goes to stderr, drawn on a terminal and as plain lines elsewhere; results go to stdout.
Exit statuses: 0 done; 1 could not work, or not go on; 2 wrong usage; 3 some pictures failed or were
filtered; 4 the budget is spent; 130 interrupted.

What `run` makes, and what it does when things break, is told in [jobs.md](jobs.md).

Defaults of options stand in `stable-async.toml` in the current folder, as `[defaults.run]` with
`service = "ultra"`; `[profiles.draft.run]` is used with `--profile draft`, or with
`STABLE_ASYNC_PROFILE=draft`. What is given on the command line is stronger. The key is not kept
there. `stable-async completion bash` (zsh, fish) prints what a shell needs to complete commands and
options.
"""
GENERATE = """## stable-async generate

One command for each service: {services}. The options are the fields of the service's request; each
tells them with `--help`. `-o` gives the format, too, unless `--output-format` does. As an example:
"""


def help_of(*tokens: str) -> str:
    """Return the help page of a command."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
    make_app(tokens[0]).help_print(tokens, console=console)
    assert isinstance(console.file, io.StringIO)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())
    return "```\n" + "\n".join(lines).strip() + "\n```\n"


def reference() -> str:
    """Return the whole document."""
    services = ", ".join(f"`{name}`" for name in SERVICES)
    parts = [INTRODUCTION]
    for name in sorted(COMMANDS):
        if name == "generate":
            parts += [GENERATE.format(services=services), help_of("generate", "core")]
        elif name == "results":
            parts += ["## stable-async results get\n", help_of("results", "get")]
        else:
            parts += [f"## stable-async {name}\n", help_of(name)]
    return "\n".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(reference())
