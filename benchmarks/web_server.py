"""The API for the web benchmark, in a process of its own: logs arrivals, and answers with images.

`python -m benchmarks.web_server` prints its port. A request arrives a network delay, uniform in
[0, 0.1] s, after it came in, the first of a connection up to 0.2 s later still, and is answered
1.5 s after that. `GET /log` returns the arrivals as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random

DELAY = 0.1
NEW_CONNECTION = 0.2
SERVICE = 1.5
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(50_000)
HEAD = (
    "HTTP/1.1 200 OK\r\ncontent-type: {}\r\nfinish-reason: SUCCESS\r\nseed: 7\r\n"
    "content-length: {}\r\n\r\n"
)


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request after the other."""

    def __init__(self, arrivals: list[float]) -> None:
        self.arrivals = arrivals
        self.extra = random.uniform(0, NEW_CONNECTION)
        self.head = b""
        self.left = -1
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.left < 0:
            head, end, data = (self.head + data).partition(b"\r\n\r\n")
            self.head = b"" if end else head
            if not end:
                return
            if head.startswith(b"GET /log"):
                self.answer("application/json", json.dumps(self.arrivals).encode())
                return
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self.left = int(length or 0)
        self.left -= len(data)
        if self.left <= 0:
            self.left = -1
            self.loop.call_later(random.uniform(0, DELAY) + self.extra, self.arrive)
            self.extra = 0.0

    def arrive(self) -> None:
        self.arrivals.append(self.loop.time())
        self.loop.call_later(SERVICE, self.answer, "image/png", IMAGE)

    def answer(self, content_type: str, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(HEAD.format(content_type, len(body)).encode() + body)


async def main() -> None:
    arrivals: list[float] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(arrivals), "127.0.0.1", 0, backlog=2048
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
