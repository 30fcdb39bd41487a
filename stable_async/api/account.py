"""Requests about the account of the key.

Facts: v1 documents of api.stability.ai.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from stable_async.api.answers import Answer, read_as
from stable_async.api.base import Operation, WholeRequest
from stable_async.api.verdict import Asked

__all__ = ["Account", "AccountBalance", "AccountDetails", "Balance", "Organization"]


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization that the account belongs to."""

    id: str
    name: str
    role: str
    is_default: bool


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a key.

    Attributes:
        id: The account.
        email: Its email address.
        organizations: The organizations it belongs to.
        profile_picture: URL of its image, if it has one.
    """

    id: str
    email: str
    organizations: tuple[Organization, ...]
    profile_picture: str | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """What is left to spend.

    Attributes:
        credits: Credits left. Lags behind, and was once wrong for minutes: do not account by it.
    """

    credits: Annotated[float, Field(allow_inf_nan=False)]


class AccountDetails(WholeRequest[Account]):
    """The account of the key: its id, address and organizations. Free."""

    asked: ClassVar[Asked] = "read"
    operation: ClassVar[Operation] = Operation(
        id="v1_user_account",
        path="/v1/user/account",
        credits=0,
        output="the account of the key",
        method="GET",
        accept=("application/json",),
    )

    def read(self, answer: Answer) -> Account:
        return read_as(Account, answer)


class AccountBalance(WholeRequest[Balance]):
    """The credits of the account, or of the organization that the client names. Free."""

    asked: ClassVar[Asked] = "read"
    operation: ClassVar[Operation] = Operation(
        id="v1_user_balance",
        path="/v1/user/balance",
        credits=0,
        output="the remaining credits",
        method="GET",
        accept=("application/json",),
        organization=True,
    )

    def read(self, answer: Answer) -> Balance:
        return read_as(Balance, answer)
