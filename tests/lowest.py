"""Print the lower bounds of the dependencies as constraints, for `make lowest`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lower_bounds() -> list[str]:
    """Return `name==version` for each requirement of the package and its extras."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    matches = [
        re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\w.]+)", requirement)
        for requirement in [*project["dependencies"], *extras]
    ]
    return [f"{match[1]}=={match[2]}" for match in matches if match]


if __name__ == "__main__":
    print("\n".join(lower_bounds()))
