"""The ledger alone: what each of its methods reads and writes, to the row."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs.budget import Bill
from stable_async.jobs.clean_mark import leave_clean_mark
from stable_async.jobs.errors import LedgerError
from stable_async.jobs.ledger import Counts, Ledger
from stable_async.jobs.plan import Known, Plan
from stable_async.jobs.row import ImageFacts, KnownInput, Result, Row
from stable_async.jobs.storage.facts import Charge, RowFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stable_async.jobs.ledger import StoredImageRow
    from stable_async.jobs.row import ChargeState, State

MODELS = {"core": None, "sd3": "sd3.5-large"}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with closing(Ledger.temporary()) as ledger:
        yield ledger


def new_row(position: int, identity: str, **values: object) -> Row:
    row = Row(
        number=position + 1,
        fields={"prompt": identity},
        service="core",
        id=identity,
        content=identity.encode(),
        seed=position,
        price=3.0,
        position=position,
    )
    return replace(row, **values)  # type: ignore[arg-type]


def add(ledger: Ledger, *rows: Row) -> None:
    """Add rows as the first prompt file does."""
    with ledger.transaction():
        ledger.begin_plan(checked=True)
        ledger.apply(Plan(add=[*rows]))


def image_of(row: Row, **values: object) -> ImageFacts:
    image = ImageFacts(
        position=row.position,
        file_name=f"images/{row.position}.png",
        content_type="image/png",
        bytes=10,
        sha256=f"digest {row.position}",
        width=64,
        height=32,
        seed=row.seed,
        finish_reason="SUCCESS",
        request_id=f"request {row.position}",
        credits=row.price,
        sent_at=1000.5 + row.position,
        finished_at=2000.5 + row.position,
    )
    return replace(image, **values)  # type: ignore[arg-type]


def make(
    ledger: Ledger, *rows: Row, state: State = "done", **values: object
) -> Sequence[StoredImageRow]:
    """Claim rows, and settle them with images."""
    with ledger.transaction() as fresh:
        for row in rows:
            ledger.claim(row)
            ledger.settle(row, Result(state, "spent", image_of(row, **values)))
    return [*fresh]


def end(ledger: Ledger, row: Row, state: State, charge: ChargeState, reason: str = "r") -> None:
    """Claim a row, and settle it without an image."""
    with ledger.transaction():
        ledger.claim(row)
        ledger.settle(row, Result(state, charge, reason=reason, error=f"{row.id}: {reason}"))


def stored(ledger: Ledger, what: str, table: str = "rows") -> list[object]:
    """Return columns of a table by position; one column as plain values."""
    found = ledger._db.execute(f"SELECT {what} FROM {table} ORDER BY position").fetchall()
    return [values[0] if len(values) == 1 else values for values in found]


def states(ledger: Ledger) -> dict[str, str]:
    return dict(stored(ledger, "id, state"))  # type: ignore[arg-type]


def charges(ledger: Ledger, position: int = 1) -> list[tuple[int, float | None, str]]:
    return [(one.attempt, one.price, one.state) for one in ledger.charges(position)]


# The file.


def read(path: Path, what: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute(what).fetchone()[0])


def change(path: Path, what: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(what)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger with a row, closed."""
    path = tmp_path / "job.sqlite"
    with closing(Ledger.open(path)) as ledger:
        add(ledger, new_row(1, "a"))
    return path


def test_a_ledger_names_its_program_and_version(file: Path) -> None:
    assert read(file, "PRAGMA application_id").to_bytes(4, "big") == b"SAJL"
    assert read(file, "PRAGMA user_version") == 1
    for opened in (Ledger.open(file), Ledger.temporary()):
        with closing(opened) as ledger:
            assert ledger._db.execute("PRAGMA cache_size").fetchall() == [(-8 * 1024,)]


def test_the_threads_of_a_program_take_turns_with_a_ledger(file: Path) -> None:
    for opened in (Ledger.open(file), Ledger.temporary()):
        with closing(opened) as ledger:
            found: list[Counts] = []
            thread = Thread(target=lambda ledger=ledger, found=found: found.append(ledger.counts()))
            thread.start()
            thread.join()
            assert found


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ("PRAGMA user_version = 2", LedgerError, "newer stable-async .ledger version 2"),
        ("PRAGMA user_version = 2; DROP TABLE images", LedgerError, "newer stable-async"),
        ("DROP TABLE images", sqlite3.DatabaseError, "not those of a ledger"),
        ("DROP VIEW spending", sqlite3.DatabaseError, "not those of a ledger"),
        (
            "ALTER TABLE inputs RENAME COLUMN sha256 TO other",
            sqlite3.DatabaseError,
            "not those of a ledger",
        ),
        ("DROP TABLE job; PRAGMA application_id = 7", LedgerError, "is not a ledger"),
        ("PRAGMA application_id = 7", None, ""),
        ("CREATE TABLE notes (text TEXT)", None, ""),
    ],
)
def test_only_a_ledger_of_this_version_is_opened(
    file: Path, changes: str, error: type[Exception] | None, words: str
) -> None:
    change(file, changes)
    if error is None:
        Ledger.open(file).close()
        return
    with pytest.raises(error, match=words) as caught:
        Ledger.open(file)
    assert type(caught.value) is error


def test_what_is_no_file_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger.open(tmp_path)


def test_a_ledger_that_was_not_closed_in_order_is_checked_whole(file: Path) -> None:
    """A page that no query of the opening reads is damaged."""
    with closing(Ledger.open(file)) as ledger:
        add(ledger, *(new_row(n, f"{n:0500}") for n in range(2, 200)))
    content = bytearray(file.read_bytes())
    size = read(file, "PRAGMA page_size")
    root = read(file, "SELECT rootpage FROM sqlite_schema WHERE name = 'rows'")
    content[(root - 1) * size : root * size] = bytes(size)
    file.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError):
        Ledger.open(file)
    Ledger.open(file, is_whole=True).close()
    leave_clean_mark(file)
    Ledger.open(file).close()


# Transactions.


class FaultError(Exception):
    """What goes wrong in a test."""


@pytest.mark.parametrize("state", ["done", "filtered"])
def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger, state: State) -> None:
    """Neither in the file, nor in what is gathered for it."""
    row, other = new_row(1, "a"), new_row(2, "b")
    add(ledger, row, other)

    def fail() -> None:
        with ledger.transaction():
            ledger.set(name="x")
            ledger.claim(row)
            ledger.settle(row, Result(state, "spent", image_of(row)))
            raise FaultError

    with pytest.raises(FaultError):
        fail()
    assert ledger.get("name") is None
    assert make(ledger, other) == [(1, other, image_of(other))]
    assert states(ledger) == {"a": "waiting", "b": "done"}
    assert ledger.bill() == Bill(spent=3.0)
    assert make(ledger, row) == [(2, row, image_of(row))]


def test_what_cannot_be_committed_raises_and_leaves_nothing(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row)

    def make_twice() -> None:
        with ledger.transaction():
            ledger.set(name="x")
            ledger.settle(row, Result("done", "spent", image_of(row)))
            ledger.settle(row, Result("done", "spent", image_of(row)))

    with pytest.raises(sqlite3.IntegrityError):
        make_twice()
    assert ledger.get("name") is None
    with ledger.transaction():
        ledger.set(name="y")
    assert ledger.get("name") == "y"


def test_a_failed_begin_raises_its_own_error(ledger: Ledger) -> None:
    with (
        ledger.transaction(),
        pytest.raises(sqlite3.OperationalError, match="within a transaction"),
        ledger.transaction(),
    ):
        pass


def test_a_transaction_takes_the_file_at_once(file: Path) -> None:
    """Two writers that read first and write later would wait for each other."""
    with closing(Ledger.open(file)) as ledger, closing(Ledger.open(file)) as other:
        other._db.execute("PRAGMA busy_timeout = 0")
        with (
            ledger.transaction(),
            pytest.raises(sqlite3.OperationalError, match="locked"),
            other.transaction(),
        ):
            pass


def test_a_reader_sees_one_moment(file: Path) -> None:
    with closing(Ledger.open(file)) as ledger, closing(Ledger.open(file)) as other:
        with ledger.snapshot():
            before = ledger.get("name")
            other.set(name="x")
            assert ledger.get("name") == before is None
        assert ledger.get("name") == "x"
        with pytest.raises(FaultError), ledger.snapshot():
            raise FaultError
        other.set(name="y")
        assert ledger.get("name") == "y"
        with ledger.snapshot():
            ledger._db.execute("ROLLBACK")  # as SQLite does by itself after some errors


def test_values_are_kept_under_names(ledger: Ledger) -> None:
    ledger.set(one=1, text="x", none=None)
    ledger.set(one=2)
    assert [ledger.get(name) for name in ("one", "text", "none", "other")] == [2, "x", None, None]


# A row on its way.


def test_a_claim_reserves_and_an_image_spends(ledger: Ledger) -> None:
    rows = [new_row(n, identity, price=float(n)) for n, identity in enumerate("abcd", 1)]
    add(ledger, *rows)
    a, b, c, _ = rows
    with ledger.transaction():
        for row in (a, b, c):
            ledger.claim(row)
    assert states(ledger) == dict.fromkeys("abc", "in flight") | {"d": "waiting"}
    assert ledger.bill() == Bill(reserved=6.0)
    with ledger.transaction() as fresh:
        ledger.settle(b, Result("done", "spent", image_of(b)))
        ledger.settle(a, Result("filtered", "spent", image_of(a)))
        assert [*fresh] == []
    assert [*fresh] == [(1, b, image_of(b)), (2, a, image_of(a))]
    assert states(ledger) == {"a": "filtered", "b": "done", "c": "in flight", "d": "waiting"}
    assert ledger.bill() == Bill(spent=3.0, reserved=3.0)
    assert [(number, image) for number, _, image in ledger.images()] == [
        (1, image_of(b)),
        (2, image_of(a)),
    ]
    assert make(ledger, rows[3]) == [(3, rows[3], image_of(rows[3]))], "numbers go on"
    assert [ledger.attempts(position) for position in range(6)] == [0, 1, 1, 1, 1, 0]


def test_what_is_read_within_a_transaction_includes_its_claims(ledger: Ledger) -> None:
    a, b, c = rows = [new_row(n, identity) for n, identity in enumerate("abc", 1)]
    add(ledger, *rows)
    with ledger.transaction():
        ledger.claim(a)
        assert [row.id for row in ledger.rows("in flight")] == ["a"]
        ledger.claim(b)
        assert ledger.bill().reserved == 6.0
        ledger.settle(b, Result("again", "returned"))
        ledger.claim(c)
        ledger.settle(c, Result("failed", "returned"))
        assert ledger.requeue("again", "failed") == 2
        ledger.claim(c)
        ledger.withdraw(c)
    assert states(ledger) == {"a": "in flight", "b": "waiting", "c": "waiting"}
    end(ledger, b, "again", "returned")
    with ledger.transaction():
        ledger.claim(b)
        assert ledger.requeue("again") == 0


def test_an_image_clears_what_failed_before(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    end(ledger, row, "again", "returned")
    with ledger.transaction():
        ledger.claim(row)
        ledger.accept(row, "g")
    assert stored(ledger, "reason, error, generation_id") == [("r", "a: r", "g")]
    with ledger.transaction():
        ledger.settle(row, Result("done", "spent", image_of(row)))
    assert stored(ledger, "reason, error, generation_id") == [(None, None, None)]
    assert charges(ledger) == [(1, 3.0, "returned"), (2, 3.0, "spent")]
    assert [one.generation_id for one in ledger.charges(1)] == [None, "g"]


def test_an_accepted_generation_is_paid_for(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    end(ledger, rows[0], "in doubt", "in doubt")
    with ledger.transaction():
        for row in rows:
            ledger.claim(row)
        ledger.accept(rows[0], "g")
    assert charges(ledger) == [(1, 3.0, "in doubt"), (2, 3.0, "spent")]
    assert charges(ledger, 2) == [(1, 3.0, "reserved")]
    with ledger.transaction():
        ledger.settle(rows[0], Result("again", "returned", reason="late"))
    assert charges(ledger)[1] == (2, 3.0, "spent"), "what was accepted is not returned"
    assert states(ledger) == {"a": "again", "b": "in flight"}, "and is only fetched"


@pytest.mark.parametrize("state", ["waiting", "again", "failed", "in doubt"])
@pytest.mark.parametrize("before", ["returned", "spent", "in doubt"])
def test_a_row_that_may_have_been_billed_stays_in_doubt(
    ledger: Ledger, state: State, before: ChargeState
) -> None:
    """Whatever its later attempts end with, unless they end it."""
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    end(ledger, rows[1], "in doubt", "in doubt")
    end(ledger, rows[0], "in doubt", before)
    end(ledger, rows[0], state, "returned", "second")
    is_doubtful = before == "in doubt" and state in {"waiting", "again"}
    assert states(ledger) == {"a": "in doubt" if is_doubtful else state, "b": "in doubt"}
    assert charges(ledger) == [(1, 3.0, before), (2, 3.0, "returned")]
    assert charges(ledger, 2) == [(1, 3.0, "in doubt")]
    assert stored(ledger, "reason, error") == [("second", "a: second"), ("r", "b: r")]


def test_a_claim_that_lost_to_another_is_undone(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    end(ledger, rows[0], "again", "returned")
    with ledger.transaction():
        for row in rows:
            ledger.claim(row)
        ledger.withdraw(rows[0])
    assert charges(ledger) == [(1, 3.0, "returned")]
    assert charges(ledger, 2) == [(1, 3.0, "reserved")]
    assert stored(ledger, "id, state, attempts") == [("a", "waiting", 1), ("b", "in flight", 1)]


@pytest.mark.parametrize(
    ("seed", "kept"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (-(2**63), -(2**63)),
        (-(2**63) - 1, None),
        (None, None),
    ],
)
def test_a_strange_answer_does_not_lose_its_image(
    ledger: Ledger, seed: int | None, kept: int | None
) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    make(ledger, row, seed=seed, finish_reason="\ud83d", request_id="caf\udce9")
    [(_, _, image)] = ledger.images()
    assert (image.seed, image.finish_reason, image.request_id) == (kept, "?", "caf?")


# The plan.


def test_what_is_known_of_an_id(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("abcde", 1)]
    add(ledger, *rows[:-1])
    a, b, c, d, _ = rows
    make(ledger, a)
    end(ledger, b, "failed", "returned")
    end(ledger, c, "again", "spent")
    with ledger.transaction():
        ledger.claim(d)
        ledger.accept(d, "g")
        ledger.settle(d, Result("waiting", "spent"))
        ledger._db.execute("UPDATE charges SET state = 'returned' WHERE position = 4")
        ledger.begin_plan(checked=True)
        ledger.apply(Plan(annotate=[(1, '{"k":1}')], seen=[(2, 9)]))
    assert ledger.known("abcde") == {
        "a": Known(1, b"a", "done", True, metadata='{"k":1}'),
        "b": Known(2, b"b", "failed", False, seen_in_row=9),
        "c": Known(3, b"c", "again", True),
        "d": Known(4, b"d", "waiting", True),
    }
    with ledger.transaction():
        ledger.restore("e", "core", {"prompt": "e"}, {"k": 2}, image_of(rows[-1]))
        ledger.restore("f", "", {}, {}, image_of(new_row(6, "f")))
    assert ledger.known("ef") == {
        "e": Known(5, None, "done", True, 0, ("core", {"prompt": "e"}, 5), '{"k":2}'),
        "f": Known(6, None, "done", True),
    }


@pytest.mark.parametrize("state", ["waiting", "again", "failed", "done", "filtered", "in doubt"])
def test_a_row_is_paid_for_by_its_state_or_its_charges(ledger: Ledger, state: State) -> None:
    add(ledger, new_row(1, "a"))
    end(ledger, new_row(1, "a"), state, "returned")
    assert ledger.known("a")["a"].paid == (state in {"done", "filtered", "in doubt"})


def test_the_first_file_has_seen_all_rows_there_are(ledger: Ledger) -> None:
    add(ledger, new_row(1, "a"))
    assert ledger.known("a")["a"].seen_in_row == 2
    with ledger.transaction():
        ledger.begin_plan(checked=True)
    assert ledger.known("a")["a"].seen_in_row == 0


def test_rows_of_an_unchecked_file_are_seen_one_by_one(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.begin_plan(checked=False)
        ledger.apply(Plan(add=[new_row(1, "a"), new_row(2, "b")], seen=[(1, 2)]))
    assert [one.seen_in_row for one in ledger.known("ab").values()] == [2, 0]


def test_a_new_plan_forgets_the_one_before(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row, new_row(2, "b", content=b"a", seed=1))
    with ledger.transaction():
        assert ledger.merge_duplicates() == 1
        assert ledger.add_bad_rows("core", {5: "no prompt", 6: "no prompt"}) == 2
        assert ledger.add_bad_rows("core", {6: "again", 7: "no prompt"}) == 1
        ledger.note_elsewhere({"x": 8, "y": 9})
        ledger.note_elsewhere({"x": 10})
        assert ledger.count_repeats({b"c": 2, b"d": 1}) == {}
        assert ledger.count_repeats({b"c": 1}) == {b"c": 2}
        assert ledger.count_repeats({b"c": 1, b"e": 1}) == {b"c": 3}
    assert ledger.elsewhere("xz") == {"x": 8}
    assert ledger.count_duplicates() == 1
    assert [(row, error) for _, row, error in ledger.refused(9)] == [
        (5, "no prompt"),
        (6, "no prompt"),
        (7, "no prompt"),
    ]
    with ledger.transaction():
        ledger.begin_plan(checked=True)
        assert ledger.elsewhere("xy") == {}
        assert ledger.count_repeats({b"c": 1}) == {}
    assert ledger.count_duplicates() == 0
    assert states(ledger) == {"a": "waiting"}


def test_places_are_taken_by_ids_or_by_remakes(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row, new_row(3, "c"))
    assert ledger.taken([1, 2, 3]) == {1: "a", 3: "c"}
    with ledger.transaction():
        ledger.remake(row, 77, 4)
    assert ledger.taken([1, 3, 4]) == {1: None, 3: "c", 4: None}
    assert ledger.last_position() == 4


def test_input_files_are_remembered(ledger: Ledger) -> None:
    assert ledger.last_position() == 0
    files = [KnownInput(f"{name}.png", size, 5, b"x") for name, size in (("a", 1), ("b", 2))]
    ledger.store_inputs(files)
    ledger.store_inputs([changed := replace(files[0], size=3)])
    assert [*ledger.inputs()] == [changed, files[1]]
    assert [*ledger.inputs(["b.png", "c.png"])] == [files[1]]
    assert [*ledger.inputs([])] == []


def test_a_plan_is_applied_to_its_rows_alone(ledger: Ledger) -> None:
    rows = [
        new_row(n, identity, metadata={"k": n}, price=None) for n, identity in enumerate("abcde", 1)
    ]
    add(ledger, *rows)
    a, b, c, _, e = rows
    make(ledger, a, b)
    end(ledger, c, "failed", "returned")
    ledger.set(metadata_size=5)
    changes = {"content": b"new", "fields": {"prompt": "new"}, "seed": 99, "price": 8.0}
    update = [replace(row, **changes, number=70 + row.position) for row in (a, c)]  # type: ignore[arg-type]
    with ledger.transaction():
        ledger.begin_plan(checked=True)
        ledger.apply(Plan(update=update, seen=[(3, 73)]))
    assert ledger.get("metadata_size") == 5
    with ledger.transaction():
        ledger.apply(
            Plan(
                add=[new_row(6, "d", copy=2, remake=3)],
                update=update[:1],
                made={1},
                replaced=[4],
                annotate=[(5, '{"k":7}')],
            )
        )
    assert ledger.get("metadata_size") is None
    new = (b"new", '{"prompt":"new"}', 8.0)
    assert stored(
        ledger, "position, id, listed, state, row, seed, content, parameters, price, metadata"
    ) == [
        # The first update took the seed of what was not made, the second not.
        (1, "a", 1, "waiting", 71, 99, *new, '{"k":1}'),
        (2, "b", 1, "done", 3, 2, b"b", '{"prompt":"b"}', None, '{"k":2}'),
        (3, "c", 1, "waiting", 73, 99, *new, '{"k":3}'),
        (4, None, 0, "waiting", 5, 4, b"d", '{"prompt":"d"}', None, '{"k":4}'),
        (5, "e", 1, "waiting", 6, 5, b"e", '{"prompt":"e"}', None, '{"k":7}'),
        (6, "d", 1, "waiting", 7, 6, b"d", '{"prompt":"d"}', 3.0, None),
    ]
    assert stored(ledger, "copy, remake")[-1] == (2, 3)
    assert [image.credits for *_, image in ledger.images()] == [8.0, None]
    assert [charges(ledger, n)[0][1] for n in (1, 2, 3)] == [8.0, None, None]
    assert ledger.rows("waiting")[2].metadata == {"k": 7}
    assert e.metadata == {"k": 5}


@pytest.mark.parametrize(("told", "kept"), [(0, 1), (1, 1), (3, 3)])
def test_an_update_forgets_no_remake(ledger: Ledger, told: int, kept: int) -> None:
    add(ledger, new_row(1, "a", remake=1))
    with ledger.transaction():
        ledger.apply(Plan(update=[new_row(1, "a", remake=told, copy=2)]))
    assert stored(ledger, "remake, copy") == [(kept, 2)]


def test_a_made_row_keeps_its_seed_and_its_image(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    make(ledger, *rows)
    with ledger.transaction():
        ledger.apply(Plan(update=[replace(rows[0], seed=99, price=8.0)], made={1}))
    assert stored(ledger, "state, seed, price") == [("done", 1, 8.0), ("done", 2, 3.0)]
    assert [image.credits for *_, image in ledger.images()] == [3.0, 3.0], "it has its price"
    assert charges(ledger) == [(1, 3.0, "spent")]


@pytest.mark.parametrize(
    "plan", [Plan(replaced=[2]), Plan(annotate=[(2, None)]), Plan(made={2}), Plan()]
)
def test_lines_that_a_plan_changes_are_written_anew(ledger: Ledger, plan: Plan) -> None:
    add(ledger, new_row(1, "a"))
    ledger.set(metadata_size=5)
    ledger.apply(plan)
    assert (ledger.get("metadata_size") is None) == (plan != Plan())


def test_only_rows_of_the_file_are_listed(ledger: Ledger) -> None:
    add(ledger, *(new_row(n, identity) for n, identity in enumerate("abcd", 1)))
    with ledger.transaction():
        ledger.begin_plan(checked=True)
        ledger.apply(Plan(seen=[(2, 1), (3, 2)]))
        assert ledger.unlist_unseen() == 2
        assert ledger.unlist_unseen() == 0
    assert stored(ledger, "listed") == [0, 1, 1, 0]
    with ledger.transaction():
        ledger.unlist_all()
        assert ledger.counts() == Counts()
        ledger.list_seen()
    assert stored(ledger, "listed") == [0, 1, 1, 0]
    ledger._db.execute("UPDATE rows SET id = NULL WHERE position = 4")
    ledger.list_all()
    assert stored(ledger, "listed") == [1, 1, 1, 0], "without an id it was replaced"


@pytest.mark.parametrize(
    ("count", "kept"),
    [(0, ""), (1, "h"), (2, "dh"), (3, "cfh"), (7, "bcdefgh"), (8, "abcdefgh"), (9, "abcdefgh")],
)
def test_a_sample_is_spread_over_the_file(ledger: Ledger, count: int, kept: str) -> None:
    """In the order of the file, which is not that of the ledger."""
    add(ledger, *(new_row(n, identity) for n, identity in enumerate("jihgfedcba", 1)))
    with ledger.transaction():
        ledger.begin_plan(checked=True)
        ledger.apply(Plan(seen=[(position, 11 - position) for position in range(1, 11)]))
        ledger._db.execute("UPDATE rows SET listed = 0 WHERE id IN ('i', 'j')")
        ledger.list_sample(count)
    assert "".join(sorted(row.id for row in ledger.rows("waiting"))) == kept


def test_rows_that_repeat_one_another_are_made_once(ledger: Ledger) -> None:
    def alike(position: int, identity: str, **values: object) -> Row:
        return new_row(position, identity, **{"content": b"x", "seed": 1, **values})

    rows = [
        alike(1, "first", metadata={"k": 1}),
        alike(2, "made"),
        alike(3, "sent"),
        alike(4, "repeat", metadata={"k": 4}),
        alike(5, "gone"),
        alike(6, "seed", seed=2),
        alike(7, "content", content=b"y"),
        alike(8, "alone", content=b"z"),
        alike(9, "copy", content=b"y"),
    ]
    add(ledger, *rows)
    make(ledger, rows[1])
    end(ledger, rows[2], "waiting", "returned")
    ledger._db.execute("UPDATE rows SET listed = 0 WHERE id = 'gone'")
    ledger.set(metadata_size=5)
    with ledger.transaction():
        assert ledger.merge_duplicates() == 3
    assert ledger.get("metadata_size") is None
    assert set(states(ledger)) == {"made", "sent", "gone", "seed", "content", "alone"}
    found = ledger.duplicates([2, 3])
    assert [(row.id, row.number, row.metadata, row.position) for row in found.pop(2)] == [
        ("first", 2, {"k": 1}, 2),
        ("repeat", 5, {"k": 4}, 2),
    ]
    assert found == {}
    assert [row.metadata for row in ledger.duplicates([7])[7]] == [{}]
    ledger.set(metadata_size=5)
    with ledger.transaction():
        assert ledger.merge_duplicates() == 0
    assert ledger.get("metadata_size") == 5


# Rows that are made again.


def test_rows_are_taken_up_by_state(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("abcdef", 1)]
    add(ledger, *rows)
    kept: list[State] = ["failed", "again", "again", "in doubt", "again", "again"]
    for row, state in zip(rows, kept, strict=True):
        with ledger.transaction():
            ledger.claim(row)
            ledger.accept(row, f"g{row.position}")
            ledger.settle(row, Result(state, "spent"))
    ledger._db.execute("UPDATE rows SET listed = 0 WHERE id = 'c'")
    ledger._db.execute("UPDATE rows SET id = NULL, listed = 0 WHERE id = 'e'")
    ledger._db.execute("UPDATE rows SET id = NULL WHERE id = 'f'")
    assert ledger.requeue("failed", "again") == 2
    assert stored(ledger, "state, generation_id") == [
        ("waiting", None),
        ("waiting", "g2"),
        ("again", "g3"),
        ("in doubt", "g4"),
        ("again", "g5"),
        ("again", "g6"),
    ]
    assert ledger.requeue("again", gone=True) == 1
    assert states(ledger)["c"] == "waiting"


def test_a_remake_takes_over_the_id(ledger: Ledger) -> None:
    rows = [new_row(n, identity, metadata={"k": n}, copy=n) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    make(ledger, *rows, state="filtered")
    ledger.set(metadata_size=5)
    with ledger.transaction():
        ledger.remake(rows[0], 77, 3)
    assert ledger.get("metadata_size") is None
    assert stored(ledger, "position, id, listed, state") == [
        (1, None, 0, "filtered"),
        (2, "b", 1, "filtered"),
        (3, "a", 1, "waiting"),
    ]
    [row] = ledger.rows("waiting")
    assert row == replace(rows[0], seed=77, position=3, remake=1)
    assert ledger.replaced_images() == [(1, "images/1.png")]
    ledger.rename_image(1, "replaced/1.png")
    assert ledger.replaced_images() == []
    assert stored(ledger, "file_name", "images") == ["replaced/1.png", "images/2.png"]
    with ledger.transaction():
        ledger.remake(row, 78, 4)
    assert ledger.rows("waiting")[0].remake == 2


def test_a_price_holds_for_what_is_sent_from_now_on(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("abcd", 1)]
    rows[2].service, rows[3].service = "sd3", "ultra"
    add(ledger, *rows)
    with ledger.transaction():
        ledger.claim(rows[0])
        ledger.accept(rows[0], "g")
    ledger.reprice(["core", "sd3"], 9.0)
    assert stored(ledger, "price") == [3.0, 9.0, 9.0, 3.0]
    assert ledger.bill() == Bill(spent=3.0)


def test_rows_whose_images_are_gone_are_queued_again(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("abc", 1)]
    add(ledger, *rows)
    make(ledger, *rows[:2])
    ledger.set(metadata_size=5)
    with ledger.transaction():
        ledger.forget_images([])
    assert ledger.get("metadata_size") == 5
    assert ledger.has_image(1)
    with ledger.transaction():
        ledger.forget_images([1])
    assert ledger.get("metadata_size") is None
    assert (ledger.has_image(1), ledger.has_image(2)) == (False, True)
    assert ledger.bill() == Bill(spent=6.0), "it was paid"
    make(ledger, rows[2])
    assert states(ledger) == {"a": "waiting", "b": "done", "c": "done"}


def test_images_are_known_by_digest_and_request(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    make(ledger, rows[0], sha256="x", request_id="q")
    make(ledger, rows[1], sha256="y", request_id=None)
    known = [(digest, one) for digest in "xyz" for one in ("q", "r", None)]
    assert [pair for pair in known if ledger.has_image_of(*pair)] == [
        ("x", "q"),
        ("x", None),
        ("y", "q"),
        ("y", "r"),
        ("y", None),
    ]


def test_departures_are_added_up_by_second(ledger: Ledger) -> None:
    ledger.count_departures({7: (2, 1), 5: (1, 0)})
    ledger.count_departures({7: (3, 1), 8: (1, 1)})
    assert ledger.departures() == [(5, 1, 0), (7, 5, 2), (8, 1, 1)]


# All that is read of a job: rows of every kind, whose prices tell which of them are counted.

STATES: tuple[State, ...] = (
    "waiting", "in flight", "in doubt", "done", "filtered", "again", "failed",
)  # fmt: skip
CHARGED: dict[State, ChargeState] = {
    "in doubt": "in doubt", "again": "returned", "failed": "returned",
}  # fmt: skip


@dataclass
class Kind:
    """A row of the job below."""

    row: Row
    state: State
    listed: bool
    replaced: bool = False

    @property
    def price(self) -> float:
        assert self.row.price is not None
        return self.row.price


class Many:
    """A job with `n` listed rows in the n-th state, some that are gone, and two replaced ones."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.kinds: list[Kind] = []
        for number, state in enumerate(STATES, 1):
            for listed in [True] * number + [False] * (1 + number % 2):
                self._put(state, listed=listed)
        for state in ("done", "filtered"):
            self._put(state, listed=False, replaced=True)
        add(ledger, *(kind.row for kind in self.kinds))
        for kind in self.kinds:
            if kind.state == "in flight":
                with ledger.transaction():
                    ledger.claim(kind.row)
            elif kind.state in {"done", "filtered"}:
                make(ledger, kind.row, state=kind.state)
            elif kind.state != "waiting":
                end(ledger, kind.row, kind.state, CHARGED[kind.state], kind.state)
        for kind in self.kinds:
            identity = None if kind.replaced else kind.row.id
            values = (kind.listed, identity, kind.row.position)
            ledger._db.execute("UPDATE rows SET listed = ?, id = ? WHERE position = ?", values)

    def _put(self, state: State, *, listed: bool, replaced: bool = False) -> None:
        position = len(self.kinds) + 1
        row = new_row(position, f"r{position}", price=2.0**position)
        row.service = "sd3" if position % 3 else "core"
        if model := MODELS[row.service]:
            row.fields["model"] = model
        self.kinds.append(Kind(row, state, listed, replaced))

    def some(self, which: Callable[[Kind], bool]) -> list[Kind]:
        return [kind for kind in self.kinds if which(kind)]


@pytest.fixture(scope="module")
def many() -> Iterator[Many]:
    with closing(Ledger.temporary()) as ledger:
        yield Many(ledger)


def test_rows_are_counted_by_state(many: Many) -> None:
    counts = many.ledger.counts()
    assert counts == Counts(1, 2, 3, 4, 5, 6, 7)
    assert counts.total == 28
    assert Counts().total == 0
    assert many.ledger.count_gone() == len(
        many.some(
            lambda one: (
                not one.listed
                and not one.replaced
                and one.state in {"in flight", "in doubt", "done", "filtered"}
            )
        )
    )
    assert many.ledger.count_unlisted_images() == len(
        many.some(
            lambda one: not one.listed and one.state in {"done", "filtered"} and not one.replaced
        )
    )


def test_what_is_gone_and_asked_for_again_is_counted_with_its_price(ledger: Ledger) -> None:
    states: list[State] = ["done", "filtered", "in doubt", "in flight", "failed", "again"]
    gone = [new_row(n, f"gone {state}") for n, state in enumerate([*states, "waiting"], 1)]
    there = new_row(8, "there")
    unnamed = new_row(9, "unnamed")
    add(ledger, *gone, there, unnamed)
    make(ledger, gone[0], there, unnamed)
    make(ledger, gone[1], state="filtered")
    for row, state in zip(gone[2:6], states[2:], strict=True):
        end(ledger, row, state, "spent")
    ledger._db.execute("UPDATE rows SET listed = 0 WHERE position <> 8")
    ledger._db.execute("UPDATE rows SET id = NULL WHERE position = 9")
    assert ledger.repeats_of_gone() == (0, 0.0)
    new = [
        new_row(10 + n, f"new {n}", content=row.content, price=2.0**n)
        for n, row in enumerate([*gone, there, unnamed])
    ]
    with ledger.transaction():
        ledger.apply(Plan(add=new))
    assert ledger.repeats_of_gone() == (4, 1.0 + 2.0 + 4.0 + 8.0)
    end(ledger, new[0], "waiting", "returned")  # it was tried, not refused: it is to be sent again
    assert ledger.repeats_of_gone() == (3, 2.0 + 4.0 + 8.0)
    end(ledger, new[1], "failed", "returned")
    ledger._db.execute("UPDATE rows SET listed = 0 WHERE position = 12")
    assert ledger.repeats_of_gone() == (1, 8.0)


def test_the_bill_has_every_charge(many: Many) -> None:
    def price(*states: State) -> float:
        return sum(one.price for one in many.kinds if one.state in states)

    assert many.ledger.bill() == Bill(
        price("done", "filtered"), price("in doubt"), price("in flight")
    )


@pytest.mark.parametrize("named", [(), ("failed",), ("again", "in doubt")])
def test_what_is_outstanding_is_grouped_by_service_and_model(
    many: Many, named: tuple[State, ...]
) -> None:
    numbers: Counter[tuple[str, str | None]] = Counter()
    prices: Counter[tuple[str, str | None]] = Counter()
    for one in many.some(lambda one: one.listed and one.state in (named or ("waiting", "again"))):
        kind = one.row.service, MODELS[one.row.service]
        numbers[kind] += 1
        prices[kind] += one.price  # type: ignore[assignment]
    assert many.ledger.outstanding(*named) == [
        (*kind, number, prices[kind]) for kind, number in numbers.most_common()
    ]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("gone", [False, True])
def test_rows_are_read_by_state(many: Many, state: State, gone: bool) -> None:
    expected = [
        one.row
        for one in many.kinds
        if one.state == state and not one.replaced and (gone or one.listed)
    ]
    found = many.ledger.rows(state, gone=gone)
    assert [replace(row, attempts=0) for row in found] == expected
    assert {row.attempts for row in found} == {int(state != "waiting")}
    first = expected[0].position
    assert many.ledger.rows(state, gone=gone, after=first) == found[1:]
    assert many.ledger.rows(state, gone=gone, limit=1) == found[:1]
    if not gone:
        assert many.ledger.rows(state) == found


BAD: tuple[State, ...] = ("in doubt", "again", "failed")


def test_rows_without_a_good_image_are_reported(many: Many) -> None:
    bad = many.some(lambda one: one.listed and one.state in {*BAD, "filtered"})
    assert many.ledger.refused(1_000) == [
        (
            one.row.id,
            one.row.number,
            None if one.state == "filtered" else f"{one.row.id}: {one.state}",
        )
        for one in bad
    ]
    assert len(many.ledger.refused(3)) == 3
    assert [
        (row.id, row.price, state, reason, error, doubt)
        for row, state, reason, error, doubt in many.ledger.failures()
    ] == [
        (
            one.row.id,
            one.price,
            one.state,
            *(
                (None, None)
                if one.state == "filtered"
                else (one.state, f"{one.row.id}: {one.state}")
            ),
            one.price if one.state == "in doubt" else 0.0,
        )
        for one in bad
    ]


@pytest.mark.parametrize("gone", [False, True])
def test_failures_are_counted_by_reason(many: Many, gone: bool) -> None:
    failed = many.some(lambda one: one.state in BAD and (gone or one.listed))
    expected = Counter(one.state for one in failed).most_common()
    assert [*many.ledger.failures_by_reason(gone=gone).items()] == expected
    if not gone:
        assert [*many.ledger.failures_by_reason().items()] == expected


def test_images_are_read_with_their_rows(many: Many) -> None:
    made = many.some(lambda one: one.state in {"done", "filtered"} and not one.replaced)
    found = [*many.ledger.images()]
    assert [(row.id, image) for _, row, image in found] == [
        (one.row.id, image_of(one.row)) for one in made
    ]
    assert [number for number, *_ in found] == [*range(1, len(found) + 1)]
    assert [*many.ledger.images(2)] == found[2:]
    listed = {one.row.id for one in made if one.listed}
    assert [row.id for _, row, _ in many.ledger.images(only_listed=True)] == sorted(
        listed, key=lambda name: int(name[1:])
    )
    names = [(one.row.position, f"images/{one.row.position}.png", one.price) for one in made]
    assert many.ledger.image_names(0, 1_000) == names
    assert many.ledger.image_names(names[0][0], 2) == names[1:3]


def test_the_report_has_every_row_that_ended(many: Many) -> None:
    def number(*states: State, listed: bool | None = None, replaced: bool = False) -> int:
        return len(
            many.some(
                lambda one: (
                    one.state in states
                    and (listed is None or one.listed == listed)
                    and one.replaced == replaced
                )
            )
        )

    assert many.ledger.report_counts() == {
        "done": number("done"),
        "filtered": number("filtered"),
        "failed": number(*BAD),
        "in_doubt": number("in doubt"),
        "left": number("waiting", "in flight", listed=True),
        "gone": number("done", "filtered", *BAD, listed=False),
        "replaced": number("done", "filtered", replaced=True),
    }
    ended = many.some(lambda one: one.state in {*BAD, "done", "filtered"} and not one.replaced)
    rows = [*many.ledger.report_rows(1_000)]
    assert [(row[0], row[1], row[2], row[5], row[7], row[10], row[13]) for row in rows] == [
        (
            one.row.id,
            one.row.service,
            "failed" if one.state in BAD else one.state,
            f"{one.row.id}: {one.state}" if one.state in BAD else None,
            None if one.state in BAD else f"images/{one.row.position}.png",
            one.row.seed,
            one.row.position,
        )
        for one in ended
    ]
    assert [*many.ledger.report_rows(2)] == rows[:2]


def test_spending_is_grouped_by_service_and_model(many: Many) -> None:
    expected = []
    for service, model in MODELS.items():
        own = [one for one in many.kinds if one.row.service == service]
        made = [one for one in own if one.state in {"done", "filtered"}]
        expected.append(
            (
                service,
                model,
                sum(not one.replaced for one in made),
                sum(one.price for one in made),
                sum(one.price for one in own if one.state == "in doubt"),
            )
        )
    assert many.ledger.spending() == sorted(expected, key=lambda one: -one[3] - one[4])


def test_times_of_images(many: Many) -> None:
    made = many.some(lambda one: one.state in {"done", "filtered"})
    assert [*many.ledger.sent_seconds()] == [(1000 + one.row.position, 1, 0) for one in made]
    last = made[-1].row.position
    assert many.ledger.finished_since(2000.5 + last) == 0
    assert many.ledger.finished_since(2000.5 + made[0].row.position) == len(made) - 1
    assert many.ledger.departures() == []


def test_rows_are_priced_after_a_position(many: Many) -> None:
    late = [one.price for one in many.kinds[5:]]
    assert many.ledger.price_after(5) == (len(late), sum(late))


def test_a_job_that_nobody_works_on_is_shown_as_it_will_be_found(file: Path) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("abcd", 1)]
    with closing(Ledger.open(file)) as ledger:
        with ledger.transaction():
            ledger.begin_plan(checked=True)
            ledger.apply(Plan(add=rows[1:]))
        end(ledger, rows[0], "failed", "returned")
        ledger.show_as_ended()
        assert states(ledger)["a"] == "failed"
        with ledger.transaction():
            for row in rows[1:3]:
                ledger.claim(row)
            ledger.accept(rows[2], "g")
            ledger.settle(rows[3], Result("again", "returned", reason="other"))
        charge = "INSERT INTO charges VALUES (3, 2, 3.0, 'reserved', 'g')"
        ledger._db.execute(charge)
        ledger.show_as_ended()
        assert stored(ledger, "id, state, reason") == [
            ("a", "failed", "r"),
            ("b", "in doubt", "in flight at the end"),
            ("c", "waiting", "in flight at the end"),
            ("d", "again", "other"),
        ]
        assert ledger.bill() == Bill(spent=3.0, in_doubt=6.0)
        assert ledger.spending() == [("core", None, 0, 3.0, 6.0)]
    assert read(file, "SELECT count(*) FROM rows WHERE state = 'in flight'") == 2


def test_charges_that_were_returned_cost_nothing(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    assert not ledger.has_charges()
    end(ledger, row, "again", "returned")
    assert not ledger.has_charges()
    assert ledger.spending() == []
    end(ledger, row, "in doubt", "in doubt")
    assert ledger.has_charges()
    assert ledger.spending() == [("core", None, 0, 0.0, 3.0)]
    assert ledger.charges(1) == [Charge(1, 3.0, "returned"), Charge(2, 3.0, "in doubt")]


def test_what_is_outstanding_is_read_some_at_a_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stable_async.jobs.ledger.GROUPED", 2)
    add(ledger, *(new_row(n, f"r{n}") for n in (1, 3, 4, 5, 6, 20)))
    assert ledger.outstanding() == [("core", None, 6, 18.0)]


def test_what_has_no_price_and_no_reason_is_reported_too(ledger: Ledger) -> None:
    rows = [new_row(n, identity, price=None) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    make(ledger, rows[0])
    with ledger.transaction():
        ledger.claim(rows[1])
        ledger.settle(rows[1], Result("failed", "returned"))
    assert ledger.spending() == [("core", None, 1, 0.0, 0.0)]
    assert ledger.failures_by_reason() == {"unknown": 1}


def test_a_paid_generation_is_not_outstanding_money(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("abc", 1)]
    rows[2].service, rows[2].price = "sd3", None
    add(ledger, *rows)
    ledger._db.execute("UPDATE rows SET generation_id = 'g' WHERE id = 'a'")
    assert ledger.outstanding() == [("core", None, 2, 3.0), ("sd3", None, 1, None)]


# What comes from images, buckets and parts.


@pytest.mark.parametrize("filtered", [False, True])
def test_an_image_of_an_unknown_row_is_restored_once(ledger: Ledger, filtered: bool) -> None:
    reason = "CONTENT_FILTERED" if filtered else "SUCCESS"
    image = image_of(new_row(4, "a"), finish_reason=reason, credits=2.5)
    with ledger.transaction():
        assert ledger.restore("a", "core", {"prompt": "x"}, {"k": 1}, image) is True
        assert ledger.restore("a", "core", {"prompt": "x"}, {"k": 1}, image) is False
    state = "filtered" if filtered else "done"
    [(number, row, stored_image)] = [*ledger.images()]
    assert (number, stored_image) == (1, image)
    assert row == Row(
        0, {"prompt": "x"}, {"k": 1}, "core", "a", b"", 4, 2.5, position=4, attempts=1
    )
    assert stored(ledger, "state, listed, content") == [(state, 0, None)]
    assert charges(ledger, 4) == [(1, 2.5, "spent")]


def test_an_image_follows_all_attempts_of_its_row(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    for _ in range(2):
        end(ledger, row, "again", "returned")
    with ledger.transaction():
        ledger.restore("a", "", {}, {}, image_of(row))
    assert charges(ledger) == [(1, 3.0, "returned"), (2, 3.0, "returned"), (3, 3.0, "spent")]
    assert ledger.spending() == [("core", None, 1, 3.0, 0.0)]


@pytest.mark.parametrize("charge", ["reserved", "in doubt", "returned", None])
def test_an_image_settles_the_charge_of_its_row(ledger: Ledger, charge: ChargeState | None) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    if charge is not None:
        for row in rows:
            end(ledger, row, "in doubt", charge)
    with ledger.transaction():
        fields = {"prompt": "a"}
        assert ledger.restore("a", "core", fields, {}, image_of(rows[0], credits=None))
    expected = {None: [(1, 3.0, "spent")], "returned": [(1, 3.0, "returned"), (2, 3.0, "spent")]}
    assert charges(ledger) == expected.get(charge, [(1, 3.0, "spent")])
    assert charges(ledger, 2) == ([] if charge is None else [(1, 3.0, charge)])
    assert ledger.attempts(1) == len(charges(ledger))
    assert states(ledger) == {"a": "done", "b": "waiting" if charge is None else "in doubt"}
    assert [image.credits for *_, image in ledger.images()] == [3.0], "the price of the row"
    assert stored(ledger, "content, listed") == [(b"a", 1), (b"b", 1)]


@pytest.mark.parametrize(
    ("service", "fields", "differs"),
    [("core", {"prompt": "a"}, False), ("core", {"prompt": "b"}, True), ("ultra", {}, True),
     ("", {}, False)],
)  # fmt: skip
def test_an_image_made_from_other_words_brings_them(
    ledger: Ledger, service: str, fields: dict[str, object], differs: bool
) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    with ledger.transaction():
        assert ledger.restore("a", service, fields, {"k": 1}, image_of(rows[0], credits=2.0))
    found = stored(ledger, "service, content")
    assert found == [(service, None) if differs else ("core", b"a"), ("core", b"b")]
    [(_, row, image)] = ledger.images()
    assert row.fields == (fields if differs else {"prompt": "a"})
    assert row.metadata == ({"k": 1} if differs else {})
    assert image.credits == 2.0


def test_an_image_of_a_remake_takes_the_id_over(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    with ledger.transaction():
        assert ledger.restore("a", "core", {}, {}, image_of(new_row(5, "a")))
    assert stored(ledger, "position, id, listed") == [(1, None, 0), (2, "b", 1), (5, "a", 0)]


def test_an_image_whose_place_or_id_is_taken_is_not_restored(ledger: Ledger) -> None:
    add(ledger, new_row(3, "c"), new_row(9, "z"))
    with ledger.transaction():
        assert ledger.restore("d", "core", {}, {}, image_of(new_row(3, "d"))) is False
        assert ledger.restore("z", "core", {}, {}, image_of(new_row(4, "z"))) is False
    assert states(ledger) == {"c": "waiting", "z": "waiting"}
    assert stored(ledger, "*", "images") == []
    assert ledger.bill() == Bill()


def facts_of(row: Row, state: State, *charged: Charge, **values: object) -> RowFacts:
    return replace(RowFacts.of(row, state, charged, "why", "in full"), **values)  # type: ignore[arg-type]


def spent(attempt: int = 1, **values: object) -> Charge:
    return replace(Charge(attempt, 3.0, "spent"), **values)  # type: ignore[arg-type]


def test_an_unknown_row_is_adopted_whole(ledger: Ledger) -> None:
    row = new_row(4, "a", metadata={"k": 1}, copy=2, remake=1)
    facts = facts_of(row, "failed", spent(1, state="returned"), spent(3, generation_id="g"))
    with ledger.transaction() as fresh:
        assert ledger.adopt(facts) is True
        assert ledger.adopt(facts) is False
    assert [*fresh] == []
    [found] = ledger.rows("failed", gone=True)
    assert found == replace(row, attempts=3, generation_id="g")
    assert stored(ledger, "listed, reason, error") == [(0, "why", "in full")]
    assert charges(ledger, 4) == [(1, 3.0, "returned"), (3, 3.0, "spent")]
    assert [one.generation_id for one in ledger.charges(4)] == [None, "g"]
    other = facts_of(new_row(5, "b", content=b""), "waiting")
    with ledger.transaction():
        assert ledger.adopt(other) is False, "that a row waits is no news"
    assert stored(ledger, "content, metadata, attempts")[1] == (None, None, 0)


def test_an_adopted_image_is_fresh(ledger: Ledger) -> None:
    row = new_row(1, "a")
    facts = facts_of(row, "in flight", spent(state="reserved")).made(image_of(row))
    with ledger.transaction() as fresh:
        assert ledger.adopt(facts)
        assert ledger.adopt(facts) is False
    assert [*fresh] == [(1, replace(row, attempts=1), image_of(row))]
    assert states(ledger) == {"a": "done"}
    assert ledger.bill() == Bill(spent=3.0)
    assert stored(ledger, "reason, error, generation_id") == [(None, None, None)]


def test_facts_of_a_replaced_image_leave_the_id_to_its_successor(ledger: Ledger) -> None:
    old, new = new_row(1, "a"), new_row(2, "a", remake=1)
    with ledger.transaction():
        ledger.adopt(facts_of(old, "done", spent(), image=image_of(old)), replaced=True)
        assert states(ledger) == {None: "done"}
        ledger.adopt(facts_of(new, "done", spent(), image=image_of(new)))
    assert stored(ledger, "position, id") == [(1, None), (2, "a")]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_rows_of_one_id_the_last_has_it(ledger: Ledger, order: tuple[int, int]) -> None:
    both = [new_row(1, "a"), new_row(2, "a", remake=1)]
    with ledger.transaction():
        for one in order:
            ledger.adopt(facts_of(both[one], "failed", spent()))
        ledger.adopt(facts_of(new_row(3, "b"), "failed", spent()))
        ledger.list_all()
        ledger.adopt(facts_of(new_row(4, "c"), "failed", spent()))
    assert stored(ledger, "position, id, listed") == [
        (1, None, 0), (2, "a", 1), (3, "b", 1), (4, "c", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("state", ["failed", "in doubt", "again"])
@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_only_news_replaces_what_the_ledger_knows(
    ledger: Ledger, state: State, attempts: int
) -> None:
    """The ledger knows two attempts."""
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    end(ledger, rows[0], "again", "returned")
    end(ledger, rows[0], state, "in doubt" if state == "in doubt" else "returned")
    told = replace(rows[0], fields={"prompt": "new"}, content=b"new", number=9, price=4.0)
    facts = facts_of(
        told,
        "waiting",
        *(Charge(n, 4.0, "spent", "g" if n == attempts else None) for n in range(1, attempts + 1)),
    )
    with ledger.transaction():
        is_new = ledger.adopt(facts)
    assert is_new == (attempts == 3 or (attempts == 2 and state == "in doubt"))
    assert states(ledger) == {"a": "waiting" if is_new else state, "b": "waiting"}
    is_later = attempts == 3
    assert stored(ledger, "content, row, price")[0] == (
        (b"new", 9, 4.0) if is_later else (b"a", 2, 3.0)
    )
    assert stored(ledger, "content, row, price")[1] == (b"b", 3, 3.0)
    assert stored(ledger, "attempts, generation_id")[0] == (
        max(attempts, 2), "g" if is_new else None,
    )  # fmt: skip
    assert [one.state for one in ledger.charges(1)][:attempts] == ["spent"] * attempts
    assert [one.price for one in ledger.charges(1)] == [3.0, 3.0, 4.0][: max(attempts, 2)]


@pytest.mark.parametrize("kept", ["spent", "returned", "in doubt", "reserved"])
@pytest.mark.parametrize("told", ["spent", "returned", "in doubt"])
def test_a_doubt_never_replaces_an_answer(
    ledger: Ledger, kept: ChargeState, told: ChargeState
) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    end(ledger, row, "in doubt", kept)
    with ledger.transaction():
        ledger.adopt(facts_of(row, "again", Charge(1, 3.0, told)))
    is_open = kept in {"reserved", "in doubt"}
    assert charges(ledger) == [(1, 3.0, told if is_open or told == "spent" else kept)]


def test_facts_keep_the_generation_of_a_charge(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
    add(ledger, *rows)
    with ledger.transaction():
        for row in rows:
            ledger.claim(row)
        ledger.accept(rows[0], "g")
        assert ledger.adopt(facts_of(rows[0], "in doubt", Charge(1, 3.0, "spent"))) is False
        assert ledger.adopt(facts_of(rows[1], "waiting", Charge(1, 3.0, "spent", "h")))
    assert stored(ledger, "state, generation_id") == [("in flight", "g"), ("waiting", "h")]
    assert [one.generation_id for n in (1, 2) for one in ledger.charges(n)] == ["g", "h"]


@pytest.mark.parametrize("state", ["in flight", "in doubt", "failed"])
def test_an_image_is_news_of_a_row_that_has_none(ledger: Ledger, state: State) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    with ledger.transaction():
        ledger.claim(row)
        if state != "in flight":
            ledger.settle(row, Result(state, "in doubt"))
    with ledger.transaction() as fresh:
        assert ledger.adopt(facts_of(row, "done", spent(), image=image_of(row)))
    assert [image for *_, image in fresh] == [image_of(row)]
    assert states(ledger) == {"a": "done"}


@pytest.mark.parametrize("remake", [0, 1])
@pytest.mark.parametrize("state", ["done", "filtered", "waiting"])
def test_an_image_is_replaced_only_by_a_later_one(
    ledger: Ledger, remake: int, state: State
) -> None:
    row = new_row(1, "a")
    add(ledger, row, new_row(2, "b"))
    make(ledger, row)
    make(ledger, new_row(2, "b"))
    ledger._db.execute("UPDATE rows SET state = ? WHERE position = 1", (state,))
    told = replace(row, remake=remake)
    facts = facts_of(told, "done", spent(), image=image_of(row, sha256="new"))
    with ledger.transaction():
        assert ledger.adopt(facts) == (remake == 1 or state == "waiting")
    is_new = remake == 1 or state == "waiting"
    assert {image.position: image.sha256 for *_, image in ledger.images()} == {
        1: "new" if is_new else "digest 1",
        2: "digest 2",
    }
    assert states(ledger)["a"] == ("done" if is_new else state)


def test_older_facts_of_an_image_change_nothing(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    end(ledger, row, "again", "returned")
    make(ledger, row)
    with ledger.transaction():
        old = facts_of(row, "done", spent(), image=image_of(row, sha256="old"), remake=1)
        assert ledger.adopt(old) is False
        assert ledger.adopt(facts_of(row, "in doubt", spent(2), spent(3))) is False
    assert [image.sha256 for *_, image in ledger.images()] == ["digest 1"]
    assert states(ledger) == {"a": "done"}


def test_a_row_that_cost_nothing_makes_place(ledger: Ledger) -> None:
    rows = [new_row(n, identity) for n, identity in enumerate("abc", 1)]
    add(ledger, *rows)
    end(ledger, rows[1], "again", "returned")
    with ledger.transaction():
        assert ledger.adopt(facts_of(new_row(2, "x"), "failed", spent()))
    assert stored(ledger, "position, id, state") == [
        (1, "a", "waiting"), (2, "x", "failed"), (3, "c", "waiting"), (4, "b", "again"),
    ]  # fmt: skip
    assert charges(ledger, 4) == [(1, 3.0, "returned")]
    assert charges(ledger, 2) == [(1, 3.0, "spent")]


def test_a_row_that_cost_something_keeps_its_place(ledger: Ledger) -> None:
    row = new_row(2, "b")
    add(ledger, new_row(1, "a"), row)
    make(ledger, row)
    with (
        pytest.raises(LedgerError, match="rows 'b' and 'x' are both at position 2"),
        ledger.transaction(),
    ):
        ledger.adopt(facts_of(new_row(2, "x"), "failed", spent()))
    assert states(ledger) == {"a": "waiting", "b": "done"}


def test_a_claim_that_is_not_written_yet_counts_when_facts_come(ledger: Ledger) -> None:
    row = new_row(1, "a")
    add(ledger, row)
    with ledger.transaction():
        ledger.claim(row)
        assert ledger.adopt(facts_of(row, "failed", Charge(1, 3.0, "returned")))
    assert states(ledger) == {"a": "failed"}
    assert charges(ledger) == [(1, 3.0, "returned")]


def test_the_ledgers_of_two_parts_become_one(ledger: Ledger) -> None:
    with closing(Ledger.temporary()) as part:
        one, two = new_row(2, "b"), new_row(4, "d")
        add(part, one, two, new_row(6, "f", content=b"b", seed=2))
        make(part, two, one)
        end(part, new_row(6, "f"), "in doubt", "in doubt")
        add_duplicate = "INSERT INTO duplicates VALUES (2, 'g', 8, NULL)"
        part._db.execute(add_duplicate)
        part.count_departures({5: (2, 1)})
        part.set(name="x", other="y")
        whole = (new_row(1, "a"), new_row(3, "c"))
        add(ledger, *whole)
        make(ledger, *whole)
        ledger.count_departures({5: (1, 1)})
        ledger.set(name="z")
        with ledger.transaction():
            ledger.take_in(part)
        with pytest.raises(sqlite3.IntegrityError), ledger.transaction():
            ledger.take_in(part)
    assert states(ledger) == {
        "a": "done", "b": "done", "c": "done", "d": "done", "f": "in doubt",
    }  # fmt: skip
    assert [(number, row.id) for number, row, _ in ledger.images()] == [
        (1, "a"), (2, "c"), (3, "d"), (4, "b"),
    ]  # fmt: skip
    assert ledger.bill() == Bill(spent=12.0, in_doubt=3.0)
    assert [row.id for row in ledger.duplicates([2])[2]] == ["g"]
    assert ledger.departures() == [(5, 3, 2)]
    assert (ledger.get("name"), ledger.get("other")) == ("z", "y")
