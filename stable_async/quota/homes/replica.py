"""A quota state that several processes compute, each for itself, from the same entries. Pure.

Every process applies every entry in the same order, and so all arrive at the same state: whether a
request got its slot follows from the entries. Queries change nothing, and between two entries the
time stands still: a query is answered as of the last entry, which is the safe side, since without
new departures the rule only allows more as time passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from stable_async.quota.state import FORGET, Dump, QuotaState, load_terms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stable_async.config import Quota

__all__ = ["COMPARED", "WAITED", "YIELDED", "Entry", "Kind", "Replica", "apply"]

YIELDED, WAITED = 1.0, 2.0

# How many windows the last entry of a process is remembered after it has left.
COMPARED = 3

Kind = Literal[
    "join",
    "leave",
    "reserve",
    "mark_sent",
    "release",
    "penalise",
    "observe",
    "set_up",
    "heartbeat",
    "expire",
    "departed",
]


class Entry(NamedTuple):
    """One change of the state.

    Attributes:
        process: The process that made it.
        number: Its sequence number within that process; it is applied once, however often it is in
            the file.
        kind: What happened.
        time: When it happened, seconds.
        slot: The number of the slot concerned: that of the entry that reserved it; 0 if none.
        value: `reserve`: `WAITED` if the request had to wait for the quota, `YIELDED` if only for
            others, 0 if for nothing. `observe`: the delay, seconds. `penalise`:
            what the server asked for, seconds, or `None`. `expire`: when the other was last seen.
            `departed`: how many requests left that no other entry mentions.
        left: `penalise`: when the refused request left, seconds.
        bulk: `reserve` and `heartbeat`: the request leaves room for interactive ones.
        other: `expire` and `leave`: the process it is about, if not the one that made it.
        terms: `join`: the arguments of its `Quota`.
    """

    process: str
    number: int
    kind: Kind
    time: float
    slot: int = 0
    value: float | None = None
    left: float | None = None
    bulk: bool = False
    other: str = ""
    terms: Sequence[float] | None = None


def apply(state: QuotaState, entry: Entry, due: float | None = None) -> bool:
    """Apply an entry to the state; for one that asks, return whether the request may leave.

    Args:
        state: The state.
        entry: The entry.
        due: `reserve`: see `QuotaState.reserve`.
    """
    process, now, slot = entry.process, entry.time, entry.slot
    match entry.kind:
        case "reserve":
            waited, yielded = entry.value == WAITED, entry.value == YIELDED
            return state.reserve(
                process, entry.number, now, bulk=entry.bulk, waited=waited, yielded=yielded, due=due
            )
        case "mark_sent":
            return state.mark_sent(process, slot, now)
        case "release":
            state.release(process, slot, now)
        case "penalise":
            state.penalise(now, entry.value, left=entry.left, slot=(process, slot))
        case "observe" | "set_up":
            state.observe(now, entry.value or 0.0, set_up=entry.kind == "set_up")
        case "heartbeat":
            state.heartbeat(process, now, bulk=entry.bulk)
        case "expire":
            # The author of this entry may not have known a later entry of the other process.
            if state.seen(entry.other) == entry.value:
                state.expire(entry.other, now)
        case "departed":
            state.depart(int(entry.value or 0), now)
        case "join":
            state.join(process, now, load_terms(entry.terms))
        case "leave":
            state.leave(entry.other or process, now)
    return True


class _Last(NamedTuple):
    """The last entry of a process: its number, its outcome, and when it was applied, seconds."""

    number: int
    outcome: bool
    seen: float


class Replica:
    """The state as of the last entry, and the outcome of the last entry of each process.

    Attributes:
        state: The state.
    """

    def __init__(self, quota: Quota) -> None:
        """Start without entries."""
        self.state: QuotaState = QuotaState(quota)
        self._last: dict[str, _Last] = {}

    def apply(self, entry: Entry) -> None:
        """Apply an entry, unless it has been applied before."""
        last = self._last.get(entry.process)
        if last is None or last.number < entry.number:
            outcome = apply(self.state, entry)
            self._last[entry.process] = _Last(entry.number, outcome, self.state.now)

    def number(self, process: str) -> int:
        """Return the number of the last entry of a process; 0 if there is none."""
        last = self._last.get(process)
        return 0 if last is None else last.number

    def outcome(self, process: str, number: int) -> bool | None:
        """Return the outcome of an entry; `None` if it has not been applied (yet)."""
        last = self._last.get(process)
        return last.outcome if last is not None and last.number == number else None

    def dump(self) -> Dump:
        """Return everything as JSON values, without processes not seen for long."""
        state, last = self.state, {}
        for name, one in self._last.items():
            # A file that was lost is compared with what left in the last three windows.
            memory = COMPARED * state.terms.window if state.seen(name) is None else FORGET
            if one.seen > state.now - memory:
                last[name] = one
        return {"state": state.dump(), "last": last}

    @classmethod
    def load(cls, dump: Dump) -> Replica:
        """Restore what `dump` returned, here or in another process.

        Raises:
            LookupError, TypeError, ValueError: It is something else.
        """
        state = QuotaState.load(cast("Dump", dump["state"]))
        replica = cls(state.terms)
        replica.state = state
        last = cast("dict[str, tuple[int, bool, float]]", dump["last"])
        replica._last = {name: _Last(*one) for name, one in last.items()}
        return replica
