"""`stable-async balance`: the credits of the account."""

import asyncio

from stable_async.cli.connection import Connection, open_client
from stable_async.cli.exit_status import OK
from stable_async.cli.options import reflowed

__all__ = ["balance"]


@reflowed
def balance(*, connection: Connection = Connection()) -> int:  # noqa: B008 - frozen
    """Print the credits of the account. The API's figure lags behind recent charges."""
    print(f"{asyncio.run(_balance(connection)):,.2f} credits")
    return OK


async def _balance(connection: Connection) -> float:
    async with open_client(connection) as client:
        return (await client.account.balance()).credits
