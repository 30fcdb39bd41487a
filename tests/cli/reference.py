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

`pip install ".[cli]"`, in a clone, installs `stable-async`; `[sandbox]` is needed by `stable-async
sandbox` and by `--sandbox`. `python -m stable_async` is the same command. The key comes from
`STABILITY_API_KEY`, never from the command line, where every user of the machine could read it.

Progress goes to stderr, drawn on a terminal and as plain lines elsewhere; results go to stdout.
Exit statuses: 0 done; 1 the command could not start or continue; 2 wrong usage; 3 some rows failed,
were filtered or are in doubt; 4 the budget is reached; 130 interrupted.

[Bulk jobs](jobs.md) describes what `run` makes and what it does when things break.

`stable-async.toml` in the current folder sets defaults of options: a table `[defaults.run]` with
`service = "ultra"`, for example. `--profile draft` or `STABLE_ASYNC_PROFILE=draft` selects the
table `[profiles.draft.run]`. Options on the command line take precedence. The file cannot hold the
key. `stable-async completion bash` (zsh, fish) prints the completion script of a shell.
"""
GENERATE = """## stable-async generate

One command for each service: {services}. The options are the fields of the service's request;
`--help` lists them. The suffix of `-o` sets the format unless `--output-format` does. An example:
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
