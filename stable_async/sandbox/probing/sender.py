"""Sends the requests of probing with aiohttp, each within the quota."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import aiohttp

from stable_async.sandbox.probing.messages import NO_ANSWER, ProbeAnswer, ProbeRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from ssl import SSLContext

__all__ = ["Sender"]

TIMEOUT_SECONDS = 180.0
CHUNK_BYTES = 1 << 20
BOUNDARY = "stable-async-probe"


class Sender:
    """Sends requests, one after the other.

    Attributes:
        timeout: Seconds for each of them, without the wait for the quota.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        key: str,
        permit: Callable[[], Awaitable[None]],
        *,
        proxy: str | None = None,
        proxy_headers: Mapping[str, str] | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        """Take the destination.

        Args:
            session: The caller's session, which is not changed.
            base_url: Address, without a final slash.
            key: The API key.
            permit: Returns when a request may be sent.
            proxy: URL of a proxy.
            proxy_headers: Headers for the proxy.
            tls: Certificates to trust; `None` means the default ones.
        """
        self.timeout: float = TIMEOUT_SECONDS
        self._session = session
        self._base_url = base_url
        self._key = key
        self._permit = permit
        self._proxy = proxy
        self._proxy_headers = dict(proxy_headers or {})
        self._tls = tls if tls is not None else True

    async def __call__(self, request: ProbeRequest) -> ProbeAnswer:
        """Send a request and return its answer, or one of `NO_ANSWER` where there is none."""
        await self._permit()
        headers = {"user-agent": "stable_async doctor", **request.headers}
        if self._proxy_headers and self._base_url.startswith("http:"):
            headers |= self._proxy_headers  # without TLS there is no CONNECT to carry them
        if request.keyed:
            headers["authorization"] = f"Bearer {request.key or self._key}"
        data, kind = _body(request)
        if kind:
            headers["content-type"] = kind
        try:
            async with self._session.request(
                request.method,
                self._base_url + request.path,
                data=io.BytesIO(data) if data else None,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers or None,
                ssl=self._tls,
                skip_auto_headers=("accept", "content-type"),
                timeout=aiohttp.ClientTimeout(self.timeout),
            ) as answer:
                named = {name.lower(): value for name, value in answer.headers.items()}
                return ProbeAnswer(answer.status, named, await answer.read())
        except (TimeoutError, aiohttp.ClientError) as error:
            return ProbeAnswer(NO_ANSWER, {}, type(error).__name__.encode())


def _body(request: ProbeRequest) -> tuple[bytes, str]:
    """Return the body and its content type."""
    if request.json is not None:
        return json.dumps(request.json).encode(), "application/json"
    if request.method == "GET":
        return b"", ""
    if request.size:
        filler = b"0" * request.size
        head, tail = _part("image", "probe.png"), f"\r\n--{BOUNDARY}--\r\n".encode()
        return head + filler[len(head) + len(tail) :] + tail, _multipart()
    parts = [_part(name) + text.encode() for name, text in request.texts.items()]
    parts += [_part(name, "probe") + data for name, data in request.files.items()]
    parts = parts or [_part("none")]
    return b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode(), _multipart()


def _multipart() -> str:
    return f"multipart/form-data; boundary={BOUNDARY}"


def _part(name: str, filename: str = "") -> bytes:
    option = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{option}\r\n\r\n'.encode()
