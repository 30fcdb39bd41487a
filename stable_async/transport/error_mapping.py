"""The one place where errors of aiohttp and the operating system become ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from stable_async.api.texts import clean
from stable_async.api.verdict import judge_broken_connection
from stable_async.errors import APIConnectionError, APITimeoutError

if TYPE_CHECKING:
    from stable_async.api.verdict import Asked

__all__ = ["harmless_cause", "translate"]

# These happen before there is a connection, so no request has left.
UNSENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)


def translate(error: Exception, *, sent: bool, asked: Asked) -> APIConnectionError:
    """Return our error for one from aiohttp or the operating system.

    Args:
        error: What broke: an `aiohttp.ClientError`, a `TimeoutError` or an `OSError`.
        sent: Whether the request may have reached the server before it broke. Without a connection
            it never did.
        asked: What was asked.
    """
    if isinstance(error, UNSENT):
        sent = False
    status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else None
    verdict = judge_broken_connection(sent=sent, asked=asked, proxy_status=status)
    if isinstance(error, TimeoutError):
        what = "no connection" if isinstance(error, aiohttp.ConnectionTimeoutError) else "no answer"
        return APITimeoutError(f"{what} within the time limit", verdict=verdict)
    return APIConnectionError(clean(_describe(error)), verdict=verdict)


def _describe(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
            return (
                f"the certificate of {error.host}:{error.port} is refused: {reason}; to trust "
                "a company's CA, pass ssl=PATH or set SSL_CERT_FILE"
            )
        case aiohttp.ClientHttpProxyError():
            return f"the proxy refuses the connection with status {error.status}"
        case aiohttp.InvalidURL():
            return "the address is not valid"
        case aiohttp.ClientProxyConnectionError():
            reason = error.os_error.strerror or type(error.os_error).__name__
            return f"cannot connect to the proxy {error.host}:{error.port}: {reason}"
        case aiohttp.ClientConnectorError():
            reason = error.os_error.strerror or str(error.os_error) or type(error.os_error).__name__
            return f"cannot connect to {error.host}:{error.port}: {reason}"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection before it answered"
        case aiohttp.ClientPayloadError():
            return "the connection broke before the answer was complete"
        case aiohttp.ClientResponseError():
            # Its message quotes bytes of the answer, which may be anything.
            long = error.message.startswith("Got more than")
            return "the server's answer is not valid HTTP" + (": a header is too long" * long)
        case _:
            said = error.strerror if isinstance(error, OSError) and error.args[1:] else str(error)
            return f"the connection broke: {said or type(error).__name__}"


def harmless_cause(error: Exception) -> Exception | None:
    """Return the cause to show: response errors of aiohttp carry the request's headers."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error
