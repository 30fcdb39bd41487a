"""What a job may use, reserved before a request leaves: credits, and space on the disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf
from sys import float_info
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.jobs.row import ChargeState

__all__ = ["Bill", "Budget", "BudgetHome", "DiskSpace"]

# Prices have at most two decimals; the error of a sum of floats is far below this.
TOLERANCE = 1e-6
# Disk space reserved for ledger and metadata, and for each image in flight before the first one has
# arrived, bytes.
DISK_MARGIN = 4 * 1024 * 1024
ASSUMED_IMAGE = 4 * 1024 * 1024
# Maximum rows that start before the disk is looked at again.
DISK_LOOKS = 32


@dataclass(slots=True)
class Bill:
    """The charges of a job, credits.

    Attributes:
        spent: For results that arrived, and generations that were accepted.
        in_doubt: For requests that left and got no complete answer: they may have been billed.
        reserved: For requests in flight.
    """

    spent: float = 0.0
    in_doubt: float = 0.0
    reserved: float = 0.0

    @property
    def total(self) -> float:
        """The most that the job may have cost once everything in flight has arrived."""
        return self.spent + self.in_doubt + self.reserved


class BudgetHome(Protocol):
    """The home of a budget that the parts of a job share."""

    @property
    def lost(self) -> bool:
        """Whether it has lost the amounts that the parts hold."""

    async def hold(self, total: float, limit: float, otherwise: float) -> bool:
        """Hold credits for this part, and return whether all parts together fit the limit."""

    async def aclose(self) -> None:
        """Disconnect."""


class Budget:
    """What a job may spend: `limit >= spent + in doubt + reserved` at any time.

    Attributes:
        limit: Credits; `None` means no limit.
        bill: The charges so far of this part of the job.
    """

    def __init__(
        self,
        limit: float | None,
        bill: Bill | None = None,
        *,
        shared: BudgetHome | None = None,
        share: float | None = None,
    ) -> None:
        """Begin with the `bill` of earlier runs.

        Args:
            limit: Credits; `None` means no limit.
            bill: The charges so far.
            shared: Where the parts of the job share `limit`; `None` if it is for this part alone.
            share: Maximum that this part may spend once `shared` is lost.
        """
        self.limit = limit
        self._limit = inf if limit is None else limit + TOLERANCE
        self._shared = shared
        self._share = share
        self.bill: Bill = bill or Bill()
        self._settled = asyncio.Event()

    async def reserve(self, price: float) -> bool:
        """Reserve `price` and return whether it fits; this may wait for requests in flight.

        Raises:
            JobError: A shared budget cannot be reached.
        """
        bill = self.bill
        while True:
            self._settled.clear()
            if bill.total + price <= self._limit and (
                self._shared is None or await self._fits_all(self._shared, price)
            ):
                bill.reserved += price
                return True
            if not bill.reserved or bill.spent + bill.in_doubt + price > self._limit:
                return False
            await self._settled.wait()

    async def aclose(self) -> None:
        """Report to the other parts what this one has spent, and disconnect.

        Raises:
            JobError: A shared budget cannot be reached.
        """
        if self._shared is not None:
            try:
                await self._shared.hold(self.bill.total, float_info.max, self.bill.total)
            finally:
                await self._shared.aclose()

    async def _fits_all(self, shared: BudgetHome, price: float) -> bool:
        if self.limit is None:
            return True
        total = self.bill.total
        fits = await shared.hold(total + price, self.limit + TOLERANCE, total)
        if shared.lost and self._share is not None:
            self._limit = min(self._limit, self._share + TOLERANCE)
        return fits and self.bill.total + price <= self._limit

    def settle(self, price: float, charge: ChargeState) -> None:
        """Turn a reservation into the charge that it became."""
        bill = self.bill
        bill.reserved -= price
        if abs(bill.reserved) < TOLERANCE:
            bill.reserved = 0.0
        if charge == "spent":
            bill.spent += price
        elif charge == "in doubt":
            bill.in_doubt += price
        self._settled.set()


class DiskSpace:
    """Lets only as many rows start as there is space for on the disk."""

    def __init__(self, free: Callable[[], int | None]) -> None:
        """Use `free`, which returns the bytes that are free for images; `None` if not known."""
        self._free = free
        self._places = 0
        self._in_use = 0
        self._largest = 0
        self._landed = asyncio.Event()

    async def reserve(self) -> bool:
        """Reserve space for the image of a row, and return whether there is any.

        This may wait for rows in flight.
        """
        while not self._places:
            self._places = self._count_places()
            if not self._places:
                if not self._in_use:
                    return False
                self._landed.clear()
                await self._landed.wait()
        self._places -= 1
        self._in_use += 1
        return True

    def release(self, size: int) -> None:
        """Release the space of a row whose image has `size` bytes; 0 if it has none."""
        self._in_use -= 1
        self._largest = max(self._largest, size)
        self._landed.set()

    def _count_places(self) -> int:
        """Return how many more rows may start before the disk is looked at again."""
        free = self._free()
        if free is None:
            return DISK_LOOKS
        images = (free - DISK_MARGIN) // (self._largest or ASSUMED_IMAGE)
        return min(max(images - self._in_use, 0), DISK_LOOKS)
