"""Bodies that a proxy has compressed, decompressed piece by piece, whatever their headers say."""

from __future__ import annotations

import zlib
from contextlib import aclosing
from typing import TYPE_CHECKING

from stable_async.api.media_types import ENOUGH, is_packed, is_readable
from stable_async.api.verdict import judge_broken_connection
from stable_async.errors import APIConnectionError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from stable_async.api.answers import Answer

__all__ = ["unpacked"]

# No result is larger; a decompressed answer could be, by far.
MAX_UNPACKED = 256 * 1024 * 1024
# A proxy applies one, and one behind it another.
MOST_ENCODINGS = 4
UNPACKED_CHUNK = 256 * 1024

GZIP = b"\x1f\x8b"
# The window bits of zlib: gzip or zlib by the first bytes, and deflate without either.
WITH_HEADER = 32 + zlib.MAX_WBITS
BARE = -zlib.MAX_WBITS


def unpacked(body: AsyncGenerator[bytes, None], answer: Answer) -> AsyncGenerator[bytes, None]:
    """Return the body of an answer without its content encodings, if it has any.

    Identity is asked for, since images do not compress; some proxies compress all the same.

    Raises:
        APIConnectionError: The compressed data is cut off.
        InvalidResponseError: The encoding was not asked for, or the body cannot be decompressed.
    """
    # In the order in which they were applied (RFC 9110, section 8.4).
    named = answer.headers.get("Content-Encoding", "").lower()
    encodings = [one for one in map(str.strip, named.split(",")) if one not in {"", "identity"}]
    if len(encodings) > MOST_ENCODINGS:
        encodings = [named]  # none that is known
    for encoding in reversed(encodings):
        body = _unpack(body, _Unpacker(answer, encoding))
    return body


async def _unpack(
    packed: AsyncGenerator[bytes, None], unpacker: _Unpacker
) -> AsyncGenerator[bytes, None]:
    async with aclosing(packed) as chunks:
        async for chunk in chunks:
            for piece in unpacker.feed(chunk):
                yield piece
    for piece in unpacker.finish():
        yield piece


class _Unpacker:
    """Decompresses gzip or deflate, and never more than `MAX_UNPACKED` bytes.

    The first bytes decide: an image that is labelled as compressed is passed on unchanged.
    """

    def __init__(self, answer: Answer, encoding: str) -> None:
        """Decompress the body of `answer`, labelled with `encoding`."""
        self._answer = answer
        self._encoding = encoding
        self._held = bytearray()  # not enough yet to decide on
        self._begun = False
        self._zlib: zlib._Decompress | None = None  # None: passed on unchanged
        self._left = MAX_UNPACKED

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the bytes in the next piece of the body.

        Raises:
            InvalidResponseError: It has an encoding that was not asked for, or cannot be
                decompressed.
        """
        if not self._begun:
            self._held += chunk
            if len(self._held) < ENOUGH:
                return
            chunk = self._begin()
        if self._zlib is None:
            yield chunk
        else:
            yield from self._unpack(chunk)

    def finish(self) -> Iterator[bytes]:
        """Yield what is left at the end of the body.

        Raises:
            APIConnectionError: The compressed data is cut off.
            InvalidResponseError: As for `feed`.
        """
        if not self._begun and self._held:
            chunk = self._begin()
            yield from [chunk] if self._zlib is None else self._unpack(chunk)
        if self._zlib is not None and not self._zlib.eof:
            raise APIConnectionError(
                "the compressed answer is cut off before its end",
                verdict=judge_broken_connection(sent=True, asked=self._answer.asked),
            )

    def _begin(self) -> bytes:
        """Decide how the body is decompressed, and return its first bytes."""
        first, self._held, self._begun = bytes(self._held), bytearray(), True
        if self._encoding in {"gzip", "x-gzip", "deflate"}:
            if is_packed(first):
                self._zlib = zlib.decompressobj(WITH_HEADER)
            elif not is_readable(first):
                self._zlib = zlib.decompressobj(BARE)
        elif not is_readable(first):
            raise self._answer.unreadable(
                f"a body compressed as {self._answer.encoding!r}, although none was asked for"
            )
        return first

    def _unpack(self, chunk: bytes) -> Iterator[bytes]:
        while chunk and self._zlib is not None:
            if self._zlib.eof:
                # Another member of a gzip file follows (RFC 1952, section 2.2), or stray bytes.
                self._held += chunk
                if len(self._held) < len(GZIP) or not self._held.startswith(GZIP):
                    return
                chunk, self._held = bytes(self._held), bytearray()
                self._zlib = zlib.decompressobj(WITH_HEADER)
            try:
                piece = self._zlib.decompress(chunk, UNPACKED_CHUNK)
            except zlib.error:
                raise self._answer.unreadable(
                    "a compressed body that cannot be decompressed"
                ) from None
            self._left -= len(piece)
            if self._left < 0:
                raise self._answer.unreadable(
                    f"a compressed body of more than {MAX_UNPACKED:,} bytes"
                )
            if piece:
                yield piece
            chunk = self._zlib.unused_data or self._zlib.unconsumed_tail
