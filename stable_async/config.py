"""Frozen settings, and the key and base URL from arguments or the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from stable_async.arguments import (
    UnfitError,
    at_least,
    checked_arguments,
    checked_setting,
    choice,
    flag,
    or_none,
    positive_seconds,
    seconds,
)
from stable_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["API_KEY_VARIABLE", "BASE_URL_VARIABLE", "Quota", "RetryPolicy", "Timeouts"]

API_KEY_VARIABLE = "STABILITY_API_KEY"
BASE_URL_VARIABLE = "STABILITY_BASE_URL"
POLL_INTERVAL_VARIABLE = "STABILITY_POLL_INTERVAL"
DEFAULT_BASE_URL = "https://api.stability.ai"

# "150 requests within a 10 second period ... timed out for 60 seconds": the text of the API's own
# 429 answer, OpenAPI document of api.stability.ai, read 2026-09-22.
DOCUMENTED_REQUESTS = 150
DOCUMENTED_WINDOW = 10.0
DOCUMENTED_PENALTY = 60.0

_QUOTA_RULES: dict[str, Callable[[object], object]] = {
    "requests": at_least(1),
    "window": positive_seconds,
    "penalty": seconds,
    "jitter": seconds,
    "adaptive": flag,
    "burst": or_none(at_least(1)),
    "scope": choice("key", "client"),
}
_RETRY_RULES: dict[str, Callable[[object], object]] = {
    "attempts": at_least(1),
    "initial_backoff": seconds,
    "max_backoff": seconds,
}
_RETRIES = at_least(0)
# Zero would look like a limit and mean none.
_TIMEOUT_RULES = dict.fromkeys(
    ("connect", "first_byte", "between_bytes", "total"), or_none(positive_seconds)
)


@checked_arguments(_QUOTA_RULES, "Quota.")
@dataclass(frozen=True, slots=True)
class Quota:
    """What the server allows one key, and how close to it the client may get.

    Attributes:
        requests: Requests the server allows in one `window`.
        window: Length of the server's window, seconds.
        penalty: How long the server refuses a key after a breach, seconds. Used if a 429 has no
            `Retry-After`.
        jitter: How much the delays between departure and arrival may differ, seconds. The
            history is kept this much longer than `window`; see docs/quota.md.
        adaptive: Follow the jitter that is measured, within bounds, starting at `jitter`.
        burst: Maximum requests that leave at once after a pause; `None` is all of `requests`.
            A smaller one makes the flow smoother, not faster.
        scope: Who shares the quota: with `key`, all clients of the same key and address on this
            machine, in whatever event loop, thread or process; with `client`, nobody. The server
            counts by key: `client` is for those who divide the quota among their clients
            themselves.
    """

    requests: int = DOCUMENTED_REQUESTS
    window: float = DOCUMENTED_WINDOW
    penalty: float = DOCUMENTED_PENALTY
    jitter: float = 0.3
    adaptive: bool = True
    burst: int | None = None
    scope: Literal["key", "client"] = "key"

    def __post_init__(self) -> None:
        """Reject values that contradict each other."""
        if self.jitter > self.window:
            raise ConfigurationError(f"Quota.jitter is {self.jitter}; allowed: 0 to {self.window}")
        if self.burst is not None and self.burst > self.requests:
            raise ConfigurationError(
                f"Quota.burst is {self.burst}; allowed: 1 to {self.requests}, or None"
            )


@checked_arguments(_RETRY_RULES, "RetryPolicy.")
@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many times a request is retried. Only 429 and 500 responses are.

    A 429 waits for the penalty that all users of the key share. A 500 backs off exponentially
    with full jitter: a random time between 0 and `initial_backoff * 2**(n - 1)` seconds before
    the nth retry, at most `max_backoff`.

    Attributes:
        attempts: Maximum attempts of one request, the first included; 1 switches retries off.
        initial_backoff: Upper bound of the first wait after a 500, seconds.
        max_backoff: Upper bound of any wait after a 500, seconds.
    """

    attempts: int = 5
    initial_backoff: float = 1.0
    max_backoff: float = 30.0

    @classmethod
    def of(cls, value: object) -> RetryPolicy:
        """Return a policy unchanged, or the default one with that number of retries.

        Raises:
            UnfitError: It is neither.
        """
        if isinstance(value, RetryPolicy):
            return value
        try:
            return cls(attempts=_RETRIES(value) + 1)
        except UnfitError as error:
            raise UnfitError(f"a RetryPolicy, or the number of retries ({error})") from None


@checked_arguments(_TIMEOUT_RULES, "Timeouts.")
@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of one attempt, seconds; `None` means no limit.

    The wait for the quota is not part of an attempt: it is limited by a call's `deadline`.

    Attributes:
        connect: To open a connection: name resolution, proxy, TCP and TLS.
        first_byte: From the request to the first byte of the response. Synchronous operations send
            nothing until the image is ready (34 s observed; live clients settled on 180 s).
        between_bytes: Between two pieces of the response, and for the server to accept the next
            piece of an upload.
        total: From opening the connection to the last byte of the response.
    """

    connect: float | None = 15.0
    first_byte: float | None = 180.0
    between_bytes: float | None = 30.0
    total: float | None = None

    @classmethod
    def of(cls, value: object) -> Timeouts:
        """Return limits unchanged, or those that a total implies; `None` means no limit.

        Raises:
            UnfitError: It is neither limits, nor a number of seconds above 0, nor `None`.
        """
        if isinstance(value, Timeouts):
            return value
        if value is None:
            return cls(None, None, None, None)
        try:
            total = positive_seconds(value)
        except UnfitError as error:
            raise UnfitError(f"Timeouts, {error}, or None") from None
        # A total of ten minutes also allows ten minutes for the first byte.
        return cls(first_byte=total, total=total)


class Secret(str):
    """Text whose `repr` is a placeholder, for tools that show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "[key]"


def resolve_api_key(api_key: str | None) -> str:
    """Return the key from the argument or from `STABILITY_API_KEY`.

    Raises:
        ConfigurationError: There is none, or it has characters that no header can carry.
    """
    if not isinstance(api_key, str | None):
        raise ConfigurationError(f"api_key is a {type(api_key).__name__}; allowed: text, or None")
    key = api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE, "")
    key = key.strip()
    if not key:
        raise ConfigurationError(
            f"no API key: set the environment variable {API_KEY_VARIABLE}, "
            "or in Python pass StabilityClient(api_key=...)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            "the API key has characters that no HTTP header can carry (spaces, line breaks or "
            "letters outside ASCII); it is not shown here"
        )
    return key


def resolve_base_url(base_url: str | None) -> str:
    """Return the base URL without a final slash: argument, `STABILITY_BASE_URL` or default.

    Raises:
        ConfigurationError: It is not an http or https URL, has a query, fragment or password, or
            the API's version in its path, or is that of the API without TLS.
    """
    if not isinstance(base_url, str | None):
        raise ConfigurationError(f"base_url is a {type(base_url).__name__}; allowed: text, or None")
    url = base_url if base_url is not None else os.environ.get(BASE_URL_VARIABLE, "")
    url = url.strip() or DEFAULT_BASE_URL
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if "@" in url:
        raise ConfigurationError("the base URL must not carry a user name or password")
    if parts.scheme not in {"http", "https"} or not is_host(parts.hostname or ""):
        raise ConfigurationError(
            f"base URL is {url!r}; allowed: http://host/prefix or https://host/prefix"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError("the base URL must not carry a query or a fragment")
    prefix = parts.path.strip("/")
    own = parts.hostname == urlsplit(DEFAULT_BASE_URL).hostname
    if own and parts.scheme == "http":
        raise ConfigurationError(
            f"base URL is {url!r}; allowed: {DEFAULT_BASE_URL}: the key would not be encrypted"
        )
    if prefix.endswith("v2beta") or (own and prefix):
        # The API would answer 404 to every request.
        raise ConfigurationError(
            f"base URL is {url!r}; allowed: {DEFAULT_BASE_URL}, or another host and its prefix: "
            "the version is part of each operation's path"
        )
    return (parts.scheme + url[len(parts.scheme) :]).rstrip("/")  # the scheme in lower case


def is_host(name: str) -> bool:
    """Return whether a host can be looked up: labels of 1 to 63 characters (RFC 1035, 2.3.4)."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def resolve_poll_interval(poll_interval: float | None, default: float) -> float:
    """Return the poll interval: argument, `STABILITY_POLL_INTERVAL` or default, in seconds.

    Raises:
        ConfigurationError: It is not a number of seconds.
    """
    text = os.environ.get(POLL_INTERVAL_VARIABLE, "").strip()
    if poll_interval is not None or not text:
        given = default if poll_interval is None else poll_interval
        return checked_setting("poll_interval", given, seconds)
    try:
        return checked_setting(POLL_INTERVAL_VARIABLE, float(text), seconds)
    except ValueError:
        raise ConfigurationError(
            f"{POLL_INTERVAL_VARIABLE} is {text[:40]!r}; allowed: seconds, 0 or more"
        ) from None
