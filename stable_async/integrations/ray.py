"""Images in pipelines of Ray Data: rows in, facts and paths out; see docs/machines.md."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import ray

from stable_async.client import StabilityClient
from stable_async.jobs.maker import ImageMaker, LocalBudget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from stable_async.jobs.maker import Made
    from stable_async.jobs.row import ChargeState
    from stable_async.quota import Quota, SharedQuota

__all__ = ["ClusterBudget", "MakeImages"]

NAMESPACE = "stable_async"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("state", pa.string()),
        ("made", pa.bool_()),
        ("file_name", pa.string()),
        ("service", pa.string()),
        ("seed", pa.int64()),
        ("finish_reason", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("credits", pa.float64()),
        ("request_id", pa.string()),
        ("reason", pa.string()),
        ("error", pa.string()),
    ]
)


class MakeImages:
    """Makes the images of rows: `dataset.map_batches(MakeImages, fn_constructor_kwargs=...)`.

    Rows have an `id`, fields of the API, and anything else. The output is one row for each, a
    `stable_async.jobs.maker.Made`, as it finishes: there is no barrier at the end of a batch.
    Images that exist already are found; what was in flight when an actor was killed is `in doubt`.
    """

    def __init__(
        self,
        images: str,
        *,
        quota: Quota | SharedQuota,
        service: str = "core",
        budget: ClusterBudget | None = None,
        price: float | None = None,
        spool: str | None = None,
        resend_doubtful: bool = False,
        max_in_flight: int = 256,
        base_url: str | None = None,
    ) -> None:
        """Prepare; the first batch opens the client.

        Args:
            images: A URL such as `s3://bucket/name`, or a folder that all machines can access.
            quota: `SharedQuota.ray(name)` or `SharedQuota.redis(url)`; the same in all actors.
            service: The service of rows that name none.
            budget: Credits that all actors together may spend; `None` means no limit.
            price: Credits to count for a row whose price no source states; required for such.
            spool: A folder of each machine for images that arrive while the store is unreachable;
                the next actor on that machine puts them into the store. `None`: they are lost with
                the error.
            resend_doubtful: Send rows again that are in doubt, which may charge twice.
            max_in_flight: Maximum rows in flight at a time in one actor.
            base_url: The API's address; the key is that of `STABILITY_API_KEY` on each machine.
        """
        self._client = StabilityClient(base_url=base_url, quota=quota, priority="bulk")
        self._maker = ImageMaker(
            self._client,
            images,
            service=service,
            budget=budget,
            price=price,
            spool=None if spool is None else Path(spool),
            resend_doubtful=resend_doubtful,
            max_in_flight=max_in_flight,
        )
        self._opening: asyncio.Task[None] | None = None

    async def __call__(self, batch: Mapping[str, Any]) -> AsyncIterator[pa.Table]:
        """Yield the facts of each row of a batch, as it finishes."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        await asyncio.shield(self._opening)
        makes = [asyncio.ensure_future(self._maker.make(row)) for row in _rows(batch)]
        try:
            for made in asyncio.as_completed(makes):
                yield _table(await made)
        finally:
            for make in makes:
                make.cancel()

    async def _open(self) -> None:
        await self._client.open()
        await self._maker.open()


class ClusterBudget:
    """A limit of credits for all actors of a cluster that name it.

    A named actor holds it. It is detached like that of `SharedQuota.ray`: the next program
    continues with what this one has spent. What was reserved by an actor that was killed stays
    reserved, because it may have been billed.
    """

    def __init__(self, name: str, limit: float) -> None:
        """Name the budget.

        Args:
            name: Name of the budget in the cluster.
            limit: Credits. The limit of the first use holds until `ray.kill` ends the actor.
        """
        self._name = f"{NAMESPACE}.budget.{name}"
        self._limit = limit
        self._actor: Any = None

    def __getstate__(self) -> tuple[str, float]:
        return self._name, self._limit

    def __setstate__(self, state: tuple[str, float]) -> None:
        self._name, self._limit = state
        self._actor = None

    async def reserve(self, price: float) -> bool:
        """Reserve `price` and return whether it fits."""
        return bool(await self._keeper().reserve.remote(price))

    async def settle(self, price: float, charge: ChargeState) -> None:
        """Turn what was reserved into what it became."""
        await self._keeper().settle.remote(price, charge)

    def _keeper(self) -> Any:  # noqa: ANN401 - Ray's handles have no type
        if self._actor is None:
            remote = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=1000)(LocalBudget)
            options = {"name": self._name, "namespace": NAMESPACE, "lifetime": "detached"}
            self._actor = remote.options(get_if_exists=True, **options).remote(self._limit)
        return self._actor


def _rows(batch: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return the rows of a batch, with Python values."""
    columns = {
        name: values.tolist() if hasattr(values, "tolist") else list(values)
        for name, values in batch.items()
    }
    return [
        {name: value for name, value in zip(columns, values, strict=True) if not _is_missing(value)}
        for values in zip(*columns.values(), strict=True)
    ]


def _is_missing(value: object) -> bool:
    """Return whether this is what an engine writes for a missing value."""
    return value is None or (isinstance(value, float) and value != value)


def _table(made: Made) -> pa.Table:
    return pa.Table.from_pylist([cast("dict[str, object]", made)], schema=SCHEMA)
