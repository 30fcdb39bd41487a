"""A prompt file laid down in the ledger: checked in full, and compared with what is there.

Ids are looked up batch by batch, and what was seen is noted in temporary tables, so that memory
does not grow with the number of rows.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from hashlib import blake2b, file_digest
from typing import TYPE_CHECKING

from stable_async.api.services import service_name
from stable_async.jobs.errors import PromptFileError, RowProblem
from stable_async.jobs.read_ahead import ReadAhead
from stable_async.jobs.row import Item, ReadyItem

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from stable_async.jobs.ledger import Ledger, State
    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.row import PromptRules

__all__ = ["PlanReport", "Planner"]

BATCH = 1_000
# Problems that are kept to be told; the others are only counted.
KEPT_PROBLEMS = 1_000
# Seconds to wait for rows before looking whether they are still wanted.
LOOK = 0.1
# The reason why a row failed that is no image to be made.
BAD_ROW = "bad row"

TABLES = """
CREATE TEMP TABLE IF NOT EXISTS seen (position INTEGER PRIMARY KEY, row INTEGER NOT NULL);
CREATE TEMP TABLE IF NOT EXISTS repeats (content BLOB PRIMARY KEY, count INTEGER NOT NULL)
    WITHOUT ROWID;
"""

# What has cost, or may have, must not be made again without a word.
PAID = "state IN ('done', 'filtered') OR maybe_billed OR generation_id IS NOT NULL"


@dataclass(slots=True)
class PlanReport:
    """What became of a prompt file.

    Attributes:
        added: Images that the ledger did not know.
        known: Images that it knew.
        changed: Known ones that are made from new content.
        gone: Images of the ledger that the file does not have any more.
        bad: Rows that were not checked first and turned out wrong.
        states: States that the known ones, and the bad ones, are in.
    """

    added: int = 0
    known: int = 0
    changed: int = 0
    gone: int = 0
    bad: int = 0
    states: Counter[State] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Known:
    position: int
    content: bytes | None
    state: State
    paid: bool
    seen_in_row: int | None


class Planner:
    """Reads a prompt file into a ledger, inside transactions of it: all but `take` and `close`.

    Attributes:
        report: What was found so far.
    """

    def __init__(
        self,
        ledger: Ledger,
        prompts: PromptFile,
        rules: PromptRules,
        *,
        replace_changed: bool = False,
    ) -> None:
        """Prepare to read.

        Raises:
            PromptFileError: The rules make no sense.
        """
        if problems := list(rules.problems()):
            raise PromptFileError("options", problems)
        self._ledger = ledger
        self._db = ledger.db
        self._prompts = prompts
        self._rules = rules
        self._replace_changed = replace_changed
        self._problems: list[RowProblem] = []
        self._problem_count = 0
        self._lines_changed = False
        self._last_position = 0
        self._new: list[tuple[object, ...]] = []
        self._source: ReadAhead[Item | RowProblem] | None = None
        self._has_rows = False
        self.report = PlanReport()

    def fingerprint(self) -> str | None:
        """Give a digest of the file and the rules; `None` for what can be read only once."""
        if self._prompts.path is None:
            return None
        digest = blake2b(digest_size=16)
        how = [self._prompts.reading, asdict(self._rules)]
        digest.update(json.dumps(how).encode())
        with self._prompts.path.open("rb") as file:
            return file_digest(file, lambda: digest).hexdigest()

    def run(self, on_rows: Callable[[int], None] = lambda count: None) -> PlanReport:
        """Lay down the whole file, or nothing of it.

        A file that the ledger has laid down before, byte for byte, is not read again.

        Args:
            on_rows: Called with the number of images found so far, ten times a second if no more
                come; it may raise to give up.

        Raises:
            PromptFileError: Rows are wrong: all of them.
        """
        fingerprint = self.fingerprint()
        if fingerprint is not None and fingerprint == self._ledger.get("prompts"):
            self.report.known = self._ledger.counts().total
            return self.report
        self._begin()
        count = 0
        try:
            while not self.exhausted:
                items = self.take()
                self._complain(self._add(items))
                count += len(items)
                on_rows(count)
        finally:
            self.close()
        if self._problem_count:
            raise PromptFileError(self._prompts.name, self._problems, self._problem_count)
        self._finish()
        self._ledger.set(prompts=fingerprint)
        return self.report

    def begin_unchecked(self) -> None:
        """Begin to read a file that is not checked first: go on with `take` and `add_unchecked`."""
        self._begin()
        self._db.execute("UPDATE prompts SET listed = 0 WHERE listed")
        self._ledger.set(prompts=None)

    @property
    def exhausted(self) -> bool:
        """Whether all rows were taken."""
        return self._source is None or self._source.exhausted

    def take(self) -> list[Item | RowProblem]:
        """Give the next rows as images to be made; none if none come within a moment.

        Raises:
            PromptFileError: The file cannot be read to its end, or has no prompts.
        """
        items = [] if self._source is None else self._source.take(LOOK)
        self._has_rows = self._has_rows or bool(items)
        if self.exhausted and not self._has_rows:
            raise PromptFileError(self._prompts.name, [RowProblem(0, "no prompts")])
        return items

    def add_unchecked(self, items: Sequence[Item | RowProblem]) -> None:
        """Lay down what `take` gave; wrong rows fail at once."""
        problems: dict[int, list[str]] = {}
        for problem in self._add(items):
            problems.setdefault(problem.row, []).append(problem.text)
        # An id that no row can be given: it has a space that is not printable.
        bad = self._db.executemany(
            "INSERT INTO prompts (id, row, service, parameters, state, reason, error, final) "
            "VALUES (?, ?, ?, '{}', 'failed', ?, ?, 1) ON CONFLICT DO NOTHING",
            [
                (
                    f"row\u00a0{row}",
                    row,
                    service_name(self._rules.service),
                    BAD_ROW,
                    "; ".join(texts),
                )
                for row, texts in problems.items()
            ],
        ).rowcount
        self.report.bad += bad
        self.report.states["failed"] += bad
        self._last_position = self._ledger.last_position()
        self._list_seen()

    def close(self) -> None:
        """Read no more."""
        if self._source is not None:
            self._source.close()

    def _begin(self) -> None:
        for statement in TABLES.split(";"):
            self._db.execute(statement)
        # Those that are still wrong are told again.
        self._db.execute("DELETE FROM prompts WHERE reason = ?", (BAD_ROW,))
        self._last_position = self._ledger.last_position()
        self._db.execute("DELETE FROM seen")
        self._db.execute("DELETE FROM repeats")
        self._source = ReadAhead(self._read(), BATCH)

    def _finish(self) -> None:
        """Bring `listed` up to date, and have `metadata.jsonl` written anew if lines changed."""
        if self._lines_changed:
            self._ledger.set(metadata_size=None)
        limited = self._rules.limit is not None
        gone = self._db.execute(
            "UPDATE prompts SET listed = 0 "
            "WHERE listed AND position NOT IN (SELECT position FROM seen)"
        ).rowcount
        self._list_seen()
        self.report.gone = 0 if limited else gone

    def _list_seen(self) -> None:
        self._db.execute(
            "UPDATE prompts SET listed = 1 "
            "WHERE NOT listed AND position IN (SELECT position FROM seen)"
        )

    def _read(self) -> Generator[Item | RowProblem, None, None]:
        left = self._rules.limit
        with closing(self._prompts.rows()) as rows:
            for row in rows:
                for item in [row] if isinstance(row, RowProblem) else self._rules.items(row):
                    if left is not None and isinstance(item, Item):
                        if left == 0:
                            return
                        left -= 1
                    yield item

    def _complain(self, problems: Sequence[RowProblem]) -> None:
        self._problem_count += len(problems)
        self._problems += problems[: KEPT_PROBLEMS - len(self._problems)]

    def _add(self, found: Sequence[Item | RowProblem]) -> list[RowProblem]:
        """Lay down the next items, and give what is wrong with them, in order of their rows."""
        items = [item for item in found if isinstance(item, Item)]
        problems = [item for item in found if isinstance(item, RowProblem)]
        known = self._look_up([item.id or _derived_id(item) for item in items])
        named = self._name(items, known)
        seen_here: dict[str, int] = {}
        seen: list[tuple[int, int]] = []
        for identity, item in named:
            there = known.get(identity)
            first = seen_here.get(identity) or (there.seen_in_row if there else None)
            if first:
                problems.append(RowProblem(item.row, f"id: {identity!r} is taken by row {first}"))
                continue
            seen_here[identity] = item.row
            match self._compare(identity, item, there):
                case int(position):
                    seen.append((position, item.row))
                case wrong:
                    problems += wrong
        self._db.executemany(
            "INSERT INTO prompts (position, id, content, row, service, parameters, metadata, seed, "
            "price) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._new,
        )
        self._new.clear()
        self._db.executemany("INSERT INTO seen VALUES (?, ?)", seen)
        return sorted(problems, key=lambda problem: problem.row)

    def _name(self, items: Sequence[Item], known: dict[str, _Known]) -> list[tuple[str, Item]]:
        """Give items with their ids: given, or made of content and how often it came before.

        So a row that is put in between, or moved, leaves the ids of all others as they are.
        """
        named: list[tuple[str, Item]] = []
        repeated: list[tuple[int, Item]] = []
        taken = {identity for identity, there in known.items() if there.seen_in_row is not None}
        for item in items:
            identity = item.id or _derived_id(item)
            if item.id is None and identity in taken:
                repeated.append((len(named), item))
            taken.add(identity)
            named.append((identity, item))
        if repeated:
            counts = Counter(item.content for _, item in repeated)
            before = dict(
                self._db.execute(
                    f"SELECT content, count FROM repeats WHERE content IN ({_marks(counts)})",  # noqa: S608
                    list(counts),
                )
            )
            self._db.executemany(
                "INSERT INTO repeats VALUES (?, ?) ON CONFLICT DO UPDATE SET "
                "count = count + excluded.count",
                counts.items(),
            )
            for index, item in repeated:
                number = before[item.content] = before.get(item.content, 0) + 1
                named[index] = (f"{_derived_id(item)}-{number + 1}", item)
            known.update(self._look_up([named[index][0] for index, _ in repeated]))
        return named

    def _compare(self, identity: str, item: Item, there: _Known | None) -> int | list[RowProblem]:
        """Lay down one item and give its position, or what is wrong with it."""
        if there is not None:
            if there.content == item.content:
                self.report.known += 1
                self.report.states[there.state] += 1
                return there.position
            if there.content is not None and there.paid and not self._replace_changed:
                return [_made_from_other_content(identity, item)]
        ready = item.check(self._prompts.folder)
        if not isinstance(ready, ReadyItem):
            return ready
        if there is None:
            self.report.added += 1
            return self._insert(identity, item, ready)
        if there.content is None and there.state in {"done", "filtered"}:
            # Rebuilt from files: the image is there, the row it was made from may be only now.
            if self._may_be_made_from(there.position, item, ready):
                self.report.known += 1
                self.report.states[there.state] += 1
                self._update(there.position, item, ready, made=True)
                return there.position
            if not self._replace_changed:
                return [_made_from_other_content(identity, item)]
        self.report.changed += 1
        self.report.known += 1
        if there.paid:
            self._lines_changed = True
            self._db.execute(
                "UPDATE prompts SET id = NULL, listed = 0 WHERE position = ?", (there.position,)
            )
            return self._insert(identity, item, ready)
        self._update(there.position, item, ready, made=False)
        return there.position

    def _may_be_made_from(self, position: int, item: Item, ready: ReadyItem) -> bool:
        """Tell whether what is known of an image goes together with a row."""
        service, parameters, seed = self._db.execute(
            "SELECT service, parameters, seed FROM prompts WHERE position = ?", (position,)
        ).fetchone()
        if not service:
            return True  # found by its name alone
        given = str(item.fields.get("seed", 0))
        if given != "0" and ready.seed != seed:  # 0 is none: one was drawn
            return False
        return bool(service == item.service) and json.loads(parameters) == json.loads(
            ready.parameters
        )

    def _insert(self, identity: str, item: Item, ready: ReadyItem) -> int:
        self._last_position += 1
        self._new.append(
            (
                self._last_position,
                identity,
                item.content,
                item.row,
                item.service,
                ready.parameters,
                ready.metadata,
                ready.seed,
                ready.price,
            )
        )
        return self._last_position

    def _update(self, position: int, item: Item, ready: ReadyItem, *, made: bool) -> None:
        self._db.execute(
            "UPDATE prompts SET content = ?, row = ?, service = ?, parameters = ?, metadata = ?, "
            "price = ?, seed = iif(?, seed, ?), state = iif(?, state, 'waiting') "
            "WHERE position = ?",
            (
                item.content,
                item.row,
                item.service,
                ready.parameters,
                ready.metadata,
                ready.price,
                made,
                ready.seed,
                made,
                position,
            ),
        )
        if made:
            self._lines_changed = True
            self._db.execute(
                "UPDATE images SET credits = ifnull(credits, ?) WHERE position = ?",
                (ready.price, position),
            )

    def _look_up(self, ids: Sequence[str]) -> dict[str, _Known]:
        rows = self._db.execute(
            f"SELECT id, position, content, state, {PAID}, seen.row FROM prompts "  # noqa: S608
            f"LEFT JOIN seen USING (position) WHERE id IN ({_marks(ids)})",
            ids,
        )
        return {
            identity: _Known(position, content, state, bool(paid), row)
            for identity, position, content, state, paid, row in rows
        }


def _derived_id(item: Item) -> str:
    return item.content.hex()[:16]


def _made_from_other_content(identity: str, item: Item) -> RowProblem:
    return RowProblem(
        item.row,
        f"id: {identity!r} was made from other content; give it another id, or make it anew with "
        "--replace-changed",
    )


def _marks(values: Sequence[object] | Counter[bytes]) -> str:
    return ",".join("?" * len(values))
