"""The rule word for word: every departure is remembered and every boundary is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def weighed(
    sent: Sequence[float], still_open: int, now: float, elapsed: float, window: float, jitter: float
) -> float:
    """Return `cur(e) + (1 - e/W) * prev(e)` for a further request at `now`, `e` being `elapsed`."""
    boundary = now - elapsed - jitter
    current = sum(1 for time in sent if boundary < time <= now) + still_open + 1
    previous = sum(1 for time in sent if boundary - window < time <= boundary)
    return current + (1 - elapsed / window) * previous


def worst(
    sent: Sequence[float], still_open: int, now: float, window: float, jitter: float
) -> float:
    """Return the most of `weighed` over all `elapsed` in `[0, W]`.

    It rises with the boundary until a departure passes the boundary or leaves the window before
    it, so the most is found just below those and at the ends.
    """
    instant = 1e-9
    boundaries = {now - jitter, now - jitter - window}
    for time in sent:
        boundaries |= {time, time - instant, time + window, time + window - instant}
    lowest, highest = now - jitter - window, now - jitter
    return max(
        weighed(sent, still_open, now, now - jitter - boundary, window, jitter)
        for boundary in boundaries
        if lowest <= boundary <= highest
    )
