"""Events of a job: to a callable, or as JSON Lines to a file. docs/events.md has the schema."""

from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from stable_async.errors import ConfigurationError

if TYPE_CHECKING:
    from stable_async.errors import StabilityError
    from stable_async.jobs.estimate import Estimate
    from stable_async.jobs.progress import Progress, Summary
    from stable_async.jobs.row import Result, Row

__all__ = ["EVENTS_VERSION", "EventFile", "JobEvents"]

logger: logging.Logger = logging.getLogger("stable_async.jobs")

# Incremented when a field is removed or changes its meaning, not for new fields and events.
EVENTS_VERSION = 1
# The first bytes of a file of events.
HEAD = b'{"v": '


class JobEvents:
    """Receives the events of a job, and ignores them. Methods must not block for long."""

    def started(self, estimate: Estimate) -> None:
        """Called in another thread after the prompt file was checked, before anything is sent."""

    def settled(self, row: Row, result: Result) -> None:
        """Called after the result of an attempt is in the ledger."""

    def progressed(self, progress: Progress) -> None:
        """Called every few seconds while the job runs."""

    def ended(self, summary: Summary) -> None:
        """Called at the end of the run."""

    def failed(self, error: StabilityError) -> None:
        """Called instead of `ended` if the run could not begin."""


class EventFile(JobEvents):
    """Appends one line of JSON for each event to a file.

    A file that can no longer be written does not stop the job.

    Attributes:
        error: Why nothing more is written; `None` as long as the file can be written.
    """

    def __init__(self, path: Path) -> None:
        """Open a file or a named pipe; this blocks until the pipe has a reader, and logs that.

        Raises:
            ConfigurationError: The file has other content than events.
            OSError: It cannot be written.
        """
        if path.is_file() and not _has_events(path):
            raise ConfigurationError(
                f"events is {path}; allowed: a new file, or one with the events of earlier runs"
            )
        self._file: TextIO = open(  # noqa: SIM115 - with an opener
            path, "a", encoding="utf-8", buffering=1, opener=_open
        )
        self.error: str | None = None

    def started(self, estimate: Estimate) -> None:
        """Write `start`, with what the run does."""
        self._write("start", **estimate.figures())

    def settled(self, row: Row, result: Result) -> None:
        """Write `row`, with its result."""
        image = result.image
        self._write(
            "row",
            id=row.id,
            row=row.number,
            service=row.service,
            state=result.state,
            charge=result.charge,
            credits=row.price,
            file_name=None if image is None else image.file_name,
            seed=row.seed if image is None else image.seed,
            request_id=None if image is None else image.request_id,
            seconds=None
            if image is None or image.sent_at is None or image.finished_at is None
            else round(image.finished_at - image.sent_at, 3),
            reason=result.reason,
            error=result.error,
        )

    def progressed(self, progress: Progress) -> None:
        """Write `progress`, with the figures so far."""
        bill = progress.bill
        self._write(
            "progress",
            phase=progress.phase,
            total=progress.total,
            done=progress.done,
            skipped=progress.skipped,
            failed=progress.failed,
            again=progress.again,
            in_doubt=progress.in_doubt,
            filtered=progress.filtered,
            in_flight=progress.in_flight,
            requests=progress.requests,
            rate_limited=progress.rate_limited,
            spent=round(bill.spent, 6),
            credits_in_doubt=round(bill.in_doubt, 6),
            outage=progress.outage,
        )

    def ended(self, summary: Summary) -> None:
        """Write `end`, with the summary, and close the file."""
        self._write("end", **asdict(summary))
        self.close()

    def failed(self, error: StabilityError) -> None:
        """Write `error`, with the message, and close the file."""
        self._write("error", error=str(error))
        self.close()

    def close(self) -> None:
        """Write nothing more."""
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or str(error.strerror or error)

    def _write(self, event: str, **facts: object) -> None:
        if self._file.closed or self.error is not None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given = {name: value for name, value in facts.items() if value is not None}
        head: dict[str, object] = {"v": EVENTS_VERSION, "time": now, "event": event}
        try:
            self._file.write(json.dumps(head | given, ensure_ascii=False, default=str) + "\n")
        except (OSError, ValueError) as error:
            self.error = str(error)


def _open(path: str, flags: int) -> int:
    try:
        file = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO or not Path(path).is_fifo():
            raise
        logger.warning("%s is a named pipe that nothing reads: waiting for a reader", path)
        return os.open(path, flags)
    os.set_blocking(file, True)
    return file


def _has_events(path: Path) -> bool:
    """Return whether a file is empty or begins with an event."""
    with path.open("rb") as file:
        return file.read(len(HEAD)) in {b"", HEAD}
