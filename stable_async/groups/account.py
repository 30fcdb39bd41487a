"""`client.account`: the account of the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from stable_async.api.account import AccountBalance, AccountDetails
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async.api import account
    from stable_async.transport.options import CallOptions

__all__ = ["Account"]


class Account(Group):
    """Looks up the account."""

    async def balance(self, **options: Unpack[CallOptions[account.Balance]]) -> account.Balance:
        """Look up the credits that are left: free. The figure lags; do not use it for
        accounting.
        """
        return await self._send(AccountBalance(), **options)

    async def details(self, **options: Unpack[CallOptions[account.Account]]) -> account.Account:
        """Look up id, address and organizations: free."""
        return await self._send(AccountDetails(), **options)
