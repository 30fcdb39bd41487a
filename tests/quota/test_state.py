"""What a quota knows, without a clock or an event loop: who may leave when, and after what."""

from __future__ import annotations

import json
import logging
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.quota import Quota, QuotaState
from stable_async.quota.state import terms_of
from tests.quota.reference import worst

QUOTA = Quota(requests=8, window=10.0, penalty=60.0, jitter=0.5, adaptive=False)
# The figures of docs/quota.md, written down once more.
BULK_TURN, CUT, LEAST_SHARE, REGAINED = 8, 0.75, 0.1, 0.01 / 60
COMPANY, FORGET, HEARTBEAT, LEASE, LONGEST_PENALTY, PROBE = 6, 600.0, 1.0, 5.0, 3600.0, 1.0
INTERVAL = (QUOTA.window + QUOTA.jitter) / QUOTA.requests
START = 1000.0

WHAT = [
    *("send", "send", "reserve", "reserve", "mark", "release", "wait", "beat", "expire", "leave"),
    *("depart", "penalise", "asked", "observe", "strict", "lax"),
]
# What processes do, one after the other: (pause in eighths of a second, process, what, bulk).
EVENTS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(1, 8), st.integers(1, 300)),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(WHAT),
        st.booleans(),
    ),
    max_size=40,
)


def fresh(quota: Quota = QUOTA) -> QuotaState:
    state = QuotaState(quota)
    state.join("a", START, quota)
    return state


def send(state: QuotaState, number: int, now: float, process: str = "a") -> bool:
    """Reserve a slot and mark it as sent."""
    return state.reserve(process, number, now) and state.mark_sent(process, number, now)


def use_up(state: QuotaState, now: float = START) -> None:
    for number in range(QUOTA.requests):
        assert send(state, number, now)


class Play:
    """Plays events on a state, and notes what it answers and what has left."""

    def __init__(self, quota: Quota) -> None:
        self.state = fresh(quota)
        self.answers: list[object] = []
        self.sent: list[float] = []
        self.open: dict[tuple[str, int], None] = {}
        self.number = 0

    def play(self, now: float, process: str, what: str, bulk: bool) -> None:
        self.number += 1
        getattr(self, what, self.change)(now, process, what, bulk)

    def own(self, process: str) -> list[int]:
        return [number for name, number in self.open if name == process]

    def reserve(self, now: float, process: str, what: str, bulk: bool) -> None:
        waited = self.number % 2 == 0
        may = self.state.reserve(process, self.number, now, bulk=bulk, waited=waited)
        self.answers.append(may)
        if may:
            self.open[process, self.number] = None
            if what == "send":
                self.mark_sent(process, self.number, now)

    send = reserve

    def mark(self, now: float, process: str, what: str, bulk: bool) -> None:
        for number in self.own(process)[:1]:
            self.mark_sent(process, number, now)

    def release(self, now: float, process: str, what: str, bulk: bool) -> None:
        for number in self.own(process)[-1:]:
            self.state.release(process, number, now)
            del self.open[process, number]

    def expire(self, now: float, process: str, what: str, bulk: bool) -> None:
        (self.state.leave if what == "leave" else self.state.expire)(process, now)
        for number in self.own(process):
            self.sent.append(now)
            del self.open[process, number]

    leave = expire

    def change(self, now: float, process: str, what: str, bulk: bool) -> None:
        state = self.state
        if what == "beat":
            state.heartbeat(process, now, bulk=bulk)
        elif what == "depart":
            state.depart(self.number % 3, now)
        elif what == "penalise":
            state.penalise(now, left=now - 0.1, slot=(process, self.number - 1))
        elif what == "asked":
            state.penalise(now, 3.0)
        elif what == "observe":
            state.observe(now, 0.01 * self.number, set_up=bulk)
        elif what in {"strict", "lax"}:
            less = 2 if what == "strict" else 0
            terms = Quota(self.terms.requests - less, self.terms.window + less, adaptive=not bulk)
            state.join(process, now, terms)

    terms = QUOTA

    def mark_sent(self, process: str, number: int, now: float) -> None:
        assert self.state.mark_sent(process, number, now)
        del self.open[process, number]
        self.sent.append(now)

    def look(self, now: float) -> list[object]:
        """Return all that can be asked as of `now`."""
        self.state.advance(now)
        return self.ask(now)

    def ask(self, now: float) -> list[object]:
        """Return all that can be asked."""
        state = self.state
        return [
            *(state.due(name, now, bulk=bulk) for name in "abc" for bulk in (False, True)),
            *(state.earliest(ahead) for ahead in (0, 1, 5, 30)),
            state.snapshot(),
            *([*state.others_open(name)] for name in "abc"),
            *([*state.stricter(name)] for name in "abc"),
            *(state.seen(name) for name in "abc"),
            *(state.has_joined(name, terms_of(QUOTA)) for name in "abc"),
            (state.terms, state.lease, state.now),
        ]


@given(EVENTS, st.integers(0, 40), st.booleans())
def test_a_state_that_was_stored_goes_on_like_the_one_it_was_taken_from(
    events: list[tuple[int, str, str, bool]], at: int, adaptive: bool
) -> None:
    quota = Quota(8, 10.0, 20.0, 0.5, adaptive)
    original, restored = Play(quota), Play(quota)
    now = START
    for number, (pause, *event) in enumerate(events):
        now += pause / 8
        if number == at:
            restored.state = QuotaState.load(json.loads(json.dumps(restored.state.dump())))
        for play in (original, restored):
            play.play(now, *event)  # type: ignore[arg-type]
        assert restored.answers == original.answers
        assert restored.look(now) == original.look(now)
    again = QuotaState.load(json.loads(json.dumps(restored.state.dump())))
    assert again.dump() == restored.state.dump()


@given(EVENTS, st.booleans())
def test_to_ask_changes_nothing(events: list[tuple[int, str, str, bool]], adaptive: bool) -> None:
    """Else processes of one file would come to other states when they ask at other times."""
    asked, silent = (Play(Quota(8, 10.0, 20.0, 0.5, adaptive)) for _ in range(2))
    now = START
    for pause, *event in events:
        now += pause / 8
        for play in (asked, silent):
            play.play(now, *event)  # type: ignore[arg-type]
        asked.ask(now + 1.0)
        asked.state.dump()
        assert asked.answers == silent.answers
    assert asked.state.dump() == silent.state.dump()


@given(EVENTS)
def test_nobody_leaves_when_the_rule_forbids_it(events: list[tuple[int, str, str, bool]]) -> None:
    play = Play(QUOTA)
    now = START
    for _ in range(QUOTA.requests):
        play.play(now, "a", "send", bulk=False)
    for pause, process, what, bulk in events:
        now += pause / 8
        if what in {"depart", "strict", "lax", "observe"}:
            continue
        sent, still_open = [*play.sent], len(play.open)
        play.play(now, process, what, bulk)
        if what in {"send", "reserve"} and play.answers[-1]:
            most = worst(sent, still_open, now, QUOTA.window, QUOTA.jitter)
            assert most <= QUOTA.requests + 1e-9
        assert play.state.snapshot().open == len(play.open)


def test_all_leave_at_once_and_the_next_when_the_window_and_the_jitter_have_passed() -> None:
    state = fresh()
    use_up(state)
    assert not state.reserve("a", 99, START)
    due = state.due("a", START)
    assert START + 10.5 < due < START + 10.5 + 10 / 8 + 1e-3
    assert not state.reserve("a", 99, due - 1e-3)
    assert state.reserve("a", 99, due)


def test_time_never_goes_back() -> None:
    state = fresh()
    state.advance(START + 5)
    state.advance(START)
    assert state.now == START + 5
    assert state.reserve("a", 1, START)
    assert state.mark_sent("a", 1, START)
    assert state.snapshot().in_window == 1
    state.advance(START + 14)
    assert state.snapshot().in_window == 1
    state.advance(START + 15)
    assert state.snapshot().in_window == 0


# ---- processes


def test_the_strictest_terms_of_all_processes_hold_while_they_are_there() -> None:
    state = fresh()
    state.join("b", START, Quota(requests=5, window=8.0, penalty=90.0, jitter=1.0, adaptive=True))
    assert state.terms == Quota(5, 10.0, 90.0, 1.0, adaptive=False)
    assert [*state.stricter("a")] == ["b"]
    assert [*state.stricter("b")] == ["a"]
    assert [*state.stricter("nobody")] == []
    assert state.snapshot().requests == 5
    assert state.snapshot().jitter == 1.0
    state.leave("b", START)
    assert state.terms == terms_of(QUOTA)
    assert [*state.stricter("a")] == []
    assert (state.seen("b"), state.seen("a")) == (None, START)
    state.join("c", START, QUOTA)
    assert [*state.stricter("a")] == []
    state.join("b", START, Quota(5, 10.0, 60.0, 0.5, adaptive=False))
    assert [*state.stricter("a")] == ["b"]


def test_the_terms_of_a_process_that_is_forgotten_hold_no_longer() -> None:
    state = fresh()
    state.join("b", START, Quota(5, 10.0, 60.0, 0.5, adaptive=False))
    now = START + FORGET + 1
    state.heartbeat("a", now, bulk=True)
    assert state.seen("a") == now
    state.join("c", now, QUOTA)
    assert (state.seen("b"), state.terms) == (None, terms_of(QUOTA))


@pytest.mark.parametrize("how", ["leave", "expire"])
def test_what_a_process_leaves_open_counts_as_left_when_it_goes(how: str) -> None:
    state = fresh()
    for number in range(3):
        assert state.reserve("b", number, START)
    state.heartbeat("b", START, bulk=False)
    getattr(state, how)("b", START + 0.1)
    assert (state.snapshot().open, state.snapshot().in_window) == (0, 3)
    for number in range(QUOTA.requests - 3):
        assert send(state, number, START + 0.1)
    assert state.reserve("a", 99, START + 0.1) is False
    assert state.mark_sent("a", 99, START + 0.1) is False


def test_the_waits_of_a_process_that_expired_hold_back_nobody() -> None:
    state = fresh()
    state.join("b", START, QUOTA)
    state.heartbeat("b", START, bulk=False)
    assert state.due("a", START, bulk=True) > START
    state.expire("b", START)
    assert state.due("a", START, bulk=True) <= START


def test_only_the_terms_of_the_server_count_as_joined() -> None:
    state = fresh()
    same = Quota(8, 10.0, 60.0, 0.5, adaptive=False, burst=3)
    assert state.has_joined("a", terms_of(same))
    assert not state.has_joined("a", terms_of(Quota(9, 10.0, 60.0, 0.5, adaptive=False)))
    assert not state.has_joined("b", terms_of(QUOTA))


def test_the_terms_of_the_last_process_go_on_to_hold() -> None:
    state = fresh()
    state.leave("a", START)
    assert state.terms == terms_of(QUOTA)
    state.leave("a", START)


@pytest.mark.parametrize(("window", "lease"), [(30.0, LEASE), (4.0, 2.0)])
def test_the_lease_is_at_most_half_a_window(window: float, lease: float) -> None:
    assert QuotaState(Quota(8, window)).lease == lease
    state = fresh(Quota(8, 2.0, adaptive=False))
    state.join("a", START, Quota(8, window, adaptive=False))
    assert state.lease == lease


def test_the_slots_of_a_process_that_has_gone_count_as_departures() -> None:
    state = fresh()
    for number in range(3):
        assert state.reserve("b", number, START)
    assert [*state.others_open("a")] == ["b"]
    assert [*state.others_open("b")] == []
    state.expire("b", START + 5)
    assert [*state.others_open("a")] == []
    assert (state.snapshot().open, state.snapshot().in_window) == (0, 3)
    state.expire("b", START + 5)
    state.expire("nobody", START + 5)
    assert state.snapshot().in_window == 3
    # Its request leaves only if there is room for it once more.
    assert state.mark_sent("b", 0, START + 5)
    assert state.snapshot().in_window == 4
    for number in range(4, QUOTA.requests):
        assert send(state, 10 + number, START + 5)
    assert not state.mark_sent("b", 1, START + 5)
    assert state.snapshot().in_window == QUOTA.requests
    state.advance(START + 14.9)
    assert state.snapshot().in_window == QUOTA.requests


def test_a_process_is_forgotten_after_ten_minutes_but_not_while_it_has_slots() -> None:
    state = fresh()
    assert state.reserve("b", 1, START)
    state.join("c", START, QUOTA)
    state.join("d", START + FORGET, QUOTA)
    assert "a" in state.dump()["processes"]  # type: ignore[operator]
    state.advance(START + FORGET + 0.1)
    processes = state.dump()["processes"]
    assert isinstance(processes, dict)
    assert {*processes} == {"b", "d"}


def test_the_terms_of_a_silent_process_hold_until_another_one_joins() -> None:
    """Whether the state was stored meanwhile or not."""
    states = fresh(), fresh()
    for state in states:
        state.join("b", START, Quota(3, 10.0))
        state.join("c", START + 1.0, QUOTA)
        state.heartbeat("c", START + FORGET + 0.5, bulk=False)
    states[0].dump()
    for state in states:
        state.leave("a", START + FORGET + 0.5)
        assert state.terms.requests == 3
        state.join("d", START + FORGET + 0.5, QUOTA)
        assert state.terms.requests == QUOTA.requests


def test_departures_without_a_slot_count() -> None:
    state = fresh()
    idle = QuotaState(QUOTA)
    idle.depart(0, START)
    idle.advance(START + 50)
    assert idle.earliest() <= START + 50
    idle.depart(1, START + 60)
    assert (idle.now, idle.snapshot().in_window) == (START + 60, 1)
    idle.observe(START + 61, 0.1, set_up=False)
    assert idle.now == START + 61
    state.depart(QUOTA.requests + 5, START)
    assert state.snapshot().in_window == QUOTA.requests + 5
    assert state.due("a", START) > START + QUOTA.window


def test_the_last_place_is_free_at_once() -> None:
    state = fresh()
    for number in range(QUOTA.requests - 1):
        assert send(state, number, START)
    assert state.earliest() <= START < state.earliest(1)


def test_a_slot_is_released_once() -> None:
    state = fresh()
    assert state.reserve("a", 1, START)
    for process, number in (("a", 1), ("a", 1), ("b", 7)):
        state.release(process, number, START)
        assert state.snapshot().open == 0
    assert (state.snapshot().open, state.snapshot().in_window) == (0, 0)
    use_up(state)


# ---- priorities between processes


def test_bulk_requests_let_interactive_ones_of_other_processes_go_first() -> None:
    state = fresh()
    state.join("b", START, QUOTA)
    state.join("c", START, QUOTA)
    state.heartbeat("b", START, bulk=False)
    assert state.due("a", START, bulk=True) == pytest.approx(START + INTERVAL)
    assert state.due("a", START) <= START
    assert state.due("b", START, bulk=True) <= START  # its own do not count
    late = START + HEARTBEAT
    assert state.due("a", late - 0.01, bulk=True) == pytest.approx(late - 0.01 + INTERVAL)
    assert state.due("a", late, bulk=True) <= late


def test_every_eighth_goes_to_bulk_requests_that_wait_elsewhere() -> None:
    state = fresh(Quota(100, 10.0, adaptive=False))
    state.join("b", START, Quota(100, 10.0, adaptive=False))
    state.heartbeat("b", START, bulk=True)
    for number in range(BULK_TURN - 1):
        assert state.due("a", START) <= START
        assert state.reserve("a", number, START)
    assert state.due("a", START) > START
    assert not state.reserve("a", 50, START)
    state.heartbeat("a", START, bulk=False)
    assert state.due("b", START, bulk=True) <= START
    assert state.reserve("b", 1, START, bulk=True)
    assert state.due("b", START, bulk=True) > START  # it waits no more, and the turn is over
    state.heartbeat("b", START, bulk=True)
    for number in range(BULK_TURN - 1):
        assert state.reserve("a", 51 + number, START)
    assert not state.reserve("a", 99, START)


def test_an_interactive_request_that_left_waits_no_more() -> None:
    state = fresh()
    state.join("b", START, QUOTA)
    state.heartbeat("b", START, bulk=False)
    assert state.reserve("b", 1, START)
    assert state.reserve("a", 1, START, bulk=True)


def test_bulk_requests_keep_to_the_even_flow_while_interactive_ones_are_about() -> None:
    state = fresh()
    assert state.reserve("a", 0, START)
    assert state.reserve("a", 1, START, bulk=True)
    now = START + 0.01
    assert not state.reserve("a", 2, now, bulk=True)
    due = state.due("a", now, bulk=True)
    assert now < due <= START + 2 * INTERVAL
    assert state.due("a", now) <= now  # interactive ones have the whole burst
    assert state.reserve("a", 2, due, bulk=True)
    assert state.due("a", due, bulk=True) == pytest.approx(due + INTERVAL, abs=0.5)
    # Company ends six windows after the last interactive request.
    alone = START + COMPANY * QUOTA.window
    state.advance(alone)
    for number in range(3, 8):
        assert state.reserve("a", number, alone, bulk=True)


@pytest.mark.parametrize("bulk", [False, True])
def test_an_interactive_request_that_waits_elsewhere_is_company_as_well(bulk: bool) -> None:
    state = fresh()
    state.join("b", START, QUOTA)
    state.heartbeat("b", START, bulk=bulk)
    now = START + HEARTBEAT + 0.5
    left = sum(state.reserve("a", number, now, bulk=True) for number in range(8))
    assert left == (8 if bulk else 1)


# ---- those who wait


def test_those_who_waited_leave_evenly_and_a_late_turn_is_made_up() -> None:
    state = fresh()
    use_up(state)
    due = state.due("a", START)
    assert state.reserve("a", 10, due, waited=True)
    assert state.due("a", due) == pytest.approx(due + INTERVAL, abs=1e-3)
    assert state.earliest(3) >= due + 4 * INTERVAL - 1e-3
    late = due + 3.5 * INTERVAL
    left = 0
    while state.reserve("a", 20 + left, late, waited=left == 0):
        left += 1
    assert left == 3
    assert state.due("a", late) == pytest.approx(due + 4 * INTERVAL, abs=1e-3)


def test_no_more_than_a_window_is_made_up() -> None:
    state = fresh()
    use_up(state)
    late = START + 500.0
    left = 0
    while state.reserve("a", 20 + left, late, waited=left == 0):
        left += 1
    assert left == QUOTA.requests
    assert state.due("a", late) > late + INTERVAL


def test_who_waited_for_others_only_is_not_put_off() -> None:
    state = fresh()
    assert state.reserve("a", 0, START, yielded=True)
    assert state.due("a", START) <= START
    states = fresh(), fresh()
    for state, yielded in zip(states, (True, False), strict=True):
        use_up(state)
        now = state.due("a", START)
        assert state.reserve("a", 10, now, yielded=yielded)
    assert states[0].due("a", now) == states[1].due("a", now)


def test_who_need_not_wait_is_not_put_off_by_those_who_waited_before() -> None:
    state = fresh()
    use_up(state)
    now = state.due("a", START)
    assert state.reserve("a", 10, now, waited=True)
    for number in range(3):
        assert state.reserve("a", 11 + number, now + QUOTA.window)


# ---- penalties


def penalised(state: QuotaState, now: float = START, **how: float) -> None:
    state.penalise(now, **how)  # type: ignore[arg-type]


def test_nobody_leaves_in_a_penalty_and_one_goes_ahead_alone() -> None:
    state = fresh()
    state.penalise(START)
    assert state.snapshot().penalty_left == 60.0
    assert state.snapshot().refusals == 1
    assert state.due("a", START) == START + 60
    assert state.earliest(1) == START + 60 + PROBE
    assert state.earliest(3) == pytest.approx(
        START + 60 + PROBE + 2 * (10.5 / state.snapshot().requests)
    )
    assert not state.reserve("a", 1, START + 59.9)
    end = START + 60
    assert state.reserve("a", 1, end, waited=True)
    assert not state.reserve("a", 2, end)
    assert not state.reserve("a", 2, end + PROBE - 0.01)
    assert state.reserve("a", 2, end + PROBE)
    assert state.snapshot().penalty_left == 0.0


@pytest.mark.parametrize(
    ("asked", "length"),
    [(5.0, 5.0), (0.0, 1.0), (-3.0, 1.0), (1e12, LONGEST_PENALTY), (float("nan"), 1.0)],
)
def test_the_server_s_waiting_time_is_kept_within_bounds(
    asked: float, length: float, caplog: pytest.LogCaptureFixture
) -> None:
    state = fresh()
    state.penalise(START, asked)
    assert state.snapshot().penalty_left == length
    assert ("trying again after" in caplog.text) is (asked > LONGEST_PENALTY)


def test_a_shorter_penalty_does_not_end_a_longer_one() -> None:
    state = fresh()
    state.penalise(START, 50.0)
    state.penalise(START + 1, 5.0)
    assert state.snapshot().penalty_left == 49.0
    state.penalise(START + 2, 100.0)
    assert state.snapshot().penalty_left == 100.0


def test_refusals_of_what_left_before_the_penalty_ended_are_explained_by_it() -> None:
    state = fresh()
    state.penalise(START)
    state.penalise(START + 0.5, left=START - 1)
    state.penalise(START + 1, 20.0, left=START - 1)
    assert state.snapshot().refusals == 3
    assert state.snapshot().penalty_left == 59.0
    assert state.snapshot().share == CUT
    # One that left later is a new breach.
    state.advance(START + 60)
    assert state.reserve("a", 1, START + 60)
    state.penalise(START + 61, left=START + 60, slot=("b", 1))
    assert state.snapshot().penalty_left == 60.0
    assert state.snapshot().share == pytest.approx(CUT * CUT, abs=0.01)


def test_a_refused_probe_begins_another_penalty_without_another_cut() -> None:
    state = fresh()
    state.penalise(START)
    end = START + 60
    assert state.reserve("a", 7, end)
    state.penalise(end + 0.2, left=end, slot=("a", 7))
    assert state.snapshot().share == pytest.approx(CUT + 0.2 * REGAINED)
    assert state.due("a", end + 1) == end + 60.2
    assert state.reserve("a", 8, end + 60.2)
    assert not state.reserve("a", 9, end + 60.2)


def test_a_share_grows_back_a_hundredth_a_minute_and_never_below_the_least(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quota = Quota(100, 10.0, 60.0, 0.5, adaptive=False)
    state = fresh(quota)
    state.penalise(START)
    assert caplog.text.count("another program may use the key") == 1
    assert state.snapshot().share == CUT
    assert state.snapshot().requests == 75
    assert state.earliest(1) == START + 60 + PROBE
    state.advance(START + 60 + 90)
    assert state.snapshot().share == pytest.approx(CUT + 0.015)
    assert state.snapshot().requests == 76
    state.advance(START + 60 + 24 * 60)
    assert "using all of the quota again" not in caplog.text
    state.advance(START + 60 + 25 * 60 + 1)
    assert (state.snapshot().share, state.snapshot().requests) == (1.0, 100)
    now = START + 60 + 25 * 60 + 2
    assert state.advance(now) is state
    assert caplog.text.count("using all of the quota again") == 1
    for _ in range(30):
        state.penalise(now)
        now += 60
    assert caplog.text.count("another program may use the key") == 2
    assert state.snapshot().share == pytest.approx(LEAST_SHARE, abs=0.02)
    assert state.snapshot().requests >= 10
    tiny = fresh(Quota(1, 10.0, adaptive=False))
    tiny.penalise(START)
    assert tiny.snapshot().requests == 1


def test_a_share_that_has_grown_back_is_used_at_once() -> None:
    state = fresh()
    state.penalise(START)
    assert send(state, 0, START + 60)
    # The probe went alone; of the others as many leave as the share allows.
    assert [send(state, 1 + number, START + 62) for number in range(8)] == [True] * 5 + [False] * 3
    now = START + 60 + 25 * 60 + 1
    assert [send(state, 9 + number, now) for number in range(8)] == [True] * 8


def test_a_smaller_share_makes_the_flow_slower() -> None:
    state = fresh()
    state.penalise(START)
    now = START + 60 + PROBE
    assert state.snapshot().requests == 6
    assert state.reserve("a", 1, START + 60)
    state.advance(now)
    assert state.reserve("a", 2, now, waited=True)
    assert state.due("a", now) == pytest.approx(now + 10.5 / 6, abs=0.02)


# ---- jitter


def test_only_adaptive_terms_take_what_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    fixed, adaptive = fresh(), fresh(Quota(8, 10.0, 60.0, 0.5, adaptive=True))
    for state in (fixed, adaptive):
        for number in range(600):
            state.observe(START + number / 6, 0.1 if number % 60 < 50 else 1.0, set_up=False)
    assert fixed.snapshot().jitter == 0.5
    assert adaptive.snapshot().jitter > 0.5
    stored = QuotaState.load(json.loads(json.dumps(adaptive.dump())))
    assert stored.snapshot().jitter == adaptive.snapshot().jitter
    assert caplog.text.count("delays differ by more than the 0.5 s") == 1


def test_those_who_wait_leave_as_slowly_as_the_measured_jitter_asks_for() -> None:
    state = fresh(Quota(8, 10.0, 60.0, 0.5, adaptive=True))
    for number in range(200):
        state.observe(START - 50 + number / 6, 0.1 if number % 10 < 5 else 0.9, set_up=False)
    use_up(state)
    due = state.due("a", START)
    assert state.reserve("a", 10, due, waited=True)
    interval = (10 + state.snapshot().jitter) / 8
    assert interval > INTERVAL + 0.05
    assert state.due("a", due) == pytest.approx(due + interval, abs=1e-3)


def test_a_process_with_the_same_terms_changes_nothing() -> None:
    state = fresh(Quota(8, 10.0, 60.0, 0.5, adaptive=True))
    for number in range(200):
        state.observe(START - 50 + number / 6, 0.1 if number % 10 < 5 else 0.9, set_up=False)
    use_up(state)
    before = state.dump()
    state.join("b", START, state.terms)
    after = state.dump()
    del before["processes"], after["processes"]
    assert after == before


def test_a_refusal_widens_an_adaptive_jitter_before_it_costs_share() -> None:
    state = fresh(Quota(8, 10.0, 60.0, 0.5, adaptive=True))
    for number in range(600):
        state.observe(START + number / 6, 0.1 if number % 100 else 2.0, set_up=False)
    before = state.snapshot().jitter
    state.penalise(START + 100)
    after = state.snapshot()
    if after.jitter == before:
        assert after.share == CUT
    else:
        assert (after.share, after.jitter > before) == (1.0, True)


# ---- what is stored


@pytest.mark.parametrize(
    "spoil",
    [
        lambda dump: dump.pop("now"),
        lambda dump: dump.update(now="soon"),
        lambda dump: dump.pop("rule"),
        lambda dump: dump.update(terms=[1, 2]),
        lambda dump: dump.update(processes=[]),
        lambda dump: dump.update(penalty=None),
    ],
)
def test_something_else_than_a_state_is_refused(spoil: object) -> None:
    dump = json.loads(json.dumps(fresh().dump()))
    spoil(dump)  # type: ignore[operator]
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        QuotaState.load(dump)


def test_a_fresh_state_has_sent_nothing() -> None:
    state = QuotaState(QUOTA)
    assert state.now == -inf
    state.advance(START)
    figures = state.snapshot()
    assert (figures.open, figures.in_window, figures.requests) == (0, 0, 8)
    assert (figures.share, figures.jitter) == (1.0, 0.5)
    assert (figures.penalty_left, figures.refusals) == (0.0, 0)


def test_a_widened_jitter_is_logged_once_however_often_the_state_is_copied(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = fresh(Quota())
    for number in range(200):
        state.observe(START + number / 10, 0.1 if number % 10 < 5 else 0.9, set_up=False)
    assert state.snapshot().jitter > 0.9
    for _ in range(3):
        assert QuotaState.load(state.dump()).snapshot().jitter > 0.9
    assert len([text for text in caplog.messages if "delays differ" in text]) == 1
