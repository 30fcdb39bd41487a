"""The HTTP shell of the sandbox: sockets, arrival stamps, answers and cut connections."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from stable_async.sandbox.answers import refused
from stable_async.sandbox.control import MAX_BODY, control, is_control
from stable_async.sandbox.forms import BodyError
from stable_async.sandbox.refusals import refusal
from stable_async.sandbox.request_log import RequestRecord
from stable_async.sandbox.service import CLIENT_HEADERS, Call, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stable_async.sandbox.answers import Answer
    from stable_async.sandbox.settings import SandboxSettings

__all__ = ["Server"]

CHUNK_BYTES = 256 << 10
BACKLOG = 1024
LOGGED_HEADERS = ("accept", "content-type", "content-length", "user-agent", *CLIENT_HEADERS)
LOGGED_HEADER_LENGTH = 512
# What a client still sends after it was refused is read and thrown away up to here, so that it
# comes to see the answer; then the connection is closed.
DRAIN_BYTES = 10 << 20
DRAIN_SECONDS = 2.0
SHUTDOWN_SECONDS = 0.1


class _Protocol(RequestHandler):
    """Stamps a request when its first bytes come in, however busy the event loop is then."""

    arrival: float | None = None

    def data_received(self, data: bytes) -> None:
        if self.arrival is None:
            self.arrival = time.monotonic()
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP like any other bad request, without a traceback in the log."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was already begun")
        problem = refusal(status, "v2", "request: is no valid HTTP", name="bad_request")
        answer = refused(problem, "v2", secrets.token_hex(16))
        response = web.Response(
            status=status, body=answer.body, headers=answer.headers, content_type="application/json"
        )
        response.force_close()
        return response


class _WebServer(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop)


class Server:
    """The service on a socket of this machine."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Prepare; `start` listens."""
        self.settings = settings
        self.service = Service(settings)
        self.url = ""
        self._runner = web.ServerRunner(_WebServer(self._handle), shutdown_timeout=SHUTDOWN_SECONDS)

    async def start(self) -> None:
        """Listen, and set `url`.

        Raises:
            OSError: The port is taken.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.settings.host, self.settings.port, backlog=BACKLOG)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://{self.settings.host}:{port}"

    async def stop(self) -> None:
        """Close every connection and the socket."""
        await self._runner.cleanup()
        await asyncio.get_running_loop().run_in_executor(None, self.service.close)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = cast("_Protocol", request.protocol)
        arrival = protocol.arrival or time.monotonic()
        try:
            if is_control(request.path):
                response = await self._control(request)
            else:
                response = await self._respond(request, arrival)
            await self._drain(request)
        except ConnectionError:
            # The client went away: there is nobody to answer.
            protocol.force_close()
            return web.StreamResponse()
        finally:
            protocol.arrival = None
        return response

    async def _control(self, request: web.BaseRequest) -> web.StreamResponse:
        body = b""
        try:
            async for chunk in _body(request):
                body += chunk
                if len(body) > MAX_BODY:
                    break
        except BodyError:
            body = b""
        content_type = request.headers.get("content-type", "")
        answer = control(self.service, request.method, request.path, content_type, body)
        return web.Response(
            status=answer.status,
            body=answer.body,
            headers={**answer.headers, "content-type": answer.content_type},
        )

    async def _respond(self, request: web.BaseRequest, arrival: float) -> web.StreamResponse:
        service = self.service
        service.tally.begin()
        record = RequestRecord(
            service.tally.requests,
            arrival,
            request.method,
            request.path,
            headers={
                name: request.headers[name][:LOGGED_HEADER_LENGTH]
                for name in LOGGED_HEADERS
                if name in request.headers
            },
        )
        call = Call(
            request.method,
            request.path,
            {name.lower(): value for name, value in request.headers.items()},
            arrival,
            _body(request),
            request.content_length,
            record,
        )
        try:
            answer = await service.answer(call)
            return await self._send(request, answer, record)
        except (ConnectionError, asyncio.CancelledError):
            service.tally.broken_off += record.duration is None
            raise
        finally:
            self._settle(record)

    async def _send(
        self, request: web.BaseRequest, answer: Answer, record: RequestRecord
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.headers["content-type"] = answer.content_type
        response.headers["server"] = "stable_async sandbox"
        response.content_length = len(answer.body)
        if answer.drop:
            record.dropped = answer.drop
            self.service.tally.dropped += 1
            self._settle(record)
            await _cut(request, response, answer)
            return response
        await response.prepare(request)
        body = memoryview(answer.body)
        last = max(0, len(body) - CHUNK_BYTES)
        for start in range(0, last, CHUNK_BYTES):
            await response.write(body[start : min(start + CHUNK_BYTES, last)])
        # Whoever has the whole answer finds it in the log, from any thread.
        record.status = answer.status
        record.response_bytes = len(body)
        self.service.tally.answered[answer.status] += 1
        self._settle(record)
        await response.write_eof(bytes(body[last:]))
        return response

    def _settle(self, record: RequestRecord) -> None:
        """Note the end of a request, once."""
        if record.duration is None:
            record.duration = time.monotonic() - record.arrival
            self.service.tally.in_flight -= 1

    async def _drain(self, request: web.BaseRequest) -> None:
        """Throw away what is left of a body that nobody wanted, up to a bound."""
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0 and not request.content.at_eof():
                    left -= len(await request.content.readany())
        except (TimeoutError, ConnectionError, RequestPayloadError):
            left = 0
        if left <= 0:
            request.protocol.force_close()


async def _body(request: web.BaseRequest) -> AsyncIterator[bytes]:
    if request.headers.get("expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except RequestPayloadError as error:
        raise BodyError("body: is no valid HTTP content") from error


async def _cut(request: web.BaseRequest, response: web.StreamResponse, answer: Answer) -> None:
    """Close the connection before, amid or after the headers."""
    transport = request.transport
    if transport is None:
        return
    if answer.drop == "mid_headers":
        transport.write(f"HTTP/1.1 {answer.status} OK\r\ncontent-ty".encode())
    elif answer.drop == "mid_body":
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
    request.protocol.force_close()
