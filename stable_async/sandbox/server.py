"""The HTTP shell of the sandbox: sockets, times of arrival, answers and cut connections."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from stable_async.sandbox.access import Access
from stable_async.sandbox.answers import json_answer
from stable_async.sandbox.control import MAX_BODY, control, is_control, needs_token
from stable_async.sandbox.forms import BodyError
from stable_async.sandbox.refusals import ErrorBody
from stable_async.sandbox.request_log import RequestRecord
from stable_async.sandbox.service import CLIENT_HEADERS, Call, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from stable_async.sandbox.account import Account
    from stable_async.sandbox.answers import Answer
    from stable_async.sandbox.clock import Clock
    from stable_async.sandbox.settings import SandboxSettings

__all__ = ["Server"]

CHUNK_BYTES = 256 << 10
BACKLOG = 1024
LOGGED_HEADERS = ("accept", "content-type", "content-length", "user-agent", *CLIENT_HEADERS)
LOGGED_HEADER_LENGTH = 512
# What a client still sends after it was refused is read and discarded up to this size, so that it
# gets to see the answer; then the connection is closed.
DRAIN_BYTES = 10 << 20
DRAIN_SECONDS = 2.0
SHUTDOWN_SECONDS = 0.1
WITHOUT_BODY = frozenset({204, 304})
STRAY_BYTES = b"\r\n<!-- bytes after the end -->"


class _Protocol(RequestHandler):
    """Records when the first bytes of a request arrive, however busy the event loop is."""

    clock: Clock
    arrival: float | None = None

    def data_received(self, data: bytes) -> None:
        if self.arrival is None:
            self.arrival = self.clock.now()
        super().data_received(data)

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being answered on it."""
        if self.arrival is None:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer invalid HTTP like any other bad request, without a traceback in the log."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has already begun")
        request_id = secrets.token_hex(16)
        error = ErrorBody("v2", request_id, "bad_request", ("request: is not valid HTTP",))
        body = json_answer(status, error.json()).body
        response = web.Response(
            status=status,
            body=body,
            headers={"x-request-id": request_id},
            content_type="application/json",
        )
        response.force_close()
        return response


class _WebServer(web.Server):
    clock: Clock

    def __call__(self) -> RequestHandler:
        protocol = _Protocol(self, loop=self._loop)
        protocol.clock = self.clock
        return protocol


class Server:
    """The service on a socket of this machine."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Prepare; `start` listens.

        Raises:
            OSError: The facts file in the settings cannot be read.
            ValueError: A setting names something that does not exist.
        """
        self.settings = settings
        self.service: Service = Service(settings)
        self.url: str = ""
        self._access = Access(settings)
        self._web = _WebServer(self._handle)
        self._web.clock = self.service.clock
        self._runner = web.ServerRunner(self._web, shutdown_timeout=SHUTDOWN_SECONDS)
        self._site: web.BaseSite | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outage: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, and set `url`.

        Raises:
            OSError: The port is taken.
        """
        self._loop = asyncio.get_running_loop()
        self.service.clock.start()
        await self._runner.setup()
        self._site = web.TCPSite(
            self._runner,
            self.settings.host,
            self.settings.port,
            backlog=BACKLOG,
            reuse_address=True,
        )
        await self._site.start()
        self._port = self._runner.addresses[0][1]
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self.url = f"http://{host}:{self._port}"

    async def stop(self) -> None:
        """Close every connection and the socket."""
        if self._outage is not None:
            self._outage.cancel()
        await self._runner.cleanup()
        await asyncio.get_running_loop().run_in_executor(None, self.service.close)

    def unreachable(self, seconds: float) -> None:
        """Refuse all connections for this many seconds. Usable from any thread."""
        if not 0 < seconds < float("inf"):
            raise ValueError(f"seconds is {seconds!r}; allowed: above 0")
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_outage, seconds)

    def _begin_outage(self, seconds: float) -> None:
        if self._outage is None or self._outage.done():
            self._outage = asyncio.ensure_future(self._be_unreachable(seconds))

    async def _be_unreachable(self, seconds: float) -> None:
        clock = self.service.clock
        until = clock.now() + seconds
        if self._site is not None:
            await self._site.stop()
        listener = _bound(self.settings.host, self._port)
        try:
            for connection in list(self._web.connections):
                cast("_Protocol", connection).close_if_idle()
            await clock.sleep_until(until)
            self._site = web.SockSite(self._runner, listener, backlog=BACKLOG)
            await self._site.start()
        except BaseException:
            listener.close()
            raise

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = cast("_Protocol", request.protocol)
        arrival = protocol.arrival or self.service.clock.now()
        headers = {name.lower(): value for name, value in request.headers.items()}
        response: web.StreamResponse
        try:
            access = self._access
            refusal = access.refuse(request.method, request.path, headers)
            if refusal is None and not is_control(request.path):
                refusal = access.preflight(request.method, headers)
            if refusal is not None:
                response = _plain(refusal, access.cors_headers(headers))
            elif is_control(request.path):
                response = await self._control(request, headers)
            else:
                response = await self._respond(request, headers, arrival)
            await self._drain(request)
            if self._outage is not None and not self._outage.done():
                response.force_close()  # its connection was not idle when the outage began
        except ConnectionError:
            # The client has disconnected: there is nobody to answer.
            protocol.force_close()
            return web.StreamResponse()
        finally:
            protocol.arrival = None
        return response

    async def _control(
        self, request: web.BaseRequest, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        if needs_token(request.path):
            refusal = self._access.refuse_control(headers, request.query)
            if refusal is not None:
                return _plain(refusal)
        body = b""
        try:
            async for chunk in _body(request):
                body += chunk
                if len(body) > MAX_BODY:
                    break
        except BodyError:
            body = b""
        content_type = headers.get("content-type", "")
        return _plain(
            control(
                self.service, self.unreachable, request.method, request.path, content_type, body
            )
        )

    async def _respond(
        self, request: web.BaseRequest, headers: Mapping[str, str], arrival: float
    ) -> web.StreamResponse:
        account = self.service.account
        record = RequestRecord(
            account.begin(),
            arrival,
            request.method,
            request.path,
            headers={
                name: headers[name][:LOGGED_HEADER_LENGTH]
                for name in LOGGED_HEADERS
                if name in headers
            },
        )
        call = Call(account, record, headers, _body(request), request.content_length)
        try:
            answer = await self.service.answer(call)
            answer.headers += self._access.cors_headers(headers)
            return await self._send(request, answer, record, account)
        except (ConnectionError, asyncio.CancelledError):
            account.counts.broken_off += record.duration is None
            raise
        finally:
            self._settle(record, account)

    async def _send(
        self, request: web.BaseRequest, answer: Answer, record: RequestRecord, account: Account
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        response.headers.extend(answer.headers)
        if answer.content_type:
            response.headers["content-type"] = answer.content_type
        else:
            # aiohttp would set one of its own.
            response.headers["content-type"] = ""
        response.headers.setdefault("server", "stable_async sandbox")
        response.content_length = len(answer.body)
        if answer.drop and answer.drop != "stray_bytes":
            record.dropped = answer.drop
            account.counts.dropped += 1
            self._settle(record, account)
            await _cut(request, response, answer)
            return response
        await response.prepare(request)
        # What followed would be taken for the next response of the connection.
        has_body = request.method != "HEAD" and answer.status not in WITHOUT_BODY
        body = memoryview(answer.body if has_body else b"")
        last = max(0, len(body) - CHUNK_BYTES)
        for start in range(0, last, CHUNK_BYTES):
            await response.write(body[start : min(start + CHUNK_BYTES, last)])
        # By the time a client has the whole answer, the log has the request, from any thread.
        record.status = answer.status
        record.response_bytes = len(body)
        account.counts.answered[answer.status] += 1
        self._settle(record, account)
        await response.write_eof(bytes(body[last:]))
        if answer.drop == "stray_bytes" and request.transport is not None:
            request.transport.write(STRAY_BYTES)
            request.protocol.force_close()
        return response

    def _settle(self, record: RequestRecord, account: Account) -> None:
        """Record the end of a request, once."""
        if record.duration is None:
            record.duration = account.clock.now() - record.arrival
            account.counts.in_flight -= 1

    async def _drain(self, request: web.BaseRequest) -> None:
        """Discard the rest of an unwanted body, up to a bound."""
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0 and not request.content.at_eof():
                    left -= len(await request.content.readany())
        except (TimeoutError, ConnectionError, RequestPayloadError):
            left = 0
        if left <= 0:
            request.protocol.force_close()


def _plain(answer: Answer, more: list[tuple[str, str]] | None = None) -> web.Response:
    """Return an answer outside the imitated API."""
    response = web.Response(status=answer.status, body=answer.body)
    response.headers.extend([*answer.headers, *(more or [])])
    if answer.content_type:
        response.headers["content-type"] = answer.content_type
    return response


async def _body(request: web.BaseRequest) -> AsyncIterator[bytes]:
    if request.headers.get("expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except RequestPayloadError as error:
        raise BodyError("body: is not valid HTTP content") from error


async def _cut(request: web.BaseRequest, response: web.StreamResponse, answer: Answer) -> None:
    """Close the connection before, within or after the headers."""
    transport = request.transport
    if transport is None:
        return
    if answer.drop == "mid_headers":
        transport.write(f"HTTP/1.1 {answer.status} OK\r\ncontent-ty".encode())
    elif answer.drop == "mid_body":
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
    request.protocol.force_close()


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that does not listen, but has a port, so that no other program gets it."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere it would take a port that is in use
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
