"""The folder that an export goes to: whose it is, and what is done of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.files import TEMPORARY_SUFFIX, write_atomically
from stable_async.jobs.errors import JobError
from stable_async.jobs.lock import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["STATE_FOLDER", "Origin", "ShardReport", "claimed", "numbers_in"]

STATE_FOLDER = ".export"
CLAIM = "export.json"

Origin = tuple[str, str | None]
"""SHA-256 and request id of a picture, which tell one job from another."""


@dataclass(slots=True)
class ShardReport:
    """How the writing of a shard went; kept as JSON with the names that img2dataset gives.

    Attributes:
        digest: Of what was to be written.
        count: Pictures that were to be written.
        bytes: Size of the shard, as written.
        outcomes: How many pictures ended how; `success` is the good end.
        started: Seconds since 1970.
    """

    digest: str
    count: int
    bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.time)

    @property
    def written(self) -> int:
        """How many pictures are in the shard."""
        return self.outcomes["success"]

    def save(self, path: Path) -> None:
        """Write the report: the shard is done."""
        ended = time.time()
        facts = {
            "count": self.count,
            "successes": self.written,
            "failed_to_download": self.count - self.written,
            "failed_to_resize": 0,
            "duration": round(ended - self.started, 3),
            "start_time": self.started,
            "end_time": ended,
            "status_dict": self.outcomes,
            "bytes": self.bytes,
            "digest": self.digest,
        }
        write_atomically(path, [json.dumps(facts, indent=4).encode()])

    @classmethod
    def load(cls, path: Path) -> ShardReport | None:
        """Give the report of an export before; `None` if there is none that can be read."""
        try:
            facts = json.loads(path.read_bytes())
            return cls(
                digest=facts["digest"],
                count=facts["count"],
                bytes=facts["bytes"],
                outcomes=Counter(facts["status_dict"]),
                started=facts["start_time"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def numbers_in(folder: Path, before: str, after: str) -> set[int]:
    """Give the numbers that stand between two texts in the names of a folder's entries."""
    middles = (
        path.name.removeprefix(before).removesuffix(after)
        for path in folder.glob(f"{before}*{after}")
    )
    return {int(middle) for middle in middles if middle.isascii() and middle.isdigit()}


@contextmanager
def claimed(
    target: Path,
    job: Path,
    format_: str,
    origins: list[Origin],
    is_of_job: Callable[[Origin], bool],
) -> Iterator[None]:
    """Keep a folder for an export, and clear away what a killed one left half written.

    Args:
        target: The folder; made if it is not there.
        job: The folder of the job.
        format_: Of the data set.
        origins: Pictures that tell the job from others.
        is_of_job: Tells whether the job has, or had, a picture.

    Raises:
        JobError: The folder belongs to something else.
        JobLockedError: Another process exports to it.
    """
    if target.resolve() == job.resolve() or job.resolve() in target.resolve().parents:
        raise JobError(f"{target} is in the job's own folder: choose another one")
    state = target / STATE_FOLDER
    if target.is_dir() and not state.is_dir() and any(target.iterdir()):
        raise JobError(f"{target} is not empty, and no export: choose another folder")
    state.mkdir(parents=True, exist_ok=True)
    with locked(state, "exports to this folder"):
        path = state / CLAIM
        if path.exists():
            claim = json.loads(path.read_bytes())
            # Any will do: the first ones may have been replaced since, and forgotten by a ledger
            # that was made anew.
            if claim["format"] != format_ or not any(map(is_of_job, claim["pictures"])):
                raise JobError(
                    f"{target} has an export of another job, or in another format: "
                    "choose another folder, or remove it"
                )
        write_atomically(path, [json.dumps({"format": format_, "pictures": origins}).encode()])
        for left in target.rglob(f".*{TEMPORARY_SUFFIX}"):
            left.unlink()
        yield
