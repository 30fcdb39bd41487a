"""The body of an answer as it arrives, within its time limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from stable_async.api.verdict import judge_broken_connection
from stable_async.errors import APITimeoutError
from stable_async.transport.error_mapping import harmless_cause, translate
from stable_async.transport.time_limits import TimeLimit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import ClientResponse

    from stable_async.api.answers import Answer

__all__ = ["read_body"]

# An answer has stalled when fewer bytes than this came within the time limit. Counting bytes, and
# not only the time between two reads, also ends a trickle of single bytes.
LEAST_PROGRESS = 16 * 1024


async def read_body(
    response: ClientResponse,
    answer: Answer,
    *,
    stall_limit: float | None,
    ends_at: float | None = None,
) -> AsyncGenerator[bytes, None]:
    """Yield the body of an answer as it was sent.

    Args:
        response: The response.
        answer: Its head.
        stall_limit: Seconds of reading within which 16 KiB must come.
        ends_at: When the whole body must have come, in the time of the event loop.

    Raises:
        APIConnectionError: The connection broke before the end.
        APITimeoutError: A limit expired.
    """
    content = response.content
    clock = asyncio.get_running_loop().time
    left, progress = stall_limit, 0
    try:
        while not content.at_eof():
            if content.is_eof():
                chunk = content.read_nowait()
            else:
                began = clock()
                limit = left
                if ends_at is not None and (left is None or ends_at - began < left):
                    limit = ends_at - began
                try:
                    async with TimeLimit(limit):
                        chunk = await content.readany()
                except TimeoutError:
                    raise _late(answer, stall_limit if limit == left else None) from None
                except (aiohttp.ClientError, OSError):
                    # aiohttp raises this before it returns what has arrived, perhaps all of a
                    # result, which has no public accessor.
                    if rest := content._read_nowait(-1):  # noqa: SLF001
                        yield rest
                    raise
                if left is not None and stall_limit is not None:
                    left -= clock() - began
                    progress += len(chunk)
                    if progress >= LEAST_PROGRESS:
                        left, progress = stall_limit, 0
            if chunk:
                yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise translate(error, sent=True, asked=answer.asked) from harmless_cause(error)


def _late(answer: Answer, stall_limit: float | None) -> APITimeoutError:
    """Return the error for an answer that has stalled, or else took too long as a whole."""
    what = "the answer was not complete within the time limit of the attempt"
    if stall_limit is not None:
        what = f"the answer stalled: fewer than {LEAST_PROGRESS} bytes in {stall_limit:g} s"
    return APITimeoutError(what, verdict=judge_broken_connection(sent=True, asked=answer.asked))
