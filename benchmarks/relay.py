"""A relay before a TCP server: it can delay, cut off, redirect, and speak TLS."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

__all__ = ["Relay"]

HOST = "127.0.0.1"
CHUNK = 64 * 1024


class Relay:
    """Listens on a port of 127.0.0.1 and passes bytes on in both directions.

    Attributes:
        port: Where it listens, once started; 0 before.
        target: The port that new connections are led to.
        delay: Returns the seconds that a piece of data takes, in each direction.
        mute: Data is swallowed, as if every packet were lost.
    """

    def __init__(
        self,
        target: int,
        delay: float | Callable[[], float] = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; `start` listens. With `tls` it is spoken towards clients only."""
        self.port = 0
        self.target = target
        self.delay = delay if callable(delay) else lambda: delay
        self.mute = False
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and break the others."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.disconnect()
        await asyncio.sleep(0)

    def disconnect(self) -> None:
        """Break all connections."""
        for task in self._connections:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(HOST, self.target)
            there = asyncio.ensure_future(self._pass_on(reader, far))
            back = asyncio.ensure_future(self._pass_on(far_reader, writer))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.mute:
                    continue
                # In order, at any delays.
                due = max(due, loop.time() + self.delay())
                loop.call_at(due, _write, writer, data)
            await asyncio.sleep(max(due - loop.time(), 0.0))


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)
