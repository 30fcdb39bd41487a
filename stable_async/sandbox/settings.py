"""Settings of the sandbox: one frozen object; importing it loads nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence  # noqa: TC003 - read by type checkers of callers
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal, TypedDict, get_args
from urllib.parse import urlsplit

__all__ = ["Counting", "SandboxOptions", "SandboxSettings", "edge_rates"]

Counting = Literal["counter", "log", "fixed", "bucket", "off"]
LOOPBACK = "127.0.0.1"
HOST_NAME = re.compile(r"[\w.-]{1,253}|\[[0-9a-f:]+\]", re.IGNORECASE)


class SandboxOptions(TypedDict, total=False):
    """The settings as keyword arguments; see `SandboxSettings` for what they mean."""

    host: str
    port: int
    token: str | None
    cors: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    counting: Counting
    requests: int
    window: float
    penalty: float
    latency: float | Literal["observed"]
    fail_rate: float
    drop_rate: float
    edge_rates: Mapping[str, float]
    balance_lag: float
    seed: int
    credits: float
    api_keys: frozenset[str] | None
    facts: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Settings of a sandbox.

    Attributes:
        host: IP address to listen on. Beyond 127.0.0.1 a token is needed.
        port: TCP port; 0 takes a free one.
        token: The value of the header `x-sandbox-token` that the page and the control addresses
            require. `None` requires none, and is only allowed on 127.0.0.1.
        cors: Origins, such as `http://localhost:3000`, whose pages may call the API.
        allowed_hosts: Names besides localhost and IP addresses that a `Host` header may have.
        counting: How the quota is counted: `counter` (two-counter sliding window), `log` (sliding
            log), `fixed` (fixed window), `bucket` (token bucket), or `off`.
        requests: Requests allowed per key in one `window`.
        window: Length of the quota's window, seconds.
        penalty: How long all requests of a key are refused after a breach, seconds.
        latency: Seconds from the arrival of a request to its answer, and from an asynchronous
            submit to its result; `observed` uses the times that the real service needed.
        fail_rate: Share of accepted work that is answered with 500, 0 to 1; it is not charged.
        drop_rate: Share of accepted work whose connection is cut, 0 to 1; it is charged.
        edge_rates: Shares of requests, 0 to 1, by the kind of edge fault that they meet; see
            `edge.py` for the kinds.
        balance_lag: Seconds after which a charge shows in the balance.
        seed: Seed of every random choice, including the phase of the quota's window.
        credits: Initial balance, in credits. All keys share it.
        api_keys: The keys that are accepted. `None` accepts every key without `invalid` in it.
        facts: Path of a facts file to use instead of the package's own.
    """

    host: str = LOOPBACK
    port: int = 0
    token: str | None = field(default=None, repr=False)
    cors: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    counting: Counting = "counter"
    requests: int = 150
    window: float = 10.0
    penalty: float = 60.0
    latency: float | Literal["observed"] = 0.0
    fail_rate: float = 0.0
    drop_rate: float = 0.0
    edge_rates: Mapping[str, float] = field(default_factory=dict)
    balance_lag: float = 0.0
    seed: int = 0
    credits: float = 1_000_000.0
    api_keys: frozenset[str] | None = field(default=None, repr=False)
    facts: str | None = None

    def __post_init__(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: A setting is invalid; the message says which, and what is allowed.
        """
        self._check_access()
        ways = get_args(Counting)
        _require(self.counting in ways, "counting", self.counting, ", ".join(ways))
        _require(self.requests >= 1, "requests", self.requests, "1 or more")
        _require(0 < self.window < float("inf"), "window", self.window, "seconds above 0")
        seconds = "seconds, 0 or more"
        _require(0 <= self.penalty < float("inf"), "penalty", self.penalty, seconds)
        if self.latency != "observed":
            good = 0 <= self.latency < float("inf")
            _require(good, "latency", self.latency, f"observed, or {seconds}")
        _require(0 <= self.fail_rate <= 1, "fail_rate", self.fail_rate, "0 to 1")
        _require(0 <= self.drop_rate <= 1, "drop_rate", self.drop_rate, "0 to 1")
        for kind, rate in self.edge_rates.items():
            _require(0 <= rate <= 1, f"edge_rates[{kind!r}]", rate, "0 to 1")
        _require(0 <= self.balance_lag < float("inf"), "balance_lag", self.balance_lag, seconds)
        _require(0 <= self.credits < float("inf"), "credits", self.credits, "0 or more")

    def _check_access(self) -> None:
        try:
            ip_address(self.host)
        except ValueError:
            _require(False, "host", self.host, "an IP address, such as 127.0.0.1 or 0.0.0.0")
        if self.host != LOOPBACK and not self.token:
            raise ValueError(
                f"token is not set, and host is {self.host!r}; whoever reaches the sandbox sees "
                "prompts and images and can set faults: set a token for these addresses"
            )
        good = self.token is None or (self.token.isascii() and self.token.isprintable())
        _require(good and self.token != "", "token", "(hidden)", "printable ASCII characters")
        _require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        for origin in self.cors:
            _require(_is_origin(origin), "cors", origin, "origins, such as http://localhost:3000")
        for name in self.allowed_hosts:
            good = HOST_NAME.fullmatch(name) is not None
            _require(good, "allowed_hosts", name, "host names without a port")


def edge_rates(texts: Sequence[str]) -> dict[str, float]:
    """Read `KIND=RATE`, as commands take it.

    Raises:
        ValueError: An option has another form.
    """
    rates = {}
    for text in texts:
        kind, _, rate = text.partition("=")
        try:
            rates[kind] = float(rate)
        except ValueError:
            raise ValueError(
                f"edge is {text!r}; allowed: KIND=RATE, such as firewall=0.05"
            ) from None
    return rates


def _is_origin(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in {"http", "https"} and text == f"{parts.scheme}://{parts.netloc}"


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}")
