"""Edge faults: answers of intermediaries between a client and the API.

A CDN, a firewall, a proxy or a hotel's network answers in the API's place, changes its answers, or
cuts connections. Some of these faults keep the request from the API, so that nothing is charged.
Others lose or alter the answer to work that the API did and charged.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from stable_async.sandbox.answers import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EDGE_FAULTS", "EdgeFault", "edge_fault"]

# https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/
CDN_ERRORS = {
    520: "Web server returned an unknown error",
    521: "Web server is down",
    522: "Connection timed out",
    523: "Origin is unreachable",
    524: "A timeout occurred",
    525: "SSL handshake failed",
    526: "Invalid SSL certificate",
    530: "Origin DNS error",
}
FAT_COOKIE_BYTES = 9_000
FAT_HEADER_LINES = 200
GENERIC = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class EdgeFault:
    """A kind of edge fault.

    Attributes:
        name: The name that requests it.
        about: What a client sees.
        reached: Whether the request reaches the API, which does the work and charges it.
        page: Makes the answer in the API's place; `None` where the API's own is altered.
        alter: Changes the API's answer.
        first_look: Whether it affects only the first look at each asynchronous result.
    """

    name: str
    about: str
    reached: bool
    page: Callable[[], Answer] | None = None
    alter: Callable[[Answer], None] | None = None
    first_look: bool = False


def edge_fault(name: str) -> EdgeFault:
    """Return the kind called `name`.

    Raises:
        ValueError: There is no such kind; the message lists them.
    """
    try:
        return EDGE_FAULTS[name]
    except KeyError:
        raise ValueError(f"edge fault is {name!r}; allowed: {', '.join(EDGE_FAULTS)}") from None


def _html(
    status: int, title: str, server: str = "edge", *headers: tuple[str, str]
) -> Callable[[], Answer]:
    """Return a function that makes an HTML page."""
    page = (
        f"<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n"
        f"<body><h1>{title}</h1><hr><center>{server}</center></body></html>\n"
    ).encode()
    return lambda: Answer(status, "text/html; charset=UTF-8", page, [("server", server), *headers])


def _cdn(status: int) -> Callable[[], Answer]:
    ray = ("cf-ray", "8f00ba4c9d2e1a3b-FRA")
    title = f"api.example | {status}: {CDN_ERRORS[status]}"
    return _html(status, title, "cloudflare", ray, ("cf-cache-status", "DYNAMIC"))


def _plain(status: int, *headers: tuple[str, str]) -> Callable[[], Answer]:
    return lambda: Answer(status, "", b"", list(headers))


def _closed() -> Answer:
    return Answer(502, "", b"", drop="before_headers")


def _setting(**parts: str | bytes) -> Callable[[Answer], None]:
    """Return a function that sets parts of an answer."""

    def alter(answer: Answer) -> None:
        for name, value in parts.items():
            setattr(answer, name, value)

    return alter


def _other_label(answer: Answer) -> None:
    kind = answer.content_type
    answer.content_type = "image/jpeg" if kind != "image/jpeg" else "image/png"


def _with_status(status: int) -> Callable[[Answer], None]:
    def alter(answer: Answer) -> None:
        if answer.status == HTTPStatus.OK:
            answer.status = status

    return alter


def _fat_headers(answer: Answer) -> None:
    answer.headers.append(("set-cookie", "session=" + "x" * FAT_COOKIE_BYTES))
    answer.headers += [(f"x-trace-{number}", "y" * 64) for number in range(FAT_HEADER_LINES)]


def _shortened(answer: Answer) -> None:
    answer.body = answer.body[: max(1, len(answer.body) * 2 // 3)]


def _page_as_image(answer: Answer) -> None:
    page = _html(200, "Sign in to the network")()
    answer.body, answer.content_type = page.body, "image/png"


def _in_json(change: Callable[[str, str], str]) -> Callable[[Answer], None]:
    """Return a function that changes the base64 in a JSON answer and leaves other answers
    unchanged.
    """

    def alter(answer: Answer) -> None:
        media, _, given = answer.content_type.partition(";")
        if media != "application/json" or answer.status != HTTPStatus.OK:
            return
        content = json.loads(answer.body)
        kind = given.partition("type=")[2] or "image/png"
        for name in ("image", "audio", "result"):
            if isinstance(content, dict) and name in content:
                content[name] = change(content[name], kind)
        answer.body = json.dumps(content).encode()

    return alter


def _in_lines(text: str, kind: str) -> str:
    return base64.encodebytes(base64.b64decode(text)).decode()


def _data_url(text: str, kind: str) -> str:
    return f"data:{kind};base64,{text}"


def _faults() -> dict[str, EdgeFault]:
    unreached = [
        *(
            (f"cdn_{status}", f"{status}, a CDN's page: {CDN_ERRORS[status]}", _cdn(status))
            for status in (521, 523, 525, 526, 530)
        ),
        ("firewall", "403, a firewall's page", _html(403, "Access denied", "cloudflare")),
        ("not_found_page", "404, a page of something else", _html(404, "404 Not Found", "nginx")),
        ("login_page", "200, a network's page to sign in", _html(200, "Sign in to the network")),
        (
            "busy_page",
            "429, a CDN's page (error 1015)",
            _html(429, "Error 1015: You are being rate limited", "cloudflare"),
        ),
        (
            "redirect",
            "302 to another host",
            _plain(302, ("location", "https://login.example/portal")),
        ),
        ("proxy_login", "407, a proxy", _html(407, "Proxy Authentication Required", "squid")),
        ("too_large_page", "413, a proxy", _html(413, "413 Request Entity Too Large", "nginx")),
        ("blocked_page", "451, a filter", _html(451, "Unavailable For Legal Reasons")),
        ("reset", "none: the connection is closed, and the API sees nothing", _closed),
    ]
    lost = [
        ("bad_gateway", "502, a proxy's page", _html(502, "502 Bad Gateway", "nginx")),
        ("unavailable", "503, a proxy's page", _html(503, "503 Service Unavailable", "nginx")),
        ("gateway_timeout", "504, without a body", _plain(504)),
        *(
            (f"cdn_{status}", f"{status}, a CDN's page: {CDN_ERRORS[status]}", _cdn(status))
            for status in (520, 522, 524)
        ),
        ("no_content", "204, without a body", _plain(204)),
        ("login_after", "200, a page to sign in", _html(200, "Sign in to the network")),
    ]
    altered = [
        ("cut_after_request", "none: the connection is cut", _setting(drop="before_headers")),
        ("cut_headers", "the connection is cut within the headers", _setting(drop="mid_headers")),
        ("cut_body", "the connection is cut within the body", _setting(drop="mid_body")),
        ("short_body", "two thirds of the body, with a length to match", _shortened),
        ("empty_body", "200 with nothing in it", _setting(body=b"")),
        ("stray_bytes", "bytes after the end of the body", _setting(drop="stray_bytes")),
        ("generic_label", f"the type {GENERIC}", _setting(content_type=GENERIC)),
        ("no_label", "no content type", _setting(content_type="")),
        ("wrong_label", "the type of another image format", _other_label),
        ("page_as_image", "a page to sign in, labelled image/png", _page_as_image),
        ("fat_headers", "a cookie of 9,000 bytes and 200 header lines", _fat_headers),
        ("status_201", "201 in place of 200", _with_status(201)),
        ("status_206", "206 in place of 200", _with_status(206)),
        ("base64_lines", "JSON whose base64 has line breaks", _in_json(_in_lines)),
        ("data_url", "JSON whose image is a data URL", _in_json(_data_url)),
    ]
    faults = [EdgeFault(name, about, False, page=page) for name, about, page in unreached]
    faults += [EdgeFault(name, about, True, page=page) for name, about, page in lost]
    faults += [EdgeFault(name, about, True, alter=alter) for name, about, alter in altered]
    faults.append(
        EdgeFault(
            "first_look",
            "404, a page, on the first look at each result",
            False,
            page=_html(404, "404 Not Found", "nginx"),
            first_look=True,
        )
    )
    return {fault.name: fault for fault in faults}


EDGE_FAULTS = _faults()
