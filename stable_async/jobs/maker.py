"""One image per row, for pipelines of any engine: all facts are stored beside the images.

A job of this package has a ledger, and a process that drives it. Where an engine drives (Ray,
Spark, Daft, Celery), tasks are repeated, moved and killed as the engine likes. So an `ImageMaker`
relies on the store alone: it looks there before it sends, claims a row there before its request
leaves, and completes the facts before it stores the image. What was in flight when it was killed is
in doubt.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypedDict, cast

from stable_async.api.services import SERVICES, service_name
from stable_async.errors import APIStatusError, StabilityError
from stable_async.files import in_thread
from stable_async.jobs.budget import Budget
from stable_async.jobs.errors import RowProblem, StorageError, storage_errors
from stable_async.jobs.outcomes import meaning, result_of
from stable_async.jobs.row import Result, Row
from stable_async.jobs.row_image import make_image
from stable_async.jobs.rules import PromptRules, check
from stable_async.jobs.storage.base import file_stem
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.claims import RowClaimedError
from stable_async.jobs.storage.objects import Objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stable_async.client import StabilityClient
    from stable_async.jobs.row import ChargeState
    from stable_async.jobs.storage.base import ImageWriter
    from stable_async.jobs.storage.claims import Claims
    from stable_async.jobs.storage.facts import RowFacts

__all__ = ["ImageMaker", "LocalBudget", "Made", "SharedBudget"]

# Rows have no positions here. Numbers derived from their ids keep folders small.
NUMBERS = 1_000_000

# During a network outage, for how long and how often a row is retried, seconds.
OUTAGE_LIMIT = 120.0
OUTAGE_PAUSE = 5.0


class Made(TypedDict):
    """What is known of the image of a row.

    Attributes:
        id: Id of the row.
        state: `done` or `filtered`: there is an image. `in doubt`: it may have been paid for, and
            is sent again only on request. `failed`: the API refused it for good. `again`: nothing
            was billed, and a later run sends it. `waiting`: it was not sent because the budget is
            reached.
        made: Whether this call sent it; otherwise it existed before.
        file_name: URL of the image.
        service: Name of the service.
        seed: The seed.
        finish_reason: The API's finish reason: whether its content filter blurred the image.
        sha256: Digest of the image, hexadecimal.
        width: Pixels.
        height: Pixels.
        credits: The price; for a row in doubt, what it may have cost.
        request_id: The API's id of the request.
        reason: Why there is no image, in a word or two.
        error: The reason in full.
    """

    id: str
    state: str
    made: bool
    file_name: str | None
    service: str
    seed: int | None
    finish_reason: str | None
    sha256: str | None
    width: int | None
    height: int | None
    credits: float | None
    request_id: str | None
    reason: str | None
    error: str | None


class SharedBudget(Protocol):
    """A limit of credits; `LocalBudget` is one for a single process."""

    async def reserve(self, price: float) -> bool:
        """Reserve `price` and return whether it fits."""
        ...

    async def settle(self, price: float, charge: ChargeState) -> None:
        """Turn a reservation into the charge that it became."""
        ...


class ImageMaker:
    """Makes images of rows and returns their facts, never their bytes; for one event loop.

    Rows are mappings with an `id`, fields of the API, and anything else, which is kept with the
    image. Seeds are derived from ids: the same on every machine, and when a row is made again.
    """

    def __init__(
        self,
        client: StabilityClient,
        images: str | Path,
        *,
        service: str = "core",
        budget: SharedBudget | float | None = None,
        price: float | None = None,
        spool: Path | None = None,
        max_in_flight: int = 256,
        resend_doubtful: bool = False,
    ) -> None:
        """Prepare; `open` checks that images can be stored.

        Args:
            client: An open client, which the maker does not close.
            images: A folder on this machine, or a URL such as `s3://bucket/name`; the same for all
                makers of a pipeline.
            service: The service of rows that name none.
            budget: Credits that this maker may spend, or a limit that several share; `None` means
                no limit.
            price: Credits to count for a row whose price no source states; required for such.
            spool: A folder for images that arrive while the store is unreachable; `open` puts what
                is there into the store. Makers of one pipeline on a machine may share it. `None`:
                they are lost with the error.
            max_in_flight: Maximum rows in flight at a time.
            resend_doubtful: Send rows again that are in doubt, which may charge twice.
        """
        local = isinstance(images, Path) or "://" not in images
        self._url = Path(images).absolute().as_uri() if local else str(images)
        self._client = client.with_options(priority="bulk")
        self._rules = PromptRules(service=service, price=price)
        self._budget = LocalBudget(budget) if isinstance(budget, int | float) else budget
        self._spool = spool
        self._places = asyncio.Semaphore(max_in_flight)
        self._resend_doubtful = resend_doubtful
        self._stack: AsyncExitStack | None = None
        self._writer: ImageWriter | None = None

    async def open(self) -> None:
        """Check that images can be stored; does nothing when open.

        Raises:
            StorageError: They cannot be stored, or the settings are invalid.
        """
        if self._stack is not None:
            return
        for problem in self._rules.problems():
            raise StorageError(problem.text)
        objects = await in_thread(Objects, self._url)
        store = BucketStore(objects, self._spool)
        with storage_errors(self._url):
            await in_thread(store.upload_spooled)
        async with AsyncExitStack() as stack:
            self._writer = await stack.enter_async_context(store.writing())
            self._stack = stack.pop_all()

    async def aclose(self) -> None:
        """Wait until all facts are stored; does nothing when closed."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def make(self, row: Mapping[str, object]) -> Made:
        """Make the image of a row, unless it exists, and return its facts.

        A row that was refused for good, or that may have been paid for, is returned, not raised.

        Raises:
            StabilityError: No request can be sent at all, because of the key, the account or the
                settings.
            StorageError: Facts or images cannot be read or stored.
        """
        prepared = self._prepare(row)
        if not isinstance(prepared, Row):
            identity = str(row.get("id") or "")
            result = Result("failed", "returned", reason="invalid request", error=prepared)
            return _facts(identity, self._rules.service, result, made=False)
        async with self._places:
            return await self._make(prepared)

    def _prepare(self, given: Mapping[str, object]) -> Row | str:
        """Return the row to be made, or its problem."""
        if given.get("id") in (None, ""):
            return "id: missing; allowed: text that is unique in the pipeline"
        service = service_name(str(given.get("service") or self._rules.service))
        known = SERVICES[service].model.model_fields if service in SERVICES else {}
        names = {"id", "service", *known}
        fields = {name: value for name, value in given.items() if name in names}
        metadata = {name: value for name, value in given.items() if name not in names}
        (row,) = self._rules.expand(Row(0, fields, metadata))
        if isinstance(row, RowProblem):
            return row.text
        unknown = self._rules.price_problem(row.service)
        problems = [unknown] if unknown else check(row, Path(), self._rules.price)
        if problems:
            return "; ".join(problem.text for problem in problems)
        row.position = int.from_bytes(sha256(row.id.encode()).digest()[:8]) % NUMBERS
        return row

    async def _make(self, row: Row) -> Made:
        if self._writer is None or self._writer.claims is None:
            raise StorageError("the maker is not open")
        claims = self._writer.claims
        stem = file_stem(row.position, row.id)
        try:
            known = await claims.resolved(stem)
            if known is not None:
                kept = {"done", "filtered", "failed"}
                if known.state in kept or (known.state == "in doubt" and not self._resend_doubtful):
                    return _known(known)
                row.attempts = len(known.charges)
                row.generation_id = known.generation_id
            return await self._send(row, claims, stem)
        except RowClaimedError as error:
            return _known(error.facts)
        except OSError as error:
            raise StorageError(f"{self._url}: {error.strerror or error}") from error
        finally:
            await claims.forget(stem)

    async def _send(self, row: Row, claims: Claims, stem: str) -> Made:
        accepted = row.generation_id is not None
        price = 0.0 if accepted else row.price or 0.0
        if price and self._budget is not None and not await self._budget.reserve(price):
            why = Result("waiting", "returned", reason="budget", error="the budget is reached")
            return _facts(row.id, row.service, why, row.seed, made=False)
        attempt = _Attempt(self._client, cast("ImageWriter", self._writer), claims, row, stem)
        charge: ChargeState = "in doubt"
        try:
            result = await attempt.run()
            charge = result.charge
        finally:
            if price and self._budget is not None:
                await self._budget.settle(price, charge)
        if result.image is None:
            claims.settle(stem, result)
        return _facts(row.id, row.service, result, row.seed, row.price, made=True)


class LocalBudget:
    """A limit of credits for one process."""

    def __init__(self, limit: float) -> None:
        self._budget = Budget(limit)

    async def reserve(self, price: float) -> bool:
        """Reserve `price` and return whether it fits; this may wait for rows in flight."""
        return await self._budget.reserve(price)

    async def settle(self, price: float, charge: ChargeState) -> None:
        """Turn a reservation into the charge that it became."""
        self._budget.settle(price, charge)


class _Attempt:
    """One row on its way: claimed, accepted, stored. It is the `RowObserver` of its image."""

    def __init__(
        self, client: StabilityClient, writer: ImageWriter, claims: Claims, row: Row, stem: str
    ) -> None:
        self._client, self._writer, self._claims = client, writer, claims
        self._row, self._stem = row, stem
        self._claimed = False
        self._accepted = row.generation_id is not None
        self.sent_at: float | None = None

    async def run(self) -> Result:
        """Return the facts of the row."""
        give_up = time.monotonic() + OUTAGE_LIMIT
        while True:
            try:
                return await make_image(self._client, self._writer, Path(), self._row, self)
            except StorageError:
                raise
            except StabilityError as error:
                if meaning(error) == "stop":
                    self._settle_unsent()
                    raise
                if self._accepted or meaning(error) != "pause":
                    return result_of(error, accepted=self._accepted)
                if time.monotonic() > give_up:
                    return Result("again", "returned", reason="outage", error=str(error))
                self._settle_unsent()
            await asyncio.sleep(OUTAGE_PAUSE)

    async def leaving(self) -> None:
        """Claim the row: its request is about to leave."""
        if not self._claimed and not self._accepted:
            await self._claims.claim(self._stem, self._row)
            self._claimed = True
        self.sent_at = time.time()

    def refused(self, error: APIStatusError) -> None:
        """Record that nothing was billed: if this process ends now, the row is not in doubt."""
        if not self._accepted and not error.maybe_billed:
            self._settle_unsent()

    def _settle_unsent(self) -> None:
        if self._claimed:
            self._claimed = False
            self._row.attempts += 1
            self._claims.settle(self._stem, Result("waiting", "returned"))

    async def accepted(self, generation_id: str) -> None:
        """Note the id of a generation: it is paid for."""
        self._accepted = True
        self._claims.accept(self._stem, generation_id)


def _known(facts: RowFacts) -> Made:
    charge = facts.charges[-1].state if facts.charges else "returned"
    result = Result(facts.state, charge, facts.image, facts.reason, facts.error)
    return _facts(facts.id, facts.service, result, facts.seed, facts.price, made=False)


def _facts(
    identity: str,
    service: str,
    result: Result,
    seed: int | None = None,
    price: float | None = None,
    *,
    made: bool,
) -> Made:
    """Return the facts of a row; `seed` and `price` are its own, for a row without an image."""
    image = result.image
    return Made(
        id=identity,
        state=result.state,
        made=made,
        file_name=image.file_name if image else None,
        service=service,
        seed=image.seed if image else seed,
        finish_reason=image.finish_reason if image else None,
        sha256=image.sha256 if image else None,
        width=image.width if image else None,
        height=image.height if image else None,
        credits=image.credits if image else None if result.charge == "returned" else price,
        request_id=image.request_id if image else None,
        reason=result.reason,
        error=result.error,
    )
