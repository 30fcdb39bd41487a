"""The text of quota.lua, with the constants that it shares with `CentralState` in front."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from stable_async.quota.homes.central import CONSTANTS

__all__ = ["script"]


@cache
def script() -> str:
    """Return the whole script."""
    text = files("stable_async.quota.homes").joinpath("quota.lua").read_text("utf-8")
    return f"local C = cjson.decode('{json.dumps(CONSTANTS)}')\n{text}"
