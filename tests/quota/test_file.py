"""The state in a file: many processes, one quota, and nobody who can block the others."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import quota_counting as counting
from stable_async import ConfigurationError, Quota, SharedQuota, StabilityClient
from stable_async.quota import ProcessHome, QuotaLimiter, Slot
from stable_async.quota.homes import file, local
from stable_async.quota.homes.append_log import AppendLog
from stable_async.quota.homes.file import FileHome
from stable_async.quota.homes.replica import WAITED, YIELDED, Entry, Replica
from stable_async.quota.state import LEASE, LONGEST_PENALTY
from stable_async.sandbox import Sandbox
from tests.quota import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from stable_async import APIStatusError
    from stable_async.quota import Priority

# Departures that show the limit: one and a half times what it lets leave at once.
ENOUGH = 61
QUOTA = Quota(requests=3, window=10.0, jitter=0.3, adaptive=False)


class Clock:
    """A clock that advances only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quota"


@contextmanager
def homes(path: Path, clock: Clock, count: int, quota: Quota = QUOTA) -> Iterator[list[FileHome]]:
    """Open the same file as so many processes would."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = FileHome(path, quota, clock=clock, shared=False)
            stack.callback(one.close_now)
            one.open_now()
            opened.append(one)
        yield opened


def store(one: FileHome) -> file._FileStore:
    assert isinstance(one._store, file._FileStore)
    return one._store


def log_of(one: FileHome) -> AppendLog:
    log = store(one)._log
    assert log is not None
    return log


def take(one: FileHome, clock: Clock, *, bulk: bool = False) -> Slot:
    slot = one.reserve(clock.now, bulk=bulk)
    assert isinstance(slot, Slot)
    return slot


def wait(one: FileHome, clock: Clock, *, bulk: bool = False) -> float:
    due = one.reserve(clock.now, bulk=bulk)
    assert isinstance(due, float)
    return due


def alone(*departures: float) -> float:
    """Return when the next may leave, as the state of one process says."""
    memory = ProcessHome(QUOTA)
    memory.open_now()
    for time_ in departures:
        slot = memory.reserve(time_)
        assert isinstance(slot, Slot)
        memory.mark_sent(slot, time_)
    return memory.earliest(departures[-1])


def names(path: Path) -> list[str]:
    """Return what there is in the folder of the file."""
    return sorted(entry.name for entry in path.parent.iterdir())


def leave(one: FileHome, clock: Clock) -> None:
    assert one.mark_sent(take(one, clock), clock.now)


def test_all_processes_together_get_the_quota_of_one(path: Path, clock: Clock) -> None:
    with homes(path, clock, 3) as everybody:
        for one in everybody:
            leave(one, clock)
        for one in everybody:
            assert one.reserve(clock.now) == pytest.approx(alone(1000, 1000, 1000))
            assert one.snapshot(clock.now).in_window == 3


def test_a_slot_given_back_is_free_for_the_others(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        slots = [take(one, clock), take(one, clock)]
        # Not when the quota would allow it if they leave: one may be given back at any time.
        assert other.reserve(clock.now) == pytest.approx(clock.now + local.LOOK_AGAIN)
        one.release(slots[0], clock.now)
        leave(other, clock)


def test_a_penalty_holds_for_everybody_and_one_goes_ahead_after_it(
    path: Path, clock: Clock
) -> None:
    with homes(path, clock, 2) as (one, other):
        slot = take(one, clock)
        one.mark_sent(slot, clock.now)
        one.penalise(clock.now, None, slot)
        assert other.reserve(clock.now) == pytest.approx(1060)
        assert other.snapshot(clock.now).penalty_left == pytest.approx(60)
        assert other.snapshot(clock.now).share == one.snapshot(clock.now).share < 1
        clock.now = 1060.0
        leave(other, clock)
        assert one.reserve(clock.now) == pytest.approx(1061)


def test_a_refusal_of_the_one_that_goes_ahead_costs_no_share(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2) as (one, other):
        one.penalise(clock.now, 30.0, None)
        share = other.snapshot(clock.now).share
        clock.now += 30.0
        probe = take(other, clock)
        other.mark_sent(probe, clock.now)
        other.penalise(clock.now, None, probe)
        figures = one.snapshot(clock.now)
        assert (figures.share, figures.refusals) == (share, 2)
        assert figures.penalty_left == pytest.approx(60)


def test_what_one_process_measures_counts_for_all(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2, Quota(requests=150)) as (one, other):

        def measure(*delays: float, seconds: int) -> float:
            """Measure six times a second, and now and then a set-up; return what is allowed."""
            for number in range(seconds * 6):
                clock.now += 1 / 6
                one.observe(clock.now, delays[number % len(delays)])
                if not number % 10:
                    one.observe(clock.now, 0.2, set_up=True)
            return other.snapshot(clock.now).jitter

        start = other.snapshot(clock.now).jitter
        assert measure(*[0.01] * 5, *[0.5] * 5, seconds=30) > start
        assert measure(0.01, seconds=640) < start
        for number in range(200):
            one.observe(clock.now, 0.5 if number % 10 < 5 else 0.01, set_up=True)
        assert other.snapshot(clock.now).jitter > start


def test_bulk_requests_let_interactive_ones_of_other_processes_go_first(
    path: Path, clock: Clock
) -> None:
    with homes(path, clock, 2) as (bulk, interactive):
        for _ in range(3):
            bulk.mark_sent(take(bulk, clock, bulk=True), clock.now)
        due = wait(bulk, clock, bulk=True)
        # It asks again and again, and once more right before the quota allows it.
        for before in (1.25, 0.85, 0.45, 0.05):
            clock.now = due - before
            wait(interactive, clock)
        clock.now = due
        wait(bulk, clock, bulk=True)
        # When it has given up, a heartbeat later, bulk requests leave.
        clock.now = due + 1.0
        take(bulk, clock, bulk=True)


def test_a_process_that_waits_says_so_only_now_and_then(path: Path, clock: Clock) -> None:
    with homes(path, clock, 1) as (one,):
        for _ in range(3):
            leave(one, clock)
        wait(one, clock)
        size = path.stat().st_size
        for _ in range(100):
            clock.now += 0.003
            wait(one, clock)
        assert path.stat().st_size == size


def test_the_next_request_that_waits_says_so_at_once(path: Path, clock: Clock) -> None:
    with homes(path, clock, 1) as (one,):
        for _ in range(3):
            leave(one, clock)
        clock.now = wait(one, clock) - 0.1
        wait(one, clock)
        clock.now += 0.1
        leave(one, clock)
        size = path.stat().st_size
        wait(one, clock)
        assert path.stat().st_size > size


def test_bulk_requests_keep_their_floor_beside_interactive_ones_of_other_processes(
    path: Path, clock: Clock
) -> None:
    with homes(path, clock, 2) as (bulk, interactive):
        left: list[str] = []
        while len(left) < 64:
            clock.now += 0.05
            for name, one in (("interactive", interactive), ("bulk", bulk)):
                slot = one.reserve(clock.now, bulk=name == "bulk")
                if isinstance(slot, Slot):
                    one.mark_sent(slot, clock.now)
                    left.append(name)
        assert 7 <= left.count("bulk") <= 9


def test_a_bulk_request_that_waited_for_the_even_flow_puts_off_no_interactive_one(
    path: Path, clock: Clock
) -> None:
    with homes(path, clock, 2, Quota(8, 10.0, jitter=0.5, adaptive=False)) as (one, other):
        leave(one, clock)
        take(other, clock, bulk=True)
        clock.now = wait(other, clock, bulk=True)
        take(other, clock, bulk=True)
        leave(one, clock)


def test_bulk_requests_make_up_what_a_late_loop_has_lost(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2, Quota(8, 10.0, jitter=0.5, adaptive=False)) as (one, other):
        leave(one, clock)
        take(other, clock, bulk=True)
        clock.now = wait(other, clock, bulk=True) + 2.5 * (10.5 / 8)
        for _ in range(3):
            take(other, clock, bulk=True)
        wait(other, clock, bulk=True)


def test_bulk_requests_do_not_make_up_for_the_time_in_which_none_waited(
    path: Path, clock: Clock
) -> None:
    with homes(path, clock, 2, Quota(8, 10.0, jitter=0.5, adaptive=False)) as (one, other):
        leave(one, clock)
        take(other, clock, bulk=True)
        clock.now = wait(other, clock, bulk=True)
        take(other, clock, bulk=True)
        clock.now += 3.5 * (10.5 / 8)
        take(other, clock, bulk=True)
        wait(other, clock, bulk=True)


STEPS = st.tuples(
    st.sampled_from(
        ["leave", "open", "mark_sent", "release", "rotate", "remove", "truncate", "penalise"]
    ),
    st.integers(0, 2),
    st.floats(0, 3.0),
)


class Office:
    """Three processes that follow commands, and the departures of all."""

    def __init__(self, path: Path, clock: Clock, everybody: list[FileHome]) -> None:
        self.path, self.clock, self.everybody = path, clock, everybody
        self.sent: list[float] = []
        self.held: list[tuple[FileHome, Slot]] = []

    def open(self, one: FileHome) -> None:
        slot = one.reserve(self.clock.now)
        if isinstance(slot, Slot):
            self.held.append((one, slot))

    def leave(self, one: FileHome) -> None:
        slot = one.reserve(self.clock.now)
        if isinstance(slot, Slot) and one.mark_sent(slot, self.clock.now):
            self.sent.append(self.clock.now)

    def mark_sent(self, one: FileHome) -> None:
        if self.held:
            owner, slot = self.held.pop(0)
            if owner.mark_sent(slot, self.clock.now):
                self.sent.append(self.clock.now)

    def release(self, one: FileHome) -> None:
        if self.held:
            owner, slot = self.held.pop(0)
            owner.release(slot, self.clock.now)

    def penalise(self, one: FileHome) -> None:
        one.penalise(self.clock.now, 1.0, None)

    def rotate(self, one: FileHome) -> None:
        store(one)._rotate(log_of(one))

    def remove(self, one: FileHome) -> None:
        self.read_all()
        self.path.unlink()

    def truncate(self, one: FileHome) -> None:
        self.read_all()
        os.truncate(self.path, int(self.path.stat().st_size * (self.clock.now % 1)))

    def read_all(self) -> None:
        # What nobody but its author has read is known again only when the author looks.
        for _ in range(2):
            for one in self.everybody:
                one.snapshot(self.clock.now)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=50))
def test_every_process_comes_to_the_same_state_and_the_rule_holds(
    steps: list[tuple[str, int, float]],
) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quota"
        with homes(path, clock, 3) as everybody:
            office = Office(path, clock, everybody)
            for action, number, passed in steps:
                clock.now += passed
                getattr(office, action)(everybody[number])
                assert reference.worst(office.sent, -1, clock.now, 10, 0.3) <= 3 + 1e-6
            office.read_all()
            states = [json.dumps(store(one)._replica.dump()) for one in everybody]
            assert states == states[:1] * 3
            assert list(Path(folder).iterdir()) == [path]


def test_the_state_goes_on_in_a_new_file_before_the_old_one_is_long(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file, "ROTATE_AT", 4000)
    with homes(path, clock, 2) as (one, other):
        files = set()
        for _ in range(100):
            clock.now += 20.0
            leave(one, clock)
            files.add(path.stat().st_ino)
            assert path.stat().st_size < 8000
        assert len(files) > 1
        assert other.snapshot(clock.now) == one.snapshot(clock.now)
        assert names(path) == ["quota"]
        with homes(path, clock, 1) as (new,):
            assert new.snapshot(clock.now).in_window == 1
    assert caplog.text == ""


def test_a_long_beginning_is_not_written_again_for_every_entry(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "ROTATE_AT", 100)  # less than the state takes
    with homes(path, clock, 1) as (one,):
        files = set()
        for _ in range(100):
            clock.now += 20.0
            leave(one, clock)  # two entries of some 100 bytes; a beginning has more than 600
            files.add(path.stat().st_ino)
        assert 1 < len(files) < 50


def test_the_state_does_not_grow_with_the_processes_that_have_left(
    path: Path, clock: Clock
) -> None:
    """Such as those of tasks with an event loop of their own, many a second."""
    with homes(path, clock, 1) as (one,):
        for _ in range(60):
            clock.now += 1.0
            with homes(path, clock, 1):
                pass
        take(one, clock)
        last = store(one)._replica.dump()["last"]
        assert isinstance(last, dict)
        # Those of the last three windows: a lost file is compared with them.
        assert len(last) == 31
        with homes(path, clock, 1) as (new,):
            store(new)._rotate(log_of(new))
            assert one.snapshot(clock.now) == new.snapshot(clock.now)


def test_a_short_file_is_not_replaced(path: Path, clock: Clock) -> None:
    with homes(path, clock, 1) as (one,):
        before = path.stat().st_ino
        for _ in range(100):
            clock.now += 20.0
            leave(one, clock)
        assert path.stat().st_ino == before


def test_of_two_that_replace_the_file_at_once_both_go_on_in_one(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append = AppendLog.append
    with homes(path, clock, 2) as (one, other):

        def late(log: AppendLog, text: str) -> None:
            """Append; before `one` seals the file, the other one is quicker."""
            if text.startswith(file.SEAL):
                monkeypatch.setattr(AppendLog, "append", append)
                store(other)._rotate(log_of(other))
                leave(other, clock)
            append(log, text)

        leave(one, clock)
        monkeypatch.setattr(AppendLog, "append", late)
        store(one)._rotate(log_of(one))
        leave(one, clock)
        assert one.snapshot(clock.now).in_window == other.snapshot(clock.now).in_window == 3
        assert names(path) == ["quota"]
    assert caplog.text == ""


def test_those_who_follow_make_no_next_file(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow one would put it in the place of the one that everybody uses."""
    open_ = AppendLog.open

    def checked(
        file_: Path, magic: bytes, *, create: bool = True, like: AppendLog | None = None
    ) -> AppendLog:
        existed = file_.exists()
        log = open_(file_, magic, create=create, like=like)
        assert existed or file_.name not in path.with_name("kept").read_text()
        return log

    with homes(path, clock, 3) as (one, *others):
        path.with_name("kept").hardlink_to(path)
        store(one)._rotate(log_of(one))
        monkeypatch.setattr(AppendLog, "open", checked)
        for other in others:
            leave(other, clock)


def seal(one: FileHome, path: Path) -> Path:
    """Seal the file as a process does that is killed before it goes on; return the next file."""
    successor = path.with_name("quota.next")
    AppendLog.open(successor, file.MAGIC.encode()).close()
    log_of(one).append(f"{file.SEAL} {successor.name}")
    return successor


def test_a_file_that_was_sealed_by_a_killed_process_is_followed(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        seal(one, path)
        leave(other, clock)
        assert one.snapshot(clock.now).in_window == 2
        assert names(path) == ["quota"]
    assert caplog.text == ""


def test_a_next_file_that_was_removed_is_made_anew(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        seal(one, path).unlink()
        leave(other, clock)
        assert one.snapshot(clock.now).in_window == 2
        assert names(path) == ["quota"]
    with homes(path, clock, 1) as (new,):
        assert new.snapshot(clock.now).in_window == 2


def test_two_that_follow_a_sealed_file_at_once_go_on_in_one_that_has_begun(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename
    with homes(path, clock, 2) as (one, other):

        def late(successor: Path, target: Path) -> Path:
            monkeypatch.setattr(Path, "rename", rename)
            # Who opens it in its place must find the state in it.
            assert successor.stat().st_size
            leave(other, clock)
            return rename(successor, target)

        leave(one, clock)
        seal(one, path)
        monkeypatch.setattr(Path, "rename", late)
        assert one.snapshot(clock.now).in_window == other.snapshot(clock.now).in_window == 2
        assert names(path) == ["quota"]


def test_a_change_that_cannot_be_written_is_an_error(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(log: AppendLog, text: str) -> None:
        raise OSError(28, "No space left on device")

    with homes(path, clock, 1) as (one,):
        slot = take(one, clock)
        with monkeypatch.context() as changed:
            changed.setattr(AppendLog, "append", full)
            with pytest.raises(ConfigurationError, match="No space left"):
                one.reserve(clock.now)
            with pytest.raises(ConfigurationError, match="No space left"):
                one.mark_sent(slot, clock.now)
        assert one.mark_sent(slot, clock.now)
        assert one.snapshot(clock.now).in_window == 1


@pytest.mark.parametrize("there", ["", "at first", "still"])
def test_a_sealed_file_that_another_one_has_replaced_is_left(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    open_ = AppendLog.open

    def removed_then(
        file_: Path, magic: bytes, *, create: bool = True, like: AppendLog | None = None
    ) -> AppendLog:
        log = open_(file_, magic, create=create, like=like)
        if file_.name == "quota.next" and not create:
            file_.unlink()
        return log

    if there == "at first":
        monkeypatch.setattr(AppendLog, "open", removed_then)
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        successor = seal(one, path)
        path.unlink()
        if not there:
            successor.unlink()
        with homes(path, clock, 1) as (new,):
            leave(new, clock)
            assert one.snapshot(clock.now).in_window == 2
            assert new.snapshot(clock.now).in_window == 2
            assert names(path) == ["quota"]


def test_the_format_has_another_number_when_the_file_has_other_fields(
    path: Path, clock: Clock
) -> None:
    """Else a process of another version would fail on the file, or misread it."""
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        kept = path.with_name("kept")
        kept.hardlink_to(path)
        store(one)._rotate(log_of(one))
        lines = [line.rpartition(" ")[0] for line in kept.read_text().splitlines() if line]
        beginning = json.loads(lines[0].removeprefix(file.MAGIC))
        fields = [sorted(one) for one in (beginning, beginning["replica"])]
        state = beginning["replica"]["state"]
        assert file.FORMAT == 3
        assert fields == [["boot", "format", "replica"], ["last", "state"]]
        assert sorted(state) == [
            "flow", "jitter", "now", "penalty", "processes", "rule", "share", "terms",
            "turn",
        ]  # fmt: skip
        assert [len(json.loads(line)) for line in lines[1:-1]] == [10] * 3
        assert lines[-1].startswith("sealed quota.")


def test_a_process_that_loses_the_last_slot_to_the_new_file_waits(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = AppendLog.append
    entered: list[str] = []
    with homes(path, clock, 2) as (one, other):

        def late(log: AppendLog, text: str) -> None:
            """Append; before the first entry of `one`, the other one is quicker."""
            if log is store(one)._log:
                entered.append(text)
                assert len(entered) < 10, "it does not see that the slot is gone"
                if len(entered) == 1:
                    store(other)._rotate(log_of(other))
                    leave(other, clock)
            append(log, text)

        leave(one, clock)
        leave(one, clock)
        monkeypatch.setattr(AppendLog, "append", late)
        assert one.reserve(clock.now) == pytest.approx(alone(1000, 1000, 1000))


# --- processes that are killed, stopped, or late ---------------------------------------------


def test_the_slots_of_a_process_that_stays_silent_lapse(path: Path, clock: Clock) -> None:
    """And what it sends when it wakes needs room of its own."""
    with homes(path, clock, 2) as (stopped, other):
        slots = [take(stopped, clock) for _ in range(3)]
        clock.now += LEASE
        again = alone(clock.now, clock.now, clock.now)
        assert other.reserve(clock.now) == pytest.approx(again)
        assert not stopped.mark_sent(slots[0], clock.now)
        clock.now = again
        leave(other, clock)
        assert not stopped.mark_sent(slots[1], clock.now)
        clock.now += 20
        assert stopped.mark_sent(slots[2], clock.now)
        assert other.snapshot(clock.now).in_window == 1


@pytest.mark.parametrize("late", [0.2, 30.0])
def test_a_process_stopped_between_its_entry_and_its_departure_notices(
    path: Path, clock: Clock, late: float
) -> None:
    with homes(path, clock, 2) as (stopped, other):
        slot = take(stopped, clock)
        entered = clock.now
        clock.now += late
        now = clock.now
        assert stopped.mark_sent(slot, entered)
        assert slot.left == now
        # It counts at the time at which it leaves, and at the one that was entered.
        leave(other, clock)
        if late > 10:
            leave(other, clock)
            assert other.reserve(now) == pytest.approx(alone(1000, now, now, now))
        else:
            assert other.reserve(now) == pytest.approx(alone(1000, now, now))


def test_a_process_that_is_hardly_late_counts_once(path: Path, clock: Clock) -> None:
    with homes(path, clock, 1) as (one,):
        slot = take(one, clock)
        clock.now += 0.05
        assert one.mark_sent(slot, clock.now - 0.05)
        assert one.snapshot(clock.now).in_window == 1


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("kind", "certain"),
    [
        ("dead", True),
        ("dead, on a system without /proc", True),
        ("alive", False),
        ("of another user", False),
        ("in another container", False),
    ],
)
def test_slots_are_taken_from_a_process_that_is_certain_to_be_dead(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: str, certain: bool
) -> None:
    pid = os.getpid() if kind == "alive" else dead_pid()
    name = f"{pid}.{local._namespace() + (kind == 'in another container')}.abcd"
    if kind == "of another user":
        monkeypatch.setattr(os, "kill", forbidden)
    if kind == "dead, on a system without /proc":
        monkeypatch.setattr(local, "_namespace", local._namespace.__wrapped__)
        monkeypatch.setattr(local, "Path", lambda text: Path("/missing") / text.strip("/"))
        name = f"{pid}.{local._namespace()}.abcd"
    with homes(path, clock, 1) as (one,):
        log = log_of(one)
        strict = Entry(name, 1, "join", clock.now, terms=(2, 10.0, 60.0, 0.3, False))
        for entry in strict, *(Entry(name, number, "reserve", clock.now) for number in (2, 3)):
            log.append(json.dumps(entry))
        due = one.reserve(clock.now)
        figures = one.snapshot(clock.now)
        # Its slots count as departures, and its terms hold no longer.
        assert (figures.open, figures.in_window) == ((1, 3) if certain else (2, 2))
        assert figures.requests == (3 if certain else 2)
        assert isinstance(due, Slot) is certain


def forbidden(pid: int, number: int) -> None:
    raise PermissionError


def test_a_forked_process_has_none_of_the_slots_of_the_one_it_came_from(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with homes(path, clock, 2) as (one, other):
        slot = take(one, clock)
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            leave(one, clock)
            assert one.mark_sent(slot, clock.now)
        figures = other.snapshot(clock.now)
        assert (figures.open, figures.in_window) == (1, 3)


class Worker:
    """A process that takes all it can."""

    def __init__(self, path: Path, seconds: float, *, rotate_at: int = 20_000) -> None:
        arguments = [str(path), "40", "0.5", str(seconds), str(rotate_at)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.quota.hammer", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "open\n"

    def departures(self) -> list[float]:
        # Not `communicate`: it passes over what `readline` has read beyond its line.
        with self.process as process:
            assert process.stdout is not None
            output = process.stdout.read()
        return [float(line) for line in output.split("\n")[:-1]]

    def departures_until(self, moment: float) -> list[float]:
        """Return all departures, once there are enough and one is after `moment`; it ends then."""
        assert self.process.stdout is not None
        found: list[float] = []
        while len(found) < ENOUGH or found[-1] <= moment:
            found.append(float(self.process.stdout.readline()))
        self.process.kill()
        return found + self.departures()


def check(departures: list[list[float]]) -> None:
    """40 in half a second, however it is counted."""
    times = np.sort(np.array([time for one in departures for time in one]))
    assert len(times) >= ENOUGH
    assert counting.log(times, 0.5) <= 40
    assert counting.bucket(times, 40, 0.5) <= 40 + 1e-7
    for phase in np.linspace(0, 0.5, 11):
        assert counting.fixed(times, 0.5, phase) <= 40
        assert counting.counter(times, 0.5, phase) <= 40


def test_processes_that_take_all_they_can_do_not_breach(path: Path) -> None:
    workers = [Worker(path, 1.8) for _ in range(3)]
    for worker in workers:
        worker.ready()
    departures = [worker.departures() for worker in workers]
    check(departures)
    times = sorted(time for one in departures for time in one)
    # 40 leave at once, then 40 in 0.55 s; on a busy machine not all of them in time.
    assert len(times) >= 0.5 * (40 + (times[-1] - times[0] - 0.55) * 40 / 0.55)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_killed_or_stopped_at_any_moment_block_nobody(
    path: Path, blow: signal.Signals
) -> None:
    """Each of six is hit somewhere in reading or writing the file; one runs undisturbed."""
    steady = Worker(path, 60.0)
    steady.ready()
    rng = np.random.default_rng(7)
    departures = []
    hit = 0.0
    for _ in range(2):
        victims = [Worker(path, 60.0 if blow == signal.SIGKILL else 0.6) for _ in range(3)]
        for victim in victims:
            victim.ready()
        time.sleep(float(rng.uniform(0.05, 0.1)))
        for victim in victims:
            victim.process.send_signal(blow)
        hit = time.monotonic()
        if blow == signal.SIGSTOP:
            time.sleep(0.4)
            for victim in victims:
                victim.process.send_signal(signal.SIGCONT)
        departures += [victim.departures() for victim in victims]
    own = steady.departures_until(hit)
    check([own, *departures])


def test_a_worker_killed_with_all_slots_open_blocks_for_a_window(path: Path) -> None:
    quota = Quota(requests=2, window=0.4, jitter=0.02, adaptive=False)
    code = (
        "import sys, time; from pathlib import Path; from stable_async import Quota\n"
        "from stable_async.quota.homes.file import FileHome\n"
        f"home = FileHome(Path(sys.argv[1]), {quota!r}); home.open_now()\n"
        "home.reserve(time.monotonic()); home.reserve(time.monotonic())\n"
        "print('holding', flush=True); time.sleep(60)"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    with victim, victim.stdout:
        assert victim.stdout.readline() == "holding\n"
        victim.kill()

    async def acquire() -> None:
        one = FileHome(path, quota)
        limiter = QuotaLimiter(quota, home=one)
        (await limiter.acquire()).mark_sent()
        one.close_now()

    asyncio.run(acquire())  # slots that nobody takes back would block until the time-out


def test_the_terms_of_a_process_hold_again_when_it_wakes_after_it_was_forgotten(
    path: Path, clock: Clock
) -> None:
    strict = FileHome(path, Quota(2, 10.0, jitter=0.3, adaptive=False), clock=clock, shared=False)
    with homes(path, clock, 1) as (one,):
        strict.open_now()
        clock.now += 601.0
        leave(one, clock)
        with homes(path, clock, 1):  # by which the others are seen to have gone
            assert one.snapshot(clock.now).requests == 3
            take(strict, clock)
            assert one.snapshot(clock.now).requests == 2
        strict.close_now()


def test_what_is_foretold_counts_from_now_and_not_from_the_last_entry(
    path: Path, clock: Clock
) -> None:
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        clock.now += 200.0
        assert one.earliest(clock.now) <= clock.now
        assert one.earliest(clock.now, ahead=3) >= clock.now + 10.3


class Listening:
    """A loop that notes when it is woken."""

    def __init__(self) -> None:
        self.woken = 0

    def waiting(self, priority: Priority) -> int:
        return 1

    def gone(self) -> bool:
        return False

    def wake(self) -> None:
        self.woken += 1


@pytest.mark.parametrize("change", ["mark_sent", "release", "penalise", "close"])
def test_each_change_wakes_the_other_loops_of_the_process(path: Path, change: str) -> None:
    one, other = FileHome(path, QUOTA), FileHome(path, QUOTA)
    loops = Listening(), Listening()
    for home, loop in zip((one, other), loops, strict=True):
        home.open_now(loop)
    now = time.monotonic()
    slot = one.reserve(now)
    assert isinstance(slot, Slot)
    if change == "penalise":
        one.penalise(now, 1.0, slot)
    elif change == "close":
        one.close_now()
    else:
        getattr(one, change)(slot, now)
    assert [loop.woken for loop in loops] == [0, 1]
    one.close_now()
    other.close_now()


def test_a_home_that_was_closed_is_woken_no_more(path: Path) -> None:
    one, other = (ProcessHome(QUOTA, name=str(path)) for _ in range(2))
    loops = Listening(), Listening()
    for home, loop in zip((one, other), loops, strict=True):
        home.open_now(loop)
    other.close_now()
    slot = one.reserve(0.0)
    assert isinstance(slot, Slot)
    one.release(slot, 0.0)
    one.close_now()
    assert [loop.woken for loop in loops] == [1, 0]


class Held:
    """A lock of one thread, which knows whether it is held."""

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


def test_the_store_is_used_only_while_its_lock_is_held(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several event loops of a process share it, each in a thread of its own."""
    one = FileHome(path, Quota(), clock=clock, shared=False)
    lock = Held()
    monkeypatch.setattr(store(one), "lock", lock)

    def checked(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            assert lock.depth
            return method(*arguments)

        return call

    for name in ("acquire", "drop", "catch_up", "view", "enter"):
        monkeypatch.setattr(store(one), name, checked(getattr(store(one), name)))
    one.open_now()
    slots = [take(one, clock) for _ in range(2)]
    one.mark_sent(slots[0], clock.now)
    one.release(slots[1], clock.now)
    one.observe(clock.now, 0.1)
    one.penalise(clock.now, None, slots[0])
    one.earliest(clock.now)
    one.snapshot(clock.now)
    one.close_now()
    assert not lock.depth


# --- the file --------------------------------------------------------------------------------


def test_only_its_owner_can_read_the_file(path: Path, clock: Clock) -> None:
    with homes(path, clock, 1):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_group_that_may_use_the_file_may_use_those_after_it(path: Path, clock: Clock) -> None:
    """Several users of a machine share a file that was made for their group."""
    path.touch()
    path.chmod(0o660)
    with suppress(PermissionError):  # for root only
        os.chown(path, -1, 12345)
    before = path.stat()
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        for rotates in True, False:
            inode = path.stat().st_ino
            if rotates:
                store(one)._rotate(log_of(one))
            else:
                os.truncate(path, 0)
            leave(one, clock)
            after = path.stat()
            assert after.st_ino != inode
            assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)


@pytest.mark.parametrize("content", [b"notes\nof mine\n", b"\x89PNG\r\n", b"{}", b"\n\nnotes"])
def test_a_file_that_is_something_else_is_left_alone(
    path: Path, clock: Clock, content: bytes
) -> None:
    path.write_bytes(content)
    with (
        pytest.raises(ConfigurationError, match="not a shared quota's file"),
        homes(path, clock, 1),
    ):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"\nstable_async sha", b"\n"])
def test_a_file_that_was_never_begun_is_begun(path: Path, clock: Clock, content: bytes) -> None:
    path.write_bytes(content)
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        assert other.snapshot(clock.now).in_window == 1


def test_a_beginning_that_was_written_twice_counts_once(path: Path, clock: Clock) -> None:
    """Of two processes that open a new file at once, each writes one."""
    with homes(path, clock, 2) as (one, other):
        log_of(one).append(store(one)._beginning(store(one)._replica))
        leave(one, clock)
        assert other.snapshot(clock.now).in_window == 1


def test_a_line_cut_short_is_passed_over(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        with path.open("ab") as raw:
            raw.write(b'\n["1.2.3", 7, "reser')
        leave(one, clock)
        assert other.snapshot(clock.now).in_window == 2


def test_the_stricter_terms_hold_while_those_who_have_them_are_there(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    strict = FileHome(path, Quota(2, 12.0, adaptive=False), clock=clock, shared=False)
    with homes(path, clock, 1) as (loose,), caplog.at_level(logging.WARNING, "stable_async"):
        leave(loose, clock)
        assert caplog.messages == []
        strict.open_now()
        leave(strict, clock)
        for one in loose, strict:
            assert isinstance(one.reserve(clock.now), float)
            assert one.snapshot(clock.now).requests == 2
        due = loose.reserve(clock.now)
        assert due == pytest.approx(1000 + 12.3 + 12 / 2)
        clock.now = 1018.31
        leave(loose, clock)
        assert len(caplog.messages) == 1
        assert "the stricter terms hold" in caplog.text
        strict.close_now()
        clock.now += 30.0
        for _ in range(3):
            leave(loose, clock)


def test_another_version_is_refused(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with homes(path, clock, 1):
        pass
    monkeypatch.setattr(file, "FORMAT", 99)
    with pytest.raises(ConfigurationError, match="another version"), homes(path, clock, 1):
        pass


@pytest.mark.parametrize("now", [5.0, 1003.0])
def test_after_a_reboot_the_state_begins_anew(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, now: float
) -> None:
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
    os.utime(path, (1.0, 1.0))
    monkeypatch.setattr(file, "boot_id", lambda: "another")
    clock.now = now
    with homes(path, clock, 2) as (one, other):
        assert one.snapshot(clock.now).in_window == 0
        leave(other, clock)
        assert one.snapshot(clock.now).in_window == 1
        with homes(path, clock, 1) as (third,):
            assert third.snapshot(clock.now).in_window == 1
        assert names(path) == ["quota"]


def test_what_left_just_before_a_reboot_counts_in_full(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much it was cannot be known, or whether another machine is sending now."""
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
    monkeypatch.setattr(file, "boot_id", lambda: "another")
    clock.now = 5.0
    with homes(path, clock, 2) as (one, other):
        for home in one, other:
            assert wait(home, clock) == alone(5.0, 5.0, 5.0)
        clock.now = alone(5.0, 5.0, 5.0)
        leave(other, clock)


def test_a_reboot_while_the_file_was_replaced_is_no_other_machine(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        following = seal(one, path)
        log = AppendLog.open(following, file.MAGIC.encode())
        log.append(store(one)._beginning(store(one)._replica))
        log.close()
        files = {each: each.read_bytes() for each in path.parent.iterdir()}
    for each, content in files.items():
        each.write_bytes(content)
        os.utime(each, (1.0, 1.0))
    monkeypatch.setattr(file, "boot_id", lambda: "another")
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        assert one.snapshot(clock.now).in_window == 1
        assert names(path) == ["quota"]


def test_a_file_that_another_machine_uses_as_well_is_an_error(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one in a home folder on a network: the machines would reset each other's count."""
    with homes(path, clock, 1) as (ours,):
        leave(ours, clock)
        fallback = FileHome(path, QUOTA, clock=clock, shared=False, fallback=True)
        fallback.open_now()
        with monkeypatch.context() as there:
            there.setattr(file, "boot_id", lambda: "another")
            with homes(path, clock, 1) as (theirs,):
                wait(theirs, clock)  # until ours have noticed
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="by another machine") as error:
                ours.reserve(clock.now)
        assert "SharedQuota.redis" in str(error.value)
        leave(fallback, clock)
        assert fallback.snapshot(clock.now).in_window == 2
        assert "by another machine" in caplog.text


def test_a_system_that_does_not_tell_its_boots_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(file.boot_id.__wrapped__()) > 36
    monkeypatch.setattr(file, "Path", lambda text: Path("/missing") / text.strip("/"))
    assert file.boot_id.__wrapped__() == ""


def test_a_container_with_a_clock_of_its_own_is_like_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time namespace shifts the times of all its entries."""
    boot, namespace = (
        tmp_path / name for name in ("proc/sys/kernel/random/boot_id", "proc/self/ns/time")
    )
    for each in boot, namespace:
        each.parent.mkdir(parents=True)
    boot.write_text("0f00ba41\n")
    monkeypatch.setattr(file, "Path", lambda text: tmp_path / text.strip("/"))
    ids = [file.boot_id.__wrapped__()]  # of a kernel without such namespaces
    for _ in range(2):
        following = namespace.with_name("following")
        following.touch()
        following.replace(namespace)
        ids += [file.boot_id.__wrapped__(), file.boot_id.__wrapped__()]
    assert ids[1] == ids[2]
    assert len(set(ids)) == 3
    assert all("0f00ba41" in one for one in ids)


def test_a_clock_that_was_set_back_means_a_reboot(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        store(one)._rotate(log_of(one))
    os.utime(path, (1.0, 1.0))
    clock.now = 5.0
    with homes(path, clock, 1) as (one,):
        assert one.snapshot(clock.now).in_window == 0


def test_a_removed_file_is_put_back(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        take(one, clock)
        path.unlink()
        with caplog.at_level(logging.WARNING, "stable_async"):
            leave(other, clock)
        for home in one, other:
            assert (home.snapshot(clock.now).open, home.snapshot(clock.now).in_window) == (1, 3)
        assert "was removed" in caplog.text


@pytest.mark.parametrize(("ago", "counted"), [(1.0, 1), (29.0, 1), (31.0, 0)])
def test_what_a_lost_file_knew_counts_if_it_left_within_three_windows(
    path: Path, clock: Clock, ago: float, counted: int
) -> None:
    with homes(path, clock, 1) as (one,):
        leave(one, clock)
        store(one)._replica = Replica(QUOTA)  # as if it had not been read
        clock.now += ago
        os.truncate(path, 0)
        assert one.snapshot(clock.now).in_window == counted


@pytest.mark.parametrize("line", ["not json", "[1, 2]", '{"a": 1}', f"{file.MAGIC} []"])
def test_a_damaged_file_is_said_so(path: Path, clock: Clock, line: str) -> None:
    log = AppendLog.open(path, file.MAGIC.encode())
    if not line.startswith(file.MAGIC):
        log.append(store(FileHome(path, QUOTA, clock=clock))._beginning(Replica(QUOTA)))
    log.append(line)
    log.close()
    with pytest.raises(ConfigurationError, match="is damaged"), homes(path, clock, 1):
        pass


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_file_cut_in_place_counts_as_removed(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, part: float
) -> None:
    with homes(path, clock, 3) as (one, other, third):
        leave(one, clock)
        leave(other, clock)
        third.snapshot(clock.now)
        leave(other, clock)  # which nobody has read when it is lost
        os.truncate(path, int(path.stat().st_size * part))
        with caplog.at_level(logging.WARNING, "stable_async"):
            third.snapshot(clock.now)
            other.snapshot(clock.now)
        assert third.snapshot(clock.now).in_window == 3
        assert one.snapshot(clock.now).in_window == 3
        assert isinstance(one.reserve(clock.now), float)
        assert caplog.text.count("was removed or truncated") == 1
        assert [entry.name for entry in path.parent.iterdir()] == ["quota"]


def test_a_file_cut_and_grown_again_counts_as_removed(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        other.snapshot(clock.now)
        size = path.stat().st_size
        os.truncate(path, 0)
        with path.open("ab") as raw:
            raw.write(b"x" * (size + 100))
        leave(other, clock)
        assert one.snapshot(clock.now).in_window == other.snapshot(clock.now).in_window == 2


def test_entries_that_no_clock_of_this_machine_can_have_made_are_ignored(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with homes(path, clock, 2) as (one, other):
        leave(one, clock)
        ahead = Entry("1.2.3", 1, "reserve", clock.now + 500_000)
        hardly = Entry("1.2.3", 1, "reserve", clock.now + 1.5)
        penalty = Entry("1.2.3", 2, "penalise", clock.now, value=1e12)
        for entry in ahead, hardly, penalty:
            log_of(one).append(json.dumps(entry))
        with caplog.at_level(logging.WARNING, "stable_async"):
            assert other.snapshot(clock.now).in_window == 1
        assert caplog.text.count("ahead of this machine's clock") == 1
        assert "penalty of 1e+12 s" in caplog.text
        assert other.snapshot(clock.now).penalty_left == LONGEST_PENALTY


def test_a_loop_whose_clock_is_ahead_of_the_machine_s_cannot_use_a_file(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """As with libraries for tests that set `time.monotonic` to a date."""
    message = r"5e\+05 s ahead of this machine's clock"
    with homes(path, clock, 1) as (one,), pytest.raises(ConfigurationError, match=message):
        one.reserve(clock.now + 500_000)
    alone = FileHome(path, QUOTA, clock=clock, shared=False, fallback=True)
    alone.open_now()
    assert isinstance(alone.reserve(clock.now + 500_000), Slot)
    assert "counts its own requests only" in caplog.text
    alone.close_now()
    with homes(path, clock, 1) as (one,):
        leave(one, clock)


def test_an_entry_that_is_there_twice_counts_once(path: Path, clock: Clock) -> None:
    with homes(path, clock, 1) as (one,):
        entry = json.dumps(Entry("1.2.3", 1, "departed", clock.now, value=1))
        for _ in range(2):
            log_of(one).append(entry)
        assert one.snapshot(clock.now).in_window == 1


def test_a_closed_home_is_not_opened_by_those_who_come_late(path: Path, clock: Clock) -> None:
    with homes(path, clock, 2) as (one, other):
        slot = take(one, clock)
        one.close_now()
        one.release(slot, clock.now)
        assert one.mark_sent(slot, clock.now) is False
        with pytest.raises(ConfigurationError, match="was closed"):
            one.reserve(clock.now)
        with pytest.raises(ConfigurationError, match="was closed"):
            one.penalise(clock.now, None, slot)
        # What is not known counts as sent.
        for home in one, other:
            assert (home.snapshot(clock.now).open, home.snapshot(clock.now).in_window) == (0, 1)


def test_a_folder_that_is_missing_is_said_so(path: Path, clock: Clock) -> None:
    one = FileHome(path / "missing" / "quota", QUOTA, clock=clock, shared=False)
    with pytest.raises(ConfigurationError, match="No such file or directory") as refused:
        one.open_now()
    assert isinstance(refused.value.__cause__, FileNotFoundError)
    # It can be opened once the folder is there.
    assert store(one).homes == []
    (path / "missing").mkdir(parents=True)
    one.open_now()
    leave(one, clock)
    one.close_now()


def test_a_lock_that_is_held_during_a_fork_blocks_nobody_in_the_new_process(path: Path) -> None:
    with file._stores_lock:
        child = os.fork()
        if not child:
            signal.alarm(5)
            FileHome(path, QUOTA)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_new_process_has_none_of_the_stores_in_memory(path: Path) -> None:
    ProcessHome(QUOTA, name=str(path))
    child = os.fork()
    if not child:
        os._exit(len(local._stores))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("module", [file, local])
def test_stores_are_looked_up_only_while_their_lock_is_held(
    path: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Locked(dict[object, object]):
        def __getattribute__(self, name: str) -> object:
            assert module._stores_lock.locked()
            return super().__getattribute__(name)

    monkeypatch.setattr(module, "_stores", Locked())
    if module is file:
        FileHome(path, QUOTA)
    else:
        ProcessHome(QUOTA, name=str(path))


def test_the_file_is_closed_with_the_last_home(path: Path) -> None:
    one, other = FileHome(path, QUOTA), FileHome(path, QUOTA)
    for home in one, other:
        home.open_now()
    one.close_now()
    assert store(one)._log is not None
    other.close_now()
    assert store(one)._log is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_those_who_wait_are_told_when_the_file_cannot_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def acquire() -> None:
        one = FileHome(path, QUOTA)
        one.open_now()
        full = os.open("/dev/full", os.O_WRONLY)
        monkeypatch.setattr(store(one)._log, "_descriptor", full)
        try:
            with pytest.raises(ConfigurationError, match="cannot use the shared quota's file"):
                await QuotaLimiter(QUOTA, home=one).acquire()
        finally:
            os.close(full)

    asyncio.run(acquire())


def test_a_shared_quota_is_made_of_a_path_and_a_quota(tmp_path: Path) -> None:
    shared = SharedQuota.file(str(tmp_path / "quota"), QUOTA)
    assert shared.quota is QUOTA
    with pytest.raises(AttributeError):
        shared.path = tmp_path  # type: ignore[misc]
    one = shared.home()
    assert isinstance(one, FileHome)
    assert not shared.path.exists()
    one.open_now()
    one.close_now()
    assert shared.path.exists()


def test_a_file_has_one_path_whatever_link_names_it(path: Path) -> None:
    """A link would be replaced by the next file, and the file that it names would be left."""
    link = path.with_name("link")
    link.symlink_to(path)
    (path.parent / "folder").symlink_to(path.parent)
    for named in link, path.parent / "folder" / path.name:
        assert SharedQuota.file(named) == SharedQuota.file(path)
    with pytest.raises(ConfigurationError, match="without null characters"):
        SharedQuota.file("a\0b")


@pytest.mark.parametrize("upload", [False, True])
async def test_a_client_whose_permit_has_expired_asks_for_another(path: Path, upload: bool) -> None:
    """It was stopped on the way to the wire; nothing leaves that the others do not count on."""
    quota = Quota(requests=1, window=0.1, jitter=0.01, adaptive=False)
    others = FileHome(path, quota, shared=False)
    others.open_now()
    attempts = 0

    class Stopped:
        async def leaving(self) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                time.sleep(0.06)  # longer than the lease, with the event loop standing still
                assert isinstance(others.reserve(time.monotonic()), float)

        def refused(self, error: APIStatusError) -> None:
            raise error

    async with (
        Sandbox(counting="off") as sandbox,
        StabilityClient(
            "sk-test", base_url=sandbox.url, quota=SharedQuota.file(path, quota)
        ) as client,
    ):
        if upload:
            await client.generate.core("x", observer=Stopped())
        else:
            await client.account.balance(observer=Stopped())
        assert len(sandbox.log) == 1
    others.close_now()
    assert attempts == 2


# All processes must come to the same state: one that counts a request less lets one too many leave.


def test_when_a_process_asks_does_not_change_which_slots_it_knows() -> None:
    """Its share was cut, and grows back; what bound it is forgotten while another request waits."""
    quota = Quota(requests=3, window=1.0, jitter=0.3)
    asking, silent = Replica(quota), Replica(quota)
    for entry in (
        Entry("one", 1, "penalise", 0.0, value=30.0),
        Entry("one", 2, "penalise", 16.0, value=30.0),
        Entry("two", 4, "mark_sent", 59.2, slot=3),  # which has expired
        Entry("one", 5, "departed", 60.4, value=3),
        Entry("two", 6, "reserve", 62.9, value=WAITED),
        Entry("two", 7, "reserve", 62.9, value=YIELDED, bulk=True),
    ):
        asking.apply(entry)
        silent.apply(entry)
        asking.state.due("one", entry.time)
        assert asking.outcome(entry.process, entry.number) is silent.outcome(
            entry.process, entry.number
        )
    assert asking.dump() == silent.dump()
