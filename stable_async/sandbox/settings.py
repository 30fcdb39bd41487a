"""Settings of the sandbox: one frozen object; importing it loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict, get_args

__all__ = ["Counting", "SandboxOptions", "SandboxSettings"]

Counting = Literal["counter", "log", "fixed", "bucket", "off"]
LOOPBACK = "127.0.0.1"


class SandboxOptions(TypedDict, total=False):
    """The settings as keyword arguments; see `SandboxSettings` for what they mean."""

    host: str
    port: int
    counting: Counting
    requests: int
    window: float
    penalty: float
    latency: float | Literal["observed"]
    fail_rate: float
    drop_rate: float
    seed: int
    credits: float
    api_keys: frozenset[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """How a sandbox behaves.

    Attributes:
        host: Always 127.0.0.1: the sandbox trusts whoever can reach it.
        port: TCP port; 0 takes a free one.
        counting: How the quota is counted: `counter` (two-counter sliding window), `log` (sliding
            log), `fixed` (fixed window), `bucket` (token bucket), or `off`.
        requests: Requests allowed per key in one `window`.
        window: Length of the quota's window, seconds.
        penalty: How long a key is shut out after a breach, seconds.
        latency: Seconds from the arrival of a request to its answer, and from an asynchronous
            submit to its result; `observed` takes the times that the real service needed.
        fail_rate: Share of accepted work that is answered with 500, 0 to 1; it is not charged.
        drop_rate: Share of accepted work whose connection is cut, 0 to 1; it is charged.
        seed: Seed of every random choice, the phase of the quota's window included.
        credits: Balance to begin with, in credits. All keys share it.
        api_keys: The keys that are taken. `None` takes every key without `invalid` in it.
    """

    host: str = LOOPBACK
    port: int = 0
    counting: Counting = "counter"
    requests: int = 150
    window: float = 10.0
    penalty: float = 60.0
    latency: float | Literal["observed"] = 0.0
    fail_rate: float = 0.0
    drop_rate: float = 0.0
    seed: int = 0
    credits: float = 1_000_000.0
    api_keys: frozenset[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            ValueError: Says which setting is wrong, and what it takes.
        """
        if self.host != LOOPBACK:
            raise ValueError(
                f"host is {self.host!r}; the sandbox listens on {LOOPBACK} only, because it gives "
                "prompts and pictures to whoever can reach it"
            )
        _require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        ways = get_args(Counting)
        _require(self.counting in ways, "counting", self.counting, ", ".join(ways))
        _require(self.requests >= 1, "requests", self.requests, "1 or more")
        _require(0 < self.window < float("inf"), "window", self.window, "seconds above 0")
        _require(0 <= self.penalty < float("inf"), "penalty", self.penalty, "seconds, 0 or more")
        if self.latency != "observed":
            _require(
                0 <= self.latency < float("inf"),
                "latency",
                self.latency,
                "observed, or seconds, 0 or more",
            )
        _require(0 <= self.fail_rate <= 1, "fail_rate", self.fail_rate, "0 to 1")
        _require(0 <= self.drop_rate <= 1, "drop_rate", self.drop_rate, "0 to 1")
        _require(0 <= self.credits < float("inf"), "credits", self.credits, "0 or more")


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}")
