"""Credits that a job may spend: reserved before a request leaves, settled after."""

from __future__ import annotations

import asyncio
from math import inf

__all__ = ["Budget"]

# Prices have at most two decimals; sums of floats may be off by far less than this.
TOLERANCE = 1e-6


class Budget:
    """What a job may spend, what it has spent, and what is on its way.

    Attributes:
        limit: Credits; `None` is no limit.
        spent: Credits that were spent, or may have been.
        reserved: Credits for requests on their way.
    """

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        """Begin with what was `spent` before."""
        self.limit = limit
        self.spent = spent
        self.reserved = 0.0
        self._settled = asyncio.Event()

    async def reserve(self, price: float) -> bool:
        """Reserve `price` and return whether it fits, which may take what is on its way to tell."""
        limit = inf if self.limit is None else self.limit + TOLERANCE
        while self.spent + self.reserved + price > limit:
            if self.spent + price > limit:
                return False
            self._settled.clear()
            await self._settled.wait()
        self.reserved += price
        return True

    def settle(self, price: float, *, spent: bool) -> None:
        """Turn what was reserved into what was spent, or give it back."""
        self.reserved -= price
        if abs(self.reserved) < TOLERANCE:
            self.reserved = 0.0
        if spent:
            self.spent += price
        self._settled.set()
