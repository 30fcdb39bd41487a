"""A server that answers with any bytes, to see how the client handles them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.samples import PNG_HEAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[["Connection"], Awaitable[None]]


@dataclass
class Connection:
    """One connection of a client: read its request, write what the test is about."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> str:
        """Read a request's line and headers."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def request(self) -> bytes:
        """Read a whole request and return its body."""
        head = (await self.head()).lower()
        if "transfer-encoding: chunked" in head:
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
            return body
        length = head.partition("content-length: ")[2].partition("\r\n")[0]
        return await self.reader.readexactly(int(length or 0))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


def answer(
    body: bytes = PNG_HEAD,
    *,
    status: str = "200 OK",
    content_type: str = "image/png",
    length: int | None = None,
    headers: str = "",
) -> bytes:
    """Return a whole answer; `length` lies about the body's."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{headers}"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + body


class Answering:
    """Answers every request with the same bytes after a delay, and counts the requests."""

    def __init__(self, reply: bytes, delay: float = 0.0) -> None:
        self.requests = 0
        self._reply = reply
        self._delay = delay

    async def __call__(self, connection: Connection) -> None:
        while True:
            await connection.request()
            self.requests += 1
            if self._delay:
                await asyncio.sleep(self._delay)
            await connection.send(self._reply)


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """Serve every connection with `handler` on loopback, and yield the base URL."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(Connection(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away: what a test may be about
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in served:
            task.cancel()
        ended = await asyncio.gather(*served, return_exceptions=True)
        await server.wait_closed()
    failures = [end for end in ended if isinstance(end, Exception)]
    assert not failures, failures
