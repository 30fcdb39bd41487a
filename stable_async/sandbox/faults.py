"""Faults and answers that a test asks for. Usable from any thread.

A rule says which requests it applies to and how often; the first matching rule is used.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar, get_args

from stable_async.sandbox.answers import Drop
from stable_async.sandbox.edge import edge_fault
from stable_async.sandbox.spec.facts import load_facts

if TYPE_CHECKING:
    from stable_async.sandbox.edge import EdgeFault
    from stable_async.sandbox.request_log import RequestRecord

__all__ = ["Edge", "Failure", "Faults", "Given", "Predicate", "Scripted"]

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
    headers: tuple[tuple[str, str], ...]
    body: bytes


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


@dataclass(frozen=True, slots=True)
class Scope:
    """The requests that a rule applies to: those of an operation, those with certain headers.

    Attributes:
        operation: The operation's id; `None` means all.
        headers: Values by lower-case name.
    """

    operation: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Rule(Generic[Action]):
    """An action, the requests it applies to, and how often.

    Attributes:
        action: The action.
        times: How many more requests it applies to; `None` means no limit.
        until: The time at which the rule ends.
        rate: Share of the requests, 0 to 1.
        scope: The requests that it applies to.
        when: Called with the record of a request.
    """

    action: Action
    times: int | None
    until: float = math.inf
    rate: float = 1.0
    scope: Scope = Scope()
    when: Predicate | None = None

    def matches(self, record: RequestRecord, headers: Mapping[str, str]) -> bool:
        """Whether the rule applies to the request, apart from chance."""
        return (
            self.scope.operation in {None, record.operation}
            and all(headers.get(name, "") == value for name, value in self.scope.headers.items())
            and (self.when is None or self.when(record))
        )


class _Rules(Generic[Action]):
    """The rules for one kind of action, oldest first."""

    def __init__(self, rng: random.Random, lock: Lock) -> None:
        self._rules: list[Rule[Action]] = []
        self._rng = rng
        self._lock = lock

    def add(self, rule: Rule[Action]) -> None:
        with self._lock:
            self._rules.append(rule)

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


class Faults:
    """The active rules."""

    def __init__(self, now: Callable[[], float], seed: int = 0) -> None:
        """Start with none.

        Args:
            now: Returns the sandbox's time.
            seed: Seed of the choices by rate.
        """
        lock, self._now = Lock(), now
        rng = random.Random(f"faults {seed}")  # noqa: S311
        self.failures: _Rules[Failure] = _Rules(rng, lock)
        self.edges: _Rules[Edge] = _Rules(rng, lock)
        self.drops: _Rules[Drop] = _Rules(rng, lock)
        self.delays: _Rules[float] = _Rules(rng, lock)
        self.scripts: _Rules[Scripted] = _Rules(rng, lock)
        self.outputs: _Rules[Given] = _Rules(rng, lock)
        self.looks: _Rules[int] = _Rules(rng, lock)
        self.exhausted: bool = False

    def clear(self) -> None:
        """Remove every rule."""
        for rules in (
            *(self.failures, self.edges, self.drops, self.delays),
            *(self.scripts, self.outputs, self.looks),
        ):
            rules.clear()
        self.exhausted = False

    def fail_next(
        self,
        status: int,
        times: int = 1,
        *,
        name: str | None = None,
        retry_after: int | None = None,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next `times` requests with an error of the API."""
        _check_status(status, 400)
        if retry_after is not None and (retry_after != int(retry_after) or retry_after < 0):
            raise ValueError(f"retry_after is {retry_after!r}; allowed: whole seconds, as in HTTP")
        whole = None if retry_after is None else int(retry_after)
        self.failures.add(
            Rule(Failure(status, name, whole), _times(times), scope=_scope(operation, headers))
        )

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
        """Answer requests with an edge fault: a number of them, for a time, or a share."""
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
        until = math.inf if seconds is None else self._now() + seconds
        bound = None if times is None else _times(times)
        self.edges.add(Rule(action, bound, until, rate, scope=_scope(operation, headers)))

    def drop_next(
        self,
        when: Drop = "before_headers",
        times: int = 1,
        *,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Cut the connection of the next `times` answers."""
        if when not in get_args(Drop):
            raise ValueError(f"when is {when!r}; allowed: {', '.join(get_args(Drop))}")
        self.drops.add(Rule(when, _times(times), scope=_scope(operation, headers)))

    def delay(
        self,
        seconds: float,
        times: int | None = None,
        *,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Delay the answers to `times` requests, or to all from now on. 0 ends all delays."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds is {seconds!r}; allowed: 0 or more")
        bound = None if times is None else _times(times)
        self.delays.clear()
        if seconds:
            self.delays.add(Rule(seconds, bound, scope=_scope(operation, headers)))

    def respond(
        self,
        operation: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | Mapping[str, object] | list[object] = b"",
        times: int | None = 1,
        when: Predicate | None = None,
    ) -> None:
        """Answer with exactly this; nothing is checked or charged."""
        _check_status(status, 200)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        for name, value in named.items():
            if not name.isascii() or not (name + str(value)).isprintable():
                raise ValueError(f"header {name!r} is {value!r}; allowed: printable text")
        if isinstance(body, Mapping | list):
            named.setdefault("content-type", "application/json")
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else bytes(body)
        script = Scripted(status, tuple(named.items()), data)
        bound = None if times is None else _times(times)
        self.scripts.add(Rule(script, bound, scope=_scope(operation), when=when))

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
        """Return this output; the request is checked and charged like any other."""
        if data is not None and not isinstance(data, bytes):
            raise ValueError(f"data is {type(data).__name__}; allowed: bytes")
        given = Given(data, content_type, seed, finish_reason)
        bound = None if times is None else _times(times)
        self.outputs.add(Rule(given, bound, scope=_scope(operation), when=when))

    def keep_running(
        self, looks: int, times: int | None = 1, *, operation: str | None = None
    ) -> None:
        """Answer the first `looks` looks at the next `times` results with 202."""
        if looks < 1:
            raise ValueError(f"looks is {looks!r}; allowed: 1 or more")
        bound = None if times is None else _times(times)
        self.looks.add(Rule(looks, bound, scope=_scope(operation)))

    def exhaust_credits(self) -> None:
        """Make the balance 0."""
        self.exhausted = True


def _check_status(status: object, least: int) -> None:
    if type(status) is not int or not least <= status <= 599:
        raise ValueError(f"status is {status!r}; allowed: {least} to 599")


def _times(times: object) -> int:
    if type(times) is not int or times < 1:
        raise ValueError(f"times is {times!r}; allowed: 1 or more")
    return times


def _scope(operation: str | None, headers: Mapping[str, str] | None = None) -> Scope:
    known = [fact.id for fact in load_facts().operations]
    if operation is not None and operation not in known:
        raise ValueError(f"operation is {operation!r}; allowed: {', '.join(known)}")
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return Scope(operation, lower)
