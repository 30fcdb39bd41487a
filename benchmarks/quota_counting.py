"""The four ways in which a server may count, applied to a whole list of arrivals at once.

Each function gives the most that the way of counting ever showed; a server that allows `N` refuses
somebody if and only if that is more than `N`. tests/quota/servers.py says the same request by
request, in the plainest code, and the two are held against each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bucket", "counter", "fixed", "log", "worst_counter", "worst_fixed"]

Times = NDArray[np.float64]


def fixed(arrivals: Times, window: float, phase: float) -> float:
    """Most in one window of a clock that starts at `phase`."""
    _, counts = np.unique(np.floor((arrivals - phase) / window), return_counts=True)
    return float(counts.max(initial=0))


def log(arrivals: Times, window: float) -> float:
    """Most in any `window` seconds; `arrivals` are sorted."""
    first = np.searchsorted(arrivals, arrivals - window, side="right")
    return float((np.arange(1, len(arrivals) + 1) - first).max(initial=0))


def counter(arrivals: Times, window: float, phase: float) -> float:
    """Most by two counters, the window before weighted by what is left of it."""
    return float(_counter(arrivals, window, phase).max(initial=0.0))


def _counter(arrivals: Times, window: float, phase: float) -> Times:
    number = np.floor((arrivals - phase) / window)
    elapsed = (arrivals - phase) - number * window
    windows, first, inverse, counts = np.unique(
        number, return_index=True, return_inverse=True, return_counts=True
    )
    previous = np.zeros(len(windows))
    follows = np.flatnonzero(np.diff(windows) == 1)
    previous[follows + 1] = counts[follows]
    current = np.arange(len(arrivals)) - first[inverse] + 1
    return previous[inverse] * (1 - elapsed / window) + current


def bucket(arrivals: Times, requests: int, window: float) -> float:
    """Most tokens that a bucket of `requests`, filled at `requests / window`, ever had lent out."""
    if not len(arrivals):
        return 0.0
    filled = arrivals * (requests / window)
    index = np.arange(len(arrivals))
    return float((index + 1 - filled + np.maximum.accumulate(filled - index)).max())


def worst_fixed(arrivals: Times, window: float) -> float:
    """Most in a fixed window at its worst phase: a window that starts with an arrival."""
    last = np.searchsorted(arrivals, arrivals + window, side="left")
    return float((last - np.arange(len(arrivals))).max(initial=0))


def worst_counter(arrivals: Times, window: float) -> float:
    """Most by two counters at their worst phase.

    The weighted sum falls while the boundary between the windows moves back, except where it
    passes an arrival, or `window` before one: so the worst boundary is at an arrival, or just
    after `window` past one.
    """
    instant = 1e-9
    boundaries = np.concatenate([arrivals, arrivals + window - instant, arrivals + window])
    order = np.arange(1, len(arrivals) + 1)
    most = 0.0
    for boundary in boundaries:
        start = np.searchsorted(arrivals, boundary, side="left")
        end = np.searchsorted(arrivals, boundary + window, side="left")
        if start == end:
            continue
        previous = start - np.searchsorted(arrivals, boundary - window, side="left")
        weight = 1 - (arrivals[start:end] - boundary) / window
        most = max(most, float((previous * weight + order[start:end] - start).max()))
    return most
