"""Settings: frozen, defined once, passed along; and where the key and the base URL come from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from stable_async.errors import ConfigurationError

__all__ = ["API_KEY_VARIABLE", "BASE_URL_VARIABLE", "Quota", "RetryPolicy", "Timeouts"]

API_KEY_VARIABLE = "STABILITY_API_KEY"
BASE_URL_VARIABLE = "STABILITY_BASE_URL"
DEFAULT_BASE_URL = "https://api.stability.ai"

# "150 requests within a 10 second period ... timed out for 60 seconds": the text of the API's own
# 429 answer, OpenAPI document of api.stability.ai, read 2026-09-22.
DOCUMENTED_REQUESTS = 150
DOCUMENTED_WINDOW = 10.0
DOCUMENTED_PENALTY = 60.0


def _require(condition: bool, owner: str, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigurationError(f"{owner}.{field} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class Quota:
    """What the server allows one key, and how close to it the client may go.

    Attributes:
        requests: Requests the server allows in one `window`.
        window: Length of the server's window, seconds.
        penalty: How long the server shuts a key out after a breach, seconds. Used when a 429
            carries no `Retry-After`.
        spread: By how much the delays between departure and arrival may differ, seconds. The
            history is kept this much longer than `window`; see docs/quota.md.
        adaptive: Follow the spread that is measured, within bounds, starting at `spread`.
        burst: The most requests that leave at once after a pause; `None` is all of `requests`.
            A smaller one makes the flow smoother, not faster.
    """

    requests: int = DOCUMENTED_REQUESTS
    window: float = DOCUMENTED_WINDOW
    penalty: float = DOCUMENTED_PENALTY
    spread: float = 0.3
    adaptive: bool = True
    burst: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that would mean no limit, or no progress."""
        _require(self.requests >= 1, "Quota", "requests", self.requests, "1 or more")
        _require(0 < self.window < float("inf"), "Quota", "window", self.window, "seconds above 0")
        _require(0 <= self.penalty < float("inf"), "Quota", "penalty", self.penalty, "0 or more")
        _require(
            0 <= self.spread <= self.window, "Quota", "spread", self.spread, f"0 to {self.window}"
        )
        if self.burst is not None:
            allowed = f"1 to {self.requests}, or None"
            _require(1 <= self.burst <= self.requests, "Quota", "burst", self.burst, allowed)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a refused request is sent again. Only 429 and 500 answers are retried.

    A 429 waits for the penalty that all users of the key share. A 500 backs off exponentially
    with full jitter: a random time between 0 and `initial_backoff * 2**(n - 1)` seconds before
    the nth retry, at most `max_backoff`.

    Attributes:
        attempts: The most attempts of one request, the first included; 1 switches retries off.
        initial_backoff: Upper bound of the first wait after a 500, seconds.
        max_backoff: Upper bound of any wait after a 500, seconds.
    """

    attempts: int = 5
    initial_backoff: float = 1.0
    max_backoff: float = 30.0

    def __post_init__(self) -> None:
        """Refuse values that could not mean anything."""
        _require(self.attempts >= 1, "RetryPolicy", "attempts", self.attempts, "1 or more")
        for field in ("initial_backoff", "max_backoff"):
            value = getattr(self, field)
            _require(0 <= value < float("inf"), "RetryPolicy", field, value, "seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of one attempt, seconds; `None` means no limit.

    Attributes:
        connect: To get a connection: name look-up, TCP and TLS.
        first_byte: From the request to the first byte of the answer. Synchronous operations send
            nothing until the picture is ready (34 s seen, 180 s is what live clients settled on).
        between_bytes: Between two pieces of the answer once it has begun, and between two pieces
            of an upload that the server does not take.
    """

    connect: float | None = 15.0
    first_byte: float | None = 180.0
    between_bytes: float | None = 30.0

    def __post_init__(self) -> None:
        """Refuse zero: it would look like a limit and mean none."""
        for field in ("connect", "first_byte", "between_bytes"):
            value = getattr(self, field)
            _require(value is None or value > 0, "Timeouts", field, value, "above 0, or None")


class Secret(str):
    """A text that tools which show local variables do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Say only that there is one."""
        return "[key]"


def resolve_api_key(api_key: str | None) -> str:
    """Give the key from the argument or from `STABILITY_API_KEY`.

    Raises:
        ConfigurationError: There is none, or it has characters no header can carry.
    """
    key = api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE, "")
    key = key.strip()
    if not key:
        raise ConfigurationError(
            f"no API key: set the environment variable {API_KEY_VARIABLE}, "
            "or pass StabilityClient(api_key=...)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            "the API key has characters that no HTTP header can carry (blanks, line breaks or "
            "letters outside ASCII); it is not shown here"
        )
    return key


def resolve_base_url(base_url: str | None) -> str:
    """Give the base URL: the argument, else `STABILITY_BASE_URL`, else the default; no final slash.

    Raises:
        ConfigurationError: It is no http or https URL, or has a query, a fragment or a password.
    """
    url = base_url if base_url is not None else os.environ.get(BASE_URL_VARIABLE, "")
    url = url.strip() or DEFAULT_BASE_URL
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if "@" in url:
        raise ConfigurationError("the base URL must not carry a user name or password")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            f"base URL is {url!r}; allowed: http://host/prefix or https://host/prefix"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError("the base URL must not carry a query or a fragment")
    return url.rstrip("/")
