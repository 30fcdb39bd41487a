"""A server for the benchmark, in a process of its own: logs arrivals, and penalises if asked to.

Run as `python -m benchmarks.quota_server DELAY NEW_CONNECTION SERVICE PENALTY`: it prints its port.
A request *arrives* a network delay, uniform in `[0, DELAY]`, after its headers came in; the first
one on a connection up to `NEW_CONNECTION` later still. It is answered `SERVICE` seconds after
that. With a `PENALTY` above 0 the two-counter estimate is enforced, at a phase drawn at random, and
a breach refuses everybody for that long. `GET /ping` is delayed alike, but neither logged nor
counted; `GET /log` returns the arrivals as a JSON list.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter

REQUESTS = 150
WINDOW = 10.0


class Book:
    """What arrived, and who is let in."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty
        self.arrivals: list[float] = []
        self.phase = random.uniform(0, WINDOW)
        self.counts: Counter[int] = Counter()
        self.penalty_until = 0.0

    def arrive(self, now: float) -> float:
        """Log one request; return the seconds left of the penalty, 0 if it is let in."""
        self.arrivals.append(now)
        if not self.penalty:
            return 0.0
        if now >= self.penalty_until:
            number, elapsed = divmod(now - self.phase, WINDOW)
            window = int(number)
            weighted = self.counts[window - 1] * (1 - elapsed / WINDOW) + self.counts[window] + 1
            if weighted <= REQUESTS:
                self.counts[window] += 1
                return 0.0
            self.penalty_until = now + self.penalty
        return self.penalty_until - now


class Connection(asyncio.Protocol):
    """HTTP/1.1 without bodies, one request after the other."""

    def __init__(self, book: Book, delay: float, new_connection: float, service: float) -> None:
        self.book = book
        self.delay = delay
        self.extra = random.uniform(0, new_connection)
        self.service = service
        self.received = b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            target = self.received.split(b" ", 2)[1]
            self.received = self.received[end + 4 :]
            if target == b"/log":
                self.answer("200 OK", json.dumps(self.book.arrivals))
                continue
            delay = random.uniform(0, self.delay) + self.extra
            self.extra = 0.0
            self.loop.call_later(delay, self.arrive, target)

    def arrive(self, target: bytes) -> None:
        if target == b"/ping":
            self.answer("200 OK", "")
            return
        left = self.book.arrive(self.loop.time())
        if left:
            self.answer("429 Too Many Requests", "", f"retry-after: {left:.3f}\r\n")
        else:
            self.loop.call_later(self.service, self.answer, "200 OK", "")

    def answer(self, status: str, body: str, headers: str = "") -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
            self.transport.write(head.encode() + body.encode())


async def main(delay: float, new_connection: float, service: float, penalty: float) -> None:
    book = Book(penalty)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(book, delay, new_connection, service), "127.0.0.1", 0, backlog=2048
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:5])))
