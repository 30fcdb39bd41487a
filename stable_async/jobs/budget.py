"""Credits that a job may spend: reserved before a request leaves, settled after."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stable_async.jobs.row import ChargeState

__all__ = ["Bill", "Budget"]

# Prices have at most two decimals; sums of floats may be off by far less than this.
TOLERANCE = 1e-6


@dataclass(slots=True)
class Bill:
    """The charges of a job, credits.

    Attributes:
        spent: For what came, or was accepted.
        in_doubt: For requests that left and got no whole answer: they may have been billed.
        reserved: For requests on their way.
    """

    spent: float = 0.0
    in_doubt: float = 0.0
    reserved: float = 0.0

    @property
    def total(self) -> float:
        """The most that the job may have cost once all that is on its way has come."""
        return self.spent + self.in_doubt + self.reserved


class Budget:
    """What a job may spend: `limit >= spent + in doubt + reserved` at any time.

    Attributes:
        limit: Credits; `None` is no limit.
        bill: The charges so far.
    """

    def __init__(self, limit: float | None, bill: Bill | None = None) -> None:
        """Begin with the `bill` of the runs before."""
        self.limit = limit
        self.bill: Bill = bill or Bill()
        self._settled = asyncio.Event()

    async def reserve(self, price: float) -> bool:
        """Reserve `price` and return whether it fits, which may take what is on its way to tell."""
        limit = inf if self.limit is None else self.limit + TOLERANCE
        bill = self.bill
        while bill.total + price > limit:
            if bill.spent + bill.in_doubt + price > limit:
                return False
            self._settled.clear()
            await self._settled.wait()
        bill.reserved += price
        return True

    def settle(self, price: float, charge: ChargeState) -> None:
        """Turn what was reserved into what it became."""
        bill = self.bill
        bill.reserved -= price
        if abs(bill.reserved) < TOLERANCE:
            bill.reserved = 0.0
        if charge == "spent":
            bill.spent += price
        elif charge == "in doubt":
            bill.in_doubt += price
        self._settled.set()
