"""Requests over time against the quota, from counts by second. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Run", "runs"]

# A pause of this length, seconds, separates one run of the job from the next.
PAUSE = 60
# More points than a screen has pixels would show nothing more.
POINTS = 1_200


@dataclass(frozen=True, slots=True)
class Run:
    """Requests without a long pause between them.

    Attributes:
        start: Second since 1970 of the first request.
        step: Seconds that a point covers.
        points: By step, the most requests in any window that ends in it.
        limited: By step, answers that were 429.
    """

    start: int
    step: int
    points: Sequence[int]
    limited: Sequence[int]


def runs(seconds: Iterable[tuple[int, int, int]], window: int) -> list[Run]:
    """Return the runs of a job.

    Args:
        seconds: Second since 1970, requests that left in it and 429 answers; in order.
        window: Length of the quota's window, seconds.
    """
    pieces: list[list[tuple[int, int, int]]] = []
    for second in seconds:
        if not pieces or second[0] - pieces[-1][-1][0] > PAUSE:
            pieces.append([])
        pieces[-1].append(second)
    length = sum(piece[-1][0] - piece[0][0] + window for piece in pieces)
    step = max(1, -(-length // POINTS))
    return [_run(piece, window, step) for piece in pieces]


def _run(piece: Sequence[tuple[int, int, int]], window: int, step: int) -> Run:
    start = piece[0][0]
    size = (piece[-1][0] - start + window) // step + 1
    points, limited = [0] * size, [0] * size
    by_second = {second: counts for second, *counts in piece}
    recent: deque[int] = deque(maxlen=window)
    for offset in range(size * step):
        requests, refused = by_second.get(start + offset, (0, 0))
        recent.append(requests)
        points[offset // step] = max(points[offset // step], sum(recent))
        limited[offset // step] += refused
    return Run(start, step, points, limited)
