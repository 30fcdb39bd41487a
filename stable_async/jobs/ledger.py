"""The ledger of a job, in SQLite: its schema and all SQL. The authority on every row.

`rows` holds the plan and the state of each image to be made; `charges` every attempt and its cost;
`images` the images in order of arrival: `metadata.jsonl` is that table, written out. docs/jobs.md
says what the states mean and which steps are on the disk before which. All calls block.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, replace
from functools import cache
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pydantic_core

from stable_async.jobs.budget import Bill
from stable_async.jobs.clean_mark import has_clean_mark
from stable_async.jobs.errors import LedgerError
from stable_async.jobs.plan import Known
from stable_async.jobs.row import ImageFacts, KnownInput, Row, to_json
from stable_async.jobs.storage.facts import Charge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from stable_async.jobs.plan import Plan
    from stable_async.jobs.row import Result, State
    from stable_async.jobs.storage.facts import RowFacts

__all__ = ["Counts", "Ledger", "StoredImageRow"]

APPLICATION_ID = 0x53_41_4A_4C  # "SAJL", shown by `file job.sqlite`
VERSION = 1
# Kibibytes of pages in memory, for jobs of any size.
CACHE = 8 * 1024
# Rows that are grouped at a time.
GROUPED = 10_000
INT64_LIMIT = 2**63
# The reason of failure for a row that is not a valid request.
BAD_ROW = "bad row"

SPENDING = """\
    SELECT service, json_extract(parameters, '$.model') AS model,
           count(DISTINCT images.position) FILTER (WHERE rows.id IS NOT NULL) AS images,
           total(charges.price) FILTER (WHERE charges.state = 'spent') AS credits,
           total(charges.price) FILTER (WHERE charges.state = 'in doubt') AS in_doubt
    FROM charges JOIN rows USING (position) LEFT JOIN images USING (position) GROUP BY 1, 2"""

TABLES = """
CREATE TABLE job (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

CREATE TABLE rows (
    position INTEGER PRIMARY KEY,       -- the order of arrival; part of the file's name
    id TEXT UNIQUE,                     -- NULL: another row has taken the id over
    content BLOB,                       -- digest of service and fields; NULL: not known
    row INTEGER NOT NULL,               -- in the prompt file, when it was first seen
    service TEXT NOT NULL,
    parameters TEXT NOT NULL,           -- JSON: fields of the API, without the seed
    metadata TEXT,                      -- JSON: the rest of the row
    seed INTEGER,                       -- given or derived
    price REAL,                         -- credits; NULL: not known
    listed INTEGER NOT NULL DEFAULT 1,  -- whether the prompt file has it now
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN
        ('waiting', 'in flight', 'in doubt', 'done', 'filtered', 'again', 'failed')),
    copy INTEGER NOT NULL DEFAULT 1,    -- which of the rows with this content it is
    attempts INTEGER NOT NULL DEFAULT 0,
    remake INTEGER NOT NULL DEFAULT 0,  -- how often the image was replaced
    generation_id TEXT,                 -- of an asynchronous operation that was accepted
    reason TEXT,                        -- of a failure, in a word or two
    error TEXT                          -- the same in full
) STRICT;

CREATE INDEX rows_by_state ON rows (state, position, listed);

CREATE TABLE inputs (                   -- files that rows send, as they were when last read
    name TEXT PRIMARY KEY,              -- relative to the folder of the prompt file
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE duplicates (               -- rows that ask for the same as one before: made once
    position INTEGER NOT NULL REFERENCES rows,
    id TEXT NOT NULL,
    row INTEGER NOT NULL,
    metadata TEXT,
    PRIMARY KEY (position, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE charges (                  -- one row for each attempt: claimed before it is sent
    position INTEGER NOT NULL REFERENCES rows,
    attempt INTEGER NOT NULL,           -- of its row
    price REAL,                         -- credits; NULL: not known
    state TEXT NOT NULL CHECK (state IN ('reserved', 'spent', 'returned', 'in doubt')),
    generation_id TEXT,                 -- of the operation that it paid for
    PRIMARY KEY (position, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    number INTEGER PRIMARY KEY,         -- the order of arrival
    position INTEGER NOT NULL UNIQUE REFERENCES rows,
    file_name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    width INTEGER,
    height INTEGER,
    seed INTEGER,
    finish_reason TEXT,
    request_id TEXT,
    credits REAL,                       -- list price; charges have what was paid
    sent_at REAL,                       -- seconds since 1970; NULL: not known
    finished_at REAL
) STRICT;

CREATE TABLE departures (               -- requests that left, by second since 1970
    second INTEGER PRIMARY KEY,
    requests INTEGER NOT NULL,
    rate_limited INTEGER NOT NULL
) STRICT;

CREATE VIEW spending AS                 -- the bill, by service and model
"""
SCHEMA = f"{TABLES}{SPENDING};\n"

# Views that hide the tables of a job that is only read and that no process works on.
AS_ENDED = (
    (
        "CREATE TEMP VIEW charges AS SELECT position, attempt, price, "
        "iif(state = 'reserved', 'in doubt', state) AS state, generation_id FROM main.charges"
    ),
    (
        "CREATE TEMP VIEW rows AS SELECT position, id, content, row, service, parameters, "
        "metadata, seed, price, listed, CASE WHEN state <> 'in flight' THEN state "
        "WHEN generation_id IS NULL THEN 'in doubt' ELSE 'waiting' END AS state, copy, attempts, "
        "remake, generation_id, "
        "iif(state = 'in flight', 'in flight at the end', reason) AS reason, error FROM main.rows"
    ),
    f"CREATE TEMP VIEW spending AS {SPENDING}",
)

PLAN_TABLES = (
    "CREATE TEMP TABLE IF NOT EXISTS found (position INTEGER PRIMARY KEY, row INTEGER NOT NULL)",
    "CREATE TEMP TABLE IF NOT EXISTS repeats (content BLOB PRIMARY KEY, count INTEGER NOT NULL)",
    "CREATE TEMP TABLE IF NOT EXISTS elsewhere (id TEXT PRIMARY KEY, row INTEGER NOT NULL)",
    "DELETE FROM elsewhere",
    "DELETE FROM found",
    "DELETE FROM repeats",
    "DROP VIEW IF EXISTS temp.seen",
)

ROW_COLUMNS = (
    "position, id, content, row, service, parameters, metadata, seed, price, copy, attempts, "
    "remake, generation_id"
)
IMAGE_COLUMNS = (
    "position, file_name, content_type, bytes, sha256, width, height, seed, finish_reason, "
    "request_id, credits, sent_at, finished_at"
)
# The same where both tables are joined under these names.
ROWS_AS_P = "p." + ROW_COLUMNS.replace(", ", ", p.")
IMAGES_AS_I = "i." + IMAGE_COLUMNS.replace(", ", ", i.")
_FACTS = attrgetter(*(name.strip() for name in IMAGE_COLUMNS.split(",")))
# A row that has cost something, or may have, is not made again unless the user says so.
PAID = (
    "(r.state IN ('done', 'filtered', 'in doubt') OR r.generation_id IS NOT NULL OR EXISTS "
    "(SELECT 1 FROM charges AS c WHERE c.position = r.position AND c.state <> 'returned'))"
)
# A row that may have been billed is not sent again just because its last attempt was not.
DOUBTFUL = (
    "(generation_id IS NULL AND EXISTS (SELECT 1 FROM charges AS c "
    "WHERE c.position = rows.position AND c.state = 'in doubt'))"
)
NAMED = "position IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of rows of the current prompt file in each state."""

    waiting: int = 0
    in_flight: int = 0
    in_doubt: int = 0
    done: int = 0
    filtered: int = 0
    again: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self))


StoredImageRow = tuple[int, Row, ImageFacts]
"""The number of an image, its row and its facts."""


class Ledger:
    """An open ledger, for one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use `open`, or `temporary`."""
        self._db = connection
        # What `_flush` writes, and the images of the transaction that it has written.
        self._claimed: list[int] = []
        self._made: dict[State, list[int]] = {"done": [], "filtered": []}
        self._came: list[Row] = []
        self._images: list[ImageFacts] = []
        self._fresh: list[StoredImageRow] = []
        self._has_seen_all = False

    @classmethod
    def open(cls, path: Path, *, is_whole: bool = False) -> Self:
        """Open the ledger at `path`; a new one if there is none.

        Unless a run has closed it in order, and nothing has touched it since, the whole file is
        checked. Otherwise SQLite checks each page when it is read.

        Args:
            path: The file.
            is_whole: It is the copy of one that need not be checked.

        Raises:
            LedgerError: It was written by a newer version or another program, or cannot be opened.
            sqlite3.DatabaseError: It is corrupt.
        """
        is_whole = is_whole or has_clean_mark(path)  # before SQLite puts a log beside it
        try:
            # Threads take turns using it; `isolation_level=None` leaves transactions to
            # `transaction`.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{path}: {error}") from None
        try:
            ledger = cls(connection)
            if not ledger._one("SELECT count(*) FROM sqlite_schema"):
                ledger._create()
            ledger._recognise(path)
            if not is_whole:
                ledger._check_all()
            ledger._settle(durable=True)
        except BaseException:
            connection.close()
            raise
        return ledger

    @classmethod
    def temporary(cls) -> Self:
        """Open a ledger that is deleted when closed; a large one spills to the disk."""
        ledger = cls(sqlite3.connect("", isolation_level=None, check_same_thread=False))
        ledger._create()
        ledger._settle(durable=False)
        return ledger

    def _create(self) -> None:
        self._db.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; {SCHEMA} "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )

    def _recognise(self, path: Path) -> None:
        application = self._one("PRAGMA application_id")
        version = self._one("PRAGMA user_version")
        ours = _tables_of(self._db) >= _expected_tables()
        if application != APPLICATION_ID and not ours:
            raise LedgerError(f"{path} is not a ledger of stable-async")
        if version > VERSION:
            raise LedgerError(
                f"{path} was written by a newer stable-async (ledger version {version}, this one "
                f"knows {VERSION}): upgrade stable_async, or choose another folder"
            )
        if not ours:
            raise sqlite3.DatabaseError("its tables are not those of a ledger")

    def _check_all(self) -> None:
        for (problem,) in self._db.execute("PRAGMA quick_check(1)"):
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)

    def _settle(self, *, durable: bool) -> None:
        self._db.execute(f"PRAGMA cache_size = -{CACHE}")
        if durable:
            self._db.execute("PRAGMA journal_mode = WAL")
            # Every commit is on the disk before anything that relies on it is done.
            self._db.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[Sequence[StoredImageRow]]:
        """Commit all changes of the block, or none.

        Returns:
            The images that arrived in it, in order, once it is committed.
        """
        self._fresh = []
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._fresh
            self._flush()
            self._db.execute("COMMIT")
        except BaseException:
            self._forget()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read the ledger in the block as it is now, even if a running job changes it."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _one(self, statement: str, *values: object) -> Any:  # noqa: ANN401 - as it is stored
        """Return the only value that a statement selects; `None` if it selects nothing."""
        row = self._db.execute(statement, values).fetchone()
        return None if row is None else row[0]

    # The job as a whole.

    def show_as_ended(self) -> None:
        """Show what is in flight as the next run will find it, if no process works on the job.

        A claim without an answer is in doubt. Nothing is written; call it on a read-only ledger.
        """
        if self._one("SELECT 1 FROM rows WHERE state = 'in flight' LIMIT 1"):
            for statement in AS_ENDED:
                self._db.execute(statement)

    def get(self, name: str) -> str | int | None:
        """Return what was stored under `name`."""
        value: str | int | None = self._one("SELECT value FROM job WHERE name = ?", name)
        return value

    def set(self, **values: str | int | None) -> None:
        """Store values under names."""
        self._db.executemany("INSERT OR REPLACE INTO job VALUES (?, ?)", values.items())

    def counts(self) -> Counts:
        """Count the rows of the current prompt file."""
        rows = self._db.execute("SELECT state, count(*) FROM rows WHERE listed GROUP BY state")
        return Counts(**{state.replace(" ", "_"): count for state, count in rows})

    def bill(self) -> Bill:
        """Return what this job has spent, what may have been billed, and what is reserved."""
        self._flush()
        spent, in_doubt, reserved = self._db.execute(
            "SELECT total(price) FILTER (WHERE state = 'spent'), "
            "total(price) FILTER (WHERE state = 'in doubt'), "
            "total(price) FILTER (WHERE state = 'reserved') FROM charges"
        ).fetchone()
        return Bill(spent=spent, in_doubt=in_doubt, reserved=reserved)

    def outstanding(self, *states: State) -> list[tuple[str, str | None, int, float | None]]:
        """Return service, model, number and price of the listed rows in these states.

        Without `states`, of the rows that a run sends. A generation that has an id is paid for, and
        is only fetched.
        """
        named = json.dumps(states or ("waiting", "again"))
        numbers: Counter[tuple[str, str | None]] = Counter()
        prices: dict[tuple[str, str | None], float | None] = {}
        # Some at a time: SQLite sorts what it groups, in memory.
        last = 0
        next_position = "SELECT min(position) FROM rows WHERE position > ?"
        while (first := self._one(next_position, last)) is not None:
            last = first + GROUPED
            for service, model, number, price in self._db.execute(
                "SELECT service, json_extract(parameters, '$.model') AS model, count(*), "
                "sum(iif(generation_id IS NULL, price, 0.0)) FROM rows "
                "WHERE listed AND state IN (SELECT value FROM json_each(?)) "
                "AND position BETWEEN ? AND ? GROUP BY 1, 2",
                (named, first, last),
            ):
                numbers[service, model] += number
                before = prices.get((service, model))
                prices[service, model] = before if price is None else (before or 0.0) + price
        return [(*kind, number, prices[kind]) for kind, number in numbers.most_common()]

    def count_gone(self) -> int:
        """Count the rows that have or may have a result and are not in the prompt file."""
        return int(
            self._one(
                "SELECT count(*) FROM rows WHERE listed = 0 AND id IS NOT NULL "
                "AND state IN ('done', 'filtered', 'in doubt', 'in flight')"
            )
        )

    def repeats_of_gone(self) -> tuple[int, float]:
        """Count the new rows with the content of rows that are gone and have or may have a result.

        Returns:
            Their number and price.
        """
        found: tuple[int, float] = self._db.execute(
            "SELECT count(*), total(price) FROM rows WHERE listed AND state = 'waiting' "
            "AND attempts = 0 AND content IN (SELECT content FROM rows WHERE listed = 0 "
            "AND id IS NOT NULL AND state IN ('done', 'filtered', 'in doubt', 'in flight'))"
        ).fetchone()
        return found

    def moved_inputs(self) -> tuple[int, float]:
        """Count the new rows that differ from gone ones only in the names of the same input files.

        Returns:
            Their number and price.
        """
        if self._one("SELECT 1 FROM inputs LIMIT 1") is None:
            return 0, 0.0
        requests, names = set[tuple[str, str]](), set[tuple[str, str]]()
        new, price = 0, 0.0
        for is_new, cost, service, parameters, request in self._db.execute(
            """
            SELECT listed, ifnull(price, 0), service, parameters, (
                SELECT json_group_array(json_array(key, iif(size IS NULL, value, hex(sha256))))
                FROM json_each(parameters) LEFT JOIN inputs ON name = value
            )
            FROM rows WHERE id IS NOT NULL AND (
                (NOT listed AND state IN ('done', 'filtered', 'in doubt', 'in flight')) OR
                (listed AND state = 'waiting' AND attempts = 0)
            ) AND EXISTS (SELECT 1 FROM json_each(parameters) JOIN inputs ON name = value)
            ORDER BY listed
            """
        ):
            if not is_new:
                requests.add((service, request))
                names.add((service, parameters))
            elif (service, request) in requests and (service, parameters) not in names:
                new, price = new + 1, price + cost
        return new, price

    def count_duplicates(self) -> int:
        """Count the rows of the prompt file that repeat an earlier one."""
        return int(self._one("SELECT count(*) FROM duplicates"))

    def refused(self, limit: int) -> list[tuple[str, int, str | None]]:
        """Return id, row and error of listed rows without a good image; a filtered one has no
        error.
        """
        return self._db.execute(
            "SELECT id, row, error FROM rows "
            "WHERE state IN ('failed', 'again', 'in doubt', 'filtered') AND listed "
            "ORDER BY position LIMIT ?",
            (limit,),
        ).fetchall()

    def failures_by_reason(self, *, gone: bool = False) -> dict[str, int]:
        """Count the failed rows of the current prompt file by reason; all of the job's if
        `gone`.
        """
        return dict(
            self._db.execute(
                "SELECT ifnull(reason, 'unknown'), count(*) FROM rows "
                "WHERE state IN ('failed', 'again', 'in doubt') AND (listed OR ?) "
                "AND id IS NOT NULL GROUP BY 1 ORDER BY 2 DESC",
                (gone,),
            )
        )

    def count_departures(self, seconds: Mapping[int, tuple[int, int]]) -> None:
        """Add requests and 429 answers to the seconds in which they left or arrived."""
        self._db.executemany(
            "INSERT INTO departures VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "requests = requests + excluded.requests, "
            "rate_limited = rate_limited + excluded.rate_limited",
            [(second, *counts) for second, counts in seconds.items()],
        )

    # The plan.

    def begin_plan(self, *, checked: bool) -> None:
        """Forget the rows that were wrong, and the duplicates of an earlier prompt file.

        Args:
            checked: Nothing but the prompt file adds rows until it is read to its end.
        """
        for statement in PLAN_TABLES:
            self._db.execute(statement)
        self._db.execute("DELETE FROM duplicates")
        # Those that are still wrong are reported again.
        self._db.execute("DELETE FROM rows WHERE reason = ?", (BAD_ROW,))
        # What has been seen of the file, with its numbers. The first file has all rows there are.
        self._has_seen_all = checked and self.last_position() == 0
        seen = "rows" if self._has_seen_all else "found"
        self._db.execute(f"CREATE TEMP VIEW seen AS SELECT position, row FROM {seen}")  # noqa: S608

    def known(self, ids: Collection[str]) -> dict[str, Known]:
        """Return what is known of these ids, by id."""
        found = self._db.execute(
            "SELECT id, r.position, content, state, "  # noqa: S608
            f"{PAID}, seen.row, service, parameters, seed, metadata "
            "FROM rows AS r LEFT JOIN seen USING (position) "
            f"WHERE id IN ({','.join('?' * len(ids))})",
            tuple(ids),
        )
        return {
            identity: Known(
                position,
                content,
                state,
                bool(paid),
                row or 0,
                (service, json.loads(parameters), seed) if content is None and service else None,
                metadata,
            )
            for (identity, position, content, state, paid, row, service, parameters, seed,
                 metadata) in found
        }  # fmt: skip

    def note_elsewhere(self, ids: Mapping[str, int]) -> None:
        """Store ids and numbers of rows of the prompt file that belong to other parts."""
        self._db.executemany("INSERT OR IGNORE INTO elsewhere VALUES (?, ?)", ids.items())

    def elsewhere(self, ids: Collection[str]) -> dict[str, int]:
        """Return the ids that rows of other parts have, with the numbers of those rows."""
        found = self._db.execute(
            "SELECT id, row FROM elsewhere WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return dict(found)

    def taken(self, positions: Collection[int]) -> dict[int, str | None]:
        """Return which of these positions are taken, and by which ids; `None` means by a remake."""
        found = self._db.execute(
            f"SELECT position, iif(remake, NULL, id) FROM rows WHERE {NAMED}",  # noqa: S608
            (json.dumps(list(positions)),),
        )
        return dict(found)

    def count_repeats(self, contents: Mapping[bytes, int]) -> dict[bytes, int]:
        """Count occurrences of contents, and return how often they occurred before."""
        before = dict(
            self._db.execute(
                "SELECT content, count FROM repeats "  # noqa: S608
                f"WHERE content IN ({','.join('?' * len(contents))})",
                tuple(contents),
            )
        )
        self._db.executemany(
            "INSERT INTO repeats VALUES (?, ?) ON CONFLICT DO UPDATE SET "
            "count = count + excluded.count",
            contents.items(),
        )
        return before

    def inputs(self, names: Collection[str] | None = None) -> Iterator[KnownInput]:
        """Return the known input files with these names; `None` means all."""
        where = "" if names is None else " WHERE name IN (SELECT value FROM json_each(?))"
        found = self._db.execute(
            f"SELECT name, size, mtime_ns, sha256 FROM inputs{where}",  # noqa: S608
            () if names is None else (json.dumps(list(names)),),
        )
        for values in found:
            yield KnownInput(*values)

    def store_inputs(self, files: Collection[KnownInput]) -> None:
        """Store the present state of input files."""
        self._db.executemany(
            "INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?)",
            [(file.name, file.size, file.mtime_ns, file.sha256) for file in files],
        )

    def apply(self, plan: Plan) -> None:
        """Store the decisions of a plan."""
        self._db.executemany(
            "UPDATE rows SET id = NULL, listed = 0 WHERE position = ?",
            [(position,) for position in plan.replaced],
        )
        self._db.executemany(
            "INSERT INTO rows (position, id, content, row, service, parameters, metadata, seed, "
            "price, copy, remake) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(row.position, row.id, *_values(row), row.seed, row.price, row.copy, row.remake)
             for row in plan.add],
        )  # fmt: skip
        for row in plan.update:
            made = row.position in plan.made
            self._db.execute(
                "UPDATE rows SET content = ?, row = ?, service = ?, parameters = ?, metadata = ?, "
                "price = ?, copy = ?, remake = max(remake, ?), seed = iif(?, seed, ?), "
                "state = iif(?, state, 'waiting') WHERE position = ?",
                (
                    *_values(row),
                    row.price,
                    row.copy,
                    row.remake,
                    made,
                    row.seed,
                    made,
                    row.position,
                ),
            )
            if made:
                self._db.execute(
                    "UPDATE images SET credits = ifnull(credits, ?) WHERE position = ?",
                    (row.price, row.position),
                )
                self._db.execute(
                    "UPDATE charges SET price = ifnull(price, ?) WHERE position = ?",
                    (row.price, row.position),
                )
        self._db.executemany(
            "UPDATE rows SET metadata = ? WHERE position = ?",
            [(metadata, position) for position, metadata in plan.annotate],
        )
        if not self._has_seen_all:
            self._db.executemany("INSERT INTO found VALUES (?, ?)", plan.seen)
        if plan.replaced or plan.made or plan.annotate:
            self.rewrite_metadata()

    def add_bad_rows(self, service: str, problems: Mapping[int, str]) -> int:
        """Store rows that are not valid requests as failed, by number; return how many are new."""
        return self._db.executemany(
            "INSERT INTO rows (id, row, service, parameters, state, reason, error) "
            "VALUES (?, ?, ?, '{}', 'failed', ?, ?) ON CONFLICT DO NOTHING",
            [
                # An id that no row can have: it contains a space that is not printable.
                (f"row\u00a0{row}", row, service, BAD_ROW, text)
                for row, text in problems.items()
            ],
        ).rowcount

    def unlist_all(self) -> None:
        """Mark all rows as not in the prompt file."""
        self._db.execute("UPDATE rows SET listed = 0 WHERE listed")

    def unlist_unseen(self) -> int:
        """Mark rows that are no longer in the prompt file, and count them."""
        return self._db.execute(
            "UPDATE rows SET listed = 0 WHERE listed AND NOT EXISTS "
            "(SELECT 1 FROM seen WHERE seen.position = rows.position)"
        ).rowcount

    def list_seen(self) -> None:
        """Mark the rows that are in the prompt file."""
        self._db.execute(
            "UPDATE rows SET listed = 1 WHERE NOT listed AND EXISTS "
            "(SELECT 1 FROM seen WHERE seen.position = rows.position)"
        )

    def list_sample(self, count: int) -> None:
        """Keep only `count` rows of the prompt file as listed, spread over it."""
        self._db.execute(
            """
            WITH numbered AS (
                SELECT position, row_number() OVER (ORDER BY seen.row, position) AS number,
                       count(*) OVER () AS total
                FROM seen JOIN rows USING (position) WHERE listed
            )
            UPDATE rows SET listed = 0 WHERE listed AND position NOT IN (
                SELECT position FROM numbered
                WHERE number * :count / total > (number - 1) * :count / total
            )
            """,
            {"count": count},
        )

    def merge_duplicates(self) -> int:
        """Remove listed rows that repeat an earlier one, seed included; count them.

        Only rows that were never sent are removed.
        """
        found = self._db.execute(
            """
            WITH alike AS (
                SELECT position, id, row, metadata, state = 'waiting' AND attempts = 0 AS is_new,
                       first_value(position) OVER (
                           PARTITION BY content, seed ORDER BY state = 'waiting', position
                       ) AS first
                FROM rows WHERE listed AND content IN (
                    SELECT content FROM rows WHERE listed GROUP BY content, seed
                    HAVING count(*) > 1
                )
            )
            SELECT first, id, row, metadata, position FROM alike
            WHERE is_new AND position <> first
            """
        ).fetchall()
        self._db.executemany(
            "INSERT INTO duplicates VALUES (?, ?, ?, ?)", [values[:4] for values in found]
        )
        self._db.executemany(
            "DELETE FROM rows WHERE position = ?", [(position,) for *_, position in found]
        )
        if found:
            self.rewrite_metadata()
        return len(found)

    def rewrite_metadata(self) -> None:
        """Have `metadata.jsonl` rewritten, because lines of it have changed."""
        self.set(metadata_size=None)

    def last_position(self) -> int:
        """Return the position of the last row; 0 if there is none."""
        return int(self._one("SELECT ifnull(max(position), 0) FROM rows"))

    # Rows on their way.

    def rows(
        self, state: State, *, after: int = 0, limit: int = -1, gone: bool = False
    ) -> list[Row]:
        """Return rows in a state, in order, after a position; unlisted ones only if `gone`."""
        self._flush()
        found = self._db.execute(
            f"SELECT {ROW_COLUMNS} FROM rows WHERE state = ? AND position > ? "  # noqa: S608
            "AND (listed OR ?) AND id IS NOT NULL ORDER BY position LIMIT ?",
            (state, after, gone, limit),
        )
        return [_row(values) for values in found]

    def claim(self, row: Row) -> None:
        """Record that the request of a row is about to leave, and reserve its price."""
        self._claimed.append(row.position)

    def accept(self, row: Row, generation_id: str) -> None:
        """Record that an asynchronous operation was accepted, and so paid for."""
        self._flush()
        [identity] = _storable([generation_id])
        self._db.execute(
            "UPDATE rows SET generation_id = ? WHERE position = ?", (identity, row.position)
        )
        self._db.execute(
            "UPDATE charges SET state = 'spent', generation_id = ? "
            "WHERE position = ? AND state = 'reserved'",
            (identity, row.position),
        )

    def settle(self, row: Row, result: Result) -> None:
        """Record the result of an attempt, and the state of its charge."""
        if result.image is not None:
            self._made[result.state].append(row.position)
            self._came.append(row)
            self._images.append(result.image)
            return
        self._flush()
        self._db.execute(
            "UPDATE charges SET state = ? WHERE position = ? AND state = 'reserved'",
            (result.charge, row.position),
        )
        self._db.execute(
            "UPDATE rows SET reason = ?, error = ?, "  # noqa: S608
            f"state = iif(? IN ('waiting', 'again') AND {DOUBTFUL}, 'in doubt', ?) "
            "WHERE position = ?",
            (
                *_storable([result.reason, result.error]),
                result.state,
                result.state,
                row.position,
            ),
        )

    def _insert_images(self, images: Sequence[ImageFacts]) -> int:
        """Store images, and return the number of the first."""
        self._db.executemany(
            f"INSERT INTO images ({IMAGE_COLUMNS}) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_storable(_FACTS(image)) for image in images],
        )
        # SQLite numbers them one after the other.
        (last,) = self._db.execute("SELECT max(number) FROM images").fetchone()
        return int(last) - len(images) + 1

    def _flush(self) -> None:
        """Write changes that are the same for many rows with one statement."""
        if self._claimed:
            named = (json.dumps(self._claimed),)
            self._db.execute(
                "UPDATE rows SET state = 'in flight', attempts = attempts + 1 "  # noqa: S608
                f"WHERE {NAMED}",
                named,
            )
            self._db.execute(
                "INSERT INTO charges (position, attempt, price, state) "  # noqa: S608
                f"SELECT position, attempts, price, 'reserved' FROM rows WHERE {NAMED}",
                named,
            )
            self._claimed.clear()
        if not self._came:
            return
        for state, positions in self._made.items():
            if positions:
                named = (json.dumps(positions),)
                self._db.execute(
                    "UPDATE rows SET state = ?, reason = NULL, error = NULL, "  # noqa: S608
                    f"generation_id = NULL WHERE {NAMED}",
                    (state, *named),
                )
                self._db.execute(
                    f"UPDATE charges SET state = 'spent' WHERE state = 'reserved' AND {NAMED}",  # noqa: S608
                    named,
                )
                positions.clear()
        first = self._insert_images(self._images)
        self._fresh += zip(count(first), self._came, self._images, strict=False)
        self._came.clear()
        self._images.clear()

    def _forget(self) -> None:
        """Drop what was gathered for a transaction that is rolled back."""
        for positions in (self._claimed, *self._made.values()):
            positions.clear()
        self._came.clear()
        self._images.clear()

    def requeue(self, *states: State, gone: bool = False) -> int:
        """Queue listed rows in these states again, all of the job's if `gone`; count them.

        A generation that the API no longer has is requested again; its id stays with its charge.
        """
        self._flush()
        return self._db.execute(
            "UPDATE rows SET state = 'waiting', "
            "generation_id = iif(state = 'failed', NULL, generation_id) "
            "WHERE state IN (SELECT value FROM json_each(?)) AND (listed OR ?) AND id IS NOT NULL",
            (json.dumps(states), gone),
        ).rowcount

    def remake(self, row: Row, seed: int | None, position: int) -> None:
        """Queue a row again under its id, with another seed and position; its image is replaced."""
        self._db.execute(
            "UPDATE rows SET id = NULL, listed = 0 WHERE position = ?", (row.position,)
        )
        self._db.execute(
            "INSERT INTO rows (position, id, content, row, service, parameters, metadata, seed, "
            "price, copy, remake) SELECT ?, ?, content, row, "
            "service, parameters, metadata, ?, price, copy, remake + 1 FROM rows "
            "WHERE position = ?",
            (position, row.id, seed, row.position),
        )
        self.rewrite_metadata()

    def reprice(self, services: Collection[str], price: float) -> None:
        """Set the price of what rows of these services send from now on; charges keep theirs."""
        self._db.execute(
            "UPDATE rows SET price = ? WHERE generation_id IS NULL "
            "AND service IN (SELECT value FROM json_each(?))",
            (price, json.dumps(sorted(services))),
        )

    def forget_images(self, positions: Sequence[int]) -> None:
        """Queue rows again whose images are gone; their charges stay."""
        if positions:
            named = (json.dumps(positions),)
            self._db.execute(f"DELETE FROM images WHERE {NAMED}", named)  # noqa: S608
            self._db.execute(f"UPDATE rows SET state = 'waiting' WHERE {NAMED}", named)  # noqa: S608
            self.rewrite_metadata()

    def has_charges(self) -> bool:
        """Return whether anything has been paid for, or may have been."""
        return bool(self._one("SELECT 1 FROM charges WHERE state <> 'returned' LIMIT 1"))

    def price_after(self, position: int) -> tuple[int, float]:
        """Return how many rows wait after a position, and their price."""
        found: tuple[int, float] = self._db.execute(
            "SELECT count(*), total(price) FROM rows WHERE position > ?", (position,)
        ).fetchone()
        return found

    def failures(self) -> Iterator[tuple[Row, State, str | None, str | None, float]]:
        """Return listed rows without a good image: state, reason, error and credits in doubt."""
        found = self._db.execute(
            f"SELECT {ROW_COLUMNS}, state, reason, error, (SELECT total(price) "  # noqa: S608
            "FROM charges AS c WHERE c.position = rows.position AND c.state = 'in doubt') "
            "FROM rows WHERE state IN ('failed', 'again', 'in doubt', 'filtered') AND listed "
            "ORDER BY position"
        )
        width = ROW_COLUMNS.count(",") + 1
        for values in found:
            yield (_row(values[:width]), *values[width:])

    def charges(self, position: int) -> list[Charge]:
        """Return the charges of a row in order."""
        found = self._db.execute(
            "SELECT attempt, price, state, generation_id FROM charges WHERE position = ? "
            "ORDER BY attempt",
            (position,),
        )
        return [Charge(*values) for values in found]

    def attempts(self, position: int) -> int:
        """Return how many attempts of the row at a position are known; 0 for an unknown row."""
        return int(self._one("SELECT attempts FROM rows WHERE position = ?", position) or 0)

    # Images.

    def image_names(
        self, after: int, limit: int, *, gone: bool = True
    ) -> list[tuple[int, str, float | None]]:
        """Return position, name and price of images after a position, in order; those of unlisted
        rows only if `gone`.
        """
        return self._db.execute(
            "SELECT position, file_name, price FROM images JOIN rows USING (position) "
            "WHERE position > ? AND (listed OR ?) AND id IS NOT NULL ORDER BY position LIMIT ?",
            (after, gone, limit),
        ).fetchall()

    def has_image(self, position: int) -> bool:
        """Return whether the row at a position has its image."""
        return bool(self._one("SELECT 1 FROM images WHERE position = ?", position))

    def has_image_of(self, sha256: str, request_id: str | None) -> bool:
        """Return whether an image belongs, or belonged, to this job; restored ones have no request
        ids.
        """
        same = "SELECT 1 FROM images WHERE sha256 = ? AND ifnull(request_id = ?, 1) LIMIT 1"
        return bool(self._one(same, sha256, request_id))

    def replaced_images(self) -> list[tuple[int, str]]:
        """Return position and name of images that were replaced and not yet moved."""
        return self._db.execute(
            "SELECT position, file_name FROM images JOIN rows USING (position) "
            "WHERE id IS NULL AND instr(file_name, 'replaced/') = 0"
        ).fetchall()

    def rename_image(self, position: int, file_name: str) -> None:
        """Record the new name of an image."""
        self._db.execute(
            "UPDATE images SET file_name = ? WHERE position = ?", (file_name, position)
        )

    def images(self, after: int = 0, *, only_listed: bool = False) -> Iterator[StoredImageRow]:
        """Return images with their numbers and rows, in order of arrival."""
        rows = self._db.execute(
            f"SELECT number, {ROWS_AS_P}, {IMAGES_AS_I} "  # noqa: S608
            "FROM images AS i JOIN rows AS p USING (position) "
            "WHERE number > ? AND p.id IS NOT NULL AND (p.listed OR NOT ?) ORDER BY number",
            (after, only_listed),
        )
        width = ROW_COLUMNS.count(",") + 1
        for number, *values in rows:
            yield number, _row(values[:width]), ImageFacts(*values[width:])

    def duplicates(self, positions: Collection[int]) -> dict[int, list[Row]]:
        """Return the rows that repeat the ones at these positions, by position."""
        found: dict[int, list[Row]] = {}
        for position, identity, number, metadata in self._db.execute(
            "SELECT position, id, row, metadata FROM duplicates "
            "WHERE position IN (SELECT value FROM json_each(?)) ORDER BY row",
            (json.dumps(list(positions)),),
        ):
            own = json.loads(metadata) if metadata else {}
            row = Row(number, {}, own, id=identity, position=position)
            found.setdefault(position, []).append(row)
        return found

    def restore(
        self,
        identity: str,
        service: str,
        fields: Mapping[str, object],
        metadata: Mapping[str, object],
        image: ImageFacts,
    ) -> bool:
        """Store an image whose row may not be known, and return whether it was new.

        Without a `service` only the image is known.
        """
        if self.has_image(image.position):
            return False
        state = "filtered" if image.filtered else "done"
        row = (service, to_json(fields), to_json(metadata) if metadata else None)
        known = self._db.execute(
            "UPDATE rows SET state = ?, generation_id = NULL WHERE position = ? AND id = ? "
            "RETURNING service, parameters, price",
            (state, image.position, identity),
        ).fetchone()
        if known and image.credits is None:
            image = replace(image, credits=known[2])
        if known and service and (known[0], json.loads(known[1])) != (service, fields):
            # It was made from content other than that of the row here.
            self._db.execute(
                "UPDATE rows SET service = ?, parameters = ?, metadata = ?, content = NULL "
                "WHERE position = ?",
                (*row, image.position),
            )
        # It may have taken over the id of an earlier image.
        self._db.execute(
            "UPDATE rows SET id = NULL, listed = 0 WHERE id = ? AND position < ?",
            (identity, image.position),
        )
        stored = self._db.execute(
            "INSERT OR IGNORE INTO rows (position, id, row, service, parameters, metadata, "
            "seed, price, listed, state) VALUES (?, ?, 0, ?, ?, ?, ?, ?, 0, ?)",
            (image.position, identity, *row, image.seed, image.credits, state),
        ).rowcount
        if not known and not stored:
            return False
        self._insert_images([image])
        charged = self._db.execute(
            "UPDATE charges SET state = 'spent' WHERE position = ? AND state IN "
            "('reserved', 'in doubt')",
            (image.position,),
        ).rowcount
        if not charged:
            self._db.execute(
                "INSERT INTO charges (position, attempt, price, state) "
                "SELECT ?, ifnull(max(attempt), 0) + 1, ?, 'spent' FROM charges WHERE position = ?",
                (image.position, image.credits, image.position),
            )
            self._db.execute(
                "UPDATE rows SET attempts = attempts + 1 WHERE position = ?", (image.position,)
            )
        return True

    def count_unlisted_images(self) -> int:
        """Count the images that are no longer in the current prompt file."""
        return int(
            self._one(
                "SELECT count(*) FROM images JOIN rows USING (position) "
                "WHERE id IS NOT NULL AND NOT listed"
            )
        )

    def take_in(self, part: Ledger) -> None:
        """Add everything from the ledger of another part of the job.

        Raises:
            sqlite3.IntegrityError: A row is in both.
        """
        for table in ("rows", "charges", "duplicates"):
            rows = part._db.execute(f"SELECT * FROM {table}")  # noqa: S608
            places = ", ".join("?" * len(rows.description))
            self._db.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608
        self._db.executemany(
            f"INSERT INTO images ({IMAGE_COLUMNS}) "  # noqa: S608
            f"VALUES ({', '.join('?' * (IMAGE_COLUMNS.count(',') + 1))})",
            part._db.execute(f"SELECT {IMAGE_COLUMNS} FROM images ORDER BY number"),  # noqa: S608
        )
        self.count_departures({second: (sent, late) for second, sent, late in part.departures()})
        self._db.executemany(
            "INSERT OR IGNORE INTO job VALUES (?, ?)",
            part._db.execute("SELECT name, value FROM job"),
        )

    def list_all(self) -> None:
        """Record every row as listed, for a job without a prompt file."""
        self._db.execute("UPDATE rows SET listed = 1 WHERE id IS NOT NULL")

    def withdraw(self, row: Row) -> None:
        """Undo the claim of a row that was claimed elsewhere: no request left."""
        self._flush()
        self._db.execute(
            "DELETE FROM charges WHERE position = ? AND state = 'reserved'", (row.position,)
        )
        self._db.execute(
            "UPDATE rows SET state = 'waiting', attempts = attempts - 1 WHERE position = ?",
            (row.position,),
        )

    def adopt(self, facts: RowFacts, *, replaced: bool = False) -> bool:
        """Store the facts of a row from a bucket, and return whether they were new.

        Newer knowledge in the ledger is kept: the answer to an attempt is never replaced by a doubt
        about it.

        Args:
            facts: The facts, as `RowFacts.resolved` returns them.
            replaced: Whether the image was replaced by that of another row, which now has the id.

        Raises:
            LedgerError: Another row, which has cost something, has its position.
        """
        self._flush()
        position = facts.position
        self._make_place(facts)
        values = (
            bytes.fromhex(facts.content) or None,
            facts.number,
            facts.service,
            to_json(facts.fields),
            to_json(facts.metadata) if facts.metadata else None,
            facts.seed,
            facts.price,
            facts.copy,
            facts.remake,
        )
        found = self._db.execute(
            "SELECT attempts, state, remake, generation_id FROM rows WHERE position = ?",
            (position,),
        ).fetchone()
        attempts = max((charge.attempt for charge in facts.charges), default=0)
        if found is None:
            self._db.execute(
                "INSERT INTO rows (position, content, row, service, parameters, metadata, seed, "
                "price, copy, remake, listed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (position, *values),
            )
            found = (0, "waiting", facts.remake, None)
            if not replaced:
                self._name(position, facts.id)
        elif attempts > found[0]:
            self._db.execute(
                "UPDATE rows SET content = ?, row = ?, service = ?, parameters = ?, metadata = ?, "
                "seed = ?, price = ?, copy = ?, remake = ? WHERE position = ?",
                (*values, position),
            )
        self._db.executemany(
            "INSERT INTO charges (position, attempt, price, state, generation_id) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state, "
            "generation_id = ifnull(excluded.generation_id, charges.generation_id) "
            "WHERE charges.state IN ('reserved', 'in doubt') OR excluded.state = 'spent'",
            [
                (position, charge.attempt, charge.price, charge.state, charge.generation_id)
                for charge in facts.charges
            ],
        )
        return self._take_state(facts, attempts, found)

    def _take_state(
        self, facts: RowFacts, attempts: int, known: tuple[int, State, int, str | None]
    ) -> bool:
        """Store the state of a row and its image if they are newer than the known ones."""
        known_attempts, state, remake, generation_id = known
        position, image = facts.position, facts.image
        if attempts < known_attempts or (image is None and self.has_image(position)):
            return False
        if image is not None:
            if facts.remake <= remake and state in {"done", "filtered"}:
                return False
            self._db.execute("DELETE FROM images WHERE position = ?", (position,))
        settled = attempts == known_attempts and state not in {"in flight", "in doubt"}
        if image is None and (settled or generation_id is not None):
            return False
        changed = (known_attempts, state) != (attempts, facts.state)
        self._db.execute(
            "UPDATE rows SET state = ?, attempts = ?, generation_id = ?, reason = ?, error = ? "
            "WHERE position = ?",
            (
                facts.state,
                attempts,
                None if image is not None else facts.generation_id,
                facts.reason,
                facts.error,
                position,
            ),
        )
        if image is not None:
            row = self._db.execute(
                f"SELECT {ROW_COLUMNS} FROM rows WHERE position = ?",  # noqa: S608
                (position,),
            ).fetchone()
            self._fresh.append((self._insert_images([image]), _row(row), image))
        return changed or image is not None

    def _make_place(self, facts: RowFacts) -> None:
        """Move a row that was never paid for away from the position of another."""
        position = facts.position
        found = self._db.execute(
            f"SELECT id, {PAID} FROM rows AS r WHERE position = ? AND id <> ?",  # noqa: S608
            (position, facts.id),
        ).fetchone()
        if found is None:
            return
        identity, paid = found
        if paid:
            raise LedgerError(
                f"rows {identity!r} and {facts.id!r} are both at position {position}: the images "
                "are those of another job"
            )
        free = self.last_position() + 1
        for table in ("rows", "charges"):
            self._db.execute(
                f"UPDATE {table} SET position = ? WHERE position = ?",  # noqa: S608
                (free, position),
            )

    def _name(self, position: int, identity: str) -> None:
        """Leave an id to the last row that has it."""
        self._db.execute(
            "UPDATE rows SET id = NULL, listed = 0 WHERE id = ? AND position < ?",
            (identity, position),
        )
        self._db.execute(
            "UPDATE rows SET id = ? WHERE position = ? "
            "AND NOT EXISTS (SELECT 1 FROM rows WHERE id = ?)",
            (identity, position, identity),
        )

    # For the report.

    def report_counts(self) -> dict[str, int]:
        """Count every image of the job, whether or not it is still in the prompt file.

        One that was replaced, and so has no id, counts only as replaced.
        """
        found = self._db.execute(
            """
            SELECT count(id) FILTER (WHERE state = 'done') AS done,
                   count(id) FILTER (WHERE state = 'filtered') AS filtered,
                   count(id) FILTER (WHERE state IN ('failed', 'again', 'in doubt')) AS failed,
                   count(id) FILTER (WHERE state = 'in doubt') AS in_doubt,
                   count(id) FILTER (WHERE listed AND state IN ('waiting', 'in flight')) AS "left",
                   count(id) FILTER
                       (WHERE NOT listed AND state NOT IN ('waiting', 'in flight')) AS gone,
                   count(*) FILTER (WHERE id IS NULL AND state IN ('done', 'filtered')) AS replaced
            FROM rows
            """
        )
        names = [name for name, *_ in found.description]
        return dict(zip(names, found.fetchone(), strict=True))

    def spending(self) -> list[tuple[str, str | None, int, float, float]]:
        """Return service, model, images, credits spent and credits in doubt."""
        return self._db.execute(
            "SELECT service, model, images, credits, in_doubt FROM spending "
            "WHERE images OR credits OR in_doubt ORDER BY credits + in_doubt DESC"
        ).fetchall()

    def departures(self) -> list[tuple[int, int, int]]:
        """Return seconds, requests that left in them and 429 answers, in order."""
        return self._db.execute("SELECT * FROM departures ORDER BY second").fetchall()

    def finished_since(self, moment: float) -> int:
        """Count the images that arrived after a time, seconds since 1970."""
        return int(
            self._one(
                "SELECT count(*) FROM images "
                "WHERE number > (SELECT max(number) FROM images) - 10000 AND finished_at > ?",
                moment,
            )
        )

    def sent_seconds(self) -> Iterator[tuple[int, int, int]]:
        """Return the same from the times at which images were sent: a rebuilt ledger has no
        departures.
        """
        yield from self._db.execute(
            "SELECT CAST(sent_at AS INTEGER) AS second, count(*), 0 FROM images "
            "WHERE sent_at IS NOT NULL GROUP BY 1 ORDER BY 1"
        )

    def report_rows(self, limit: int) -> Iterator[tuple[Any, ...]]:
        """Return the first rows that have an image or a failure, with all facts about them."""
        yield from self._db.execute(
            """
            SELECT p.id, p.service,
                   iif(p.state IN ('again', 'in doubt'), 'failed', p.state),
                   p.parameters, p.metadata, p.error, p.reason,
                   i.file_name, i.width, i.height, coalesce(i.seed, p.seed), i.credits, i.sha256,
                   p.position
            FROM rows AS p LEFT JOIN images AS i USING (position)
            WHERE p.id IS NOT NULL
                AND p.state IN ('done', 'filtered', 'failed', 'again', 'in doubt')
            ORDER BY position LIMIT ?
            """,
            (limit,),
        )


@cache
def _expected_tables() -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        return _tables_of(db)


def _tables_of(db: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    """Return type, name and definition of each table without comments, which do not matter."""
    found = db.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return frozenset(
        [(type_, name, " ".join(re.sub("--.*", "", sql).split())) for type_, name, sql in found]
    )


def _values(row: Row) -> tuple[object, ...]:
    metadata = to_json(row.metadata) if row.metadata else None
    # As `to_json` writes them, in a tenth of the time: checked fields have plain types alone.
    fields = pydantic_core.to_json(row.fields).decode()
    return row.content, row.number, row.service, fields, metadata


def _row(values: Sequence[Any]) -> Row:
    (position, id_, content, number, service, parameters, metadata, seed, price, copy, attempts,
     remake, generation_id) = values  # fmt: skip
    return Row(
        number,
        json.loads(parameters),
        json.loads(metadata) if metadata else {},
        service,
        id_,
        content or b"",
        seed,
        price,
        position,
        copy,
        attempts,
        remake,
        generation_id,
    )


def _storable(values: Iterable[object]) -> list[object]:
    """Return values that SQLite can store: a paid image must not be lost because of its text."""
    found: list[object] = []
    for value in values:
        if isinstance(value, str) and not value.isascii():
            found.append(value.encode("utf-8", "replace").decode())
        elif isinstance(value, int) and not -INT64_LIMIT <= value < INT64_LIMIT:
            found.append(None)
        else:
            found.append(value)
    return found
