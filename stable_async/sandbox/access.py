"""Who may call: Host and Origin checks, CORS, and the token of the control addresses.

A web page of another site can make a browser send requests to this machine, either openly or, by
DNS rebinding, under a name of its own that leads here. Browsers reveal this in `Host`, `Origin` and
`Sec-Fetch-Site`; other programs send no `Origin` and are not affected.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stable_async.sandbox.answers import Answer, json_answer
from stable_async.sandbox.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stable_async.sandbox.settings import SandboxSettings

__all__ = ["Access"]

TOKEN_HEADER = "x-sandbox-token"  # noqa: S105
CORS_SECONDS = 600
EXPOSED = "finish-reason, seed, x-request-id, content-type, retry-after"


class Access:
    """Decides who may call, by the headers of a request."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Take the settings' hosts, origins and token."""
        self._hosts = {name.lower() for name in settings.allowed_hosts}
        self._origins = frozenset(settings.cors)
        self._token = settings.token
        # A name without a dot cannot be published in DNS; Docker and CI services have such names.
        self._bare_names = settings.host != LOOPBACK

    def refuse(self, method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        """Return the refusal of a request from a host or origin that may not call.

        Args:
            method: HTTP method.
            path: Path of the request.
            headers: Lower-case names.
        """
        host = headers.get("host", "")
        if host and not self._knows(host):
            return _refusal("host", "is not a name of the sandbox", "--allow-host")
        origin = headers.get("origin")
        if origin is not None:
            own = origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}
            if own or origin in self._origins:
                return None
            return _refusal("origin", "may not call the sandbox", "--cors")
        site = headers.get("sec-fetch-site", "none")
        # Links to the page may be followed from anywhere.
        followed = (method, path, headers.get("sec-fetch-mode")) == ("GET", "/", "navigate")
        if site in {"cross-site", "same-site"} and not followed:
            return _refusal("sec-fetch-site", "other sites may not call the sandbox", "--cors")
        return None

    def refuse_control(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Answer | None:
        """Return the refusal of a call to a control address; other origins may never call one."""
        if headers.get("origin") in self._origins:
            return _refusal("origin", "may call the API and not the control addresses", "")
        if self._token is None:
            return None
        given = headers.get(TOKEN_HEADER) or query.get("token", "")
        if hmac.compare_digest(given.encode(errors="surrogateescape"), self._token.encode()):
            return None
        text = f"{TOKEN_HEADER}: must be the token of the sandbox"
        return json_answer(401, {"errors": [text], "name": "unauthorized"})

    def preflight(self, method: str, headers: Mapping[str, str]) -> Answer | None:
        """Return the answer to a CORS preflight request."""
        if method != "OPTIONS" or "access-control-request-method" not in headers:
            return None
        answer = Answer(204, "", b"")
        wanted = headers.get("access-control-request-headers", "")
        answer.headers += [
            ("access-control-allow-methods", "GET, POST"),
            ("access-control-allow-headers", wanted if wanted.isascii() and wanted else "*"),
            ("access-control-max-age", str(CORS_SECONDS)),
        ]
        return answer

    def cors_headers(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the headers that let a page of an allowed origin read an answer."""
        origin = headers.get("origin")
        if origin not in self._origins or origin is None:
            return []
        return [
            ("access-control-allow-origin", origin),
            ("access-control-expose-headers", EXPOSED),
            ("vary", "origin"),
        ]

    def _knows(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            # A numeric address was not looked up, so it cannot have been rebound.
            ip_address(name)
        except ValueError:
            return self._bare_names and name != "" and "." not in name
        return True


def _refusal(header: str, problem: str, option: str) -> Answer:
    hint = f"; allow it with {option}" if option else ""
    return json_answer(403, {"errors": [f"{header}: {problem}{hint}"], "name": "forbidden"})
