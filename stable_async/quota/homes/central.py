"""A quota in one place for many processes: the messages, the answers, and the state.

`CentralState` is the state in Python, for an actor; quota.lua is the same for Redis, and a test
compares the two. Both are pure functions of the messages and their times of arrival.

A process reports everything in one message: which slots it still holds, which requests have left
and how long ago, what was refused, and how many slots it needs. It receives slots, or a time to
return. So the next message makes up for a lost one, and a late or repeated one changes nothing.
Only durations are exchanged, so that clocks need not agree.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from math import inf
from typing import NotRequired, TypedDict

from stable_async.quota import flow, jitter, rule
from stable_async.quota.flow import BULK_TURN, COMPANY, MAKE_UP, Flow
from stable_async.quota.jitter import Measured, allowance, jitter_of
from stable_async.quota.rule import Rule

__all__ = ["CONSTANTS", "LEASE", "PATIENCE", "Answer", "CentralState", "Message", "script"]

# Version of the state in Redis: changes when its fields, or their meaning, change.
FORMAT = 2

# A process that is silent for this long, seconds, has lost its slots: they count as sent. It
# observes this by its own clock, and stops sending before that.
LEASE = 2.0

# How long a process waits for an answer, seconds.
PATIENCE = 1.5

# How much longer than the last message one may take, seconds, before it counts as a step of the
# clock. A smaller step goes unnoticed: it shortens one window by as much, which the jitter
# allowance covers. Time servers step by more, and slew smaller differences.
CLOCK_SLACK = 0.25

# A process returns when its time has come if that is within `SOON` seconds, else after `LOOK`
# seconds: something may have changed. Within `SOON`, each of 32 processes is served.
LOOK = 1.0
SOON = 2.25

# A process that returns later than this after its time, seconds, has lost its place.
LATE = 0.15

# A process that is silent for this long, seconds, is forgotten.
FORGET = 60.0

# How far ahead of its time a slot is granted at most, seconds, so that it arrives in time.
MOST_AHEAD = 0.25

# Maximum bulk slots in one answer, as a part of the quota: interactive requests of others may
# come a moment later.
BULK_PART = 0.05

# Constants that quota.lua needs, under the names that it uses.
CONSTANTS: dict[str, float] = {
    "FORMAT": FORMAT,
    "LEASE": LEASE,
    "CLOCK_SLACK": CLOCK_SLACK,
    "LOOK": LOOK,
    "SOON": SOON,
    "LATE": LATE,
    "FORGET": FORGET,
    "MOST_AHEAD": MOST_AHEAD,
    "BULK_PART": BULK_PART,
    "BINS": rule.BINS,
    "MARGIN": rule.MARGIN,
    "PROBE": flow.PROBE,
    "MAKE_UP": flow.MAKE_UP,
    "BULK_BURST": flow.BULK_BURST,
    "COMPANY": flow.COMPANY,
    "BULK_TURN": flow.BULK_TURN,
    "CUT": flow.CUT,
    "LEAST_SHARE": flow.LEAST_SHARE,
    "REGAINED": flow.REGAINED,
    "LEAST_JITTER": jitter.LEAST,
    "MOST_JITTER": jitter.MOST,
    "DENSE": jitter.DENSE,
    "FACTOR_ABOVE": jitter.FACTOR_ABOVE,
    "FACTOR_BELOW": jitter.FACTOR_BELOW,
    "CUSHION": jitter.CUSHION,
}

INTERACTIVE, BULK = 0, 1


@cache
def script() -> str:
    """Return quota.lua, with the constants in front."""
    text = files("stable_async.quota.homes").joinpath("quota.lua").read_text("utf-8")
    return f"local C = cjson.decode('{json.dumps(CONSTANTS)}')\n{text}"


class Terms(TypedDict):
    """The values that all processes of one quota must share: those of `Quota`, and the lease."""

    requests: int
    window: float
    penalty: float
    jitter: float
    adaptive: bool
    lease: float


class Refusal(TypedDict):
    """A 429 answer.

    Attributes:
        index: Its number within the process, from 1.
        age: How long ago it arrived, seconds.
        slot: The slot of the refused request; 0 if not known.
        sent_age: How long ago the request left, seconds; absent if not known.
        retry_after: The wait that the answer asked for, seconds; absent if none.
    """

    index: int
    age: float
    slot: int
    sent_age: NotRequired[float]
    retry_after: NotRequired[float]


class Message(TypedDict):
    """A message from a process.

    Attributes:
        process: Its name, unique.
        seq: The number of this message, by which late and repeated ones are recognised.
        epoch: The epoch of the latest answer; empty before the first.
        number: `Answer.number` of the latest answer.
        clock: `Answer.now` of the latest answer, and the least and the most seconds since then by
            the process's clock; empty before the first.
        terms: The quota it was made with.
        open: Slots whose requests have not left yet.
        sent: Slots whose requests have left, and seconds since then.
        refusals: 429 answers that were not reported yet.
        delays: What it has measured.
        want: How many interactive and how many bulk slots it needs.
        ahead: How many seconds ahead of its time a slot may be granted.
        penalty_left: Remaining seconds of the penalty that it knows.
        share: The share that it knows.
        leaving: Whether it ends.
    """

    process: str
    seq: int
    epoch: str
    number: int
    clock: list[float]
    terms: Terms
    open: list[int]
    sent: list[tuple[int, float]]
    refusals: list[Refusal]
    delays: Measured
    want: tuple[int, int]
    ahead: float
    penalty_left: float
    share: float
    leaving: bool


class Answer(TypedDict, total=False):
    """The answer to a message.

    Attributes:
        stale: The message was late or repeated; nothing else is set.
        refused: `"terms"`: others use the quota with different `terms`; `"format"`: it was written
            by another version of this library; `"info"`: the server does not identify its run.
            Nothing else is set.
        epoch: Changes when the state was lost; slots of another epoch are void.
        number: Slots granted so far.
        now: The time of the state.
        lost: Why the state is a new one: `"empty"` (there was none), `"restarted"` (the server),
            `"older"` (it is an old copy), `"terms"` and `"format"` (nobody used the old ones any
            more). Absent once all that left before has left the window.
        hold: Seconds until then; absent with `lost`.
        grants: Number of each slot, and seconds before which its request must not leave.
        gone: Slots of the message's `open` that are void.
        again: When to come back for more, seconds from now.
        next: Seconds until one more could leave.
        interval: Seconds between two requests at the sustainable rate.
        requests: Maximum requests in one window at the current share.
        share: The part of the ceiling that is used.
        jitter: Jitter allowance, seconds.
        open: Slots of all processes whose requests have not left.
        in_window: Requests in the window that ends now, including open ones.
        penalty_left: Seconds until the penalty ends; 0 if there is none.
        refusals: 429 answers so far.
    """

    stale: bool
    refused: str
    terms: Terms
    epoch: str
    number: int
    now: float
    lost: str
    hold: float
    grants: list[tuple[int, float]]
    gone: list[int]
    again: float
    next: float
    interval: float
    requests: int
    share: float
    jitter: float
    open: int
    in_window: int
    penalty_left: float
    refusals: int


class _Process:
    """What is known about a process."""

    def __init__(self) -> None:
        self.seq = 0
        self.seen = -inf
        self.refused = 0
        self.delays: Measured = {}
        self.open: list[int] = []
        # Since when it waits, and when it should come back; interactive, bulk.
        self.since = [-inf, -inf]
        self.due = [-inf, -inf]

    def busy(self) -> bool:
        """Return whether it holds slots or waits for some."""
        return bool(self.open) or max(self.since) > -inf

    def waits(self, kind: int, now: float) -> bool:
        return self.since[kind] > -inf and self.due[kind] + LATE > now


class CentralState:
    """The state of a quota that many processes share.

    Attributes:
        epoch: Distinguishes it from other states of the same quota.
        terms: What all processes must agree on.
    """

    def __init__(self, terms: Terms, now: float, epoch: str) -> None:
        """Start without knowing what left before.

        At worst a whole quota leaves when the last lease ends. So no slot is granted for a lease, a
        window and the jitter.

        Args:
            terms: What all processes must agree on.
            now: The time, seconds, on the clock that `exchange` gets.
            epoch: Distinguishes this state from others of the same quota.
        """
        requests, window = terms["requests"], terms["window"]
        self.epoch = epoch
        self.terms = terms
        self._most_jitter = max(terms["jitter"], min(jitter.MOST, window / 4))
        self._start_jitter = terms["jitter"]
        self._least_jitter = min(terms["jitter"], jitter.LEAST)
        self._rule = Rule(requests, window, terms["jitter"], max_jitter=self._most_jitter)
        self._flow = Flow()
        # From when on the rule allowed the next request.
        self._allowed = -inf
        self._processes: dict[str, _Process] = {}
        self._number = 0
        self._now = now
        self._offset = 0.0
        # By how much the time fell behind when it stood still, and when it did so last.
        self._held, self._held_at = 0.0, -inf
        self._ready = now + LEASE
        self._rule.send(self._ready, count=requests)
        # Interactive requests may come: bulk requests must not take the whole first window.
        self._flow.company_until = self._ready + 2 * (window + self._most_jitter)

    def exchange(self, message: Message, wall: float) -> Answer:
        """Process a message and return the answer; `wall` is the time, seconds."""
        if message["terms"] != self.terms:
            return {"refused": "terms", "terms": self.terms}
        process = self._processes.get(message["process"])
        if process is not None and message["seq"] <= process.seq:
            return {"stale": True}
        self._now = now = self._read_clock(message, wall)
        self._expire()
        process = self._processes.setdefault(message["process"], _Process())
        process.seq, process.seen, process.delays = message["seq"], now, message["delays"]
        gone = self._settle(process, message)
        self._use_delays()
        for refusal in message["refusals"]:
            if refusal["index"] > process.refused:
                process.refused = refusal["index"]
                self._penalise(refusal)
        grants, again = self._grant(process, message)
        self._use_rate()
        if message["leaving"] and not process.open:
            del self._processes[message["process"]]
        answer = Answer(
            epoch=self.epoch,
            number=self._number,
            now=now,
            grants=grants,
            gone=gone,
            again=again,
            next=max(self._rule.earliest(now), self._flow.earliest(now), self._ready, now) - now,
            interval=self._flow.interval,
            requests=self._rule.limit,
            share=self._flow.share_at(now),
            jitter=self._rule.jitter,
            open=self._rule.open,
            in_window=self._rule.in_window(now),
            penalty_left=max(self._flow.penalty_until - now, 0.0),
            refusals=self._flow.refusals,
        )
        hold = self._ready + self.terms["window"] + self._rule.jitter - now
        if hold > 0:
            answer["lost"], answer["hold"] = "empty", hold
        return answer

    def is_unused(self, wall: float) -> bool:
        """Return whether all processes have been silent for long; `wall` is the time, seconds."""
        latest = max((process.seen for process in self._processes.values()), default=-inf)
        return latest + FORGET <= wall + self._offset

    def _read_clock(self, message: Message, wall: float) -> float:
        """Return the time, corrected for steps of the clock that the process's own clock reveals.

        The state's time may be slower than the real one, which only delays, but never faster.
        """
        wall += self._offset
        known = wall
        if message["clock"] and message["epoch"] == self.epoch:
            heard, least, most = message["clock"]
            if heard <= self._held_at:
                least -= self._held
            known = max(wall, heard + least)
            if known > heard + most + CLOCK_SLACK:
                known = heard + most
        elif wall > self._now + CLOCK_SLACK and self._is_busy():
            # It cannot distinguish a step from an outage. Processes that can will report soon;
            # until then the time stands still, and falls behind the times in their answers.
            known = self._now + rule.MARGIN
            self._held += wall - known
            self._held_at = self._now
        now = max(known, self._now)
        if known != wall:
            self._offset += now - wall
        return now

    def _is_busy(self) -> bool:
        return any(process.busy() for process in self._processes.values())

    def _expire(self) -> None:
        """Count the slots of silent processes as sent, and forget those silent for long."""
        for name, process in list(self._processes.items()):
            if process.open and process.seen + LEASE <= self._now:
                self._rule.open -= len(process.open)
                self._rule.send(max(self._now, self._ready), count=len(process.open))
                process.open = []
            if process.seen + FORGET <= self._now:
                del self._processes[name]

    def _settle(self, process: _Process, message: Message) -> list[int]:
        """Record the state of a process's slots; return its open slots that are void.

        Slots that it does not report were released, or never reached it.
        """
        now = self._now
        if message["epoch"] != self.epoch:
            if message["epoch"]:
                # It may know a penalty or a share that the state has lost.
                if message["penalty_left"] > 0:
                    self._flow.begin_penalty(now + message["penalty_left"])
                if message["share"] < self._flow.share_at(now):
                    self._flow.share, self._flow.share_since = message["share"], now
            sent, still_open = {}, set[int]()
        else:
            sent, still_open = dict(message["sent"]), set(message["open"])
        kept = []
        for slot in process.open:
            if slot in still_open:
                kept.append(slot)
                continue
            self._rule.open -= 1
            if slot in sent:
                # It left earlier than this, by the time that the message took; counting late is
                # safe.
                self._rule.send(max(now - sent[slot], self._ready))
        process.open = kept
        return sorted(still_open.difference(kept))

    def _grant(self, process: _Process, message: Message) -> tuple[list[tuple[int, float]], float]:
        """Return slots for a process, and the seconds after which it is to come back for more."""
        now = self._now
        grants: list[tuple[int, float]] = []
        again = SOON
        ahead = min(message["ahead"], MOST_AHEAD)
        bounds = (inf, max(int(self.terms["requests"] * BULK_PART), 1))
        for kind in (INTERACTIVE, BULK):
            want, got = message["want"][kind], 0
            # Requests that need not wait leave at once; those that wait leave evenly.
            waited = process.since[kind] > -inf or self._others_wait(process, kind)
            while got < want:
                if got >= bounds[kind]:
                    again = 0.0
                    break
                since = self._could_leave(kind)
                due = self._due(process, kind, since)
                waited = waited or due > now
                if due > now + ahead:
                    wait = due - now if due - now <= SOON else LOOK
                    again = min(again, wait)
                    if process.since[kind] == -inf:
                        process.since[kind] = now
                    process.due[kind] = now + wait
                    break
                got += 1
                at = max(due, now)
                slot = self._open_slot(process, at, since if waited else None, kind)
                grants.append((slot, at - now))
                process.since[kind] = -inf
                if kind == BULK:
                    self._flow.passed_over = 0
                elif self._others_wait(process, BULK):
                    self._flow.passed_over += 1
            if kind == INTERACTIVE and want:
                company = now + COMPANY * self.terms["window"]
                self._flow.company_until = max(self._flow.company_until, company)
            if got >= want:
                process.since[kind] = -inf
        return grants, again

    def _open_slot(self, process: _Process, at: float, since: float | None, kind: int) -> int:
        """Open a slot for a request that is to leave at a time, and return its number; see
        `Flow.leave` for `since`.
        """
        self._number += 1
        self._rule.open += 1
        process.open.append(self._number)
        self._flow.leave(self._number, at, since, evenly=since is not None, bulk=kind == BULK)
        return self._number

    def _could_leave(self, kind: int) -> float:
        """Return the earliest time at which one more request could leave, at most a window ago."""
        self._use_rate()
        now = self._now
        earliest = self._rule.earliest(now)
        # The rule is not exact about the past, so its last result is remembered.
        self._allowed = earliest if earliest > now else min(self._allowed, now)
        made_up = now - MAKE_UP * self.terms["window"]
        since = max(self._allowed, self._flow.earliest(now), self._ready, made_up)
        bulk_waits = kind == BULK and now < self._flow.company_until
        return max(since, self._flow.bulk_due) if bulk_waits else since

    def _due(self, process: _Process, kind: int, since: float) -> float:
        """Return when a process may send one more, where any process could have from `since` on."""
        due, now, interval = since, self._now, self._flow.interval
        bulk_turn = self._flow.passed_over >= BULK_TURN - 1
        if (kind == BULK) != bulk_turn and self._others_wait(process, 1 - kind):
            due = max(due, now) + interval
        asked = process.since[kind]
        before = sum(
            other is not process
            and other.waits(kind, now)
            and (asked == -inf or other.since[kind] < asked)
            for other in self._processes.values()
        )
        return due + before * interval

    def _others_wait(self, process: _Process, kind: int) -> bool:
        return any(
            other is not process and other.waits(kind, self._now)
            for other in self._processes.values()
        )

    def _penalise(self, refusal: Refusal) -> None:
        at = self._now - refusal["age"]
        left = self._now - refusal["sent_age"] if "sent_age" in refusal else at
        asked, penalty = refusal.get("retry_after"), self.terms["penalty"]
        if self._flow.refuse(at, left, asked, penalty, refusal["slot"]) and not self._widen():
            self._flow.cut_share(self._now)

    def _use_rate(self) -> None:
        terms = self.terms
        self._rule.limit = self._flow.use(
            self._now, terms["requests"], terms["window"], self._rule.jitter
        )

    def _use_delays(self) -> None:
        if self.terms["adaptive"]:
            wanted = allowance(self._delays(), self._start_jitter, self._least_jitter)
            self._rule.jitter = min(wanted, self._most_jitter)

    def _widen(self) -> bool:
        needed = min(jitter_of(self._delays()), self._most_jitter)
        if not self.terms["adaptive"] or needed <= self._rule.jitter:
            return False
        self._rule.jitter = self._start_jitter = self._least_jitter = needed
        return True

    def _delays(self) -> list[Measured]:
        return [process.delays for process in self._processes.values()]
