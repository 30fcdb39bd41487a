"""The four ways of counting, against models of a few lines each; no clock is waited for."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.sandbox.counting import (
    MAX_KEYS,
    FixedWindow,
    KeyQuotas,
    PeakUsage,
    Quota,
    SlidingCounter,
    SlidingLog,
    TokenBucket,
)
from stable_async.sandbox.settings import Counting

N, W = 5, 8.0

# Sixteenths of a second are exact in binary, so the models and the code see the same times.
gaps = st.lists(st.integers(0, 80).map(lambda sixteenths: sixteenths / 16), max_size=60)
phases = st.integers(0, 127).map(lambda sixteenths: sixteenths / 16)


def times(of: list[float]) -> list[float]:
    return list(itertools.accumulate(of, initial=100.0))


@given(gaps, phases)
def test_a_fixed_window_admits_the_first_n_of_every_window(of: list[float], phase: float) -> None:
    way = FixedWindow(N, W, phase)
    seen: dict[int, int] = {}
    for now in times(of):
        window = int((now - phase) // W)
        expected = seen.get(window, 0) < N
        assert way.admit(now) == expected
        seen[window] = seen.get(window, 0) + expected


@given(gaps)
def test_a_sliding_log_admits_while_fewer_than_n_came_in_the_last_window(of: list[float]) -> None:
    way = SlidingLog(N, W)
    admitted: list[float] = []
    for now in times(of):
        expected = sum(now - at < W for at in admitted) < N
        assert way.admit(now) == expected
        admitted += [now] * expected


@given(gaps, phases)
def test_a_sliding_counter_weighs_the_last_window_by_its_share(
    of: list[float], phase: float
) -> None:
    way = SlidingCounter(N, W, phase)
    seen: dict[int, int] = {}
    for now in times(of):
        window, into = divmod(now - phase, W)
        previous, current = seen.get(int(window) - 1, 0), seen.get(int(window), 0)
        expected = previous * (1 - into / W) + current + 1 <= N
        assert way.admit(now) == expected
        seen[int(window)] = current + expected


@given(gaps)
def test_a_token_bucket_fills_evenly_and_never_over(of: list[float]) -> None:
    way = TokenBucket(N, W)
    tokens, last = float(N), 100.0
    for now in times(of):
        tokens, last = min(N, tokens + (now - last) * N / W), now
        # At the very edge the two sums may round differently.
        if abs(tokens - 1) > 1e-9:
            assert way.admit(now) == (tokens >= 1)
            tokens -= tokens >= 1
        else:
            tokens -= way.admit(now)


@pytest.mark.parametrize("counting", get_args(Counting))
def test_a_burst_of_n_is_admitted_from_idle_and_one_more_is_not(counting: Counting) -> None:
    quota = Quota(counting, N, W, penalty=60, phase=3)
    assert [quota.admit(1000 + number / 1000) for number in range(N + 1)] == [
        *[True] * N,
        counting == "off",
    ]


@pytest.mark.parametrize("counting", get_args(Counting))
def test_the_level_is_what_is_counted_now(counting: Counting) -> None:
    quota = Quota(counting, N, W, penalty=60, phase=4)
    for now in (100.0, 100.5, 101.0):
        quota.admit(now)
    expected = {"bucket": 3 - 1.0 * N / W, "counter": 3, "fixed": 3, "log": 3, "off": 3}
    assert quota.level(101.0) == expected[counting]
    assert quota.level(101.0 + 2 * W) == 0


@pytest.mark.parametrize("counting", ["counter", "log", "fixed", "bucket"])
def test_a_breach_shuts_the_key_out_for_the_whole_penalty(counting: Counting) -> None:
    quota = Quota(counting, N, W, penalty=60, phase=3)
    while quota.admit(1000.0):
        pass
    assert not any(quota.admit(1000 + second / 10) for second in range(1, 600))
    assert quota.penalty_left(1030) == 30
    assert quota.admit(1060.0), "requests that were refused do not prolong the time-out"


def test_every_key_has_a_quota_of_its_own_and_old_ones_are_forgotten() -> None:
    book = KeyQuotas("log", 1, W, penalty=60, phase=0)
    assert [book.admit(key, 1.0) for key in ("one", "two", "one")] == [True, True, False]
    for number in range(MAX_KEYS):
        book.admit(f"key {number}", 2.0)
    assert book.admit("one", 3.0)
    assert book.most()["log"] == 2


def test_shutting_all_keys_out_ends_by_itself() -> None:
    book = KeyQuotas("log", 10, W, penalty=60, phase=0)
    book.penalise_all(until=5.0)
    assert [book.admit("one", now) for now in (4.9, 5.0)] == [False, True]


def test_arrivals_that_change_places_are_counted_as_if_they_had_not() -> None:
    quota = Quota("log", 2, W, penalty=60, phase=0)
    assert [quota.admit(now) for now in (10.0, 9.999, 10.0)] == [True, True, False]


def level_at(arrivals: list[float], now: float, into: float) -> float:
    current = sum(now - into < at <= now for at in arrivals)
    previous = sum(now - into - W < at <= now - into for at in arrivals)
    return current + (1 - into / W) * previous


@given(st.lists(st.integers(0, 80).map(lambda sixteenths: sixteenths / 16), max_size=25))
def test_the_worst_phase_is_found_without_a_grid(of: list[float]) -> None:
    worst = PeakUsage(N, W)
    arrivals = times(of)
    for now in arrivals:
        worst.arrived(now)
    # All arrivals are on sixteenths, so just past each sixteenth is every phase that matters.
    grid = [sixteenth / 16 + 1e-7 for sixteenth in range(int(W * 16))]
    counter = max(
        level_at(arrivals[: end + 1], now, into)
        for end, now in enumerate(arrivals)
        for into in grid
    )
    log = max(sum(now - W < at <= now for at in arrivals) for now in arrivals)
    expected = max(counter, log)
    most = worst.most
    assert most["log"] == log
    # Far over the ceiling only a lower bound is given.
    assert most["counter"] == pytest.approx(expected, abs=1e-4) or most["log"] > 4 * N


@pytest.mark.parametrize("rate", [3, 7, 15])
def test_arrivals_at_exactly_the_rate_are_one_too_many_for_two_counters_only(rate: int) -> None:
    worst = PeakUsage(10 * rate, 10.0)
    for number in range(40 * rate):
        worst.arrived(1000 + number / rate)
    assert worst.most == {
        "counter": pytest.approx(10 * rate + 1),
        "log": 10 * rate,
        "fixed": 10 * rate,
        "bucket": pytest.approx(1),
    }


@given(gaps)
def test_the_level_of_the_bucket_is_the_largest_overrun_of_the_rate(of: list[float]) -> None:
    worst = PeakUsage(N, W)
    arrivals = times(of)
    for now in arrivals:
        worst.arrived(now)
    expected = max(
        (end - begin + 1) - (arrivals[end] - arrivals[begin]) * N / W
        for begin in range(len(arrivals))
        for end in range(begin, len(arrivals))
    )
    assert worst.most["bucket"] == pytest.approx(expected)
