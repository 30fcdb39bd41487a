"""An HTTP proxy for tests: CONNECT and plain requests, with or without a password, on loopback."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

__all__ = ["ProxyServer", "pipe"]


class ProxyServer:
    """Forwards every request to one server, under any name, and records the heads it receives.

    Attributes:
        heads: Request line and headers of each request to the proxy itself.
    """

    def __init__(self, server_url: str, user: str | None = None) -> None:
        """Lead to the server of `server_url`; `user` is `name:password`, required where given."""
        parts = urlsplit(server_url)
        self._server = (parts.hostname, parts.port)
        self._required = None if user is None else f"Basic {b64encode(user.encode()).decode()}"
        self.heads: list[str] = []
        self.url = ""

    @asynccontextmanager
    async def serve(self, context: ssl.SSLContext | None = None) -> AsyncIterator[ProxyServer]:
        """Listen on a port of loopback; with `context`, for TLS."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve_one(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            text = head.decode("latin-1")
            self.heads.append(text)
            if self._required is not None and f"proxy-authorization: {self._required}\r\n" not in (
                text[:1].lower() + text[1:].replace("Proxy-Authorization", "proxy-authorization")
            ):
                writer.write(b"HTTP/1.1 407 Nope\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            to_reader, to_writer = await asyncio.open_connection(*self._server)
            if text.startswith("CONNECT "):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                line, rest = text.split("\r\n", 1)
                method, url, version = line.split(" ")
                path = urlsplit(url).path
                to_writer.write(f"{method} {path} {version}\r\n{rest}".encode("latin-1"))
            await asyncio.gather(pipe(reader, to_writer), pipe(to_reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
