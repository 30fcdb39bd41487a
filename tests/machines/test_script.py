"""The state of a shared quota: the script in a real server, and its twin in Python."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, cast

import pytest

from stable_async.quota.homes.central import (
    FORGET,
    FORMAT,
    LEASE,
    Answer,
    CentralState,
    Message,
    Terms,
)
from stable_async.quota.homes.script import script
from stable_async.quota.jitter import DENSE, LEAST, Delays
from tests.machines.exchanges import CLOCK, START, compare

if TYPE_CHECKING:
    from redis import Redis

    from stable_async.quota.jitter import Measured
    from tests.machines.servers import Server

WINDOW, JITTER, PENALTY = 10.0, 0.3, 60.0
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


class Speaker:
    """A process that talks to the script at times of the test's choice."""

    def __init__(self, server: Redis, key: str, name: str, requests: int = 150) -> None:
        self._run = server.register_script(script().replace(CLOCK, "{ARGV[2], ARGV[3]}"))
        self._key, self.name, self._terms = key, name, terms(requests)
        self._seq = 0
        self.heard: Answer = {}
        self._heard_at = 0.0

    def say(self, at: float, interactive: int = 0, bulk: int = 0, **more: object) -> Answer:
        self._seq += 1
        message = Message(
            process=self.name,
            seq=self._seq,
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
        micros = round(at * 1e6)
        clock = START + micros // 1_000_000, micros % 1_000_000
        answer = json.loads(
            cast("bytes", self._run(keys=[self._key], args=[json.dumps(message), *clock]))
        )
        if "epoch" in answer:
            self.heard, self._heard_at = cast("Answer", answer), at
        return cast("Answer", answer)


@pytest.fixture
def server(shared_redis: Server) -> Redis:
    return shared_redis.client()


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def speaker(server: Redis, key: str, name: str = "a", requests: int = 150) -> Speaker:
    """Return a process of a quota that has been known for long."""
    one = Speaker(server, key, name, requests)
    one.say(-2 * HOLD)
    return one


@pytest.mark.parametrize("seed", range(20))
def test_the_script_answers_as_its_twin_does(server: Redis, seed: int) -> None:
    assert compare(server, seed, 200, key=f"exchanges{seed}") == 200


def test_an_empty_home_grants_nothing_until_what_was_before_has_left_the_window(
    server: Redis, key: str
) -> None:
    one = Speaker(server, key, "a")
    first = one.say(0.0, interactive=1)
    assert not first["grants"]
    assert first["lost"] == "empty"
    assert first["hold"] == pytest.approx(HOLD)
    assert not one.say(HOLD - 0.01, interactive=1)["grants"]
    last = one.say(HOLD + 0.1, interactive=1)
    assert len(last["grants"]) == 1
    assert "lost" not in last


def test_a_flushed_state_is_lost(server: Redis, key: str) -> None:
    one = speaker(server, key)
    assert len(one.say(0.0, interactive=150)["grants"]) == 150
    server.delete(key)
    assert one.say(0.1, interactive=1)["lost"] == "empty"
    assert not one.say(HOLD, interactive=1)["grants"]


def test_a_new_process_does_not_hide_how_long_the_home_could_not_be_reached(
    server: Redis, key: str
) -> None:
    """It cannot tell an outage from a step of the clock; what it sends must not look older."""
    old, new = speaker(server, key, "old"), Speaker(server, key, "new")
    assert len(old.say(0.0, interactive=100)["grants"]) == 100
    first = new.say(6.0, interactive=100)
    granted = [number for number, _ in first["grants"]]
    new.say(6.1, sent=[(number, 0.0) for number in granted])
    again = old.say(6.2)
    assert again["now"] - first["now"] <= 0.2 + 1e-6
    # And if its answer was lost, the clock runs on with whoever is heard next.
    assert new.say(9.2)["now"] - again["now"] == pytest.approx(3.0)


def test_an_old_copy_of_the_state_is_lost(server: Redis, key: str) -> None:
    """As after a failover to a replica that was behind, or a restart from an old snapshot."""
    one = speaker(server, key)
    old = server.get(key)
    assert one.say(0.0, interactive=1)["grants"]
    server.set(key, cast("bytes", old))
    assert one.say(0.1, interactive=1)["lost"] == "older"


def test_another_run_of_the_server_has_lost_the_state(server: Redis, key: str) -> None:
    one = speaker(server, key)
    change = "local s = cmsgpack.unpack(redis.call('GET', KEYS[1])) s.run = 'another' "
    server.eval(change + "redis.call('SET', KEYS[1], cmsgpack.pack(s))", 1, key)
    assert one.say(0.0, interactive=1)["lost"] == "restarted"


def test_a_penalty_and_a_share_survive_a_flush_with_those_who_know_them(
    server: Redis, key: str
) -> None:
    one = speaker(server, key)
    answer = one.say(0.0, refusals=[{"index": 1, "age": 0.0, "slot": 0}])
    assert (answer["penalty_left"], answer["share"]) == (PENALTY, 0.75)
    server.delete(key)
    Speaker(server, key, "new").say(1.0)
    again = one.say(2.0, penalty_left=PENALTY - 2.0, share=0.75)
    assert again["penalty_left"] == pytest.approx(PENALTY - 2.0)
    assert again["share"] == 0.75
    # Once: told again and again it would grow by what messages take.
    assert one.say(3.0, penalty_left=PENALTY)["penalty_left"] == pytest.approx(PENALTY - 3.0)


def test_a_refusal_that_is_told_twice_counts_once(server: Redis, key: str) -> None:
    one = speaker(server, key)
    refusal = {"index": 1, "age": 0.0, "slot": 0, "retry_after": 5.0}
    one.say(0.0, refusals=[refusal])
    again = one.say(1.0, refusals=[{**refusal, "age": 1.0}])
    assert again["refusals"] == 1
    assert again["penalty_left"] == pytest.approx(4.0)


def test_other_terms_are_refused_while_the_quota_is_in_use(server: Redis, key: str) -> None:
    speaker(server, key).say(0.0)
    other = Speaker(server, key, "b", requests=100)
    answer = other.say(FORGET - 1.0)
    assert (answer["refused"], answer["terms"]["requests"]) == ("terms", 150)
    # When nobody has used it for a minute, they are taken over, as carefully as after a loss.
    assert other.say(FORGET + 1.0, interactive=1)["lost"] == "terms"


def test_a_process_that_has_said_goodbye_does_not_hold_its_terms(server: Redis, key: str) -> None:
    speaker(server, key).say(0.0, leaving=True)
    assert Speaker(server, key, "b", requests=100).say(0.1)["lost"] == "terms"


def test_another_format_is_refused(server: Redis, key: str) -> None:
    speaker(server, key)
    change = "local s = cmsgpack.unpack(redis.call('GET', KEYS[1])) s.format = 99 "
    server.eval(change + "redis.call('SET', KEYS[1], cmsgpack.pack(s))", 1, key)
    assert Speaker(server, key, "b").say(FORGET - 2 * HOLD - 2.0) == {"refused": "format"}
    # When nobody has used it for a minute, it is taken over, as carefully as after a loss.
    taken = Speaker(server, key, "b").say(FORGET, interactive=1)
    assert taken["lost"] == "format"
    assert not taken["grants"]


def test_the_format_has_another_number_when_the_state_has_other_fields(
    server: Redis, key: str
) -> None:
    """Else a process of another version would fail on the state, or misread it."""
    speaker(server, key)
    unpack = "return cjson.encode(cmsgpack.unpack(redis.call('GET', KEYS[1])))"
    state = json.loads(cast("bytes", server.eval(unpack, 1, key)))
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


def test_messages_that_come_late_or_twice_change_nothing(server: Redis, key: str) -> None:
    one = speaker(server, key)
    one.say(0.0, interactive=1)
    state = server.get(key)
    one._seq -= 1
    assert one.say(0.1, interactive=1) == {"stale": True}
    assert server.get(key) == state


def delays(
    lowest: float, highest: float | None = None, together: float | None = None, dense: int = 0
) -> Measured:
    highest = lowest if highest is None else highest
    together = highest if together is None else together
    return {"round_trips": Delays(lowest=lowest, highest=highest, together=together, dense=dense)}


def test_the_jitter_is_that_of_all_processes_together(server: Redis, key: str) -> None:
    """Each host's own delays hardly differ, but those of one are long."""
    near, far = speaker(server, key, "near"), Speaker(server, key, "far")
    near.say(0.0, delays=delays(0.01))
    answer = far.say(0.0, delays=delays(0.5))
    assert answer["jitter"] == pytest.approx(0.49 * 1.25 + 0.02)


def test_a_straggler_raises_the_jitter_only_where_a_refusal_proves_it(
    server: Redis, key: str
) -> None:
    one = speaker(server, key)
    known = delays(0.01, 0.81, together=0.02)
    assert one.say(0.0, delays=known)["jitter"] == JITTER
    refused = one.say(1.0, delays=known, refusals=[{"index": 1, "age": 0.0, "slot": 0}])
    assert refused["jitter"] == pytest.approx(0.8)
    assert refused["share"] == 1.0
    # For good, also when ten minutes have shown nothing of it.
    later = one.say(PENALTY + 2.0, delays=delays(0.01, 0.02, dense=DENSE))
    assert later["jitter"] == pytest.approx(0.8)


def test_the_jitter_falls_only_once_all_processes_have_measured_enough(
    server: Redis, key: str
) -> None:
    one, other = speaker(server, key, "one"), Speaker(server, key, "other")
    half = delays(0.01, 0.03, dense=DENSE // 2)
    assert one.say(0.0, delays=half)["jitter"] == JITTER
    assert other.say(0.1, delays=half)["jitter"] == LEAST
    assert other.say(0.2, delays=delays(0.01, 0.13, dense=DENSE // 2))["jitter"] == pytest.approx(
        0.12 * 2.0 + 0.02
    )
    # One that has just been started may be on a host that is farther away.
    new = Speaker(server, key, "new")
    assert new.say(0.3)["jitter"] == JITTER
    assert new.say(0.4, delays=delays(0.01))["jitter"] == JITTER
    new.say(0.5, leaving=True)
    assert other.say(0.6, delays=half)["jitter"] == LEAST


def test_a_burst_of_bulk_requests_is_granted_in_small_parts(server: Redis, key: str) -> None:
    """An interactive request of another process comes a moment later and finds room."""
    one = speaker(server, key)
    answer = one.say(0.0, bulk=150)
    assert len(answer["grants"]) == 7
    assert answer["again"] == 0
    numbers = [number for number, _ in answer["grants"]]
    assert len(Speaker(server, key, "b").say(0.001, interactive=1)["grants"]) == 1
    assert len(one.say(0.002, bulk=143, open=numbers)["grants"]) < 143


def test_after_a_loss_bulk_requests_leave_room_for_interactive_ones(
    server: Redis, key: str
) -> None:
    """Nobody knows who is about; a bulk job must not take the whole first window."""
    one, other = Speaker(server, key, "a"), Speaker(server, key, "b")
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


def test_the_state_has_no_time_to_live(server: Redis, key: str) -> None:
    speaker(server, key)
    assert server.ttl(key) == -1


def test_the_twin_refuses_other_terms() -> None:
    state = CentralState(terms(), 0.0, "epoch")
    message = Message(
        process="a", seq=1, epoch="", number=0, clock=[], terms=terms(100), open=[], sent=[],
        refusals=[], delays={}, want=(0, 0), ahead=0.0, penalty_left=0.0, share=1.0, leaving=False,
    )  # fmt: skip
    assert state.exchange(message, 0.0)["refused"] == "terms"
