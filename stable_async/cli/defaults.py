"""`stable-async.toml` in the current folder: defaults of options, and profiles of them."""

import os
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

from cyclopts.config import Dict

from stable_async.arguments import unknown_word
from stable_async.cli.exit_status import UsageError

__all__ = ["NAME", "Defaults", "split_profile"]

NAME = "stable-async.toml"
PROFILE = "STABLE_ASYNC_PROFILE"
TABLES = {"defaults", "profiles"}


class Defaults:
    """The defaults that the file has for a profile.

    Attributes:
        commands: Commands that it has defaults for.
        config: Configurations for cyclopts; earlier ones take precedence.
    """

    def __init__(self, profile: str | None, known: Collection[str]) -> None:
        """Read the file, if there is one.

        Args:
            profile: Name of the profile, if there is one.
            known: The commands that there are.

        Raises:
            UsageError: It is not TOML, has other tables, or lacks the profile.
        """
        path = Path(NAME)
        try:
            given: dict[str, object] = tomllib.loads(path.read_text("utf-8-sig"))
        except FileNotFoundError:
            given = {}
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{NAME}: {error}") from None
        if others := sorted(given.keys() - TABLES):
            raise UsageError(
                f"{NAME}: unknown: {', '.join(others)}; allowed: [defaults.COMMAND] and "
                "[profiles.NAME.COMMAND]"
            )
        profiles = _table(given.get("profiles"), "profiles")
        if profile is not None and profile not in profiles:
            names = ", ".join(profiles) or "none"
            raise UsageError(f"there is no profile {profile!r} in {NAME}; there are: {names}")
        layers = {"defaults": given.get("defaults")}
        if profile is not None:
            layers = {f"profiles.{profile}": profiles[profile], **layers}
        tables = [_commands(layer, name, known) for name, layer in layers.items()]
        self.commands: set[str] = {command for table in tables for command in table}
        self.config: list[Dict] = [
            Dict(table, source=str(path.absolute())) for table in tables if table
        ]


def split_profile(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the arguments without `--profile NAME`, and the name.

    Raises:
        UsageError: The name is missing.
    """
    profile = os.environ.get(PROFILE) or None
    rest: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        if argument == "--":
            rest += [argument, *pending]
        elif argument == "--profile":
            profile = next(pending, None)
            if profile is None:
                raise UsageError(f"--profile needs the name of a profile in {NAME}")
        elif argument.startswith("--profile="):
            profile = argument.partition("=")[2]
        else:
            rest.append(argument)
    return rest, profile


def _table(value: object, name: str) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise UsageError(f"{NAME}: {name} has a value; allowed: tables, such as [{name}.run]")
    return cast("dict[str, object]", value)


def _commands(value: object, name: str, known: Collection[str]) -> dict[str, object]:
    """Return the defaults by command; those of a command that does not exist would be dropped,
    such as a budget.
    """
    table = _table(value, name)
    if unknown := next((command for command in table if command not in known), None):
        hint = unknown_word(unknown, known, "command")
        raise UsageError(f"{NAME}: {name}.{unknown}: {hint}; allowed: {', '.join(known)}")
    return table
