"""Books that many processes keep, each for itself, from the same entries in the same order. Pure.

Every process applies every entry, and so all come to the same state: whether a request got its
slot is nobody's decision, but follows from the entries. Between two entries nothing changes, the
time included: a question asked in between is answered as of the last entry, which is the safe
side, since with no new departures the rule allows only more as time passes.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from stable_async.quota.fair_queue import BULK_TURN
from stable_async.quota.flow import COMPANY, NEVER, Flow
from stable_async.quota.rule import RuleState
from stable_async.quota.share import Share
from stable_async.quota.state import MemoryBooks, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.config import Quota
    from stable_async.quota.state import Extract

__all__ = ["Entry", "Key", "SharedState", "State"]

# A process that has open slots and enters nothing for this long, seconds, but at most half a
# window: it was stopped or killed. Its slots then count as departures.
LEASE = 5.0

# How long a process that waits is believed to wait still, seconds, unless it says so again.
CLAIM = 1.0

# Processes that have entered nothing for this long, seconds, are forgotten.
FORGET = 600.0

Kind = Literal["reserve", "stamp", "release", "penalise", "observe", "set_up", "claim", "lapse"]
Key = tuple[str, int]
State = dict[str, object]


class Entry(NamedTuple):
    """One line of the shared books.

    Attributes:
        seat: Which process made it.
        number: The how-manieth of that process it is; it is applied once, however often it is
            entered.
        kind: What happened.
        time: When, seconds.
        slot: The entry that reserved the slot it is about.
        value: `reserve`: 1 if the request had to wait. `observe`: the delay, seconds. `penalise`:
            what the server asked for, seconds, or `None`. `lapse`: when the other was last seen.
        left: `penalise`: when the refused request left, seconds.
        bulk: `reserve` and `claim`: the request is to leave room for interactive ones.
        other: `lapse`: the seat whose slots lapse.
    """

    seat: str
    number: int
    kind: Kind
    time: float
    slot: int | None = None
    value: float | None = None
    left: float | None = None
    bulk: bool = False
    other: str = ""


@dataclass(slots=True)
class _Seat:
    """One process.

    Attributes:
        seen: Time of its last entry, seconds.
        last: Number of its last entry.
        outcome: What became of that one.
        open: Its open slots, by the number of the entry that reserved them.
        claims: When it last said that an interactive request waits, and a bulk one, seconds.
    """

    seen: float
    last: int = 0
    outcome: bool = False
    open: dict[int, Slot] = field(default_factory=dict)
    claims: list[float] = field(default_factory=lambda: [NEVER, NEVER])


class SharedState(MemoryBooks):
    """The books as of the last entry.

    Attributes:
        now: Time of that entry, seconds.
        next: The earliest time at which a request may leave, as of `now`.
    """

    def __init__(self, quota: Quota) -> None:
        """Begin with no entries."""
        super().__init__(quota)
        self.now = NEVER
        self.next = NEVER
        self.lease = min(LEASE, quota.window / 2)
        self._seats: dict[str, _Seat] = {}
        self._probe_key: Key | None = None
        # As in the waiting room of one process: interactive permits since the last bulk one.
        self._passed_over = 0

    def apply(self, entry: Entry) -> None:
        """Do what an entry says, unless it was done before."""
        self.now = now = max(self.now, entry.time)
        seat = self._seats.setdefault(entry.seat, _Seat(now))
        if entry.number <= seat.last:
            return
        seat.seen, seat.last = now, entry.number
        seat.outcome = self._do(entry, seat, now)
        self.next = self.earliest(now)

    def outcome(self, seat: str, number: int) -> bool | None:
        """Say what became of an entry; `None` if it is not in the books (yet)."""
        found = self._seats.get(seat)
        return found.outcome if found is not None and found.last == number else None

    def others_open(self, seat: str) -> Iterator[tuple[str, float]]:
        """Give the other processes with open slots, and when each made its last entry."""
        for name, one in self._seats.items():
            if one.open and name != seat:
                yield name, one.seen

    def yields_until(self, seat: str, now: float, *, bulk: bool) -> float:
        """Give the time until which a request is to let those of other processes go first."""
        if self._claimed(seat, now, bulk=not bulk) and bulk != self._bulk_is_due:
            return now + self._flow.interval
        return max(self._flow.earliest_bulk(now), now) if bulk else now

    def extract_at(self, now: float) -> Extract:
        """Give the figures of a later moment without changing anything."""
        return self._copy().extract(max(now, self.now))

    def earliest_at(self, now: float, ahead: int) -> float:
        """Give what `earliest` gives at a later moment, without changing anything."""
        return self._copy().earliest(max(now, self.now), ahead)

    def state(self) -> State:
        """Give all of it, as JSON has it; processes not seen for long are left out."""
        rule = self._rule
        return {
            "now": self.now,
            "rule": rule.state(),
            "limit": rule.limit,
            "spread": self._spread.state(),
            "share": [self._share.value, self._share.since],
            "flow": astuple(self._flow),
            "probe": self._probe_key,
            "refusals": self._refusals,
            "passed_over": self._passed_over,
            "seats": {
                name: [one.seen, one.last, one.outcome, list(one.open), one.claims]
                for name, one in self._seats.items()
                if one.open or one.seen > self.now - FORGET
            },
        }

    def restore(self, state: State) -> None:
        """Take over what `state` gave here or in another process.

        Raises:
            LookupError, TypeError, ValueError: It is something else.
        """
        self.now = cast("float", state["now"])
        self._rule.restore(_rule_state(state["rule"]))
        self._rule.limit = cast("int", state["limit"])
        self._spread.restore(
            cast("tuple[float, float, float, list[float], list[float]]", state["spread"])
        )
        self._rule.spread = self._spread.current
        self._share = Share(*cast("list[float]", state["share"]))
        self._flow = _flow(state["flow"])
        probe = cast("list[object] | None", state["probe"])
        self._probe_key = None if probe is None else cast("Key", tuple(probe))
        self._refusals = cast("int", state["refusals"])
        self._passed_over = cast("int", state["passed_over"])
        seats = cast("dict[str, tuple[float, int, bool, list[int], list[float]]]", state["seats"])
        self._seats = {
            name: _Seat(seen, last, outcome, {key: Slot(key) for key in keys}, [*claims])
            for name, (seen, last, outcome, keys, claims) in seats.items()
        }
        self._rule.open = sum(len(one.open) for one in self._seats.values())
        if self._probe_key is not None:
            name, number = self._probe_key
            self._probe = self._seats[name].open.get(number) if name in self._seats else None
            self._probe = self._probe or Slot(number)
        self.next = self.earliest(self.now)

    def _copy(self) -> SharedState:
        copy = SharedState(self._quota)
        copy.restore(self.state())
        return copy

    def _do(self, entry: Entry, seat: _Seat, now: float) -> bool:
        match entry.kind:
            case "reserve":
                return self._do_reserve(entry, seat, now)
            case "stamp":
                return self._do_stamp(entry, seat, now)
            case "release":
                slot = seat.open.pop(entry.slot or 0, None)
                if slot is not None:
                    self.release(slot, now)
            case "penalise":
                self.penalise(now, entry.value, self._refused(entry))
            case "observe" | "set_up":
                self.observe(entry.value or 0.0, set_up=entry.kind == "set_up")
            case "claim":
                seat.claims[entry.bulk] = now
                if not entry.bulk:
                    self._flow.company_until = now + COMPANY * self._quota.window
            case "lapse":
                self._lapse(entry, now)
        return True

    def _do_reserve(self, entry: Entry, seat: _Seat, now: float) -> bool:
        if self.yields_until(entry.seat, now, bulk=entry.bulk) > now:
            return False
        if entry.value:
            self._flow.waiting = True
        slot = self.reserve(now, bulk=entry.bulk)
        if isinstance(slot, float):
            return False
        if self._probe is slot:
            self._probe_key = (entry.seat, entry.number)
        seat.open[entry.number] = slot
        seat.claims[entry.bulk] = NEVER
        if entry.bulk:
            self._passed_over = 0
        elif self._claimed(entry.seat, now, bulk=True):
            self._passed_over += 1
        return True

    def _do_stamp(self, entry: Entry, seat: _Seat, now: float) -> bool:
        slot = seat.open.pop(entry.slot or 0, None)
        if slot is None:
            # It has lapsed, and was counted. If it leaves all the same it counts once more.
            again = self.reserve(now)
            if isinstance(again, float):
                return False
            slot = again
        self.stamp(slot, now)
        return True

    def _refused(self, entry: Entry) -> Slot | None:
        if entry.slot is None:
            return None
        if self._probe is not None and self._probe_key == (entry.seat, entry.slot):
            slot = self._probe
        else:
            slot = Slot(0)
        slot.left = entry.left
        return slot

    def _lapse(self, entry: Entry, now: float) -> None:
        lapsed = self._seats.get(entry.other)
        # Whoever entered this may not have known of a later entry of the other one.
        if lapsed is None or lapsed.seen != entry.value:
            return
        for slot in lapsed.open.values():
            self.stamp(slot, now)
        lapsed.open.clear()
        lapsed.claims = [NEVER, NEVER]

    @property
    def _bulk_is_due(self) -> bool:
        return self._passed_over >= BULK_TURN - 1

    def _claimed(self, seat: str, now: float, *, bulk: bool) -> bool:
        return any(
            one.claims[bulk] > now - CLAIM for name, one in self._seats.items() if name != seat
        )


def _flow(value: object) -> Flow:
    window, interval, until, probe_due, following, waiting, bulk_due, company_until = cast(
        "tuple[float, float, float, bool, float, bool, float, float]", value
    )
    return Flow(window, interval, until, probe_due, following, waiting, bulk_due, company_until)


def _rule_state(value: object) -> RuleState:
    sent, latest, before, recent, lines = cast(
        "tuple[int, float, int, list[list[float]], list[list[float]]]", value
    )
    return RuleState(
        sent,
        latest,
        before,
        cast("tuple[tuple[float, int], ...]", tuple(map(tuple, recent))),
        cast("tuple[tuple[float, int, float], ...]", tuple(map(tuple, lines))),
    )
