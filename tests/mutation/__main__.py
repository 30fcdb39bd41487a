"""Break the code that money and the quota depend on, one change at a time: which test notices?

    python -m tests.mutation [--again] [--jobs N] [MODULE ...]

Reads `modules.toml`: the modules, the tests that hold each, and the mutants that were judged. First
the tests of a module run once, unchanged, and tell which lines each of them runs. Then each mutant
gets a process of its own, which imports the package with the change (no file is written) and runs
the tests of that line, the quickest first, until one fails. `--again` leaves out those that were
killed last time, so it also resumes a run that was ended.

mutmut and cosmic-ray were tried. mutmut removes no statement, so that "the file is synced before it
is renamed" would stay whole; it changes no table of a module and no decorated function. cosmic-ray
starts pytest anew for each mutant, which takes 2.5 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.mutation.child import Run, start, unchanged
from tests.mutation.operators import Mutant, mutants

if TYPE_CHECKING:
    import ast
    from collections.abc import Sequence

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "build" / "mutants"
SEED = 1
LIVED = {"lived", "not run"}


class Module(NamedTuple):
    """A module to be changed, as `modules.toml` has it.

    Attributes:
        name: Its path in the package, without suffix.
        tests: The test files that hold it, and after `-k` what is chosen of them.
        sample: How many mutants are taken; `None` is all.
        judged: The mutants that may live, and why.
    """

    name: str
    tests: list[str]
    sample: int | None
    judged: dict[str, str]

    @property
    def path(self) -> Path:
        return ROOT / "stable_async" / f"{self.name}.py"

    @property
    def results(self) -> Path:
        return RESULTS / f"{self.name.replace('/', '.')}.json"

    def chosen(self, every: list[Mutant], *, again: bool) -> list[Mutant]:
        """Return the mutants of the sample; with `again` without those killed before."""
        chosen = every
        if self.sample is not None and self.sample < len(every):
            picked = random.Random(f"{SEED} {self.name}").sample(range(len(every)), self.sample)
            chosen = [every[at] for at in sorted(picked)]
        if again:
            killed = {name for name, end in self.last() if end not in LIVED}
            chosen = [mutant for mutant in chosen if mutant.name not in killed]
        return chosen

    def last(self) -> list[tuple[str, str]]:
        """Return the names of the mutants tried last, and what became of each."""
        return json.loads(self.results.read_text()) if self.results.exists() else []


class _Running(NamedTuple):
    mutant: Mutant
    folder: Path
    until: float


class Trial:
    """The mutants of one module, several at a time.

    Attributes:
        ends: What became of each: "killed", "too slow", "lived" or "not run" by any test.
    """

    def __init__(self, module: Module, tree: ast.Module, run: Run, folder: Path) -> None:
        self.ends: list[tuple[Mutant, str]] = []
        self._module = module
        self._tree = tree
        self._run = run
        self._folder = folder
        self._running: dict[int, _Running] = {}
        self._count = 0
        self._kills: Counter[str] = Counter()

    def try_all(self, chosen: Sequence[Mutant], jobs: int) -> None:
        """Try all these mutants."""
        waiting = list(reversed(chosen))
        try:
            while waiting or self._running:
                if waiting and len(self._running) < jobs:
                    self._begin(waiting.pop())
                else:
                    self._wait()
        finally:
            for child in self._running:
                _kill(child)

    def _begin(self, mutant: Mutant) -> None:
        tests, seconds = self._run.tests(mutant.span)
        tests.sort(key=lambda test: -self._kills[test])  # what killed others before comes first
        if not tests:
            self.ends.append((mutant, "not run"))
            return
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        child = start(self._module.path, self._tree, mutant, tests, seconds, folder)
        self._running[child] = _Running(mutant, folder, time.monotonic() + 60 + 10 * seconds)

    def _wait(self) -> None:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            for late, running in self._running.items():
                if time.monotonic() > running.until:
                    _kill(late)
            time.sleep(0.01)
            return
        mutant, folder, _ = self._running.pop(child)
        _kill(child)  # what it may have started
        code = os.waitstatus_to_exitcode(status)
        file = folder / "output"
        output = file.read_text(errors="replace") if file.exists() else ""
        if code in {5, 70}:  # pytest did not run the tests
            sys.exit(f"{self._module.name}, {mutant.name}\n{output}")
        self._kills.update(re.findall(r"^FAILED (\S+)", output, re.MULTILINE))
        self.ends.append((mutant, "lived" if not code else "killed" if code > 0 else "too slow"))
        shutil.rmtree(folder, ignore_errors=True)


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _cpu() -> float:
    """Return the CPU time of all children that have ended, seconds: free cores would take that."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def judge(module: Module, jobs: int, *, again: bool) -> tuple[int, int]:
    """Try the mutants of one module and print those that lived and were not judged.

    Returns:
        How many were killed, and how many were tried, without those that were judged and lived.
    """
    started, worked = time.monotonic(), _cpu()
    every, tree = mutants(module.path.read_text())
    for name in module.judged.keys() - {mutant.name for mutant in every}:
        print(f"{module.name}: judged, but no mutant any more: {name}")
    chosen = module.chosen(every, again=again)
    ends = dict(module.last()) if again else {}
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        if chosen:
            trial = Trial(module, tree, unchanged(module.path, module.tests, folder), folder)
            try:
                trial.try_all(chosen, jobs)
            finally:
                ends |= {mutant.name: end for mutant, end in trial.ends}
                module.results.write_text(json.dumps(list(ends.items()), indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tried = [(mutant, ends[mutant.name]) for mutant in module.chosen(every, again=False)]
    lived = [(mutant, end) for mutant, end in tried if end in LIVED]
    not_judged = [(mutant, end) for mutant, end in lived if mutant.name not in module.judged]
    killed, counted = len(tried) - len(lived), len(tried) - len(lived) + len(not_judged)
    print(
        f"{module.name:24}{killed:4} of {counted:4} {killed / max(counted, 1):7.1%}"
        f"  (tried {len(tried)} of {len(every)}, {len(lived) - len(not_judged)} judged,"
        f" {time.monotonic() - started:.0f} s, {_cpu() - worked:.0f} s of CPU)",
        flush=True,
    )
    for mutant, end in not_judged:
        print(f"  {mutant.line:4} {mutant.name}" + ("  (not run)" if end != "lived" else ""))
    return killed, counted


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--again", action="store_true", help="leave out those killed last time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("modules", nargs="*")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    RESULTS.mkdir(parents=True, exist_ok=True)
    table = tomllib.loads((HERE / "modules.toml").read_text())
    if unknown := set(arguments.modules) - set(table):
        parser.error(f"not in modules.toml: {', '.join(sorted(unknown))}")
    killed = tried = 0
    for name in arguments.modules or table:
        entry = table[name]
        left_out = " and ".join(f"not {test}" for test in entry.get("without", []))
        module = Module(
            name,
            [*(f"tests/{test}" for test in entry["tests"]), "-k", left_out],
            entry.get("sample"),
            entry.get("judged", {}),
        )
        counts = judge(module, arguments.jobs, again=arguments.again)
        killed, tried = killed + counts[0], tried + counts[1]
    print(f"{'all':24}{killed:4} of {tried:4} {killed / max(tried, 1):7.1%}")


if __name__ == "__main__":
    main()
