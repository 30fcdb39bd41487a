"""The rule: exact, safe, cheap at any ceiling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import quota_counting as counting
from stable_async.quota import Rule
from stable_async.quota.rule import BINS, MARGIN
from tests.quota import simulation
from tests.quota.reference import worst
from tests.quota.simulation import Scenario

WINDOW = 8.0

# What happens, one after the other: (pause in eighths of a second, what).
EVENTS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(1, 8), st.integers(1, 200)),
        st.sampled_from(["send", "open", "stamp", "release", "wait"]),
    ),
    max_size=60,
)


def leave(rule: Rule, what: str, now: float, sent: list[float]) -> None:
    """Open a slot, or let a request leave; `sent` notes when."""
    if what == "open":
        rule.open += 1
    else:
        rule.send(now)
        sent.append(now)


def close(rule: Rule, what: str, now: float, sent: list[float]) -> None:
    """Close an open slot, with a departure if it is stamped."""
    rule.open -= 1
    if what == "stamp":
        rule.send(now)
        sent.append(now)


@given(
    events=EVENTS,
    requests=st.integers(1, 9),
    jitter=st.sampled_from([0.0, 0.25, 1.0, 8.0]),
    share=st.sampled_from([1.0, 1.0, 0.5]),
)
# The fifth fits beside the others, though the window before was almost full.
@example(events=[*[(0, "send")] * 3, (65, "send"), (0, "send")], requests=5, jitter=1.0, share=1.0)
def test_the_earliest_time_is_allowed_and_no_earlier_one_is(
    events: list[tuple[int, str]], requests: int, jitter: float, share: float
) -> None:
    rule = Rule(requests, WINDOW, jitter)
    sent: list[float] = []
    now = 1000.0
    for number, (pause, what) in enumerate(events):
        now += pause / 8
        if number == len(events) // 2:
            rule.limit = max(int(requests * share), 1)
        earliest = rule.earliest(now)
        if rule.open < rule.limit:
            at = max(now, earliest)
            assert worst(sent, rule.open, at, WINDOW, jitter) <= rule.limit
            if (sooner := earliest - 2 * MARGIN) >= now:
                assert worst(sent, rule.open, sooner, WINDOW, jitter) > rule.limit
        if what in {"send", "open"} and earliest <= now:
            leave(rule, what, now, sent)
        elif what in {"stamp", "release"} and rule.open:
            close(rule, what, now, sent)
        elif what == "wait" and rule.open < rule.limit:
            now = max(now, earliest)


@given(events=EVENTS, requests=st.integers(1, 9))
@example(events=[(0, "send"), (0, "open"), (72, "stamp"), (1, "wait")], requests=2)
def test_asking_a_rule_changes_none_of_its_answers(
    events: list[tuple[int, str]], requests: int
) -> None:
    asked, not_asked = Rule(requests, 10.0, 0.25), Rule(requests, 10.0, 0.25)
    now = 1000.0
    for pause, what in events:
        now += pause / 8
        for rule in (asked, not_asked):
            if what in {"send", "open"}:
                leave(rule, what, now, [])
            elif what != "wait" and rule.open:
                close(rule, what, now, [])
        asked.earliest(now)
        asked.in_window(now)
    assert max(asked.earliest(now), now) == max(not_asked.earliest(now), now)


@given(
    events=EVENTS,
    at=st.integers(0, 60),
    old=st.tuples(st.integers(1, 9), st.sampled_from([4.0, 8.0]), st.sampled_from([0.0, 1.0])),
    new=st.tuples(st.integers(1, 9), st.sampled_from([4.0, 8.0]), st.sampled_from([0.0, 1.0])),
)
def test_a_rule_of_other_terms_allows_nothing_that_its_whole_history_forbids(
    events: list[tuple[int, str]],
    at: int,
    old: tuple[int, float, float],
    new: tuple[int, float, float],
) -> None:
    rule, (requests, window, jitter) = Rule(*old), old
    sent: list[float] = []
    now = 1000.0
    for number, (pause, what) in enumerate(events):
        now += pause / 8
        if number == at:
            was_open = rule.open
            rule, (requests, window, jitter) = rule.revised(now, *new, max_jitter=new[2]), new
            assert (rule.open, rule.window, rule.limit) == (was_open, window, requests)
        if rule.earliest(now) > now and what == "wait" and rule.open < requests:
            now = rule.earliest(now)
        if rule.earliest(now) <= now and what != "release":
            assert worst(sent, rule.open, now, window, jitter) <= requests
            leave(rule, what, now, sent)
        elif what in {"stamp", "release"} and rule.open:
            close(rule, what, now, sent)
    # What is long past holds back nothing.
    free = now + 2 * max(old[1], new[1]) + max(old[2], new[2]) + 1.0
    if rule.open < rule.limit:
        assert rule.earliest(free) <= free


@pytest.mark.parametrize("at_once", [1, 5])
@pytest.mark.parametrize("new", [(5, 8.0, 1.0), (3, 8.0, 0.0), (5, 4.0, 1.0), (9, 16.0, 0.5)])
def test_other_terms_remember_a_load_that_used_all_of_the_old_ones(
    at_once: int, new: tuple[int, float, float]
) -> None:
    rule, sent, now = Rule(5, 4.0, 0.0), list[float](), 1000.0
    while now < 1041.5:
        now = max(now + (4.0 if at_once > 1 else 0.0), rule.earliest(now))
        for _ in range(at_once):
            if rule.earliest(now) <= now:
                rule.send(now)
                sent.append(now)
    rule = rule.revised(now, *new, max_jitter=new[2])
    while now < 1080:
        now = max(now, rule.earliest(now))
        assert worst(sent, 0, now, new[1], new[2]) <= new[0] + 1e-9
        rule.send(now)
        sent.append(now)


def test_the_time_foretold_counts_those_ahead() -> None:
    idle, half, full = Rule(5, 10.0, 0.5), Rule(5, 10.0, 0.5), Rule(5, 10.0, 0.5)
    half.send(1000.0, 3)
    full.send(1000.0, 5)
    for ahead in range(10):
        window = 10.5 * (ahead // 5)
        assert idle.earliest(1000.0, ahead) >= 1000.0 + window or not window
        assert full.earliest(1000.0, ahead) >= 1010.5 + window
    assert idle.earliest(1000.0, 4) <= 1000.0
    assert half.earliest(1000.0, 1) <= 1000.0
    assert half.earliest(1000.0, 2) >= 1010.5
    assert half.earliest(1000.0, 4) >= 1010.5


def test_after_a_burst_that_left_the_window_each_leaves_when_it_was_foretold() -> None:
    rule = Rule(5, 10.0, 0.5)
    rule.send(1000.0, 5)
    now = 1010.2
    for foretold in [rule.earliest(now, ahead) for ahead in range(5)]:
        now = rule.earliest(now)
        assert now == pytest.approx(foretold, abs=1e-4)
        rule.send(now)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_rule_of_the_same_terms_goes_on_much_as_before(rate: float) -> None:
    rule = Rule(10, WINDOW, 0.25)
    now = 1000.0
    for _ in range(50):
        now = max(now + WINDOW / 10 / rate, rule.earliest(now))
        rule.send(now)
    revised = rule.revised(now, 10, WINDOW, 0.25, max_jitter=0.25)
    assert revised.in_window(now) == rule.in_window(now)
    earliest = max(rule.earliest(now), now)
    # Older windows are taken to have been full.
    assert earliest <= max(revised.earliest(now), now) <= earliest + WINDOW / 2


def test_a_rule_that_was_never_used_can_have_other_terms() -> None:
    for sent_at in (None, 900.0):
        rule = Rule(10, WINDOW, 0.25)
        if sent_at is not None:
            rule.send(sent_at, 10)
        revised = rule.revised(1000.0, 3, 2 * WINDOW, 1.0, max_jitter=1.0)
        assert revised.in_window(1000.0) == 0
        for _ in range(3):
            assert revised.earliest(1000.0) <= 1000.0
            revised.send(1000.0)
        assert revised.earliest(1000.0) > 1000.0 + 2 * WINDOW


@given(events=EVENTS, requests=st.integers(1, 9), ahead=st.integers(0, 30))
def test_nobody_leaves_before_the_time_foretold_to_the_one_at_his_place(
    events: list[tuple[int, str]], requests: int, ahead: int
) -> None:
    rule = Rule(requests, WINDOW, 0.25)
    now = 1000.0
    for pause, _ in events:
        now += pause / 8
        if rule.earliest(now) <= now:
            rule.send(now)
    foretold = rule.earliest(now, ahead)
    for _ in range(ahead):
        now = max(now, rule.earliest(now))
        rule.send(now)
    assert max(now, rule.earliest(now)) >= foretold - 1e-9


def test_from_idle_all_leave_at_once_and_then_evenly() -> None:
    rule = Rule(150, 10.0, 0.3)
    left: list[float] = []
    now = 50.0
    while len(left) < 600:
        now = max(now, rule.earliest(now))
        rule.send(now)
        left.append(now - 50.0)
    assert left[149] == 0.0
    assert left[150] == pytest.approx(10.3 + 10 / 150, abs=1e-5)
    assert max(np.diff(left[150:])) < 0.45
    assert (10 + 450 / 15) / left[-1] > 0.966


@pytest.mark.parametrize("requests", [1, 3, 150])
def test_rounding_never_adds_up_to_a_breach_after_decades_of_uptime(requests: int) -> None:
    rule = Rule(requests, 10.0, 0.0)
    left = []
    now = 1e9 + 1 / 3
    for _ in range(requests * 8):
        now = max(now, rule.earliest(now))
        rule.send(now)
        left.append(now)
    arrivals = np.array(left)
    assert counting.worst_counter(arrivals, 10.0) <= requests
    assert counting.log(arrivals, 10.0) <= requests


@pytest.mark.parametrize("requests", [300, 3000])
def test_a_merged_history_is_safe_and_costs_one_bin_of_spread(requests: int) -> None:
    scenario = Scenario(
        requests=requests,
        window=10.0,
        jitter=0.3,
        shape="mixed",
        setup=0.2,
        lost=0.0,
        network="shift",
        count=3 * requests,
        seed=1,
    )
    rng = np.random.default_rng(1)
    rule = Rule(requests, 10.0, 0.3)
    left = simulation.leave(rule, scenario, rng)
    arrivals = simulation.travel(left, scenario, rng)
    assert simulation.breaches(arrivals, scenario, rng) == []

    steady = Rule(requests, 10.0, 0.3)
    now = 0.0
    for _ in range(3 * requests):
        now = max(now, steady.earliest(now))
        steady.send(now)
    assert 30 / now >= 10 / (10.3 + 2 * 10 / BINS)


@pytest.mark.parametrize("requests", [150, 1500, 15000])
@pytest.mark.parametrize("load", [0.5, 0.9, 1.0])
def test_what_is_remembered_does_not_grow_with_the_ceiling(requests: int, load: float) -> None:
    rule = Rule(requests, 10.0, 0.3, max_jitter=1.0)
    rng = np.random.default_rng(3)
    now = 0.0
    most = 0
    for gap in rng.exponential(10 / requests / load, min(4 * requests, 15_000)):
        now = max(now + float(gap), rule.earliest(now))
        rule.send(now)
        state = rule.state()
        most = max(most, len(state.recent) + len(state.lines))
    assert most < 4 * BINS


@given(events=EVENTS, requests=st.sampled_from([2, 9, 1000]))
def test_a_restored_rule_goes_on_like_the_one_it_was_taken_from(
    events: list[tuple[int, str]], requests: int
) -> None:
    rule = Rule(requests, WINDOW, 0.25)
    now = 1000.0
    for number, (pause, _) in enumerate(events):
        now += pause / 8
        if number == len(events) // 2:
            taken = rule.state()
            rule = Rule(requests, WINDOW, 0.25)
            rule.restore(taken)
            again = Rule(requests, WINDOW, 0.25)
            again.restore(rule.state())
            assert again.state() == taken
        original = max(rule.earliest(now), now)
        copy = Rule(requests, WINDOW, 0.25)
        copy.restore(rule.state())
        assert max(copy.earliest(now), now) == original
        assert copy.in_window(now) == rule.in_window(now)
        if original <= now:
            rule.send(now, count=max(requests // 9, 1))


def test_a_rule_that_was_used_forgets_its_own_history_when_it_is_restored() -> None:
    early, late = Rule(2, 10.0, 0.3), Rule(2, 10.0, 0.3)
    early.send(100.0, 2)
    late.send(104.0, 2)
    assert early.earliest(105.0) < late.earliest(105.0)
    early.restore(late.state())
    assert early.earliest(105.0) == late.earliest(105.0)


def test_the_window_s_count_holds_what_is_open_and_forgets_what_is_old() -> None:
    rule = Rule(10, 10.0, 0.3)
    rule.send(100.0, count=3)
    rule.open = 2
    assert rule.in_window(109.9) == 5
    assert rule.in_window(110.0) == 2


def test_open_slots_that_fill_the_limit_put_off_the_next_for_a_whole_window() -> None:
    rule = Rule(2, 10.0, 0.3)
    rule.open = 2
    assert rule.earliest(100.0) == pytest.approx(110.3)
    assert rule.earliest(100.0, ahead=2) == pytest.approx(120.6)


@pytest.mark.parametrize(
    ("window", "counted"), [(5.5, 2), (10.5, 5), (20.5, 8), (30.5, 9), (60.5, 9), (900, 9)]
)
def test_what_left_long_ago_is_taken_to_have_left_as_late_as_it_could(
    window: float, counted: int
) -> None:
    """Three at a time at the end of each old window: ten, twenty and thirty seconds ago."""
    rule = Rule(3, 10, 0.0)
    for time in (950, 950, 955, 960, 965, 970, 987, 995, 995):
        rule.send(time)
    revised = rule.revised(1000, 20, window, 0.0, max_jitter=0.0)
    assert revised.in_window(1000) == counted
    rule.open = 1
    assert rule.revised(1000, 20, window, 0.0, max_jitter=0.0).in_window(1000) == counted + 1


@pytest.mark.parametrize(("ago", "waits"), [(22, 2), (25, 0)])
def test_new_terms_forget_what_binds_nobody_any_more(ago: float, waits: float) -> None:
    """Three that left together bind for two windows and the jitter allowance."""
    rule = Rule(3, 10, 4.0)
    rule.send(1000 - ago, 3)
    revised = rule.revised(1000, 1, 10, 4.0, max_jitter=4.0)
    assert max(revised.earliest(1000) - 1000, 0) == pytest.approx(waits, abs=1e-3)
