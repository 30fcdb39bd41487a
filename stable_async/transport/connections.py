"""How connections are made: TLS, sockets that stay alive, answers that nobody asked for."""

from __future__ import annotations

import os
import re
import select
import socket
import ssl as ssl_module
from functools import partial
from time import time
from typing import TYPE_CHECKING

from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession, TCPConnector
from aiohttp.client_proto import ResponseHandler

from stable_async.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio

    from aiohttp import BaseConnector, ClientError, StreamReader
    from aiohttp.connector import AddrInfoType

__all__ = ["CLOSED", "CLOSED_SESSION", "connector_of", "make_connector", "resolve_tls"]

CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

# As aiohttp's pool has it, seconds.
LONGEST_IDLE = 15.0
_LENGTH = b"\r\ncontent-length:"
_IN_CHUNKS = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked")
CLOSED = "the client was closed"
CLOSED_SESSION = "session is closed; allowed: an open aiohttp.ClientSession"

# A synchronous operation is silent for up to three minutes, and some NATs forget a connection after
# one: probes keep it alive, and detect within 90 s that it is gone. Seconds, seconds, count.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def resolve_tls(
    ssl: ssl_module.SSLContext | str | os.PathLike[str] | None, *, environment: bool
) -> ssl_module.SSLContext | None:
    """Return the context for TLS; `None` means the default certificates of Python.

    Args:
        ssl: A context, or the path of a CA bundle (a file, or a folder of hashed certificates),
            which replaces the default certificates.
        environment: Read `SSL_CERT_FILE` and `SSL_CERT_DIR` when `ssl` is `None`. aiohttp loads its
            certificates when it is imported, perhaps before these were set.

    Raises:
        ConfigurationError: There is no such file or folder, or it is not a CA bundle.
    """
    if isinstance(ssl, ssl_module.SSLContext):
        return ssl
    if isinstance(ssl, str | os.PathLike):
        return _context("ssl", os.fspath(ssl))
    if ssl is not None:
        raise ConfigurationError(
            f"ssl is a {type(ssl).__name__}; allowed: an ssl.SSLContext, the path of a CA bundle, "
            "or None"
        )
    paths = {name: path for name in CA_VARIABLES if environment and (path := os.environ.get(name))}
    for name, path in paths.items():
        # OpenSSL ignores a missing path, and would then trust no certificate.
        _context(name, path)
    return ssl_module.create_default_context() if paths else None


def _context(name: str, path: str) -> ssl_module.SSLContext:
    try:
        if os.path.isdir(path):  # noqa: PTH112
            return ssl_module.create_default_context(capath=path)
        return ssl_module.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError among them
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(
            f"{name} is {path!r}, which is not a CA bundle: {reason}; "
            "allowed: a file of certificates in PEM, or a folder of them"
        ) from error


class _CarefulHandler(ResponseHandler):
    """A connection that loses no answer, and takes none for that of another request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._heard_at = time()

    def is_connected(self) -> bool:
        # The pool asks before it uses an idle connection again. What has arrived on it meanwhile,
        # such as a load balancer's 408 or an answer that was sent twice, would be taken for the
        # next answer. If the server has closed it, the next request would be in doubt; while the
        # event loop was busy or the process was stopped, only the system knows. Of a connection
        # that ended while the machine slept nobody knows, and the pool's clock stood still.
        return (
            super().is_connected()
            and not self.should_close
            and time() - self._heard_at <= LONGEST_IDLE
            and not self._has_input()
        )

    def _has_input(self) -> bool:
        opened = self.transport.get_extra_info("socket") if self.transport is not None else None
        return opened is not None and _is_readable(opened.fileno())

    def close(self) -> None:
        payload = self._payload
        super().close()
        _break_off(payload, ClientConnectionError(CLOSED))

    def data_received(self, data: bytes) -> None:
        self._heard_at = time()
        # aiohttp drops what it has parsed of a piece when the rest of the piece is not HTTP: a
        # whole paid image, if its head is in the same piece. So the head is parsed alone.
        while self._payload is None or self._payload.is_eof():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                data = head
                break
            super().data_received(self._with_one_length(head) + end)
            if not data:
                return
            if self._exception is not None or self.transport is None:
                return
        super().data_received(data)
        if self._exception is not None:  # such as a chunk without a length
            _break_off(self._payload, ClientPayloadError("it is not valid HTTP"))

    def _with_one_length(self, head: bytes) -> bytes:
        """Return the head of an answer without lengths that say nothing more.

        aiohttp refuses an answer with the same length twice, and one in chunks with a length, as
        proxies send them that copy headers. Such a connection is not used again (RFC 9112, 6.3).
        """
        found = head.lower()
        stated = found.count(_LENGTH)
        in_chunks = b"\r\ntransfer-encoding:" in found and _IN_CHUNKS.search(found) is not None
        if stated + in_chunks < 2:
            return head
        lines = head.split(b"\r\n")
        lengths = [line for line in lines if line.lower().startswith(_LENGTH.strip())]
        if not in_chunks and len(set(map(bytes.lower, lengths))) > 1:
            return head
        self.force_close()
        others = [line for line in lines if line not in lengths]
        return b"\r\n".join(others if in_chunks else [*others, lengths[0]])


def _is_readable(descriptor: int) -> bool:
    """Return whether a socket has bytes to read, or was closed by its peer."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))


def _break_off(payload: StreamReader | None, error: ClientError) -> None:
    """End a body that cannot go on: aiohttp lets its reader wait for a time limit."""
    if payload is not None and not payload.is_eof() and payload.exception() is None:
        payload.set_exception(error)


def make_connector() -> TCPConnector:
    """Create the pool's connector, in the running event loop.

    The number of connections is not limited: a request that waits for one would hold a permit.
    """
    connector = TCPConnector(limit=0, ttl_dns_cache=300, socket_factory=_kept_alive)
    # aiohttp has no public option for it.
    connector._factory = partial(_CarefulHandler, loop=connector._loop)  # type: ignore[assignment]  # noqa: SLF001
    return connector


def connector_of(session: object) -> BaseConnector:
    """Return the connector of a caller's session.

    Raises:
        ConfigurationError: It is not an open `aiohttp.ClientSession`.
    """
    if not isinstance(session, ClientSession):
        raise ConfigurationError(
            f"session is a {type(session).__name__}; allowed: an aiohttp.ClientSession, or None"
        )
    if session.connector is None or session.closed:
        raise ConfigurationError(CLOSED_SESSION)
    return session.connector


def _kept_alive(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):  # the names differ by system
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
