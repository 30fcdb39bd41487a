"""The ledger of a job, in SQLite: the one truth about every prompt. All calls block.

`prompts` holds the plan and the state of each image to be made, `images` what came, in the order
in which it came: `metadata.jsonl` is that table, written out. docs/jobs.md tells what the states
mean and which steps are on the disk before which.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stable_async.jobs.errors import LedgerError
from stable_async.jobs.row import to_json
from stable_async.media import CONTENT_FILTERED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

__all__ = [
    "Counts",
    "Failure",
    "ImageFacts",
    "Ledger",
    "Prompt",
    "State",
    "metadata_line",
    "metadata_of",
]

State = Literal["waiting", "in flight", "done", "filtered", "failed"]

APPLICATION_ID = 0x53_41_4A_4C  # "SAJL", told by `file job.sqlite`
VERSION = 1
# Kibibytes of pages in memory, whatever the size of the job.
CACHE = 8 * 1024

SCHEMA = """
CREATE TABLE job (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

CREATE TABLE prompts (
    position INTEGER PRIMARY KEY,       -- the order in which they came; gives the file its place
    id TEXT UNIQUE,                     -- NULL: another prompt has taken the id over
    content BLOB,                       -- digest of service and fields; NULL: not known
    row INTEGER NOT NULL,               -- in the prompt file, when it was first seen
    service TEXT NOT NULL,
    parameters TEXT NOT NULL,           -- JSON: fields of the API, without the seed
    metadata TEXT,                      -- JSON: what else the row said
    seed INTEGER,                       -- given or drawn
    price REAL,                         -- credits; NULL: not known
    listed INTEGER NOT NULL DEFAULT 1,  -- whether the prompt file has it now
    state TEXT NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'in flight', 'done', 'filtered', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    maybe_billed INTEGER NOT NULL DEFAULT 0,  -- attempts without an image that may have cost
    generation_id TEXT,                 -- of an asynchronous operation that was accepted
    reason TEXT,                        -- of a failure, in a word or two
    error TEXT,                         -- the same in full
    final INTEGER                       -- whether another attempt would fail as well
) STRICT;

CREATE TABLE images (
    number INTEGER PRIMARY KEY,         -- the order in which they came
    position INTEGER NOT NULL UNIQUE REFERENCES prompts,
    file_name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    width INTEGER,
    height INTEGER,
    seed INTEGER,
    finish_reason TEXT,
    request_id TEXT,
    credits REAL,
    sent_at REAL,                       -- seconds since 1970; NULL: not known
    finished_at REAL
) STRICT;

CREATE TABLE departures (               -- requests that left, by second since 1970
    second INTEGER PRIMARY KEY,
    requests INTEGER NOT NULL,
    rate_limited INTEGER NOT NULL
) STRICT;

CREATE VIEW spending AS
    SELECT service, json_extract(parameters, '$.model') AS model,
           count(*) AS images, sum(credits) AS credits
    FROM images JOIN prompts USING (position) GROUP BY 1, 2;
"""

PROMPT_COLUMNS = (
    "position, id, row, service, parameters, metadata, seed, price, attempts, generation_id"
)
IMAGE_COLUMNS = (
    "position, file_name, content_type, bytes, sha256, width, height, seed, finish_reason, "
    "request_id, credits, sent_at, finished_at"
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """An image to be made, as the ledger has it; see the table `prompts`."""

    position: int
    id: str
    row: int
    service: str
    parameters: Mapping[str, object]
    metadata: Mapping[str, object]
    seed: int | None
    price: float | None
    attempts: int
    generation_id: str | None


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image that came, as the ledger has it; see the table `images`."""

    position: int
    file_name: str
    content_type: str
    bytes: int
    sha256: str
    width: int | None
    height: int | None
    seed: int | None
    finish_reason: str | None
    request_id: str | None
    credits: float | None
    sent_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a prompt has no image.

    Attributes:
        reason: In a word or two, to count by.
        error: In full.
        final: Whether another attempt would fail as well.
        maybe_billed: Whether the attempt may have cost.
    """

    reason: str
    error: str
    final: bool
    maybe_billed: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """How many prompts of the present prompt file are in which state."""

    waiting: int = 0
    in_flight: int = 0
    done: int = 0
    filtered: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.in_flight + self.done + self.filtered + self.failed


FreshImage = tuple[int, Prompt, ImageFacts]
"""The number of an image, its prompt and its facts."""


class Ledger:
    """An open ledger. It belongs to one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use `open`, or `temporary`."""
        self.db = connection
        self._fresh: list[FreshImage] = []
        self._forget()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the ledger at `path`; a new one if there is none.

        Raises:
            LedgerError: It is of a newer version, of another program, or cannot be written.
            sqlite3.DatabaseError: It is corrupt.
        """
        try:
            # Threads take turns; `isolation_level=None` leaves transactions to `transaction`.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{path}: {error}") from None
        try:
            ledger = cls(connection)
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                ledger._create()
            ledger._recognise(path)
            ledger._settle(durable=True)
        except BaseException:
            connection.close()
            raise
        return ledger

    @classmethod
    def temporary(cls) -> Self:
        """Open a ledger that is gone when it is closed; large ones go to the disk meanwhile."""
        ledger = cls(sqlite3.connect("", isolation_level=None, check_same_thread=False))
        ledger._create()
        ledger._settle(durable=False)
        return ledger

    def _create(self) -> None:
        self.db.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; {SCHEMA} "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )

    def _recognise(self, path: Path) -> None:
        application, version = (
            self.db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if application != APPLICATION_ID:
            raise LedgerError(f"{path} is no ledger of stable-async")
        if version > VERSION:
            raise LedgerError(
                f"{path} was written by a newer stable-async (ledger version {version}, this one "
                f"knows {VERSION}): upgrade stable_async, or choose another folder"
            )
        for (problem,) in self.db.execute("PRAGMA quick_check(1)"):
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)

    def _settle(self, *, durable: bool) -> None:
        self.db.execute(f"PRAGMA cache_size = -{CACHE}")
        if durable:
            self.db.execute("PRAGMA journal_mode = WAL")
            # Every commit is on the disk before anything is done that relies on it.
            self.db.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        """Close it."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all changes of the block, or none."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._flush()
            self.db.execute("COMMIT")
        except BaseException:
            self._fresh.clear()
            self._forget()
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    # The job as a whole.

    def get(self, name: str) -> str | int | None:
        """Give what was kept under `name`."""
        row = self.db.execute("SELECT value FROM job WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set(self, **values: str | int | None) -> None:
        """Keep values under names."""
        self.db.executemany("INSERT OR REPLACE INTO job VALUES (?, ?)", values.items())

    def counts(self) -> Counts:
        """Count the prompts of the present prompt file."""
        rows = self.db.execute("SELECT state, count(*) FROM prompts WHERE listed GROUP BY state")
        return Counts(**{state.replace(" ", "_"): count for state, count in rows})

    def spent(self) -> float:
        """Give the credits that this job has cost so far, what may have been billed included."""
        (images,) = self.db.execute("SELECT total(credits) FROM images").fetchone()
        (doubts,) = self.db.execute(
            "SELECT total(price * maybe_billed + iif(generation_id IS NULL, 0, price)) "
            "FROM prompts WHERE maybe_billed OR generation_id IS NOT NULL"
        ).fetchone()
        return float(images + doubts)

    def shares(self) -> list[tuple[str, str | None, int, float | None]]:
        """Give service, model, number and price of the prompts of the present prompt file."""
        return self.db.execute(
            "SELECT service, json_extract(parameters, '$.model') AS model, count(*), sum(price) "
            "FROM prompts WHERE listed GROUP BY 1, 2 ORDER BY 3 DESC"
        ).fetchall()

    def refused(self, limit: int) -> list[tuple[str, int, str | None]]:
        """Give id, row and error of listed prompts without a good image; no error: filtered."""
        return self.db.execute(
            "SELECT id, row, error FROM prompts WHERE state IN ('failed', 'filtered') AND listed "
            "ORDER BY position LIMIT ?",
            (limit,),
        ).fetchall()

    def failures_by_reason(self) -> dict[str, int]:
        """Count the failures of the present prompt file."""
        return dict(
            self.db.execute(
                "SELECT reason, count(*) FROM prompts WHERE state = 'failed' AND listed "
                "GROUP BY reason ORDER BY 2 DESC"
            )
        )

    # Prompts on their way.

    def prompts(
        self, state: State, *, after: int = 0, limit: int = -1, gone: bool = False
    ) -> list[Prompt]:
        """Give prompts in a state, in order, beyond a position; unlisted ones only if `gone`."""
        rows = self.db.execute(
            f"SELECT {PROMPT_COLUMNS} FROM prompts WHERE state = ? AND position > ? "  # noqa: S608
            "AND (listed OR ?) AND id IS NOT NULL ORDER BY position LIMIT ?",
            (state, after, gone, limit),
        )
        return [_prompt(row) for row in rows]

    def claim(self, position: int) -> None:
        """Note that the request of a prompt is about to leave."""
        self._claimed.append(position)

    def accept(self, position: int, generation_id: str) -> None:
        """Note that an asynchronous operation was accepted, and so paid."""
        self._flush()
        self.db.execute(
            "UPDATE prompts SET generation_id = ? WHERE position = ?", (generation_id, position)
        )

    def put_back(self, position: int, *, maybe_billed: bool) -> None:
        """Note that a prompt is to be sent again."""
        self._flush()
        self.db.execute(
            "UPDATE prompts SET state = 'waiting', maybe_billed = maybe_billed + ? "
            "WHERE position = ?",
            (maybe_billed, position),
        )

    def fail(self, position: int, failure: Failure, *, expired: bool) -> None:
        """Note that a prompt has no image, and why.

        `expired`: its generation was paid for, and can be fetched no more.
        """
        self._flush()
        self.db.execute(
            "UPDATE prompts SET state = 'failed', reason = ?, error = ?, final = ?, "
            "maybe_billed = maybe_billed + (? OR (? AND generation_id IS NULL)), "
            "generation_id = iif(?, NULL, generation_id) WHERE position = ?",
            (
                failure.reason,
                failure.error,
                failure.final,
                expired,
                failure.maybe_billed,
                expired,
                position,
            ),
        )

    def finish(self, prompt: Prompt, image: ImageFacts, *, filtered: bool) -> None:
        """Note an image that is on the disk."""
        (self._filtered if filtered else self._done).append(prompt.position)
        self._came.append((prompt, image))

    def _insert_images(self, images: Sequence[ImageFacts]) -> int:
        """Lay down images, and give the number of the first."""
        first = int(self.db.execute("SELECT ifnull(max(number), 0) + 1 FROM images").fetchone()[0])
        self.db.executemany(
            f"INSERT INTO images (number, {IMAGE_COLUMNS}) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(number, *_astuple(image)) for number, image in enumerate(images, first)],
        )
        return first

    def _flush(self) -> None:
        """Write what is the same for many prompts with one statement for all of them."""
        if self._claimed:
            self.db.execute(
                "UPDATE prompts SET state = 'in flight', attempts = attempts + 1 "
                "WHERE position IN (SELECT value FROM json_each(?))",
                (json.dumps(self._claimed),),
            )
        for state, positions in (("done", self._done), ("filtered", self._filtered)):
            if positions:
                self.db.execute(
                    "UPDATE prompts SET state = ?, reason = NULL, error = NULL, final = NULL, "
                    "generation_id = NULL WHERE position IN (SELECT value FROM json_each(?))",
                    (state, json.dumps(positions)),
                )
        if self._came:
            first = self._insert_images([image for _, image in self._came])
            self._fresh += [(first + index, *pair) for index, pair in enumerate(self._came)]
        self._forget()

    def _forget(self) -> None:
        self._came: list[tuple[Prompt, ImageFacts]] = []
        self._claimed: list[int] = []
        self._done: list[int] = []
        self._filtered: list[int] = []

    def take_fresh(self) -> list[FreshImage]:
        """Give what was finished since the last call, for `metadata.jsonl`."""
        self._flush()
        fresh, self._fresh = self._fresh, []
        return fresh

    def take_up_failed(self, *, final: bool, gone: bool = False) -> int:
        """Let failed prompts wait again, final and unlisted ones only if asked for; count them."""
        self._flush()
        return self.db.execute(
            "UPDATE prompts SET state = 'waiting' WHERE state = 'failed' AND (listed OR ?) "
            "AND (NOT final OR ?)",
            (gone, final),
        ).rowcount

    def count_departures(self, seconds: Mapping[int, tuple[int, int]]) -> None:
        """Add requests and 429 answers to the seconds in which they left or came."""
        self.db.executemany(
            "INSERT INTO departures VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "requests = requests + excluded.requests, "
            "rate_limited = rate_limited + excluded.rate_limited",
            [(second, *counts) for second, counts in seconds.items()],
        )

    def restore(
        self,
        identity: str,
        service: str,
        parameters: Mapping[str, object],
        metadata: Mapping[str, object],
        image: ImageFacts,
    ) -> bool:
        """Lay down an image whose row may not be known, and tell whether it was new.

        Without a `service` nothing is known but the image.
        """
        if self.has_image(image.position):
            return False
        state = "filtered" if image.finish_reason == CONTENT_FILTERED else "done"
        row = (service, to_json(parameters), to_json(metadata) if metadata else None)
        known = self.db.execute(
            "UPDATE prompts SET state = ?, generation_id = NULL WHERE position = ? AND id = ? "
            "RETURNING service, parameters",
            (state, image.position, identity),
        ).fetchone()
        if known and service and (known[0], json.loads(known[1])) != (service, parameters):
            # It was made from other content than the row has here.
            self.db.execute(
                "UPDATE prompts SET service = ?, parameters = ?, metadata = ?, content = NULL "
                "WHERE position = ?",
                (*row, image.position),
            )
        # It may have taken the id over from one that was made before.
        self.db.execute(
            "UPDATE prompts SET id = NULL, listed = 0 WHERE id = ? AND position < ?",
            (identity, image.position),
        )
        laid_down = self.db.execute(
            "INSERT OR IGNORE INTO prompts (position, id, row, service, parameters, metadata, "
            "seed, price, listed, state) VALUES (?, ?, 0, ?, ?, ?, ?, ?, 0, ?)",
            (image.position, identity, *row, image.seed, image.credits, state),
        ).rowcount
        if known or laid_down:
            self._insert_images([image])
        return bool(known or laid_down)

    # Images that came.

    def last_position(self) -> int:
        """Give the position of the last prompt, 0 if there is none."""
        return int(self.db.execute("SELECT ifnull(max(position), 0) FROM prompts").fetchone()[0])

    def has_image(self, position: int) -> bool:
        """Tell whether the prompt at a position has its image."""
        found = self.db.execute("SELECT 1 FROM images WHERE position = ?", (position,))
        return found.fetchone() is not None

    def replaced_images(self) -> list[tuple[int, str]]:
        """Give position and name of images that were replaced and are still in their place."""
        return self.db.execute(
            "SELECT position, file_name FROM images JOIN prompts USING (position) "
            "WHERE id IS NULL AND instr(file_name, 'replaced/') = 0"
        ).fetchall()

    def rename_image(self, position: int, file_name: str) -> None:
        """Note that an image has another name."""
        self.db.execute("UPDATE images SET file_name = ? WHERE position = ?", (file_name, position))

    def images(self, after: int = 0) -> Iterator[FreshImage]:
        """Give images with their numbers and prompts, in the order in which they came."""
        rows = self.db.execute(
            f"SELECT number, {_of('p', PROMPT_COLUMNS)}, {_of('i', IMAGE_COLUMNS)} "  # noqa: S608
            "FROM images AS i JOIN prompts AS p USING (position) "
            "WHERE number > ? AND p.id IS NOT NULL ORDER BY number",
            (after,),
        )
        width = PROMPT_COLUMNS.count(",") + 1
        for number, *values in rows:
            yield number, _prompt(values[:width]), ImageFacts(*values[width:])


def _prompt(row: Sequence[Any]) -> Prompt:
    position, id_, number, service, parameters, metadata, *rest = row
    own = json.loads(metadata) if metadata else {}
    return Prompt(position, id_, number, service, json.loads(parameters), own, *rest)


def _astuple(image: ImageFacts) -> tuple[object, ...]:
    return tuple(getattr(image, name) for name in ImageFacts.__slots__)


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{name.strip()}" for name in columns.split(","))


def metadata_of(prompt: Prompt, image: ImageFacts) -> dict[str, object]:
    """Give what `metadata.jsonl` says of an image."""
    parameters = dict(prompt.parameters)
    return {
        "file_name": image.file_name,
        "id": prompt.id,
        "text": parameters.pop("prompt", None),
        "service": prompt.service,
        **parameters,
        "seed": image.seed,
        "finish_reason": image.finish_reason,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "credits": image.credits,
        "request_id": image.request_id,
        **prompt.metadata,
    }


def metadata_line(prompt: Prompt, image: ImageFacts) -> str:
    """Give the line of `metadata.jsonl` for an image, with its line break."""
    return to_json(metadata_of(prompt, image)) + "\n"
