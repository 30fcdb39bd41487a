"""The path of one row through the package: calls, modules, switches between modules, threads.

`python -m benchmarks.row_trace` runs two jobs, one request in flight at a time, and prints by how
much the larger one needs more, for each row. `--modules` lists the modules as well. The quota is
the client's own; with `--quota file` it is in a file, as clients share it by default.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import stable_async
from benchmarks.answering import answering_server
from benchmarks.jobs import KEY, write_prompts

if TYPE_CHECKING:
    from types import FrameType

PACKAGE = str(Path(stable_async.__file__).parent)
FEW, MANY = 20, 120


class Trace:
    """Counts what happens inside the package, in all threads.

    Attributes:
        calls: Calls of functions of the package, by module.
        switches: How often one thread went on in another module of the package.
        threads: The threads that ran code of the package.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.calls: Counter[str] = Counter()
        self.switches = 0
        self.threads: set[str] = set()
        self._at = threading.local()

    def start(self) -> None:
        """Count from now on, in this thread and in those that an earlier trace or this one has seen
        start.
        """
        _counting.append(self)
        threading.setprofile(_event)
        sys.setprofile(_event)

    def stop(self) -> None:
        """Stop counting."""
        sys.setprofile(None)
        threading.setprofile(None)
        _counting.remove(self)

    def count(self, path: str) -> None:
        """Count a call of a function in the file at `path`."""
        self.calls[path[len(PACKAGE) + 1 :]] += 1
        if getattr(self._at, "path", path) != path:
            self.switches += 1
        self._at.path = path
        self.threads.add(threading.current_thread().name)


# The trace that counts now. The threads of an executor outlive a trace, and keep this function.
_counting: list[Trace] = []


def _event(frame: FrameType, event: str, argument: object) -> None:
    path = frame.f_code.co_filename
    if event == "call" and path.startswith(PACKAGE):
        for trace in _counting:
            trace.count(path)


def traced(url: str, rows: int, room: Path, *, shared: bool = False) -> Trace:
    """Run a job of `rows` rows and return its trace.

    Args:
        url: The address of the server.
        rows: The rows of the job.
        room: A folder for the job and, if `shared`, the file of the quota.
        shared: Whether the quota is in a file, not the client's own.
    """
    from stable_async import Quota, SharedQuota, StabilityClient
    from stable_async.jobs import Job, JobSettings, PromptFile, PromptRules

    prompts = room / f"{rows}.jsonl"
    write_prompts(prompts, rows)
    trace = Trace()
    terms = Quota(requests=100_000)
    # A file of its own: entries of an earlier run would be read, too.
    file = room / f"quota-{rows}"
    quota = SharedQuota.file(file, terms) if shared else replace(terms, scope="client")

    async def main() -> None:
        settings = JobSettings(folder=room / str(rows), max_in_flight=1)
        job = Job(settings, PromptFile(str(prompts)), PromptRules())
        async with StabilityClient(KEY, base_url=url, quota=quota) as client:
            summary = await job.run(client)
        assert summary.ending == "complete", summary

    trace.start()
    try:
        asyncio.run(main())
    finally:
        trace.stop()
    return trace


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--modules", action="store_true")
    parser.add_argument("--quota", choices=["client", "file"], default="client")
    options = parser.parse_args()
    shared = options.quota == "file"
    with answering_server() as server, tempfile.TemporaryDirectory() as temporary:
        url = f"{server}/small"
        room = Path(temporary)
        traced(url, 1, room, shared=shared)  # imports
        few, many = (traced(url, rows, room, shared=shared) for rows in (FEW, MANY))
    rows = MANY - FEW
    calls = {path: (many.calls[path] - few.calls[path]) / rows for path in many.calls}
    used = {path: count for path, count in calls.items() if count >= 0.5}
    print(f"calls of a row: {sum(calls.values()):.0f}")
    print(f"modules: {len(used)}")
    print(f"switches between modules: {(many.switches - few.switches) / rows:.0f}")
    print(f"threads: {len(many.threads)}")
    if options.modules:
        for path, count in sorted(used.items(), key=lambda one: -one[1]):
            print(f"  {count:7.1f}  {path}")


if __name__ == "__main__":
    main()
