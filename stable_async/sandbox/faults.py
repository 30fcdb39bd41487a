"""Faults and answers that a test asks for. Usable from any thread.

A rule says which requests it applies to and how often; the first matching rule is used.
`FaultControls` sets rules, and is part of `Sandbox`; `Faults` stores them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar, get_args

from stable_async.sandbox.answers import Answer, Drop
from stable_async.sandbox.edge import edge_fault

if TYPE_CHECKING:
    from stable_async.sandbox.edge import EdgeFault
    from stable_async.sandbox.request_log import RequestRecord

__all__ = ["Edge", "Failure", "FaultControls", "Faults", "Given", "Predicate", "Scripted"]

Predicate = Callable[["RequestRecord"], bool]
Action = TypeVar("Action")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error answer of the API; `None` means the documented value for the status."""

    status: int
    name: str | None = None
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Scripted:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def answer(self) -> Answer:
        """Return a fresh copy, which may be altered."""
        headers = dict(self.headers)
        content_type = headers.pop("content-type", "")
        return Answer(self.status, content_type, self.body, list(headers.items()))


@dataclass(frozen=True, slots=True)
class Given:
    """An output to return instead of a rendered one; `None` keeps the rendered value."""

    data: bytes | None
    content_type: str | None
    seed: int | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge fault, and whether the API did the work and charged it."""

    fault: EdgeFault
    charged: bool


@dataclass(slots=True)
class _Rule(Generic[Action]):
    """An action, the requests it applies to, and how often.

    Attributes:
        action: The action.
        times: How many more requests it applies to; `None` means no limit.
        operation: The operation's id; `None` means all.
        headers: Values that headers must have, by lower-case name.
        when: Called with the record of a request.
        until: The time at which the rule ends.
        rate: Share of the requests, 0 to 1.
    """

    action: Action
    times: int | None
    operation: str | None
    headers: Mapping[str, str]
    when: Predicate | None
    until: float
    rate: float

    def matches(self, record: RequestRecord, headers: Mapping[str, str]) -> bool:
        """Whether the rule applies to the request, apart from chance."""
        return (
            self.operation in {None, record.operation}
            and all(headers.get(name, "") == value for name, value in self.headers.items())
            and (self.when is None or self.when(record))
        )


class _Rules(Generic[Action]):
    """The rules for one kind of action, oldest first."""

    def __init__(self, rng: random.Random, lock: Lock) -> None:
        self._rules: list[_Rule[Action]] = []
        self._rng = rng
        self._lock = lock

    def add(
        self,
        action: Action,
        times: int | None,
        operation: str | None,
        headers: Mapping[str, str] | None = None,
        *,
        when: Predicate | None = None,
        until: float = math.inf,
        rate: float = 1.0,
    ) -> None:
        if times is not None and (type(times) is not int or times < 1):
            raise ValueError(f"times is {times!r}; allowed: 1 or more")
        _check_operation(operation)
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        with self._lock:
            self._rules.append(_Rule(action, times, operation, lower, when, until, rate))

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def take(self, record: RequestRecord, headers: Mapping[str, str], now: float) -> Action | None:
        """Return the action for this request, and count it."""
        with self._lock:
            self._rules = [rule for rule in self._rules if now < rule.until]
            for rule in self._rules:
                if not rule.matches(record, headers) or self._rng.random() >= rule.rate:
                    continue
                if rule.times is not None:
                    rule.times -= 1
                    if not rule.times:
                        self._rules.remove(rule)
                return rule.action
        return None


class FaultControls:
    """What a test can ask a sandbox for."""

    @property
    def _faults(self) -> Faults:
        """The rules to change."""
        raise NotImplementedError

    def fail_next(
        self,
        status: int,
        times: int | None = 1,
        *,
        name: str | None = None,
        retry_after: int | None = None,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next requests with an error of the API; they are not charged.

        Args:
            status: HTTP status, 400 to 599. A documented one has its documented name and text.
            times: How many requests; `None` means all from now on.
            name: The error's name, if a status has several or none is documented.
            retry_after: Whole seconds for a `Retry-After` header.
            operation: Only requests of the operation with this id, such as `generate_core`.
            headers: Only requests with these headers, such as one caller's.
        """
        _check_status(status, 400)
        if retry_after is not None and (retry_after != int(retry_after) or retry_after < 0):
            raise ValueError(f"retry_after is {retry_after!r}; allowed: whole seconds, as in HTTP")
        whole = None if retry_after is None else int(retry_after)
        self._faults.failures.add(Failure(status, name, whole), times, operation, headers)

    def edge(
        self,
        kind: str,
        *,
        times: int | None = None,
        seconds: float | None = None,
        rate: float = 1.0,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
        charged: bool | None = None,
    ) -> None:
        """Answer requests with an edge fault; see docs/sandbox.md for the kinds.

        Args:
            kind: Such as `firewall`, `cdn_521`, `bad_gateway`, `wrong_label`, `cut_body`.
            times: How many requests; 1 unless `seconds` or `rate` is given.
            seconds: For how long, instead of or besides `times`.
            rate: Share of the requests, above 0 and up to 1.
            operation: Only requests of the operation with this id.
            headers: Only requests with these headers.
            charged: Whether the API did the work before the answer was lost; `None` means the usual
                for the kind.
        """
        fault = edge_fault(kind)
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate!r}; allowed: above 0, up to 1")
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"seconds is {seconds!r}; allowed: above 0")
        if charged is not None and fault.page is None:
            raise ValueError(f"charged: {kind} alters the API's own answer, so it is charged")
        if times is None and seconds is None and rate == 1 and not fault.first_look:
            times = 1
        action = Edge(fault, fault.reached if charged is None else charged)
        until = math.inf if seconds is None else self._faults.now() + seconds
        self._faults.edges.add(action, times, operation, headers, until=until, rate=rate)

    def drop_next(
        self,
        when: Drop = "before_headers",
        times: int | None = 1,
        *,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Cut the connection during the next answers to work that was done and charged.

        Args:
            when: `before_headers`, `mid_headers` or `mid_body`; or `stray_bytes`, which sends the
                whole answer and then bytes that are not HTTP.
            times: How many answers; `None` means all from now on.
            operation: Only requests of the operation with this id.
            headers: Only requests with these headers.
        """
        if when not in get_args(Drop):
            raise ValueError(f"when is {when!r}; allowed: {', '.join(get_args(Drop))}")
        self._faults.drops.add(when, times, operation, headers)

    def delay(
        self,
        seconds: float,
        times: int | None = None,
        *,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Delay answers; replaces a delay that was set before.

        Args:
            seconds: The delay; 0 ends it.
            times: How many answers; `None` means all from now on.
            operation: Only requests of the operation with this id.
            headers: Only requests with these headers.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds is {seconds!r}; allowed: 0 or more")
        self._faults.delays.clear()
        if seconds:
            self._faults.delays.add(seconds, times, operation, headers)

    def respond(
        self,
        operation: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | Mapping[str, object] | list[object] = b"",
        times: int | None = 1,
        when: Predicate | None = None,
    ) -> None:
        """Answer with exactly this, even if malformed; nothing is checked or charged.

        Args:
            operation: Only requests of the operation with this id; `None` means all.
            status: HTTP status, 200 to 599.
            headers: Headers of the answer, `content-type` included.
            body: Bytes, text, or a value to send as JSON.
            times: How many requests; `None` means all from now on.
            when: Called with a request's record; returns whether the rule applies to it.
        """
        _check_status(status, 200)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        for name, value in named.items():
            if not name.isascii() or not (name + str(value)).isprintable():
                raise ValueError(f"header {name!r} is {value!r}; allowed: printable text")
        if isinstance(body, Mapping | list):
            named.setdefault("content-type", "application/json")
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else bytes(body)
        script = Scripted(status, named, data)
        self._faults.scripts.add(script, times, operation, when=when)

    def produce(
        self,
        operation: str | None = None,
        data: bytes | None = None,
        *,
        content_type: str | None = None,
        seed: int | None = None,
        finish_reason: str | None = None,
        times: int | None = 1,
        when: Predicate | None = None,
    ) -> None:
        """Return this as the output of work that is checked and charged like any other.

        Args:
            operation: Only requests of the operation with this id; `None` means all.
            data: The file; `None` renders one.
            content_type: Content type of `data`; `None` means the one that was asked for.
            seed: The seed to report; `None` keeps the request's.
            finish_reason: The finish reason; `None` keeps the usual one.
            times: How many requests; `None` means all from now on.
            when: Called with a request's record; returns whether the rule applies to it.
        """
        if data is not None and not isinstance(data, bytes):
            raise ValueError(f"data is {type(data).__name__}; allowed: bytes")
        given = Given(data, content_type, seed, finish_reason)
        self._faults.outputs.add(given, times, operation, when=when)

    def keep_running(
        self, looks: int, times: int | None = 1, *, operation: str | None = None
    ) -> None:
        """Answer the first looks at the next asynchronous results with 202.

        Args:
            looks: How many looks at each result.
            times: How many results; `None` means all from now on.
            operation: Only those of the operation with this id.
        """
        if looks < 1:
            raise ValueError(f"looks is {looks!r}; allowed: 1 or more")
        self._faults.looks.add(looks, times, operation)

    def exhaust_credits(self) -> None:
        """Make the balance 0: requests that have a price are answered with 402."""
        self._faults.exhausted = True


class Faults(FaultControls):
    """The rules of one account."""

    def __init__(self, now: Callable[[], float], seed: int = 0) -> None:
        """Start with none.

        Args:
            now: Returns the sandbox's time.
            seed: Seed of the choices by rate.
        """
        self.now = now
        lock = Lock()
        rng = random.Random(f"faults {seed}")  # noqa: S311
        self.failures: _Rules[Failure] = _Rules(rng, lock)
        self.edges: _Rules[Edge] = _Rules(rng, lock)
        self.drops: _Rules[Drop] = _Rules(rng, lock)
        self.delays: _Rules[float] = _Rules(rng, lock)
        self.scripts: _Rules[Scripted] = _Rules(rng, lock)
        self.outputs: _Rules[Given] = _Rules(rng, lock)
        self.looks: _Rules[int] = _Rules(rng, lock)
        self.exhausted: bool = False

    @property
    def _faults(self) -> Faults:
        return self

    def clear(self) -> None:
        """Remove every rule."""
        for rules in (
            *(self.failures, self.edges, self.drops, self.delays),
            *(self.scripts, self.outputs, self.looks),
        ):
            rules.clear()
        self.exhausted = False


def _check_status(status: object, least: int) -> None:
    if type(status) is not int or not least <= status <= 599:
        raise ValueError(f"status is {status!r}; allowed: {least} to 599")


def _check_operation(operation: str | None) -> None:
    from stable_async.sandbox.spec.facts import load_facts  # needs the extra `[sandbox]`

    known = [fact.id for fact in load_facts().operations]
    if operation is not None and operation not in known:
        raise ValueError(f"operation is {operation!r}; allowed: {', '.join(known)}")
