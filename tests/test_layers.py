"""Imports point down, and importing the package loads nothing that only some need."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stable_async

ROOT = Path(stable_async.__file__).parent

# Each room may import from itself and from those to its right.
ORDER = [
    "__main__",
    "cli",
    "integrations",
    "report",
    "datasets",
    "jobs",
    "web",
    "client",
    "groups",
    "transport",
    "quota",
    "concurrency",
    "api",
    "media",
    "image_header",
    "files",
    "config",
    "arguments",
    "errors",
    "extras",
    "wording",
    "_version",
]


def imports(path: Path) -> set[str]:
    """Return the rooms a module imports from, annotations and function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("stable_async.")}
    return found


def imported_modules(path: Path) -> set[Path]:
    """Return the files of the package that a module imports, annotations included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(ROOT.name):
            continue
        module = ROOT.parent.joinpath(*(node.module or "").split("."))
        for alias in node.names:
            places = (
                module / f"{alias.name}.py",
                module.with_suffix(".py"),
                module / "__init__.py",
            )
            found |= {next(place for place in places if place.exists())}
    return found - {path}


def test_no_module_imports_itself_through_others() -> None:
    graph = {path: imported_modules(path) for path in ROOT.rglob("*.py")}
    assert not {path.relative_to(ROOT) for path in graph if reaches(graph, path, path)}


def reaches(graph: dict[Path, set[Path]], start: Path, end: Path) -> bool:
    """Return whether `start` imports `end`, directly or not."""
    seen: set[Path] = set()
    pending = [start]
    while pending:
        for needed in graph.get(pending.pop(), set()) - seen:
            if needed == end:
                return True
            seen.add(needed)
            pending.append(needed)
    return False


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    others = imports(path) - {room}
    if room == "sandbox":
        assert others <= {"extras"}, "the sandbox and the client must be able to disagree"
        return
    upward = {other for other in others if other in ORDER[: ORDER.index(room)]}
    assert upward == set()
    if room not in {"cli", "integrations"}:
        assert "sandbox" not in others


def test_importing_the_package_loads_no_extra() -> None:
    code = "import sys; from stable_async import StabilityClient; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    rooms = {tuple(name.split(".")[:2]) for name in output}
    extras = {"cyclopts", "rich", "PIL", "pyarrow", "obstore", "yaml", "sqlite3"}
    assert not {room[0] for room in rooms} & extras
    assert not {room[1] for room in rooms if len(room) > 1} & {"sandbox", "cli", "jobs"}
    assert "stable_async.client" in output


def test_everything_exported_is_there_and_sorted() -> None:
    assert stable_async.__all__ == sorted(stable_async.__all__)
    for name in stable_async.__all__:
        assert hasattr(stable_async, name)


def test_importing_the_package_alone_loads_neither_aiohttp_nor_pydantic() -> None:
    code = "import sys, stable_async; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"aiohttp", "pydantic", "tenacity", "anyio"} & set(output)
