"""The body of an answer as it comes: within its time limits, unpacked if need be."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

from stable_async.api.verdict import judge_broken_connection
from stable_async.errors import APITimeoutError
from stable_async.transport.error_mapping import translated_errors
from stable_async.transport.time_limits import TimeLimit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from aiohttp import ClientResponse

    from stable_async.api.answers import Answer

__all__ = ["read_body"]

# An answer is stalled when fewer bytes than this came within the time limit. Counting them, not
# just the time between two reads, ends a trickle of single bytes as well.
LEAST_PROGRESS = 16 * 1024
# No result is larger; a packed answer could be, by far.
MAX_UNPACKED = 256 * 1024 * 1024
UNPACKED_CHUNK = 256 * 1024


async def read_body(
    response: ClientResponse,
    answer: Answer,
    *,
    stall_limit: float | None,
    ends_at: float | None = None,
) -> AsyncGenerator[bytes, None]:
    """Yield the body of an answer as it comes.

    Args:
        response: The response.
        answer: Its head.
        stall_limit: Seconds of reading within which 16 KiB must come.
        ends_at: When the whole body must have come, in the time of the event loop.

    Raises:
        APIConnectionError: The connection broke before the end.
        APITimeoutError: A limit expired.
        InvalidResponseError: The body is packed in a way that was not asked for.
    """
    unpack = _unpacker(answer)
    content = response.content
    clock = asyncio.get_running_loop().time
    left, progress = stall_limit, 0
    with translated_errors(sent=True, asked=answer.asked):
        while not content.at_eof():
            if content.is_eof():
                chunk = content.read_nowait()
            else:
                began = clock()
                limit = left
                if ends_at is not None:
                    limit = min(ends_at - began, float("inf") if left is None else left)
                try:
                    async with TimeLimit(limit):
                        chunk = await content.readany()
                except TimeoutError:
                    raise _stalled(answer, stall_limit, ends_at) from None
                if left is not None and stall_limit is not None:
                    left -= clock() - began
                    progress += len(chunk)
                    if progress >= LEAST_PROGRESS:
                        left, progress = stall_limit, 0
            if not chunk:
                continue
            if unpack is None:
                yield chunk
            else:
                for piece in unpack(chunk):
                    yield piece


def _stalled(answer: Answer, stall_limit: float | None, ends_at: float | None) -> APITimeoutError:
    what = "the answer was not whole within the time limit of the attempt"
    if stall_limit is not None and ends_at is None:
        what = f"the answer stalled: fewer than {LEAST_PROGRESS} bytes in {stall_limit:g} s"
    return APITimeoutError(what, verdict=judge_broken_connection(sent=True, asked=answer.asked))


class _Unpacker:
    """Unpacks gzip or deflate piece by piece, and never more than `MAX_UNPACKED`."""

    def __init__(self, answer: Answer, bits: int) -> None:
        self._answer = answer
        self._unpack = zlib.decompressobj(bits)
        self._left = MAX_UNPACKED

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        while chunk:
            try:
                piece = self._unpack.decompress(chunk, UNPACKED_CHUNK)
            except zlib.error:
                raise self._answer.unreadable("a packed body that cannot be unpacked") from None
            self._left -= len(piece)
            if self._left < 0:
                raise self._answer.unreadable(f"a packed body of more than {MAX_UNPACKED:,} bytes")
            if piece:
                yield piece
            chunk = self._unpack.unconsumed_tail


def _unpacker(answer: Answer) -> _Unpacker | None:
    """Return what unpacks the body; `None` if it is not packed.

    Identity is asked for, since images do not shrink; some proxies pack all the same.
    """
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return None
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return _Unpacker(answer, 32 + zlib.MAX_WBITS)  # gzip or zlib, by the first bytes
    raise answer.unreadable(f"a body packed as {answer.encoding!r}, although none was asked for")
