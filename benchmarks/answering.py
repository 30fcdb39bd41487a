"""A server that answers every POST with the same bytes at once, in a process of its own.

It does as little as an HTTP server can, so that on two cores the client is what is measured.
"""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

SIZES = {"small": 1_000, "large": 1_500_000}


def prepared_answers() -> dict[bytes, bytes]:
    """Return answers by the first part of the path: /small/..., /large/..., /json/..."""
    answers = {}
    for name, size in SIZES.items():
        image = b"\x89PNG\r\n\x1a\n" + bytes(size - 8)
        answers[name.encode()] = _answer("image/png", image)
        encoded = base64.b64encode(image).decode()
        content = {"created": 1, "data": [{"b64_json": encoded}]}
        answers[f"{name}-openai".encode()] = _answer(
            "application/json", json.dumps(content).encode()
        )
        body = {"image": encoded, "seed": 7, "finish_reason": "SUCCESS"}
        kind = "application/json; type=image/png"
        answers[f"{name}-json".encode()] = _answer(kind, json.dumps(body).encode())
    return answers


def _answer(content_type: str, body: bytes) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nseed: 7\r\n"
        f"finish-reason: SUCCESS\r\nx-request-id: 0123456789\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Answering(asyncio.Protocol):
    """Reads requests with a Content-Length, answers by the first part of their path."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._buffer = b""
        self._left = 0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._left == 0:
            self._buffer += data
            head, end, data = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._buffer = b""
            self._answer = self._answers[head.split(b"/", 2)[1]]
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._left = int(length or 0)
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            self._transport.write(self._answer)


def _serve(ready: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        answers = prepared_answers()
        server = await loop.create_server(lambda: Answering(answers), "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)


@contextmanager
def answering_server() -> Iterator[str]:
    """Run the server and yield its base URL."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()
