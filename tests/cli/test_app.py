"""The list of commands is that of the commands themselves, and printing it imports none of them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
from cyclopts import App

from stable_async.cli.app import COMMANDS, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    place, summary = COMMANDS[name]
    module, attribute = place.split(":")
    command = getattr(import_module(f"stable_async.cli.{module}"), attribute)
    text = command.help if isinstance(command, App) else inspect.getdoc(command)
    assert " ".join((text or "").partition("\n\n")[0].split()) == summary


def test_a_command_says_all_of_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--help"]) == 0
    assert "Exit status:" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_printing_the_list_imports_no_command(option: str) -> None:
    code = (
        "import sys; from stable_async.cli.app import run; "
        f"assert run(['{option}']) == 0; print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"aiohttp", "pydantic", "stable_async.client", "stable_async.jobs"} & set(
        ended.stderr.split()
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_letters_that_the_terminal_lacks_are_printed_as_escapes(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "größe.csv"
    path.write_text("prompt\nein Größe 灯台 🦊\n", "utf-8")
    ended = subprocess.run(
        [sys.executable, "-c", "from stable_async.cli import main; main()", "estimate", path],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    text = "ein Größe 灯台 🦊".encode(encoding, "backslashreplace")
    assert text in ended.stdout
