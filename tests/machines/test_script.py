"""The state of a shared quota: the script in a real server, and its twin in Python."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, cast

import pytest

from stable_async.quota.homes.central import (
    FORMAT,
    Answer,
    CentralState,
    Message,
    Terms,
    script,
)
from stable_async.quota.jitter import DENSE, LEAST, Delays
from tests.machines.exchanges import CLOCK, START, compare

if TYPE_CHECKING:
    from redis import Redis

    from stable_async.quota.jitter import Measured
    from tests.machines.servers import Server

WINDOW, JITTER, PENALTY = 10.0, 0.3, 60.0
# The figures of docs/machines.md, written down once more.
LEASE, FORGET = 2.0, 60.0
# Nobody sends for this long when the state was lost.
HOLD = LEASE + WINDOW + JITTER


def terms(requests: int = 150) -> Terms:
    return Terms(
        requests=requests,
        window=WINDOW,
        penalty=PENALTY,
        jitter=JITTER,
        adaptive=True,
        lease=LEASE,
    )


class Script:
    """The script in a real server."""

    def __init__(self, server: Redis, key: str) -> None:
        self.server, self.key = server, key
        self._run = server.register_script(script().replace(CLOCK, "{ARGV[2], ARGV[3]}"))

    def exchange(self, message: Message, at: float) -> Answer:
        micros = round(at * 1e6)
        clock = START + micros // 1_000_000, micros % 1_000_000
        answer = self._run(keys=[self.key], args=[json.dumps(message), *clock])
        return cast("Answer", json.loads(cast("bytes", answer)))

    def forget(self) -> None:
        self.server.delete(self.key)


class Twin:
    """The state in Python, as an actor has it."""

    def __init__(self) -> None:
        self.state: CentralState | None = None

    def exchange(self, message: Message, at: float) -> Answer:
        state = self.state
        if state is None or (state.terms != message["terms"] and state.is_unused(at)):
            state = self.state = CentralState(message["terms"], at, uuid.uuid4().hex)
        return state.exchange(message, at)

    def forget(self) -> None:
        self.state = None


class Speaker:
    """A process that talks to the home at times of the test's choice."""

    def __init__(self, home: Script | Twin, name: str = "a", requests: int = 150) -> None:
        self._home, self.name, self._terms = home, name, terms(requests)
        self.seq = 0
        self.heard: Answer = {}
        self._heard_at = 0.0

    def say(self, at: float, interactive: int = 0, bulk: int = 0, **more: object) -> Answer:
        self.seq += 1
        message = Message(
            process=self.name,
            seq=self.seq,
            epoch=self.heard.get("epoch", ""),
            number=self.heard.get("number", 0),
            clock=[self.heard["now"], *[at - self._heard_at] * 2] if self.heard else [],
            terms=self._terms,
            open=[],
            sent=[],
            refusals=[],
            delays={},
            want=(interactive, bulk),
            ahead=0.0,
            penalty_left=0.0,
            share=1.0,
            leaving=False,
        )
        message.update(more)  # type: ignore[typeddict-item]
        answer = self._home.exchange(message, at)
        if "epoch" in answer:
            self.heard, self._heard_at = answer, at
        return answer


@pytest.fixture
def server(shared_redis: Server) -> Redis:
    return shared_redis.client()


@pytest.fixture
def only_script(server: Redis) -> Script:
    return Script(server, uuid.uuid4().hex)


@pytest.fixture(params=["script", "twin"])
def home(request: pytest.FixtureRequest, server: Redis) -> Script | Twin:
    return Script(server, uuid.uuid4().hex) if request.param == "script" else Twin()


def speaker(home: Script | Twin, name: str = "a", requests: int = 150) -> Speaker:
    """Return a process of a quota that has been known for long."""
    one = Speaker(home, name, requests)
    one.say(-2 * HOLD)
    return one


@pytest.mark.parametrize("seed", range(20))
def test_the_script_answers_as_its_twin_does(server: Redis, seed: int) -> None:
    assert compare(server, seed, 200, key=f"exchanges{seed}") == 200


def test_an_empty_home_grants_nothing_until_what_was_before_has_left_the_window(
    home: Script | Twin,
) -> None:
    one = Speaker(home, "a")
    first = one.say(0.0, interactive=1)
    assert not first["grants"]
    assert first["lost"] == "empty"
    assert first["hold"] == pytest.approx(HOLD)
    assert not one.say(HOLD - 0.01, interactive=1)["grants"]
    last = one.say(HOLD + 0.1, interactive=1)
    assert len(last["grants"]) == 1
    assert "lost" not in last


def test_a_flushed_state_is_lost(home: Script | Twin) -> None:
    one = speaker(home)
    assert len(one.say(0.0, interactive=150)["grants"]) == 150
    home.forget()
    assert one.say(0.1, interactive=1)["lost"] == "empty"
    assert not one.say(HOLD, interactive=1)["grants"]


def test_a_new_process_does_not_hide_how_long_the_home_could_not_be_reached(
    home: Script | Twin,
) -> None:
    """It cannot tell an outage from a step of the clock; what it sends must not look older."""
    old, new = speaker(home, "old"), Speaker(home, "new")
    assert len(old.say(0.0, interactive=100)["grants"]) == 100
    first = new.say(6.0, interactive=100)
    granted = [number for number, _ in first["grants"]]
    new.say(6.1, sent=[(number, 0.0) for number in granted])
    again = old.say(6.2)
    assert again["now"] - first["now"] <= 0.2 + 1e-6
    # And if its answer was lost, the clock runs on with whoever is heard next.
    assert new.say(9.2)["now"] - again["now"] == pytest.approx(3.0)


def test_a_clock_that_was_set_back_after_it_stood_still_loses_no_more_than_it_had_lost(
    home: Script | Twin,
) -> None:
    old, new = speaker(home, "old"), Speaker(home, "new")
    heard = old.say(100.0, interactive=100)["now"]
    new.say(106.0)
    assert old.say(103.0, clock=[heard, 8.0, 8.0])["now"] == pytest.approx(heard + 2.0, abs=1e-3)


def test_an_old_copy_of_the_state_is_lost(only_script: Script) -> None:
    """As after a failover to a replica that was behind, or a restart from an old snapshot."""
    one = speaker(only_script)
    old = only_script.server.get(only_script.key)
    assert one.say(0.0, interactive=1)["grants"]
    only_script.server.set(only_script.key, cast("bytes", old))
    assert one.say(0.1, interactive=1)["lost"] == "older"


def test_another_run_of_the_server_has_lost_the_state(only_script: Script) -> None:
    one = speaker(only_script)
    change = "local s = cmsgpack.unpack(redis.call('GET', KEYS[1])) s.run = 'another' "
    only_script.server.eval(
        change + "redis.call('SET', KEYS[1], cmsgpack.pack(s))", 1, only_script.key
    )
    assert one.say(0.0, interactive=1)["lost"] == "restarted"


def test_a_penalty_and_a_share_survive_a_flush_with_those_who_know_them(
    home: Script | Twin,
) -> None:
    one = speaker(home)
    answer = one.say(0.0, refusals=[{"index": 1, "age": 0.0, "slot": 0}])
    assert (answer["penalty_left"], answer["share"]) == (PENALTY, 0.75)
    home.forget()
    Speaker(home, "new").say(1.0)
    again = one.say(2.0, penalty_left=PENALTY - 2.0, share=0.75)
    assert again["penalty_left"] == pytest.approx(PENALTY - 2.0)
    assert again["share"] == 0.75
    # Once: told again and again it would grow by what messages take.
    assert one.say(3.0, penalty_left=PENALTY)["penalty_left"] == pytest.approx(PENALTY - 3.0)


def test_a_refusal_that_is_told_twice_counts_once(home: Script | Twin) -> None:
    one = speaker(home)
    refusal = {"index": 1, "age": 0.0, "slot": 0, "retry_after": 5.0}
    one.say(0.0, refusals=[refusal])
    again = one.say(1.0, refusals=[{**refusal, "age": 1.0}])
    assert again["refusals"] == 1
    assert again["penalty_left"] == pytest.approx(4.0)


def test_other_terms_are_refused_while_the_quota_is_in_use(home: Script | Twin) -> None:
    speaker(home).say(0.0)
    other = Speaker(home, "b", requests=100)
    answer = other.say(FORGET - 0.5)
    assert (answer["refused"], answer["terms"]["requests"]) == ("terms", 150)
    # When nobody has used it for a minute, they are taken over, as carefully as after a loss.
    answer = other.say(FORGET + 0.5, interactive=1)
    assert answer["requests"] == 100
    assert not answer["grants"]
    assert answer["lost"] == ("terms" if isinstance(home, Script) else "empty")


def test_a_process_that_has_said_goodbye_does_not_hold_its_terms(home: Script | Twin) -> None:
    speaker(home).say(0.0, leaving=True)
    assert Speaker(home, "b", requests=100).say(0.1)["requests"] == 100


def test_another_format_is_refused(only_script: Script) -> None:
    speaker(only_script)
    change = "local s = cmsgpack.unpack(redis.call('GET', KEYS[1])) s.format = 99 "
    only_script.server.eval(
        change + "redis.call('SET', KEYS[1], cmsgpack.pack(s))", 1, only_script.key
    )
    assert Speaker(only_script, "b").say(FORGET - 2 * HOLD - 2.0) == {"refused": "format"}
    # When nobody has used it for a minute, it is taken over, as carefully as after a loss.
    taken = Speaker(only_script, "b").say(FORGET, interactive=1)
    assert taken["lost"] == "format"
    assert not taken["grants"]


def test_the_format_has_another_number_when_the_state_has_other_fields(only_script: Script) -> None:
    """Else a process of another version would fail on the state, or misread it."""
    speaker(only_script)
    unpack = "return cjson.encode(cmsgpack.unpack(redis.call('GET', KEYS[1])))"
    state = json.loads(cast("bytes", only_script.server.eval(unpack, 1, only_script.key)))
    fields = [sorted(one) for one in (state, state["flow"], state["processes"]["a"])]
    assert FORMAT == 2
    assert fields == [
        [
            "allowed", "base", "epoch", "flow", "format", "held", "held_at", "interval", "jitter",
            "least_jitter", "limit", "log", "lost", "now", "number", "offset", "open",
            "passed_over", "probe", "processes", "ready", "refusals", "run", "share",
            "share_since", "start_jitter", "terms", "used",
        ],
        ["bulk_due", "company", "ends", "next", "probe_due"],
        ["delays", "due", "open", "refused", "seen", "seq", "since"],
    ]  # fmt: skip


def test_messages_that_come_late_or_twice_change_nothing(only_script: Script) -> None:
    one = speaker(only_script)
    one.say(0.0, interactive=1)
    state = only_script.server.get(only_script.key)
    one.seq -= 1
    assert one.say(0.1, interactive=1) == {"stale": True}
    assert only_script.server.get(only_script.key) == state


def delays(
    lowest: float, highest: float | None = None, together: float | None = None, dense: int = 0
) -> Measured:
    highest = lowest if highest is None else highest
    together = highest if together is None else together
    return {"round_trips": Delays(lowest=lowest, highest=highest, together=together, dense=dense)}


def test_the_jitter_is_that_of_all_processes_together(home: Script | Twin) -> None:
    """Each host's own delays hardly differ, but those of one are long."""
    near, far = speaker(home, "near"), Speaker(home, "far")
    near.say(0.0, delays=delays(0.01))
    answer = far.say(0.0, delays=delays(0.5))
    assert answer["jitter"] == pytest.approx(0.49 * 1.25 + 0.02)


def test_a_straggler_raises_the_jitter_only_where_a_refusal_proves_it(home: Script | Twin) -> None:
    one = speaker(home)
    known = delays(0.01, 0.81, together=0.02)
    assert one.say(0.0, delays=known)["jitter"] == JITTER
    refused = one.say(1.0, delays=known, refusals=[{"index": 1, "age": 0.0, "slot": 0}])
    assert refused["jitter"] == pytest.approx(0.8)
    assert refused["share"] == 1.0
    # For good, also when ten minutes have shown nothing of it.
    later = one.say(PENALTY + 2.0, delays=delays(0.01, 0.02, dense=DENSE))
    assert later["jitter"] == pytest.approx(0.8)


def test_the_jitter_falls_only_once_all_processes_have_measured_enough(home: Script | Twin) -> None:
    one, other = speaker(home, "one"), Speaker(home, "other")
    half = delays(0.01, 0.03, dense=DENSE // 2)
    assert one.say(0.0, delays=half)["jitter"] == JITTER
    assert other.say(0.1, delays=half)["jitter"] == LEAST
    assert other.say(0.2, delays=delays(0.01, 0.13, dense=DENSE // 2))["jitter"] == pytest.approx(
        0.12 * 2.0 + 0.02
    )
    # One that has just been started may be on a host that is farther away.
    new = Speaker(home, "new")
    assert new.say(0.3)["jitter"] == JITTER
    assert new.say(0.4, delays=delays(0.01))["jitter"] == JITTER
    new.say(0.5, leaving=True)
    assert other.say(0.6, delays=half)["jitter"] == LEAST


def test_a_burst_of_bulk_requests_is_granted_in_small_parts(home: Script | Twin) -> None:
    """An interactive request of another process comes a moment later and finds room."""
    one = speaker(home)
    answer = one.say(0.0, bulk=150)
    assert len(answer["grants"]) == 7
    assert answer["again"] == 0
    numbers = [number for number, _ in answer["grants"]]
    assert len(Speaker(home, "b").say(0.001, interactive=1)["grants"]) == 1
    assert len(one.say(0.002, bulk=143, open=numbers)["grants"]) < 143


def test_after_a_loss_bulk_requests_leave_room_for_interactive_ones(home: Script | Twin) -> None:
    """Nobody knows who is about; a bulk job must not take the whole first window."""
    one, other = Speaker(home, "a"), Speaker(home, "b")
    one.say(0.0)
    now = HOLD + 0.01
    bulk, interactive = [0], [0]
    while now < HOLD + 3.0:
        for who, granted, wanted in ((one, bulk, {"bulk": 150}), (other, interactive, {})):
            if who is other and now > HOLD + 2.0:
                wanted = {"interactive": 5 - sum(interactive)}
            before = [(number, 0.0) for number, _ in who.heard.get("grants") or ()]
            answer = who.say(now, sent=before, **wanted)
            granted.append(len(answer["grants"]))
        now += 0.01
    assert sum(bulk) < 60
    assert sum(interactive) == 5


def test_for_two_windows_after_a_loss_interactive_requests_are_expected(
    home: Script | Twin,
) -> None:
    one = Speaker(home)
    one.say(0.0)
    # Bulk requests leave no more than 3 % of a window at once: 5 of 150 requests in 10.3 s.
    assert len(one.say(LEASE + 2 * (WINDOW + 1) - 0.5, bulk=150)["grants"]) == 5
    for number in range(3):
        assert len(one.say(LEASE + 2 * (WINDOW + 1) + 0.1 + number / 100, bulk=150)["grants"]) == 7


def test_bulk_requests_alone_need_not_leave_room(home: Script | Twin) -> None:
    one = speaker(home)
    numbers: list[int] = []
    for number in range(10):
        answer = one.say(number / 100, bulk=150, open=numbers)
        numbers += [slot for slot, _ in answer["grants"]]
    assert len(numbers) == 70


def test_a_slot_is_granted_a_quarter_of_a_second_ahead_at_most(home: Script | Twin) -> None:
    one = speaker(home)
    answer = one.say(0.0, interactive=150)
    one.say(0.1, sent=[(slot, 0.1) for slot, _ in answer["grants"]])
    due = 0.2 + one.say(0.2)["next"]
    assert not one.say(due - 0.3, interactive=1, ahead=5.0)["grants"]
    ((_, seconds),) = one.say(due - 0.2, interactive=1, ahead=5.0)["grants"]
    assert seconds == pytest.approx(0.2, abs=1e-3)


def test_a_refusal_of_the_one_that_goes_ahead_costs_no_share(home: Script | Twin) -> None:
    one = speaker(home)
    one.say(0.0, refusals=[{"index": 1, "age": 0.0, "slot": 0, "retry_after": 5.0}])
    ((probe, _),) = one.say(5.0, interactive=3)["grants"]
    refusal = {"index": 2, "age": 0.0, "slot": probe, "sent_age": 0.1}
    answer = one.say(5.2, sent=[(probe, 0.1)], refusals=[refusal])
    assert answer["penalty_left"] == pytest.approx(PENALTY)
    assert answer["share"] == pytest.approx(0.75, abs=1e-3)


def test_a_refusal_of_what_left_before_the_penalty_ended_is_explained_by_it(
    home: Script | Twin,
) -> None:
    one = speaker(home)
    one.say(0.0, refusals=[{"index": 1, "age": 0.0, "slot": 0, "retry_after": 5.0}])
    late = {"index": 2, "age": 0.0, "slot": 0, "sent_age": 0.5}
    answer = one.say(5.2, refusals=[late])
    assert (answer["refusals"], answer["penalty_left"]) == (2, 0.0)
    assert answer["share"] == pytest.approx(0.75, abs=1e-3)


def test_the_state_has_no_time_to_live(only_script: Script) -> None:
    speaker(only_script)
    assert only_script.server.ttl(only_script.key) == -1


def test_the_twin_refuses_other_terms() -> None:
    state = CentralState(terms(), 0.0, "epoch")
    message = Message(
        process="a", seq=1, epoch="", number=0, clock=[], terms=terms(100), open=[], sent=[],
        refusals=[], delays={}, want=(0, 0), ahead=0.0, penalty_left=0.0, share=1.0, leaving=False,
    )  # fmt: skip
    assert state.exchange(message, 0.0)["refused"] == "terms"
