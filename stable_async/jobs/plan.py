"""Decisions about the rows of a prompt file, from what the ledger knows of them. Pure."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.jobs.errors import RowProblem
from stable_async.jobs.row import FACTS, Row, State, derive_seed, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from stable_async.jobs.shard import Shard

__all__ = [
    "Known",
    "Plan",
    "PlanReport",
    "Positions",
    "name_rows",
    "number_repeats",
    "plan_rows",
    "repeated",
    "taken_by",
]

# How many remakes a row may have had whose seed is recognised after the loss of a ledger.
MOST_REMAKES = 100


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows about an id.

    Attributes:
        position: Its position in the ledger.
        content: Digest of the content it was made from; `None` if unknown, because it was restored
            from files.
        state: The state of its row.
        paid: Whether it has cost something, or may have.
        seen_in_row: An earlier row of this prompt file that has the same id; 0 if there is none.
        restored: Service, fields and seed of a row that was restored from files; `None` if only the
            file name is known.
        metadata: The rest of the row, as JSON.
    """

    position: int
    content: bytes | None
    state: State
    paid: bool
    seen_in_row: int = 0
    restored: tuple[str, Mapping[str, object], int | None] | None = None
    metadata: str | None = None


@dataclass(slots=True)
class Plan:
    """What to do with a batch of rows.

    Attributes:
        add: New rows, with their positions.
        update: Rows whose content changed, or that were restored from files.
        made: Positions of the updated rows that already have their image.
        replaced: Positions of rows whose id a new row takes over.
        annotate: Position of each known row whose metadata changed, with the new metadata as JSON.
        seen: Position and number of each row that is listed.
        problems: Problems, in order of rows.
        known: States of the rows that were already known.
        changed: How many known rows have new content.
    """

    add: list[Row] = field(default_factory=list)
    update: list[Row] = field(default_factory=list)
    made: set[int] = field(default_factory=set)
    replaced: list[int] = field(default_factory=list)
    annotate: list[tuple[int, str | None]] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    known: Counter[State] = field(default_factory=Counter)
    changed: int = 0


class Positions:
    """Assigns positions to new rows: their place in the file, if it is free.

    A row thus has the same file name whichever machine makes it, and whatever was made before.

    Attributes:
        last: The highest position that is taken.
        moved: Id of the row that had a place in a file of several parts, by place. A row that moves
            may change its part, and be bought again by another machine.
    """

    def __init__(self, shard: Shard, last: int) -> None:
        """Begin with the `last` position that is taken."""
        self._shard = shard
        self.last: int = last
        self.moved: dict[int, str] = {}
        self._taken: set[int] = set()

    def begin(self, taken: Mapping[int, str | None]) -> None:
        """Begin a batch of rows whose places are `taken` by these ids; `None` means a replaced row.

        What earlier batches have taken is in the ledger by now.
        """
        self._taken = set(taken)
        if self._shard.count > 1:
            self.moved = {place: row for place, row in taken.items() if row is not None}

    def take(self, place: int) -> int:
        """Return the position of a new row."""
        if place <= 0 or place in self._taken:
            place = self._shard.next_position(self.last)
        self._taken.add(place)
        self.last = max(self.last, place)
        return place


@dataclass(slots=True)
class PlanReport:
    """The outcome of reading a prompt file.

    Attributes:
        added: Images that were not in the ledger.
        known: Images that were.
        changed: Known images whose content changed.
        gone: Images of the ledger that are no longer in the file.
        bad: Rows that were not checked first and turned out to be invalid.
        duplicates: Rows that repeat an earlier one, and share its image.
        states: States of the known and bad rows.
    """

    added: int = 0
    known: int = 0
    changed: int = 0
    gone: int = 0
    bad: int = 0
    duplicates: int = 0
    states: Counter[State] = field(default_factory=Counter)

    def count(self, plan: Plan) -> None:
        """Add the decisions of a plan."""
        self.added += len(plan.add) - len(plan.replaced)
        self.known += plan.known.total()
        self.changed += plan.changed
        self.states += plan.known


def name_rows(rows: Iterable[Row]) -> list[Row]:
    """Name rows without an id by their content, and return them."""
    unnamed = [row for row in rows if not row.id]
    for row in unnamed:
        row.id = row.content.hex()[:16]
    return unnamed


def repeated(rows: Iterable[Row], unnamed: Iterable[Row], known: Mapping[str, Known]) -> list[Row]:
    """Return the unnamed rows whose id an earlier row of the file already has."""
    taken = {identity for identity, there in known.items() if there.seen_in_row}
    open_to_change = set(map(id, unnamed))
    found: list[Row] = []
    for row in rows:
        if row.id in taken and id(row) in open_to_change:
            found.append(row)
        taken.add(row.id)
    return found


def number_repeats(rows: Iterable[Row], before: Mapping[bytes, int]) -> None:
    """Add to the ids of rows named by their content how many times it occurred before.

    A row that is inserted or moved thus leaves the ids of all others unchanged.
    """
    counts = dict(before)
    for row in rows:
        number = counts[row.content] = counts.get(row.content, 0) + 1
        row.copy = number + 1
        row.id = f"{row.id}-{row.copy}"


def taken_by(row: Row, first: int) -> str:
    """Return the problem of a row whose id an earlier row of the file has."""
    return f"id: {row.id!r} is taken by row {first}"


def plan_rows(
    rows: Sequence[Row],
    known: Mapping[str, Known],
    check: Callable[[Row], list[RowProblem]],
    *,
    positions: Positions,
    replace_changed: bool,
) -> Plan:
    """Decide what to do with rows that have their ids.

    Args:
        rows: Rows in the order of the file; the position of each is its place there, from 1.
        known: What the ledger knows, by id.
        check: Completes a row and returns its problems; not called for unchanged rows.
        positions: Assigns positions to new rows.
        replace_changed: Remake paid rows whose content changed.
    """
    plan = Plan()
    here: dict[str, int] = {}
    for row in rows:
        there = known.get(row.id)
        if first := here.get(row.id) or (there.seen_in_row if there else 0):
            plan.problems.append(RowProblem(row.number, taken_by(row, first)))
            continue
        here[row.id] = row.number
        if there is not None and there.content == row.content:
            plan.known[there.state] += 1
            plan.seen.append((there.position, row.number))
            metadata = to_json(row.metadata) if row.metadata else None
            if metadata != there.metadata:
                plan.annotate.append((there.position, metadata))
            continue
        problems = _decide(plan, row, there, check, positions, replace_changed=replace_changed)
        if problems:
            plan.problems += problems
        else:
            plan.seen.append((row.position, row.number))
    return plan


def _decide(
    plan: Plan,
    row: Row,
    there: Known | None,
    check: Callable[[Row], list[RowProblem]],
    positions: Positions,
    *,
    replace_changed: bool,
) -> list[RowProblem]:
    """Decide about one row that is new or changed."""
    if there is not None and there.content is not None and there.paid and not replace_changed:
        return [_made_from_other_content(row)]
    given_seed = str(row.fields.get("seed", 0))
    if problems := check(row):
        return problems
    if there is not None and there.content is None and there.state in {"done", "filtered"}:
        # Restored from files: the image exists, and the row that it was made from may appear only
        # now.
        if _may_be_made_from(there, row, given_seed):
            row.position = there.position
            plan.known[there.state] += 1
            plan.update.append(row)
            plan.made.add(row.position)
            return []
        if not replace_changed:
            return [_made_from_other_content(row)]
    if there is not None:
        plan.changed += 1
        plan.known["waiting"] += 1
        if not there.paid:
            row.position = there.position
            plan.update.append(row)
            return []
        plan.replaced.append(there.position)
    elif (other := positions.moved.get(row.position)) is not None:
        return [_moved(row, other)]
    row.position = positions.take(row.position)
    plan.add.append(row)
    return []


def _may_be_made_from(there: Known, row: Row, given_seed: str) -> bool:
    """Return whether what is known of an image is consistent with a row, and set its remake
    number.
    """
    if there.restored is None:
        return True
    service, fields, seed = there.restored
    remake = 0 if row.seed == seed else _remake_with(row, seed)
    if given_seed != "0" and remake is None:  # 0 means no seed: the API drew one
        return False
    row.remake = remake or 0
    # What the file says of the image itself, such as its width, is not taken for a field.
    given = {name: value for name, value in row.fields.items() if name not in FACTS}
    return service == row.service and fields == json.loads(to_json(given))


def _remake_with(row: Row, seed: int | None) -> int | None:
    """Return the number of the remake that has this seed; `None` if none is found."""
    numbers = range(1, MOST_REMAKES + 1)
    return next((one for one in numbers if derive_seed(row.id, row.copy, one) == seed), None)


def _moved(row: Row, other: str) -> RowProblem:
    return RowProblem(
        row.number,
        f"is at the place that {other!r} had when the job began; allowed in a job of several "
        "parts: new rows at the end of the file",
    )


def _made_from_other_content(row: Row) -> RowProblem:
    return RowProblem(
        row.number,
        f"id: {row.id!r} was made from other content; change its id, or make it again with "
        "--replace-changed",
    )
