"""The protocol of a connection, tolerant of stray bytes after an answer."""

from __future__ import annotations

from aiohttp.client_proto import ResponseHandler

__all__ = ["StrayTolerantHandler"]


class StrayTolerantHandler(ResponseHandler):
    """Keeps an answer that is followed by bytes that are not HTTP."""

    def data_received(self, data: bytes) -> None:
        # aiohttp drops what it has parsed of a piece when the rest of the piece is not HTTP: a
        # whole paid image, if its head is in the same piece. So the head is parsed alone.
        while self._payload is None or self._payload.is_eof():
            head, end, rest = data.partition(b"\r\n\r\n")
            if not rest:
                break
            super().data_received(head + end)
            data = rest
            if self._exception is not None or self.transport is None:
                return
        super().data_received(data)
