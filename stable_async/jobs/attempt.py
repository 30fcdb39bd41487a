"""One row on its way to its image: claimed in the ledger, accepted by the API, settled."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from stable_async.errors import APIConnectionError, RateLimitError, StabilityError
from stable_async.jobs.errors import JobError, StorageError
from stable_async.jobs.gate import REFUSALS_OF_A_ROW, StoppedError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.outcomes import is_outage, meaning, result_of
from stable_async.jobs.row import Result
from stable_async.jobs.row_image import make_image
from stable_async.jobs.storage.base import file_stem
from stable_async.jobs.storage.claims import RowClaimedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from stable_async.client import StabilityClient
    from stable_async.errors import APIStatusError
    from stable_async.jobs.budget import Budget, DiskSpace
    from stable_async.jobs.gate import Gate
    from stable_async.jobs.ledger_writer import LedgerWriter
    from stable_async.jobs.lock import FolderLock
    from stable_async.jobs.progress import Progress
    from stable_async.jobs.row import ChargeState, Row
    from stable_async.jobs.storage.base import ImageWriter
    from stable_async.jobs.storage.claims import Claims
    from stable_async.jobs.storage.facts import RowFacts

__all__ = ["Attempt", "RunContext"]

logger: logging.Logger = logging.getLogger("stable_async")


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all attempts of a run share.

    Attributes:
        client: Open; its calls are `bulk`.
        ledger: The ledger that has the rows.
        images: Stores their images.
        budget: Limits what they may cost.
        disk: Limits how many may start.
        gate: Decides whether they may leave.
        progress: Updated with every attempt.
        lock: The lock of the job's folder.
        folder: The folder that input files of rows are relative to.
        max_in_flight: Maximum rows in progress at a time.
        on_result: Called with each row and the result of its attempt.
    """

    client: StabilityClient
    ledger: LedgerWriter
    images: ImageWriter
    budget: Budget
    disk: DiskSpace
    gate: Gate
    progress: Progress
    lock: FolderLock
    folder: Path
    max_in_flight: int
    on_result: Callable[[Row, Result], None]


class _HeldError(Exception):
    """A request did not leave, because of an outage."""


class Attempt:
    """Makes the image of one row, and records the result in the ledger.

    It is the `RowObserver` of its image.
    """

    def __init__(self, context: RunContext, row: Row) -> None:
        """Prepare; `row` has its space and, unless its generation was accepted, its price."""
        self._context = context
        self._row = row
        self._claimed = False
        self._accepted = row.generation_id is not None
        self._reserved = not self._accepted
        self._away = False
        self.sent_at: float | None = None
        self._left_at: float | None = None
        self._refused_at: float | None = None
        self._refusals = self._tries = 0
        self._gives_way = False
        # Has no deadline of its own: `Gate.stop` ends it while nothing of the row is in flight.
        self._scope = asyncio.timeout(None)

    @cached_property
    def _stem(self) -> str:
        return file_stem(self._row.position, self._row.id)

    async def run(self) -> Result | None:
        """Make the image, and return the result; `None` if the ledger is broken."""
        context, row = self._context, self._row
        charge: ChargeState = "in doubt"  # what could not be recorded may have cost something
        size = 0
        try:
            result = await self._make()
            if self._claimed or self._accepted or result.state != "waiting":
                claims = context.images.claims
                if claims is not None and result.state != "in flight":
                    claims.settle(self._stem, result)
                await context.ledger.do(partial(Ledger.settle, row=row, result=result))
                if claims is not None:
                    await claims.forget(self._stem)
            charge = result.charge
            if result.image is not None:
                size = result.image.bytes
        except RowClaimedError as error:
            result = await self._take_over(error.facts)
            charge = result.charge
        except JobError as error:
            context.gate.stop(error)
            return None
        finally:
            if self._reserved:
                context.budget.settle(row.price or 0.0, charge)
            context.disk.release(size)
        context.progress.settle(result, asyncio.get_running_loop().time())
        try:
            context.on_result(row, result)
        except Exception:  # other rows are in flight, and paid for
            logger.exception("a callback for results has failed")
        return result

    async def _take_over(self, facts: RowFacts) -> Result:
        """Record what the bucket knows of a row that this ledger, an older copy, did not know."""

        def adopt(ledger: Ledger) -> None:
            ledger.withdraw(self._row)
            ledger.adopt(facts)

        await self._context.ledger.do(adopt)
        charge = facts.charges[-1].state if facts.charges else "returned"
        return Result(facts.state, charge, reason=facts.reason, error=facts.error)

    async def _make(self) -> Result:
        """Make the image, through outages of the network."""
        context, gate = self._context, self._context.gate
        try:
            async with self._scope:
                gate.hold(self._scope)
                try:
                    while True:
                        await gate.wait(self)
                        try:
                            result = await make_image(
                                context.client, context.images, context.folder, self._row, self
                            )
                        except _HeldError:
                            continue
                        except StabilityError as error:
                            if not self._is_tried_again(error):
                                raise
                        else:
                            gate.answered(self._left_at)
                            return result
                finally:
                    gate.end(self, self._scope)  # it cannot be rescheduled once it has ended
                    self._landed()
        except RowClaimedError:
            raise
        except Exception as error:  # noqa: BLE001 - what was paid for is not to be lost
            return self._result_of(error)

    def _result_of(self, error: Exception) -> Result:
        """Return the result of the row after an error, and stop the job if the error concerns
        it.
        """
        gate = self._context.gate
        match error:
            case StoppedError():
                return self._unsent()
            case TimeoutError() if self._scope.expired():
                # Only the scope's timeout shows that nothing has left; another timeout shows
                # nothing.
                return self._unsent()
            case StorageError():
                gate.stop(error)
                # The row stays in flight: the next run finds the image wherever it was stored.
                return Result("in flight", "spent", reason="not stored", error=str(error))
            case JobError():
                gate.stop(error)
                return self._unsent()
            case StabilityError():
                if meaning(error) == "stop":
                    gate.stop(JobError(str(error)))
                return result_of(
                    error, accepted=self._accepted, blocked=self._is_blocked or self._gives_way
                )
            case _:
                return self._unexpected(error)

    def _unexpected(self, error: Exception) -> Result:
        """Settle a row after an error of a callback or a bug, and stop the job."""
        text, reason = f"{type(error).__name__}: {error}", "unexpected error"
        row = f"row {self._row.number} ({self._row.id})"
        logger.error(row, exc_info=error)
        self._context.gate.stop(JobError(f"{row}: {text}"))
        if self._accepted:
            return Result("again", "spent", reason=reason, error=text)
        if self._claimed:
            return Result("in doubt", "in doubt", reason=reason, error=text)
        return Result("waiting", "returned")

    def _unsent(self) -> Result:
        return Result("waiting", "spent" if self._accepted else "returned")

    def _is_tried_again(self, error: StabilityError) -> bool:
        """Record what an error says about the network, and return whether to retry after it."""
        gate = self._context.gate
        pauses = not self._accepted and meaning(error) == "pause"
        if pauses:
            self._count_refusal()
        if is_outage(error) and not self._is_blocked:
            gate.refused(error)
        if not pauses:
            return False
        if isinstance(error, APIConnectionError):
            self._not_sent()
        self._release()
        if gate.stopping:
            raise StoppedError from error
        return not (self._is_blocked or self._gives_way)

    @property
    def _is_blocked(self) -> bool:
        return self._row.position in self._context.gate.blocked

    def _count_refusal(self) -> None:
        """Count a refusal by the network, and find out whether only this row is refused
        repeatedly, and whether it keeps others from being sent.
        """
        gate, position = self._context.gate, self._row.position
        left = self._context.progress.total - self._context.progress.settled
        if self._refused_at is None or gate.answers_since(self._refused_at):
            self._refusals += 1
        self._refused_at = asyncio.get_running_loop().time()
        self._tries += 1
        if self._refusals >= REFUSALS_OF_A_ROW or gate.is_refused_alone(
            position, is_last=left == 1
        ):
            gate.blocked.add(position)
        elif self._tries >= REFUSALS_OF_A_ROW and left > self._context.max_in_flight:
            gate.give_way(position)
            self._gives_way = True

    # Called by the client.

    async def accepted(self, generation_id: str) -> None:
        """Record the id of a generation: it is paid for."""
        context = self._context
        self._accepted = True
        claims = context.images.claims
        if claims is not None:
            claims.accept(self._stem, generation_id)
        accept = partial(Ledger.accept, row=self._row, generation_id=generation_id)
        await context.ledger.do(accept)
        self._reserved = False
        context.budget.settle(self._row.price or 0.0, "spent")
        context.gate.answered(self._left_at)
        self._left_at = None  # polls for its result leave later

    async def leaving(self) -> None:
        """Record in the ledger that a request is about to leave; it may leave once this returns."""
        context = self._context
        gate = context.gate
        if gate.stopping:
            raise StoppedError
        if not gate.lets_pass(self):
            raise _HeldError
        if not self._claimed and not self._accepted:
            context.lock.check()
            self._claimed = True
            noting = context.ledger.do(partial(Ledger.claim, row=self._row))
            claims = context.images.claims
            await (noting if claims is None else self._claim_in_bucket(noting, claims))
            if gate.stopping:
                raise StoppedError
        # From here on the request may be charged, so its result is fetched whatever happens.
        gate.let_go(self._scope)
        if self._away:
            self._landed()  # a permit may expire before its request is sent
        self._away = True
        self.sent_at = time.time()
        self._left_at = asyncio.get_running_loop().time()
        if departures := context.progress.left(self._left_at):
            context.ledger.post(partial(Ledger.count_departures, seconds=departures))

    async def _claim_in_bucket(self, noting: Awaitable[None], claims: Claims) -> None:
        """Claim the row in the bucket while the ledger records its claim."""
        claiming = claims.claim(self._stem, self._row)
        noted, claimed = await asyncio.gather(noting, claiming, return_exceptions=True)
        if isinstance(noted, BaseException):
            raise noted
        if isinstance(claimed, OSError):
            self._context.gate.stop(
                StorageError(f"a claim cannot be stored: {claimed.strerror or claimed}")
            )
            raise StoppedError
        if isinstance(claimed, BaseException):
            raise claimed

    def refused(self, error: APIStatusError) -> None:
        """Record that an attempt was answered with an error."""
        context = self._context
        if error.from_api and not is_outage(error):
            context.gate.answered(self._left_at)
        self._landed()
        if not self._accepted:
            context.gate.hold(self._scope)
            if not error.maybe_billed:
                self._release()
        if isinstance(error, RateLimitError):
            context.progress.count(rate_limited=1)

    def _not_sent(self) -> None:
        """Record that no connection was made after all."""
        if self._away:
            self._context.progress.count(requests=-1)
        self._landed()
        self._context.gate.hold(self._scope)

    def _release(self) -> None:
        """Record that nothing was billed: if this process ends now, the row is not in doubt."""
        if self._claimed:
            self._claimed = False
            unsent = Result("waiting", "returned")
            if self._context.images.claims is not None:
                self._context.images.claims.settle(self._stem, unsent)
            self._context.ledger.post(partial(Ledger.settle, row=self._row, result=unsent))

    def _landed(self) -> None:
        """Record that nothing of this row is in flight any more."""
        if self._away:
            self._away = False
            self._context.progress.in_flight -= 1
