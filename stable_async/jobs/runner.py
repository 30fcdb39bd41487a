"""The heart of a job: every waiting prompt becomes an image, inside quota, budget and disk."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, cast

from stable_async.concurrency import map_as_completed
from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    NotFoundError,
    RateLimitError,
    StabilityError,
)
from stable_async.jobs.errors import JobError, StorageError
from stable_async.jobs.failures import classify, ends_the_job
from stable_async.jobs.ledger import ImageFacts, Ledger
from stable_async.jobs.row import make_request
from stable_async.jobs.storage.base import SpooledError, file_stem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from stable_async.api.base import MediaRequest
    from stable_async.client import StabilityClient
    from stable_async.jobs.budget import Budget
    from stable_async.jobs.ledger import Prompt
    from stable_async.jobs.ledger_writer import LedgerWriter
    from stable_async.jobs.progress import Progress
    from stable_async.jobs.storage.base import ImageWriter
    from stable_async.media import Image

__all__ = ["OUTAGE_WAITS", "Runner"]

READ_AHEAD = 256
# A request that never left costs nothing to try again, and a night is long: two minutes in all.
OUTAGE_WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
# Room kept on the disk for ledger and metadata, and for each image on its way before the first
# one has come.
DISK_MARGIN = 4 * 1024 * 1024
ASSUMED_IMAGE = 4 * 1024 * 1024
DISK_LOOKS = 32


class _StoppedError(Exception):
    """A request did not leave, because the job is stopping."""


class Runner:
    """Sends what waits in the ledger until nothing does, or until it is stopped.

    Attributes:
        error: Why the job cannot go on; `None` while it can.
        over_budget: Whether it stopped because the budget is spent.
        stopping: Whether nothing new leaves.
    """

    def __init__(
        self,
        client: StabilityClient,
        ledger: LedgerWriter,
        images: ImageWriter,
        budget: Budget,
        progress: Progress,
        *,
        free_space: Callable[[], int | None],
        folder: Path,
        max_in_flight: int,
        passes: int,
        read_more: Callable[[], Awaitable[bool]] | None = None,
        outage_waits: Sequence[float] = OUTAGE_WAITS,
    ) -> None:
        """Prepare.

        Args:
            client: Open; sends with priority `bulk`.
            ledger: Where the prompts are.
            images: Where they are kept.
            budget: What they may cost.
            progress: Is kept up to date.
            free_space: Gives the bytes that are left for images; `None` when that is not known.
            folder: What the input files of prompts are relative to.
            max_in_flight: The most prompts that are worked on at a time.
            passes: How often the run goes over what broke on the way, the first time included.
            read_more: Lays down more prompts and tells whether there were any; `None`: all are.
            outage_waits: Seconds between attempts to connect, before the job gives up.
        """
        self._client = client
        self._ledger = ledger
        self._images = images
        self._free_space = free_space
        self._budget = budget
        self.progress = progress
        self._folder = folder
        self._max_in_flight = max_in_flight
        self._passes = passes
        self._read_more = read_more
        self._outage_waits = outage_waits
        self._clock = asyncio.get_running_loop().time
        self.error: JobError | None = None
        self.over_budget = False
        self.stopping = False
        self.answered = False  # by the server, to anything
        self._held_back: set[asyncio.Timeout] = set()
        self._out = 0
        self._landed = asyncio.Event()
        self._places = 0
        self._largest: int | None = None
        self._departures: dict[int, tuple[int, int]] = {}

    async def run(self) -> None:
        """Work until all is done, or until what was in flight when it stopped is brought in.

        Raises:
            JobError: The ledger cannot be written.
        """
        for number in range(self._passes):
            if number:
                taken = await self._ledger.do(partial(Ledger.take_up_failed, final=False))
                self.progress.failed -= taken
                if not taken:
                    break
            self.progress.failures = Counter(await self._ledger.do(Ledger.failures_by_reason))
            await self._make_all()
            if self.stopping or self.over_budget:
                break
        await self._ledger.do(partial(Ledger.count_departures, seconds=self._take_departures()))

    async def _make_all(self) -> None:
        """Work until nothing waits: rows may be read that stand before those that were sent."""
        waits = partial(Ledger.prompts, state="waiting", limit=1)
        while True:
            outcomes = map_as_completed(self._make, self._waiting(), self._max_in_flight)
            async with aclosing(outcomes):
                async for _ in outcomes:
                    pass
            if self.stopping or self.over_budget or not await self._ledger.do(waits):
                return

    def stop(self, error: JobError | None = None) -> None:
        """Let nothing new leave; what has left is brought in. Later errors change nothing."""
        self.error = self.error or error
        self.stopping = True
        self.progress.phase = "stopping"
        for scope in self._held_back:
            if not scope.expired():
                scope.reschedule(self._clock())

    async def _waiting(self) -> AsyncGenerator[Prompt, None]:
        """Give prompts whose price is reserved, and for whose images there is room."""
        position = 0
        more = self._read_more
        while not self.stopping:
            read = partial(Ledger.prompts, state="waiting", after=position, limit=READ_AHEAD)
            prompts = await self._ledger.do(read)
            for prompt in prompts:
                position = prompt.position
                if not await self._has_room(prompt):
                    return
                self._out += 1
                yield prompt
            if not prompts and (more is None or not await more()):
                return

    async def _has_room(self, prompt: Prompt) -> bool:
        while not self._places and not self.stopping:
            self._places = self._free_places()
            if not self._places and not self._out:
                self.stop(StorageError("the disk is full, or nearly so: nothing more is sent"))
            elif not self._places:
                self._landed.clear()
                await self._landed.wait()
        if self.stopping:
            return False
        self._places -= 1
        if prompt.generation_id is None and not await self._budget.reserve(prompt.price or 0.0):
            self.over_budget = True
            return False
        return not self.stopping

    def _free_places(self) -> int:
        """Tell how many more prompts may be begun before the disk is looked at again."""
        free = self._free_space()
        if free is None:
            return DISK_LOOKS
        image = ASSUMED_IMAGE if self._largest is None else self._largest
        return min(max((free - DISK_MARGIN) // max(image, 1) - self._out, 0), DISK_LOOKS)

    async def _make(self, prompt: Prompt) -> None:
        """Bring one image, and note in the ledger what became of it."""
        sending = _Sending(self, prompt)
        try:
            await self._make_and_note(prompt, sending)
        except JobError as error:
            self.stop(error)
        finally:
            sending.settle(spent=True)  # what could not be noted may have cost
            self._out -= 1
            self._landed.set()

    async def _make_and_note(self, prompt: Prompt, sending: _Sending) -> None:
        try:
            async with sending:
                image, filtered = await self._bring_through_outages(prompt, sending)
        except _StoppedError:
            await self._put_back(prompt, sending)
        except StorageError as error:
            # It stays in flight in the ledger: the next run finds the image if it is anywhere.
            self.stop(error)
            self.progress.maybe_billed += not error.spooled
        except JobError as error:
            self.stop(error)
            await self._put_back(prompt, sending)
        except StabilityError as error:
            if ends_the_job(error):
                self.stop(JobError(str(error)))
                await self._put_back(prompt, sending)
            else:
                await self._fail(prompt, sending, error)
        else:
            await self._finish(prompt, sending, image, filtered=filtered)

    async def _bring_through_outages(
        self, prompt: Prompt, sending: _Sending
    ) -> tuple[ImageFacts, bool]:
        waits = iter(self._outage_waits)
        while True:
            try:
                return await self._bring(prompt, sending)
            except APIConnectionError as error:
                if error.maybe_billed or sending.paid:
                    raise
                sending.never_left()
                wait = next(waits, None)
                if wait is None or not self.answered:
                    raise JobError(str(error)) from error
                await asyncio.sleep(wait)

    async def _bring(self, prompt: Prompt, sending: _Sending) -> tuple[ImageFacts, bool]:
        parameters = dict(prompt.parameters)
        if prompt.seed is not None:
            parameters["seed"] = prompt.seed
        request: MediaRequest[Image] = make_request(prompt.service, parameters, self._folder)
        result = request.operation.result
        if result is not None:
            generation_id = prompt.generation_id
            if generation_id is None:
                accepted = await self._client.submit(request, priority="bulk", observer=sending)
                generation_id = accepted.id
                await sending.accepted(generation_id)
            request = cast("MediaRequest[Image]", result(id=generation_id, paid=prompt.price))
        async with self._client.stream(request, priority="bulk", observer=sending) as stream:
            self.answered = True
            stem = file_stem(prompt.position, prompt.id)
            filtered = stream.filtered
            sink = self._images.sink(stem, stream.content_type, filtered=filtered)
            try:
                stored = await stream.save_to(sink)
            except OSError as error:
                why = f"an image cannot be kept: {error.strerror or error}"
                raise StorageError(why, spooled=isinstance(error, SpooledError)) from error
            self._largest = max(self._largest or 0, stored.bytes)
            return ImageFacts(
                position=prompt.position,
                file_name=stored.file_name,
                content_type=stored.content_type,
                bytes=stored.bytes,
                sha256=stored.sha256,
                width=stored.width,
                height=stored.height,
                seed=prompt.seed if stream.seed is None else stream.seed,
                finish_reason=stream.finish_reason,
                request_id=stream.request_id,
                credits=prompt.price,
                sent_at=sending.sent_at,
                finished_at=time.time(),
            ), filtered

    async def _finish(
        self, prompt: Prompt, sending: _Sending, image: ImageFacts, *, filtered: bool
    ) -> None:
        await self._ledger.do(partial(Ledger.finish, prompt=prompt, image=image, filtered=filtered))
        sending.settle(spent=True)
        progress = self.progress
        progress.credits += image.credits or 0.0
        if filtered:
            progress.filtered += 1
        else:
            progress.done += 1
        progress.settle(self._clock())

    async def _fail(self, prompt: Prompt, sending: _Sending, error: StabilityError) -> None:
        failure = classify(error)
        # A generation that was paid can be fetched again, unless the API has none such.
        expired = sending.paid and isinstance(error, NotFoundError)
        await self._ledger.do(
            partial(Ledger.fail, position=prompt.position, failure=failure, expired=expired)
        )
        doubtful = failure.maybe_billed and not sending.paid
        sending.settle(spent=doubtful)
        self.progress.failed += 1
        self.progress.maybe_billed += doubtful or expired
        self.progress.failures[failure.reason] += 1
        self.progress.settle(self._clock())

    async def _put_back(self, prompt: Prompt, sending: _Sending) -> None:
        """Let a prompt wait again that was not billed; the next run sends it."""
        sending.settle(spent=False)
        if sending.claimed:
            put_back = partial(Ledger.put_back, position=prompt.position, maybe_billed=False)
            await self._ledger.do(put_back)

    # What `_Sending` reports.

    async def claim(self, sending: _Sending) -> None:
        """Note that a request is about to leave; when this is over, it may."""
        departures = self._take_departures(before=int(time.time()))

        def note(ledger: Ledger) -> None:
            ledger.claim(sending.prompt.position)
            if departures:
                ledger.count_departures(departures)

        await self._ledger.do(note)

    async def accept(self, sending: _Sending, generation_id: str) -> None:
        """Note the id of a generation that is paid for."""
        await self._ledger.do(
            partial(Ledger.accept, position=sending.prompt.position, generation_id=generation_id)
        )

    def hold_back(self, scope: asyncio.Timeout) -> None:
        """Let `stop` end a sending: nothing of it is on its way."""
        self._held_back.add(scope)
        if self.stopping:
            self.stop()

    def let_go(self, scope: asyncio.Timeout) -> None:
        """Keep `stop` from ending a sending."""
        self._held_back.discard(scope)

    def count(self, *, requests: int = 0, rate_limited: int = 0) -> None:
        """Count what left or was refused in this second."""
        second = int(time.time())
        before = self._departures.get(second, (0, 0))
        self._departures[second] = (before[0] + requests, before[1] + rate_limited)

    def give_back(self, price: float, *, spent: bool) -> None:
        """Settle what was reserved for a sending."""
        self._budget.settle(price, spent=spent)
        self.progress.spent = self._budget.spent

    def _take_departures(self, before: int | None = None) -> dict[int, tuple[int, int]]:
        """Give the counts of whole seconds, once."""
        seconds = [second for second in self._departures if before is None or second < before]
        return {second: self._departures.pop(second) for second in seconds}


class _Sending:
    """One prompt on its way, as a context manager: watches the attempts of its request.

    What does not leave because the job is stopping ends with `_StoppedError`.
    """

    def __init__(self, runner: Runner, prompt: Prompt) -> None:
        self._runner = runner
        self.prompt = prompt
        self.claimed = False
        self.paid = prompt.generation_id is not None
        self.sent_at: float | None = None
        self._reserved = not self.paid
        self._away = False
        # Has no end of its own: `Runner.stop` sets it.
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._hold_back()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._landed()
        self._runner.let_go(self._scope)
        try:
            await self._scope.__aexit__(exc_type, exc, traceback)
        except TimeoutError:
            raise _StoppedError from None

    async def leaving(self) -> None:
        runner = self._runner
        if not self.claimed and not runner.stopping:
            self.claimed = True
            await runner.claim(self)
        if runner.stopping:
            raise _StoppedError
        # From here on the request may cost: it is brought in whatever happens.
        runner.let_go(self._scope)
        self._away = True
        self.sent_at = time.time()
        runner.progress.left(asyncio.get_running_loop().time())
        runner.count(requests=1)

    def refused(self, error: APIStatusError) -> None:
        self._runner.answered = True
        self._landed()
        self._hold_back()
        if isinstance(error, RateLimitError):
            self._runner.progress.rate_limited += 1
            self._runner.count(rate_limited=1)

    async def accepted(self, generation_id: str) -> None:
        self.paid = True
        self._runner.answered = True
        await self._runner.accept(self, generation_id)
        self.settle(spent=True)

    def never_left(self) -> None:
        """There was no connection after all."""
        self._landed()
        self._hold_back()
        self._runner.progress.requests -= 1
        self._runner.count(requests=-1)

    def settle(self, *, spent: bool) -> None:
        if self._reserved:
            self._reserved = False
            self._runner.give_back(self.prompt.price or 0.0, spent=spent)

    def _hold_back(self) -> None:
        if not self.paid:
            self._runner.hold_back(self._scope)

    def _landed(self) -> None:
        """Nothing of this prompt is on its way any more."""
        if self._away:
            self._away = False
            self._runner.progress.in_flight -= 1
