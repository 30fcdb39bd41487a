"""The ways of counting: the fast ones of the benchmark against servers that count one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import quota_counting as counting
from tests.quota.servers import FixedWindow, Server, SlidingLog, TokenBucket, TwoCounters

# Eighths of a second are exact in binary, so that no verdict hangs on rounding.
TIMES = st.lists(st.integers(0, 400), max_size=60).map(
    lambda eighths: np.array(sorted(eighths), dtype=float) / 8
)
PHASES = st.integers(0, 63).map(lambda eighths: eighths / 8)
WINDOW = 8.0


def all_served(server: Server, arrivals: np.ndarray) -> bool:
    return all(server.arrive(float(time)) for time in arrivals)


@given(arrivals=TIMES, requests=st.integers(1, 12), phase=PHASES)
def test_a_fixed_window_refuses_exactly_when_its_most_exceeds_the_limit(
    arrivals: np.ndarray, requests: int, phase: float
) -> None:
    served = all_served(FixedWindow(requests, WINDOW, phase), arrivals)
    assert served == (counting.fixed(arrivals, WINDOW, phase) <= requests)


@given(arrivals=TIMES, requests=st.integers(1, 12))
def test_a_sliding_log_refuses_exactly_when_its_most_exceeds_the_limit(
    arrivals: np.ndarray, requests: int
) -> None:
    served = all_served(SlidingLog(requests, WINDOW), arrivals)
    assert served == (counting.log(arrivals, WINDOW) <= requests)


@given(arrivals=TIMES, requests=st.integers(1, 12), phase=PHASES)
def test_two_counters_refuse_exactly_when_their_most_exceeds_the_limit(
    arrivals: np.ndarray, requests: int, phase: float
) -> None:
    served = all_served(TwoCounters(requests, WINDOW, phase), arrivals)
    assert served == (counting.counter(arrivals, WINDOW, phase) <= requests)


@given(arrivals=TIMES, requests=st.sampled_from([1, 2, 4, 8]))
def test_a_token_bucket_refuses_exactly_when_more_than_its_tokens_are_lent(
    arrivals: np.ndarray, requests: int
) -> None:
    served = all_served(TokenBucket(requests, WINDOW), arrivals)
    assert served == (counting.bucket(arrivals, requests, WINDOW) <= requests)


@given(arrivals=TIMES)
def test_no_phase_shows_more_than_the_worst_one(arrivals: np.ndarray) -> None:
    phases = np.arange(0, WINDOW, 1 / 16)
    fixed = max(counting.fixed(arrivals, WINDOW, phase) for phase in phases)
    two = max(counting.counter(arrivals, WINDOW, phase) for phase in phases)
    assert counting.worst_fixed(arrivals, WINDOW) == fixed
    assert two <= counting.worst_counter(arrivals, WINDOW) <= two + 60 / 16 / WINDOW


@pytest.mark.parametrize(
    ("server", "served"),
    [
        (FixedWindow(2, 10, 0), [True, True, True, True, False]),
        (SlidingLog(2, 10), [True, True, False, False, False]),
        (TwoCounters(2, 10, 0), [True, True, False, False, False]),
        (TokenBucket(2, 10), [True, True, False, False, False]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_two_at_the_end_of_a_window_and_three_after_it(server: Server, served: list[bool]) -> None:
    assert [server.arrive(time) for time in (9.0, 9.5, 10.5, 11.0, 11.5)] == served


@pytest.mark.parametrize(
    "server",
    [FixedWindow(2, 10, 0), SlidingLog(2, 10), TwoCounters(2, 10, 0), TokenBucket(2, 10)],
    ids=lambda value: type(value).__name__,
)
def test_who_comes_back_after_two_windows_is_served(server: Server) -> None:
    assert [server.arrive(time) for time in (1.0, 1.0, 1.0, 31.0, 31.0)] == [
        True,
        True,
        False,
        True,
        True,
    ]
