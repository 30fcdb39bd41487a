"""The target folder of an export: which job it belongs to, and which shards are finished."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.datasets.writer import STATE_FOLDER
from stable_async.files import TEMPORARY_SUFFIX, write_atomically
from stable_async.jobs.errors import JobError
from stable_async.jobs.lock import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from stable_async.datasets.records import Origin

__all__ = ["ShardReport", "claimed"]

CLAIM = "export.json"


@dataclass(slots=True)
class ShardReport:
    """The outcome of writing a shard, stored as JSON under the names that img2dataset uses.

    Attributes:
        digest: Digest of the records that were to be written.
        count: Records that were to be written.
        bytes: Size of the shard, as written.
        outcomes: Records by outcome; `success` is the good one.
        started: Seconds since 1970.
    """

    digest: str
    count: int
    bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.time)

    @property
    def written(self) -> int:
        """How many records are in the shard."""
        return self.outcomes["success"]

    def save(self, path: Path) -> None:
        """Write the report: the shard is finished."""
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
        """Return the report of an earlier export; `None` if it is missing or unreadable."""
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


@contextmanager
def claimed(
    target: Path,
    folders: Sequence[Path],
    layout: Mapping[str, object],
    origins: list[Origin],
    is_of_job: Callable[[Origin], bool],
) -> Iterator[None]:
    """Hold a folder for an export, and remove the incomplete files of a killed export.

    Args:
        target: The folder; created if missing.
        folders: The folders of the job.
        layout: Format and splits of the data set.
        origins: Results that identify the job.
        is_of_job: Returns whether the job has, or had, a result.

    Raises:
        JobError: The folder belongs to something else.
        JobLockedError: Another process exports to it.
    """
    place = target.resolve()
    if any(place.is_relative_to(folder.resolve()) for folder in folders):
        raise JobError(f"{target} is in the job's own folder: choose another one")
    state = target / STATE_FOLDER
    if target.is_dir() and not state.is_dir() and any(target.iterdir()):
        raise JobError(f"{target} is not empty and not an export: choose another folder")
    state.mkdir(parents=True, exist_ok=True)
    with locked(state, "exports to this folder"):
        path = state / CLAIM
        if path.exists():
            claim = json.loads(path.read_bytes())
            # Any of them is enough: the first ones may have been replaced since, and lost by a
            # ledger that was rebuilt.
            if claim["layout"] != layout or not any(map(is_of_job, claim["origins"])):
                raise JobError(
                    f"{target} has an export of another job, in another format or with other "
                    "splits: choose another folder, or remove it"
                )
        write_atomically(path, [json.dumps({"layout": layout, "origins": origins}).encode()])
        for left in target.rglob(f".*{TEMPORARY_SUFFIX}"):
            left.unlink()
        yield
