"""Claims beside the images: written before a request leaves, completed before its image."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.jobs.storage.facts import FACTS_SUFFIX, RowFacts, read_facts

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stable_async.jobs.row import ImageFacts, Result, Row
    from stable_async.jobs.storage.objects import Objects, Version

__all__ = ["Claims", "RowClaimedError"]

logger: logging.Logger = logging.getLogger("stable_async.jobs")


class RowClaimedError(Exception):
    """A row was claimed elsewhere and must not be sent.

    Attributes:
        facts: The facts of the row there.
    """

    def __init__(self, facts: RowFacts) -> None:
        super().__init__(f"{facts.id} was claimed elsewhere: {facts.state}")
        self.facts = facts


@dataclass(slots=True)
class _Known:
    facts: RowFacts
    version: Version


class Claims:
    """The facts of rows in a store, for one event loop. The stem of a row names its file,
    `STEM.json`.

    If two processes claim one row, one gets it: the store creates an object only once.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._token = secrets.token_hex(8)
        self._known: dict[str, _Known] = {}
        self._writing: dict[str, asyncio.Task[None]] = {}

    async def resolved(self, stem: str) -> RowFacts | None:
        """Return the facts of a row as the next run finds it; `None` if it was never
        claimed.

        Raises:
            StorageError: The file there does not hold facts.
            OSError: The store cannot be read.
        """
        found = await self._read(stem)
        return None if found is None else await self._resolved(found.facts)

    async def claim(self, stem: str, row: Row) -> RowFacts:
        """Claim a row whose request is about to leave.

        A row that was attempted before is claimed again if the store knows no more attempts than
        `row.attempts`.

        Raises:
            RowClaimedError: It has an image, or may have been billed, or is claimed elsewhere.
            StorageError: The file there does not hold facts.
            OSError: The claim could not be stored: the request must not leave.
        """
        await self._wait_for(stem)
        before = self._known.get(stem)
        if before is None and row.attempts:
            before = await self._read(stem)
            if before is not None:
                await self._refuse_newer(row, before)
        if before is None:
            facts = RowFacts.claim(row, self._token)
            try:
                version = await self._objects.create(stem + FACTS_SUFFIX, facts.to_json())
                self._known[stem] = _Known(facts, version)
                return facts
            except FileExistsError:
                before = await self._read(stem)
                if before is None:
                    raise
                await self._refuse_newer(row, before)
        facts = RowFacts.claim(row, self._token, before.facts)
        try:
            version = await self._objects.replace(
                stem + FACTS_SUFFIX, facts.to_json(), before.version
            )
        except FileExistsError:
            found = await self._read(stem)
            if found is None:
                raise
            raise RowClaimedError(await self._resolved(found.facts)) from None
        self._known[stem] = _Known(facts, version)
        return facts

    def accept(self, stem: str, generation_id: str) -> None:
        """Record the id of a generation, without waiting; a failure is logged."""
        self._begin(stem, self._known[stem].facts.accepted(generation_id))

    async def made(self, stem: str, row: Row, image: ImageFacts) -> RowFacts:
        """Return the facts of a row whose image has arrived; nothing is written yet.

        Raises:
            StorageError: The file there does not hold facts.
            OSError: What an earlier run wrote cannot be read.
        """
        await self._wait_for(stem)
        return (await self._of(stem, row)).made(image)

    async def complete(self, stem: str, facts: RowFacts) -> None:
        """Store what `made` returned, before the image is stored.

        Raises:
            OSError: They could not be stored: spool the image with its facts.
        """
        known = self._known[stem]
        path = stem + FACTS_SUFFIX
        known.version = await self._objects.replace(path, facts.to_json(), known.version)
        known.facts = facts

    def settle(self, stem: str, result: Result) -> None:
        """Record how an attempt ended without an image, without waiting.

        A failure is logged; the claim alone then means in doubt.
        """
        known = self._known.get(stem)
        if known is not None and known.facts.image is None:
            self._begin(stem, known.facts.settled(result))

    async def forget(self, stem: str) -> None:
        """Drop a row from memory."""
        await self._wait_for(stem)
        self._known.pop(stem, None)

    async def aclose(self) -> None:
        """Wait for what is still being written."""
        for stem in list(self._writing):
            await self._wait_for(stem)
        self._known.clear()

    async def _refuse_newer(self, row: Row, before: _Known) -> None:
        """Raise unless a row may be sent, given its present facts."""
        facts = await self._resolved(before.facts)
        if row.remake > facts.remake:
            return
        newer = len(facts.charges) > row.attempts
        if facts.image is not None or (newer and facts.state not in {"waiting", "again"}):
            raise RowClaimedError(facts)
        if newer and facts.generation_id is not None:
            raise RowClaimedError(facts)

    async def _resolved(self, facts: RowFacts) -> RowFacts:
        has_image = False
        if facts.image is not None:
            path = self._objects.path(facts.image.file_name)
            has_image = path is not None and await self._objects.size(path) == facts.image.bytes
        return facts.resolved(has_image=has_image)

    async def _of(self, stem: str, row: Row) -> RowFacts:
        """Return the facts of a row that this or an earlier run claimed."""
        known = self._known.get(stem) or await self._read(stem)
        if known is None:
            known = _Known(RowFacts.claim(row, self._token), {})
        self._known[stem] = known
        return known.facts

    async def _read(self, stem: str) -> _Known | None:
        path = stem + FACTS_SUFFIX
        try:
            data, version = await self._objects.read(path)
        except FileNotFoundError:
            return None
        return _Known(read_facts(data, self._objects.name(path)), version)

    def _begin(self, stem: str, facts: RowFacts) -> None:
        """Begin to write facts, after earlier writes for the same row."""
        before = self._writing.get(stem)
        self._known[stem].facts = facts
        self._writing[stem] = asyncio.ensure_future(self._write(stem, facts, before))

    async def _write(self, stem: str, facts: RowFacts, before: Awaitable[None] | None) -> None:
        if before is not None:
            await before
        known = self._known[stem]
        try:
            path = stem + FACTS_SUFFIX
            known.version = await self._objects.replace(path, facts.to_json(), known.version)
        except OSError as error:
            logger.warning(
                "facts of %s could not be written: %s", facts.id, error.strerror or error
            )

    async def _wait_for(self, stem: str) -> None:
        while (task := self._writing.get(stem)) is not None:
            await asyncio.shield(task)
            if self._writing.get(stem) is task:
                del self._writing[stem]
