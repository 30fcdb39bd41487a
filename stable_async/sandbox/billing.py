"""The charges of the sandbox: exact sums by caller, and a balance that may lag."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Bill", "Caller", "Charges"]


@dataclass(frozen=True, slots=True, order=True)
class Caller:
    """Who sent a request: the fingerprint of its key, and its identification headers."""

    key: str
    client_id: str = ""
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class Charges:
    """The charges of one caller.

    Attributes:
        requests: Requests that were charged.
        credits: Sum of their prices, exact to the last decimal of the price list.
        by_operation: The sums by the operation's id.
    """

    requests: int = 0
    credits: float = 0.0
    by_operation: Mapping[str, float] = field(default_factory=dict)


class Bill:
    """Every charge, by caller and operation."""

    def __init__(self, credits: float, lag: float) -> None:  # noqa: A002 - the API's word
        """Start with this many credits; charges appear in the balance after `lag` seconds."""
        self._begun_with = Decimal(str(credits))
        self._lag = lag
        self._spent = Decimal(0)
        self._hidden: deque[tuple[float, Decimal]] = deque()
        self._sums: dict[tuple[Caller, str], tuple[int, Decimal]] = {}

    def charge(self, caller: Caller, operation: str, credits: float, now: float) -> None:  # noqa: A002
        """Add a charge."""
        self._add(caller, operation, 1, Decimal(str(credits)), now)

    def refund(self, caller: Caller, operation: str, credits: float, now: float) -> None:  # noqa: A002
        """Take back a charge."""
        self._add(caller, operation, -1, -Decimal(str(credits)), now)

    def _add(
        self, caller: Caller, operation: str, requests: int, amount: Decimal, now: float
    ) -> None:
        count, total = self._sums.get((caller, operation), (0, Decimal(0)))
        self._sums[caller, operation] = (count + requests, total + amount)
        self._spent += amount
        if self._lag:
            self._hidden.append((now, amount))

    @property
    def spent(self) -> float:
        """Credits charged so far."""
        return float(self._spent)

    @property
    def left(self) -> float:
        """Credits that are left, without the lag."""
        return float(self._begun_with - self._spent)

    def balance(self, now: float) -> float:
        """Return what the balance endpoint shows."""
        while self._hidden and self._hidden[0][0] <= now - self._lag:
            self._hidden.popleft()
        hidden = sum((amount for _, amount in self._hidden), Decimal(0))
        return float(self._begun_with - self._spent + hidden)

    def charges(
        self, *, key: str | None = None, client_id: str | None = None, user_id: str | None = None
    ) -> Charges:
        """Return the charges of the callers that match; `None` matches all."""
        requests, spent, by_operation = 0, Decimal(0), dict[str, Decimal]()
        for (caller, operation), (count, total) in list(self._sums.items()):
            if (
                key in {None, caller.key}
                and client_id in {None, caller.client_id}
                and user_id in {None, caller.user_id}
            ):
                requests += count
                spent += total
                by_operation[operation] = by_operation.get(operation, Decimal(0)) + total
        sums = {operation: float(total) for operation, total in sorted(by_operation.items())}
        return Charges(requests, float(spent), sums)

    def callers(self) -> list[Caller]:
        """Return all callers that were charged."""
        return sorted({caller for caller, _ in list(self._sums)})
