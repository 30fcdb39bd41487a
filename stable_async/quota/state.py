"""The state of a quota: departures, open slots, the penalty, the share, the jitter. Pure.

All homes hold the same state: one process, each process of a machine from the lines of one file, a
server for many machines. The clock is passed in. Times are seconds on one clock that
all users of the state share, and never go back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import reduce
from math import inf
from typing import TYPE_CHECKING, cast

from stable_async.config import Quota
from stable_async.quota.flow import BULK_TURN, COMPANY, MAKE_UP, Flow
from stable_async.quota.jitter import JitterDump, JitterEstimator
from stable_async.quota.rule import Rule, RuleState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Dump",
    "Key",
    "QuotaState",
    "Slot",
    "Snapshot",
    "bounded_penalty",
    "dump_terms",
    "load_terms",
    "terms_of",
]

logger: logging.Logger = logging.getLogger("stable_async.quota")

# A process and the number of one of its slots.
Key = tuple[str, int]
# The whole state as JSON values.
Dump = dict[str, object]

# A process that has open slots and is silent for this long, seconds, but at most half a window, was
# stopped or killed. Its slots then count as departures.
LEASE = 5.0

# How long a heartbeat of a waiting process is valid, seconds.
HEARTBEAT = 1.0

# Bounds of a penalty, seconds. `Retry-After: 0` or a past date only says that the server refuses;
# beyond an hour the single probe asks again sooner than the answer requested.
SHORTEST_PENALTY = 1.0
LONGEST_PENALTY = 3600.0

# Processes that are silent for this long, seconds, are forgotten.
FORGET = 600.0


@dataclass(eq=False, slots=True)
class Slot:
    """One place in the window, as its holder sees it.

    Attributes:
        number: Distinguishes it from the other slots of the same process.
        left: When its request left, seconds; `None` while the slot is open.
    """

    number: int
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a quota at one moment.

    Attributes:
        open: Requests that have a slot and have not left yet.
        in_window: Requests in the window that ends now, including open ones.
        requests: Maximum requests in one window at our current share.
        share: Our share of the limit, at most 1.
        jitter: Jitter allowance, seconds.
        penalty_left: Seconds until the penalty ends; 0 when there is none.
        refusals: 429 answers so far.
    """

    open: int
    in_window: int
    requests: int
    share: float
    jitter: float
    penalty_left: float
    refusals: int


@dataclass(slots=True)
class _Process:
    """One process, or one event loop of a process, that uses the quota.

    Attributes:
        terms: The server's quota according to it; `None` if it has not joined.
        seen: When it last made an entry, seconds.
        open: Numbers of its open slots.
        waits: When its last heartbeats for an interactive and for a bulk request were, seconds.
    """

    seen: float
    terms: Quota | None = None
    open: set[int] = field(default_factory=set)
    waits: list[float] = field(default_factory=lambda: [-inf, -inf])


class QuotaState:
    """All that is known about a quota, and when the next request may leave. Asking changes nothing.

    The rule says how many requests may leave. In addition, nothing leaves during a penalty, and
    after it one request goes first, alone. Requests that need not wait leave at once; those that
    wait leave evenly, at the sustainable rate: the rule would let them go a little faster and then
    make them pause, which gains nothing and leaves less room for late arrivals. While interactive
    requests are expected, bulk ones leave only as long as the total keeps to that rate.

    Attributes:
        now: Time of the last change, seconds.
        terms: The quota assumed: the smallest `requests` and the largest `window`, `penalty` and
            `jitter` of all processes that use it.
        lease: A process with open slots that is silent for this long, seconds, is expired.
    """

    def __init__(self, quota: Quota) -> None:
        """Start with no departures and no processes."""
        self.now: float = -inf
        self.terms: Quota = terms_of(quota)
        self.lease: float = min(LEASE, quota.window / 2)
        self._jitter = JitterEstimator(quota.jitter, quota.window)
        self._rule = Rule(quota.requests, quota.window, quota.jitter, max_jitter=self._jitter.most)
        self._processes: dict[str, _Process] = {}
        self._flow = Flow()
        # Of the last request that had waited: when it left, when it could have left, and whether it
        # waited for the quota or only for others.
        self._turn = -inf, -inf, False
        self._warned_of_jitter = False
        self._use_rate()

    def advance(self, now: float) -> QuotaState:
        """Advance to `now`, and return the state: queries are answered as of then. It never goes
        back.
        """
        self.now = max(self.now, now)
        if self._flow.share < 1.0:
            self._use_rate()
        return self

    # ---- processes

    def join(self, process: str, now: float, terms: Quota) -> None:
        """Add a process, or change its terms; the strictest terms of all apply."""
        self._note(process, now).terms = terms_of(terms)
        for name in [name for name, one in self._processes.items() if self._is_forgotten(one)]:
            del self._processes[name]
        self._use_terms()

    def leave(self, process: str, now: float) -> None:
        """Remove a process; its open slots count as departures."""
        self.expire(process, now)
        self._processes.pop(process, None)
        self._use_terms()

    def seen(self, process: str) -> float | None:
        """Return when a process last made an entry, seconds; `None` if it is not known."""
        found = self._processes.get(process)
        return None if found is None else found.seen

    def has_joined(self, process: str, terms: Quota) -> bool:
        """Return whether the terms of a process count; `terms` as `terms_of` returns them."""
        found = self._processes.get(process)
        return found is not None and found.terms == terms

    def expire(self, process: str, now: float) -> None:
        """Count the open slots of a process as departures: it was stopped or killed."""
        self.advance(now)
        found = self._processes.get(process)
        if found is not None:
            if found.open:
                self._rule.open -= len(found.open)
                self._rule.send(self.now, len(found.open))
                found.open.clear()
            found.waits = [-inf, -inf]

    def heartbeat(self, process: str, now: float, *, bulk: bool) -> None:
        """Record that a request of a process waits."""
        found = self._note(process, now)
        found.waits[bulk] = self.now
        if not bulk:
            self._flow.company_until = self.now + COMPANY * self.terms.window

    def others_open(self, process: str) -> Iterator[str]:
        """Yield the other processes with open slots."""
        for name, other in self._processes.items():
            if other.open and name != process:
                yield name

    def stricter(self, process: str) -> Iterator[str]:
        """Yield the other processes whose terms are stricter than this one's."""
        own = self._processes.get(process)
        if own is not None and own.terms is not None and own.terms != self.terms:
            for name, other in self._processes.items():
                if name != process and other.terms not in {None, own.terms}:
                    yield name

    # ---- slots

    def due(self, process: str, now: float, *, bulk: bool = False) -> float:
        """Return the time from which a request of a process may leave; at or before `now` means at
        once.

        A waiting request lets those of other processes go first according to priorities. Changes
        nothing, whatever `now` is: unknown entries can only delay the request.
        """
        flow = self._flow
        when = max(self._rule.earliest(self.now), flow.earliest(self.now))
        if when > now:
            return when
        if self._others_wait(process, now, bulk=not bulk) and bulk != (
            flow.passed_over >= BULK_TURN - 1
        ):
            return now + flow.interval
        return max(when, flow.bulk_due) if bulk and now < flow.company_until else when

    def reserve(
        self,
        process: str,
        number: int,
        now: float,
        *,
        bulk: bool = False,
        waited: bool = False,
        yielded: bool = False,
        due: float | None = None,
    ) -> bool:
        """Open a slot, if a request of this process may leave now.

        Args:
            process: The process of the request.
            number: A number for the slot, new in that process.
            now: The time, seconds.
            bulk: Whether the request leaves room for interactive ones, if there are any.
            waited: Whether it had to wait for the quota.
            yielded: Whether it had to wait, even if only for others.
            due: What the method `due` returned for it, if nothing has changed since.
        """
        found = self._note(process, now)
        now, flow = self.now, self._flow
        if not bulk:
            flow.company_until = now + COMPANY * self.terms.window
        could_leave = self.due(process, now, bulk=bulk) if due is None else due
        if could_leave > now:
            return False
        self._rule.open += 1
        found.open.add(number)
        found.waits[bulk] = -inf
        if bulk:
            flow.passed_over = 0
        elif self._others_wait(process, now, bulk=True):
            flow.passed_over += 1
        # All that leave at one moment have waited if the first of them has. What a busy event loop
        # has lost since that one could have left is made up.
        if waited or yielded:
            self._turn = now, max(could_leave, now - MAKE_UP * self.terms.window), waited
        at, since, for_quota = self._turn
        late = at == now
        slot = process, number
        flow.leave(slot, now, since if late else None, evenly=late and for_quota, bulk=bulk)
        return True

    def mark_sent(self, process: str, number: int, now: float) -> bool:
        """Count the request of a slot as departing now; return `False` if it may no longer leave.

        An expired slot was already counted. Its request leaves only if there is room for another
        one.
        """
        found = self._note(process, now)
        if number not in found.open and not self.reserve(process, number, now):
            return False
        found.open.discard(number)
        self._rule.open -= 1
        self._rule.send(self.now)
        return True

    def depart(self, count: int, now: float) -> None:
        """Count departures that had no slot, whether there is room for them or not."""
        self.advance(now)
        if count > 0:
            self._rule.send(self.now, count)

    def release(self, process: str, number: int, now: float) -> None:
        """Return an open slot: its request never left."""
        found = self._note(process, now)
        if number in found.open:
            found.open.discard(number)
            self._rule.open -= 1

    # ---- feedback from the server

    def penalise(
        self,
        now: float,
        retry_after: float | None = None,
        *,
        left: float | None = None,
        slot: Key | None = None,
    ) -> None:
        """Begin a penalty, and determine its cause unless the last penalty explains it.

        Args:
            now: The time of the refusal, seconds.
            retry_after: The wait that the server asked for, seconds; `None` means the penalty of
                the terms.
            left: When the refused request left, seconds; `None` means now.
            slot: The slot of the refused request, if known.
        """
        self.advance(now)
        left = self.now if left is None else left
        asked = None if retry_after is None else bounded_penalty(retry_after)
        if self._flow.refuse(self.now, left, asked, self.terms.penalty, slot):
            self._find_cause()

    def observe(self, now: float, delay: float, *, set_up: bool) -> None:
        """Add a measured delay, seconds; ignored unless the terms are adaptive."""
        self.advance(now)
        if self.terms.adaptive:
            self._jitter.observe(now, delay, set_up=set_up)
            self._use_jitter()

    # ---- figures

    def earliest(self, ahead: int = 0) -> float:
        """Return the time from which a request with `ahead` others before it might leave.

        Priorities are ignored. A time at or before `now` means at once.
        """
        return max(self._rule.earliest(self.now, ahead), self._flow.earliest(self.now, ahead))

    def snapshot(self) -> Snapshot:
        """Return the figures as of `now`."""
        return Snapshot(
            open=self._rule.open,
            in_window=self._rule.in_window(self.now),
            requests=self._rule.limit,
            share=self._flow.share_at(self.now),
            jitter=self._rule.jitter,
            penalty_left=max(self._flow.penalty_until - self.now, 0.0),
            refusals=self._flow.refusals,
        )

    # ---- stored or sent

    def dump(self) -> Dump:
        """Return everything as JSON values, without processes not seen for long."""
        flow = self._flow
        return {
            "now": self.now,
            "terms": dump_terms(self.terms),
            "rule": self._rule.state(),
            "jitter": self._jitter.dump(),
            "share": [flow.share, flow.share_since],
            "flow": [flow.next, flow.bulk_due, flow.company_until, flow.passed_over],
            "turn": self._turn,
            "penalty": [flow.penalty_until, flow.probe_due, flow.probe, flow.refusals],
            "processes": {
                name: [
                    process.seen,
                    None if process.terms is None else dump_terms(process.terms),
                    sorted(process.open),
                    process.waits,
                ]
                for name, process in self._processes.items()
                if not self._is_forgotten(process)
            },
        }

    @classmethod
    def load(cls, dump: Dump) -> QuotaState:
        """Restore what `dump` returned, here or in another process.

        Raises:
            LookupError, TypeError, ValueError: It is something else.
        """
        state = cls(load_terms(dump["terms"]))
        flow = state._flow
        state.now = cast("float", dump["now"])
        state._rule.restore(_rule_state(dump["rule"]))
        state._jitter.load(cast("JitterDump", dump["jitter"]))
        flow.share, flow.share_since = cast("list[float]", dump["share"])
        flow.next, flow.bulk_due, flow.company_until, flow.passed_over = cast(
            "tuple[float, float, float, int]", dump["flow"]
        )
        late, since, waited = cast("tuple[float, float, bool]", dump["turn"])
        state._turn = late, since, waited
        flow.penalty_until, flow.probe_due, probe, flow.refusals = cast(
            "tuple[float, bool, list[object] | None, int]", dump["penalty"]
        )
        flow.probe = None if probe is None else tuple(probe)
        processes = cast(
            "dict[str, tuple[float, object, list[int], list[float]]]", dump["processes"]
        )
        state._processes = {
            name: _Process(
                seen, None if terms is None else load_terms(terms), set(numbers), [*waits]
            )
            for name, (seen, terms, numbers, waits) in processes.items()
        }
        state._rule.open = sum(len(process.open) for process in state._processes.values())
        state._warned_of_jitter = True  # by whom it was dumped
        state._use_jitter()
        return state

    # ---- inside

    def _note(self, process: str, now: float) -> _Process:
        """Advance to `now`, at which a process makes an entry, and return the process."""
        if now > self.now:
            self.advance(now)
        found = self._processes.get(process)
        if found is None:
            found = self._processes[process] = _Process(self.now)
        found.seen = self.now
        return found

    def _is_forgotten(self, process: _Process) -> bool:
        return not process.open and process.seen < self.now - FORGET

    def _others_wait(self, process: str, now: float, *, bulk: bool) -> bool:
        return len(self._processes) > 1 and any(
            other.waits[bulk] > now - HEARTBEAT
            for name, other in self._processes.items()
            if name != process
        )

    def _find_cause(self) -> None:
        if self.terms.adaptive and self._jitter.widen():
            self._use_jitter()
            return
        if self._flow.share == 1.0:
            logger.warning(
                "429 although our own count is within the quota: another program may use the key; "
                "using a smaller share of it, which grows back slowly"
            )
        self._flow.cut_share(self.now)
        self._use_rate()

    def _use_jitter(self) -> None:
        self._rule.jitter = self._jitter.current
        self._use_rate()
        if self._rule.jitter > self.terms.jitter and not self._warned_of_jitter:
            self._warned_of_jitter = True
            logger.warning(
                "delays differ by more than the %.3g s allowed for; allowing for %.3g s now",
                self.terms.jitter,
                self._rule.jitter,
            )

    def _use_rate(self) -> None:
        """Apply the share and the jitter allowance of now."""
        share, terms = self._flow.share, self.terms
        self._rule.limit = self._flow.use(self.now, terms.requests, terms.window, self._rule.jitter)
        if share < self._flow.share:
            logger.warning("no further refusal: using all of the quota again")

    def _use_terms(self) -> None:
        """Apply the strictest terms of all processes."""
        every = [process.terms for process in self._processes.values() if process.terms is not None]
        if not every:
            return
        terms = reduce(_strictest, every)
        if terms == self.terms:
            return
        self.terms = terms
        self.lease = min(LEASE, terms.window / 2)
        self._jitter = JitterEstimator(terms.jitter, terms.window)
        self._rule = self._rule.revised(
            self.now, terms.requests, terms.window, terms.jitter, max_jitter=self._jitter.most
        )
        self._use_rate()


def terms_of(quota: Quota) -> Quota:
    """Return the terms that all clients of a key share, without the options that each may
    choose.
    """
    return Quota(quota.requests, quota.window, quota.penalty, quota.jitter, quota.adaptive)


def _strictest(one: Quota, other: Quota) -> Quota:
    """Return terms that hold if both do."""
    if one == other:
        return one
    return Quota(
        requests=min(one.requests, other.requests),
        window=max(one.window, other.window),
        penalty=max(one.penalty, other.penalty),
        jitter=max(one.jitter, other.jitter),
        adaptive=one.adaptive and other.adaptive,
    )


def bounded_penalty(retry_after: float) -> float:
    """Return the length of a penalty for which a server asked, seconds; a cut is logged."""
    if retry_after > LONGEST_PENALTY:
        logger.warning(
            "the server asked for a penalty of %.3g s; trying again after %.3g s",
            retry_after,
            LONGEST_PENALTY,
        )
    # In this order NaN becomes the shortest.
    return max(SHORTEST_PENALTY, min(retry_after, LONGEST_PENALTY))


def dump_terms(quota: Quota) -> tuple[float, ...]:
    """Return the values of `terms_of(quota)`, for `load_terms`."""
    return quota.requests, quota.window, quota.penalty, quota.jitter, quota.adaptive


def load_terms(terms: object) -> Quota:
    """Restore what `dump_terms` returned.

    Raises:
        TypeError, ValueError: It is something else.
    """
    requests, window, penalty, jitter, adaptive = cast("Sequence[float]", terms)
    return Quota(int(requests), window, penalty, jitter, bool(adaptive))


def _rule_state(value: object) -> RuleState:
    sent, latest, recent, lines = cast(
        "tuple[int, float, list[list[float]], list[list[float]]]", value
    )
    return RuleState(
        sent,
        latest,
        cast("tuple[tuple[float, int], ...]", tuple(map(tuple, recent))),
        cast("tuple[tuple[float, int, float], ...]", tuple(map(tuple, lines))),
    )
