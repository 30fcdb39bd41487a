"""Defaults and profiles of `stable-async.toml`, and completion."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from stable_async.cli.app import COMMANDS, run

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[defaults.estimate]
service = "ultra"
keep = ["width"]

[profiles.draft.estimate]
service = "core"

[profiles.draft.export]
format = "parquet"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("prompt,width\na fox,512\n")
    (tmp_path / "stable-async.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "service", "message"),
    [
        ([], "ultra", "defaults for estimate"),
        (["--profile", "draft"], "core", "defaults for estimate, profile draft"),
        (["--profile=draft", "--service", "sd3"], "sd3", "profile draft"),
    ],
)
def test_what_is_given_is_stronger_than_a_profile_and_that_than_defaults(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    service: str,
    message: str,
) -> None:
    assert run(["estimate", "p.csv", "--json", *options]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["services"][0]["service"] == service
    assert facts["kept"] == ["width"]
    assert message in captured.err


def test_a_byte_order_mark_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Editors of Windows write one."""
    (folder / "stable-async.toml").write_text("\ufeff" + CONFIG, "utf-8")
    assert run(["estimate", "p.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["services"][0]["service"] == "ultra"


def test_the_environment_names_a_profile(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STABLE_ASYNC_PROFILE", "draft")
    assert run(["estimate", "p.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["services"][0]["service"] == "core"


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (CONFIG, ["--profile", "final"], "no profile 'final'"),
        (CONFIG, ["--profile"], "--profile needs the name"),
        ("[defaults.estimate]\nservce = 1\n", [], 'Unknown option: "[servce]"'),
        ("service = 'core'\n", [], "service; allowed: [defaults.COMMAND]"),
        ("[defaults]\nservice = 'core'\n", [], "such as [defaults.run]"),
        ("[defaults\n", [], "stable-async.toml: "),
        ("[defaults.runn]\nbudget = 5\n", [], "runn: no such command, did you mean run?"),
        ("[profiles.a.report]\n[profiles.a.x]\n", ["--profile", "a"], "profiles.a.x: no such"),
    ],
)
def test_a_wrong_file_is_told(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    config: str,
    options: list[str],
    message: str,
) -> None:
    (folder / "stable-async.toml").write_text(config)
    assert run(["estimate", "p.csv", *options]) == 2
    assert message in capsys.readouterr().err


def test_without_a_file_nothing_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "stable-async.toml").unlink()
    assert run(["estimate", "p.csv", "--keep", "width"]) == 0
    assert capsys.readouterr().err == ""


def test_a_shell_can_complete_commands_and_options(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert run(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(command in script for command in COMMANDS)
        assert "drop-duplicates" in script
    assert run(["completion", "bash"]) == 0
    (folder / "script").write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", "script"], check=True, cwd=folder)
