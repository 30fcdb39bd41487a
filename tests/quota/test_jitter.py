"""The jitter allowance follows its definition: every bound, period and neighbour counts."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stable_async.quota.jitter import (
    CUSHION,
    DENSE,
    ENOUGH,
    FACTOR_ABOVE,
    FACTOR_BELOW,
    FORGET,
    LEAST,
    MOST,
    NEIGHBOURS,
    PERIOD,
    PERIODS,
    RECENT,
    DelayHistory,
    Delays,
    JitterEstimator,
    Measured,
    allowance,
    jitter_of,
    neutral,
)

START = 0.3
TIME = 1000 * PERIOD


def delays(lowest: float, highest: float, together: float | None = None, dense: int = 0) -> Delays:
    together = lowest if together is None else together
    return Delays(lowest=lowest, highest=highest, together=together, dense=dense)


def test_the_figures_that_were_simulated() -> None:
    """docs/quota.md says what was simulated with them."""
    assert (DENSE, ENOUGH, NEIGHBOURS, RECENT) == (150, 50, 4, 5)
    assert (FACTOR_ABOVE, FACTOR_BELOW, CUSHION) == (1.25, 2.0, 0.02)
    assert (PERIOD * PERIODS, FORGET) == (600, 3600)
    assert (LEAST, MOST) == (0.18, 1.0)


def test_the_jitter_is_that_of_the_kind_that_differs_most_over_all_processes() -> None:
    here = Measured(round_trips=delays(0.1, 0.4, 0.2), set_ups=delays(1.0, 1.2, 1.15))
    there = Measured(round_trips=delays(0.3, 0.5, 0.45))
    slow = Measured(set_ups=delays(0.9, 2.0, 1.9))
    assert jitter_of([]) == jitter_of([Measured()]) == 0
    assert jitter_of([here]) == pytest.approx(0.3)
    assert jitter_of([here], "together") == pytest.approx(0.15)
    assert jitter_of([here, there]) == pytest.approx(0.4)
    assert jitter_of([here, there], "together") == pytest.approx(0.35)
    assert jitter_of([here, there, slow]) == pytest.approx(1.1)
    assert jitter_of([there, slow, Measured()], "together") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("counts", "falls"),
    [((150,), True), ((149,), False), ((149, 1), True), ((200, 0), False), ((), False)],
)
def test_it_falls_below_the_start_only_after_dense_measurements_of_every_process(
    counts: tuple[int, ...], falls: bool
) -> None:
    measured = [Measured(round_trips=delays(0.1, 0.15, dense=count)) for count in counts]
    assert allowance(measured, START, 0.05) == pytest.approx(0.12 if falls else START)
    assert allowance([*measured, Measured(set_ups=delays(0.1, 0.1))], START, 0.05) == START


@pytest.mark.parametrize(
    ("highest", "expected"), [(0.1, 0.05), (0.2, 0.22), (0.23, 0.28), (0.5, START)]
)
def test_below_the_start_it_is_twice_the_longest_and_a_cushion_within_bounds(
    highest: float, expected: float
) -> None:
    measured = Measured(round_trips=delays(0.1, highest, dense=DENSE))
    assert allowance([measured], START, 0.05) == pytest.approx(expected)


def test_it_rises_above_the_start_by_what_neighbours_share_and_a_quarter_more() -> None:
    measured = Measured(round_trips=delays(0.1, 9.0, 0.5))
    assert allowance([measured], START, 0.05) == pytest.approx(0.4 * 1.25 + 0.02)


@given(st.floats(0, 5))
def test_a_neutral_delay_leaves_the_start_and_a_longer_one_does_not(start: float) -> None:
    kept = Measured(round_trips=delays(1.0, 9.0, 1.0 + neutral(start)))
    assert allowance([kept], start, 0) == pytest.approx(max(start, CUSHION))
    more = Measured(round_trips=delays(1.0, 9.0, 1.01 + neutral(start)))
    assert allowance([more], start, 0) > start


@example([[1 / number] * number for number in range(9, 1, -1)] * 3, 2)
@example([[0.1 * number] * number for number in range(1, 24)], 2)
@given(
    st.lists(st.lists(st.floats(0.01, 2), min_size=1, max_size=9), min_size=1, max_size=14),
    st.integers(1, 6),
)
def test_a_summary_is_that_of_all_delays_of_its_periods(
    periods: list[list[float]], enough: int
) -> None:
    history = DelayHistory()
    every: list[float] = []
    together: list[list[float]] = []
    for number, period in enumerate(periods):
        together.append([])
        for delay in period:
            history.add(TIME + number * PERIOD, delay, set_up=False)
            every.append(delay)
            if len(every) >= NEIGHBOURS:
                together[-1].append(min(every[-NEIGHBOURS:]))
    kept = periods[-PERIODS - 1 :]
    lowest = min(map(min, kept))
    shared = [
        max(ends, default=-inf)
        for ends, period in [*zip(together, periods, strict=True)][-PERIODS - 1 :]
        if len(period) >= enough
    ][-RECENT:]
    found = history.summary(enough)["round_trips"]
    assert found["lowest"] == lowest
    assert found["highest"] == max(map(max, kept))
    middle = sorted(shared)[(len(shared) - 1) // 2] if shared else lowest
    assert found["together"] == max(middle, lowest)
    assert found["dense"] == (min(map(len, kept[:-1])) if len(periods) > PERIODS else 0)
    assert DelayHistory(*history.dump()).dump() == history.dump()
    assert DelayHistory(*history.dump()).summary(enough) == history.summary(enough)


def test_the_two_kinds_are_remembered_apart_and_by_default_with_enough_of_them() -> None:
    history = DelayHistory()
    assert history.summary() == {}
    history.add(TIME, 0.5, set_up=True)
    assert history.summary() == {"set_ups": delays(0.5, 0.5)}
    for number in range(ENOUGH):
        assert history.summary().get("round_trips", delays(0.1, 0.1))["together"] == 0.1
        history.add(TIME, 0.1 if number == 0 else 0.7, set_up=False)
    assert history.summary()["round_trips"] == delays(0.1, 0.7, 0.7)
    assert history.summary()["set_ups"] == delays(0.5, 0.5)


@pytest.mark.parametrize("later", [0, PERIOD])
def test_a_period_is_forgotten_after_an_hour_without_delays(later: float) -> None:
    history = DelayHistory()
    history.add(TIME, 5.0, set_up=False)
    history.add(TIME + FORGET + later, 1.0, set_up=False)
    assert history.summary()["round_trips"]["highest"] == (1.0 if later else 5.0)


def test_the_bound_is_a_quarter_of_the_window_but_never_below_the_start() -> None:
    assert JitterEstimator(START, 10).most == MOST
    assert JitterEstimator(START, 2).most == 0.5
    assert JitterEstimator(START, 1).most == START
    assert JitterEstimator(9, 10).most == 9


def test_an_estimator_follows_the_allowance_within_its_bounds() -> None:
    one = JitterEstimator(START, 2)
    assert (one.current, one.measured) == (START, 0)
    for number in range(2 * ENOUGH):
        one.observe(TIME, 0.1 if number < NEIGHBOURS else 0.4)
    assert one.current == pytest.approx(0.3 * 1.25 + 0.02)
    assert one.measured == pytest.approx(0.3)
    for _ in range(NEIGHBOURS):
        one.observe(TIME, 3.0, set_up=True)
    assert one.current == pytest.approx(0.3 * 1.25 + 0.02), "too few set-ups to count"
    for _ in range(NEIGHBOURS):
        one.observe(TIME, 3.0)
    assert one.current == one.most == 0.5


def test_a_refusal_allows_for_every_delay_for_good() -> None:
    one = JitterEstimator(START, 10)
    one.observe(TIME, 0.1)
    one.observe(TIME, 0.3)
    assert one.widen() is False
    one.observe(TIME, 0.6)
    assert one.current == START
    assert one.widen()
    assert one.current == pytest.approx(0.5)
    assert not one.widen()
    # An hour of even delays takes nothing of it back.
    later = TIME + FORGET + 2 * PERIOD
    for period in range(PERIODS + 2):
        for _ in range(DENSE):
            one.observe(later + period * PERIOD, 0.1)
    assert one.current == pytest.approx(0.5)
    other = JitterEstimator(1, 10)
    other.load(one.dump())
    assert other.dump() == one.dump()
    one.observe(later, 9.0)
    assert one.widen()
    assert one.current == one.most == MOST


def test_ten_minutes_of_dense_even_delays_let_it_fall_to_its_least() -> None:
    one = JitterEstimator(START, 10)
    for period in range(PERIODS + 1):
        assert one.current == START
        for _ in range(DENSE):
            one.observe(TIME + period * PERIOD, 0.1)
    assert one.current == LEAST
    # A period in which hardly anything was measured might have hidden what differs.
    one.observe(TIME + (PERIODS + 1) * PERIOD, 0.1)
    assert one.current == LEAST
    one.observe(TIME + (PERIODS + 2) * PERIOD, 0.1)
    assert one.current == START
    low = JitterEstimator(0.01, 10)
    for period in range(PERIODS + 2):
        for _ in range(DENSE):
            low.observe(TIME + period * PERIOD, 0.1)
    assert low.current == pytest.approx(CUSHION)
