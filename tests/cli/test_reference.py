"""The document of the command line is what the commands say."""

from __future__ import annotations

import io
import re
from itertools import groupby, pairwise

import pytest
from rich.console import Console

from stable_async.cli.app import COMMANDS, make_app
from tests.cli.reference import DOCUMENT, reference


def test_the_document_is_up_to_date() -> None:
    """If this fails: `python -m tests.cli.reference`."""
    assert DOCUMENT.read_text() == reference()


@pytest.mark.parametrize("command", [*COMMANDS, "results get", "generate sd3"])
def test_help_breaks_no_line_that_the_terminal_can_show(command: str) -> None:
    """A docstring breaks its lines for the source, not for the reader of the help."""
    console = Console(file=io.StringIO(), width=400, color_system=None)
    tokens = command.split()
    make_app(tokens[0]).help_print(tokens, console=console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    text, boxes = (list(group) for _, group in groupby(lines, _is_in_box))
    assert not [pair for pair in pairwise(text) if all(pair)]
    assert not [line for line in boxes if re.match("│ {6}", line)]


def _is_in_box(line: str) -> bool:
    return line.startswith(("│", "╭", "╰"))
