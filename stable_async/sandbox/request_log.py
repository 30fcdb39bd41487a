"""The requests that the sandbox saw: a bounded log, and figures over them."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.sandbox.forms import Form
    from stable_async.sandbox.settings import Counting

__all__ = ["FileRecord", "RequestLog", "RequestRecord", "Statistics"]

MAX_RECORDS = 10_000
# Text and the kept beginnings of files, of all records together.
MAX_BYTES = 64 << 20
FILE_BYTES = 64 << 10
SHOWN_TEXT = 60
SHOWN_RECORDS = 30


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An uploaded file.

    Attributes:
        filename: As the client sent it, decoded.
        content_type: As the client declared it.
        size: Bytes.
        sha256: Digest of the whole content, hexadecimal.
        content: The first bytes, at most 64 KiB: the whole file if it is no larger.
    """

    filename: str
    content_type: str
    size: int
    sha256: str
    content: bytes = field(repr=False)


@dataclass(slots=True, repr=False)
class RequestRecord:
    """A request as the sandbox saw it.

    Attributes:
        number: Counts from 1.
        arrival: When its first bytes arrived, seconds of the sandbox's clock, which is
            `time.monotonic()` until a test advances it.
        method: HTTP method.
        path: Path as sent, without the query.
        operation: The operation's id in the facts; empty when the path has none.
        key: Fingerprint of the API key; empty without a key. The key itself is never stored.
        headers: Lower-case names: `accept`, `content-type`, `content-length`, `user-agent` and
            the client identification headers.
        fields: Text fields, as sent. A JSON body's values are JSON texts unless they are strings.
        files: Uploaded files.
        status: HTTP status of the answer; `None` while there is none, or if there never was one.
        dropped: How the sandbox cut the connection; empty when it did not.
        edge: The edge fault of the request; empty for none.
        look: For a look at a result, its number, from 1; otherwise 0.
        duration: Seconds from the arrival to the end of the answer; `None` while it runs.
        response_bytes: Bytes of the answer's body.
        credits: Its charge, credits.
        seed: The seed used, drawn if none was given; `None` if nothing was made.
        finish_reason: `SUCCESS`, `CONTENT_FILTERED`, or empty when nothing was made.
        problems: The messages of an error answer.
    """

    number: int
    arrival: float
    method: str
    path: str
    operation: str = ""
    key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    status: int | None = None
    dropped: str = ""
    edge: str = ""
    look: int = 0
    duration: float | None = None
    response_bytes: int = 0
    credits: float = 0.0
    seed: int | None = None
    finish_reason: str = ""
    problems: tuple[str, ...] = ()

    def take(self, form: Form) -> None:
        """Store the fields of a form, and files up to a bound."""
        self.fields = dict(form.texts)
        self.files = {
            name: FileRecord(
                upload.filename,
                upload.content_type,
                upload.size,
                upload.sha256,
                upload.read(FILE_BYTES),
            )
            for name, upload in form.files.items()
        }

    def __repr__(self) -> str:
        """Return the request and its answer on one line."""
        answer = str(self.status) if self.status is not None else "no answer"
        if self.status is None and self.duration is None:
            answer = "in flight"
        what = self.operation or f"{self.method} {self.path[:80]}"
        parts = [f"#{self.number} {what} -> {answer}"]
        parts += [f"{name}={_short(text)}" for name, text in self.fields.items()]
        parts += [f"{name}={file.filename!r}" for name, file in self.files.items()]
        parts += [f"seed used {self.seed}"] if self.seed is not None else []
        parts += [f"{self.credits:g} credits"] if self.credits else []
        parts += [f"cut {self.dropped}"] if self.dropped else []
        parts += [f"edge fault {self.edge}"] if self.edge else []
        parts += [f"problems: {list(self.problems)}"] if self.problems else []
        return f"<{', '.join(parts)}>"

    def bytes_held(self) -> int:
        """Return roughly the memory that this record takes."""
        texts = (*self.fields, *self.fields.values(), *self.headers.values(), self.path)
        return sum(map(sys.getsizeof, texts)) + sum(
            len(file.content) + sys.getsizeof(file.filename) + 200 for file in self.files.values()
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…")


class RequestLog(Sequence[RequestRecord]):
    """The last requests, oldest first. It may be read from any thread."""

    def __init__(self, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        """Hold at most this many records, and roughly this many bytes."""
        self._records: deque[tuple[RequestRecord, int]] = deque()
        self._held = 0
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._lock = Lock()

    def append(self, record: RequestRecord) -> None:
        """Add a record, and drop the oldest ones beyond the bounds."""
        size = record.bytes_held()
        with self._lock:
            self._records.append((record, size))
            self._held += size
            while len(self._records) > self._max_records or (
                self._held > self._max_bytes and len(self._records) > 1
            ):
                self._held -= self._records.popleft()[1]

    def clear(self) -> None:
        """Remove all records."""
        with self._lock:
            self._records.clear()
            self._held = 0

    def _snapshot(self) -> list[RequestRecord]:
        with self._lock:
            return [record for record, _ in self._records]

    @overload
    def __getitem__(self, index: int) -> RequestRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[RequestRecord]: ...
    def __getitem__(self, index: int | slice) -> RequestRecord | list[RequestRecord]:
        return self._snapshot()[index]

    def __repr__(self) -> str:
        """Return the last requests, one on each line, as a failed assertion shows them."""
        records = self._snapshot()
        left_out = len(records) - SHOWN_RECORDS
        head = [f"  ... {left_out} before these"] if left_out > 0 else []
        lines = [f"  {record!r}" for record in records[-SHOWN_RECORDS:]]
        return "\n".join([f"<{len(records)} requests", *head, *lines]) + ">"

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self._snapshot())

    def __reversed__(self) -> Iterator[RequestRecord]:
        return reversed(self._snapshot())


@dataclass(slots=True)
class Statistics:
    """Figures since the sandbox started.

    Attributes:
        requests: Requests that count against the quota, refused ones included.
        answered: How many were answered with each status.
        refused: Those refused with 429 by the quota, not by a switch.
        dropped: Connections cut on request.
        edge_faults: Requests by the kind of edge fault that they met.
        broken_off: Requests whose client disconnected before the answer.
        in_flight: Requests being worked on now.
        peak_in_flight: Maximum in flight at once.
        most_in_window: The most that one key had in the quota's window, in each of the four ways
            of counting, at the worst phase of the server's clock.
        polls: Polls for asynchronous results.
        polls_too_soon: Polls less than 10 s after the previous one for the same result.
        credits_spent: Credits charged.
        credits_left: The balance.
    """

    requests: int = 0
    answered: dict[int, int] = field(default_factory=Counter)
    refused: int = 0
    dropped: int = 0
    broken_off: int = 0
    edge_faults: dict[str, int] = field(default_factory=Counter)
    in_flight: int = 0
    peak_in_flight: int = 0
    most_in_window: Mapping[Counting, float] = field(default_factory=dict)
    polls: int = 0
    polls_too_soon: int = 0
    credits_spent: float = 0.0
    credits_left: float = 0.0
