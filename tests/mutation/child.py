"""The child process: runs tests while one module is imported from a changed tree.

This process imports neither the package nor the tests; its children are forked from it with
everything else in memory, so that a mutant costs the import of the package and its tests.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import CodeType, FrameType, ModuleType

    from tests.mutation.operators import Mutant

__all__ = ["Run", "start", "unchanged"]

# What must be imported anew for each mutant.
_OURS = "stable_async", "tests", "benchmarks", "examples"


class Run(NamedTuple):
    """What the tests of a module do while nothing is changed.

    Attributes:
        seconds: How long each test takes.
        tests_of: The tests that run a line, while it is imported or later.
    """

    seconds: dict[str, float]
    tests_of: dict[int, list[str]]

    def tests(self, lines: Iterable[int]) -> tuple[list[str], float]:
        """Return the tests that run any of these lines, the quickest first, and their seconds."""
        found = {test for line in lines for test in self.tests_of.get(line, [])}
        tests = sorted(found, key=self.seconds.__getitem__)
        seconds = sum(self.seconds[test] for test in tests)
        if len(tests) == len(self.seconds):
            # The line may run on import: what parametrised tests are called may depend on it.
            tests = list(dict.fromkeys(test.partition("[")[0] for test in tests))
        return tests, seconds


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree instead of from its file.

    Attributes:
        imported: Whether it did.
    """

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.imported = False
        self._path = str(path)
        self._code = compile(tree, self._path, "exec", dont_inherit=True)

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if not self._path.endswith(f"/{fullname.replace('.', '/')}.py"):
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.imported = True
        exec(self._code, module.__dict__)


class _Steady:
    """A plugin: properties are tried on fixed examples, and what fails is not made smaller."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutation",
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
        )
        settings.load_profile("mutation")


class _Lines:
    """A plugin: which test runs which line of a file, and how long each takes."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._lines: set[int] = set()
        self._lines_in: dict[CodeType, set[int]] = {}
        self._on_import: set[int] = set()
        self._lines_of: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}

    def trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        code = frame.f_code
        if code.co_filename != self._path:
            return None
        self._lines.add(frame.f_lineno)
        if event == "call" and self._lines.issuperset(self._in(code)):
            return None  # nothing new: tracing lines is slow
        return self.trace

    def _in(self, code: CodeType) -> set[int]:
        if code not in self._lines_in:
            self._lines_in[code] = {line for _, _, line in code.co_lines() if line is not None}
        return self._lines_in[code]

    def start(self) -> None:
        threading.settrace(self.trace)
        sys.settrace(self.trace)

    def pytest_collection_finish(self) -> None:
        self._on_import = set(self._lines)

    def pytest_runtest_logstart(self) -> None:
        self._lines.clear()
        self.start()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.when == "call" and report.passed:
            self._lines_of[report.nodeid] = sorted(self._lines)

    def tests_of(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {line: list(self._lines_of) for line in self._on_import}
        for test, lines in self._lines_of.items():
            for line in lines:
                if line not in self._on_import:
                    found.setdefault(line, []).append(test)
        return found


def _pytest(tests: Sequence[str], folder: Path, *plugins: object, timeout: int = 20) -> int:
    import pytest

    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    options = ["-x", "-q", "--tb=line", f"--timeout={timeout}", f"--basetemp={folder / 'files'}"]
    for plugin in ("cacheprovider", "xdist", "randomly"):
        options += ["-p", f"no:{plugin}"]
    # Rewriting assertions, pytest would import the modules of an installed package by itself.
    options.append("--assert=plain")
    try:
        return int(pytest.main([*options, *tests], [_Steady(), *plugins]))
    except (Warning, ExceptionGroup):  # one of them, or several
        return 1  # what was never closed is found when the tests have ended


def _fork(work: Callable[[], int], folder: Path) -> int:
    """Run `work` in a child with a process group of its own; return its id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        status = work()
    except BaseException as error:  # noqa: BLE001 - the child must not continue as its parent
        (folder / "output").write_text(repr(error))
    os._exit(status)


def unchanged(path: Path, tests: Sequence[str], folder: Path) -> Run:
    """Run the tests of the module at `path` as it is."""
    report = folder / "report"

    def work() -> int:
        lines = _Lines(path)
        lines.start()
        status = _pytest(tests, folder, lines, timeout=120)
        loaded = [name for name in sys.modules if not name.startswith(_OURS)]
        report.write_text(json.dumps([lines.seconds, list(lines.tests_of().items()), loaded]))
        return status

    _, status = os.waitpid(_fork(work, folder), 0)
    if status:
        sys.exit(f"{path}: its tests fail unchanged\n{(folder / 'output').read_text()}")
    seconds, tests_of, loaded = json.loads(report.read_text())
    for name in loaded:
        if not name.startswith(("_pytest", "pytest_", "__")):
            with suppress(Exception):
                importlib.import_module(name)
    if package := [name for name in sys.modules if name.startswith("stable_async")]:
        sys.exit(f"{path}: what its tests import has imported the package: {package[0]}")
    return Run(seconds, dict(tests_of))


def start(
    path: Path,
    tree: ast.Module,
    mutant: Mutant,
    tests: Sequence[str],
    seconds: float,
    folder: Path,
) -> int:
    """Start the tests on a mutant in a child; return its id."""

    def work() -> int:
        limit = int(5 + seconds)  # they were traced then, which is slower
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        mutant.apply()
        changed = _Changed(path, tree)
        sys.meta_path.insert(0, changed)
        status = _pytest(tests, folder)
        return status if changed.imported else 70

    return _fork(work, folder)
