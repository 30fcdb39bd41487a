"""Random exchanges with the script and with its Python twin, which must answer alike."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from stable_async.quota.homes.central import (
    LEASE,
    Answer,
    CentralState,
    Message,
    Refusal,
    Terms,
    script,
)
from stable_async.quota.jitter import DENSE, Delays, Measured
from stable_async.quota.rule import BINS
from tests.machines.servers import running

if TYPE_CHECKING:
    from redis import Redis

# JSON of the script has 14 digits; times are up to some thousand seconds.
PRECISION = 5e-9
PAUSES = [0.0, 0.001, 0.01, 0.07, 0.3, 1.0, 2.5, 12.0]
START = 1_764_000_000
# Where the script reads the clock, which a test sets.
CLOCK = "redis.call('TIME')"


class Process:
    """A process that says what a real one might, in any order."""

    def __init__(self, name: str, terms: Terms) -> None:
        self.name, self.terms = name, terms
        self.open: list[int] = []
        self.seq = self.number = self.refused = 0
        self.epoch = ""
        self.heard = self.heard_at = 0.0
        self.share, self.penalty_left = 1.0, 0.0
        self.delays: Measured = {}

    def speak(self, rng: random.Random, now: float) -> Message:
        requests = self.terms["requests"]
        sent: list[tuple[int, float]] = []
        kept = []
        for slot in self.open:
            fate = rng.random()
            if fate < 0.6:
                # Told late, but hardly: a departure before a boundary that has passed since moves
                # the script's bound and not `Rule`'s, which stays on the safe side.
                sent.append((slot, rng.uniform(0, 0.001)))
            elif fate < 0.85:
                kept.append(slot)
        self.open = kept
        if rng.random() < 0.02:
            kept = [*kept, 10**9]  # one that the state does not know
        self.seq += rng.choice([1, 1, 1, 1, 0])
        if rng.random() < 0.1:
            self._measure(rng)
        # No round numbers: where two times are equal, rounding would decide.
        silence = now - self.heard_at + rng.uniform(0, 1e-3)
        return Message(
            process=self.name,
            seq=self.seq,
            epoch=rng.choice([self.epoch] * 20 + ["another"]),
            number=0,
            clock=[self.heard, max(silence - 0.01, 0.0), silence] if self.epoch else [],
            terms=self.terms,
            open=kept,
            sent=sent,
            refusals=self._refusals(rng, sent),
            delays=self.delays.copy(),
            want=(rng.choice([0, 0, 1, 2, requests]), rng.choice([0, 1, 1, 3, requests])),
            ahead=rng.choice([0.0, 0.05, 0.2, 1.0]),
            penalty_left=self.penalty_left,
            share=self.share,
            leaving=rng.random() < 0.02,
        )

    def hear(self, answer: Answer, now: float) -> None:
        if "stale" in answer:
            return
        self.epoch, self.number = answer["epoch"], answer["number"]
        self.heard, self.heard_at = answer["now"], now
        self.share, self.penalty_left = answer["share"], answer["penalty_left"]
        self.open += [slot for slot, _ in answer["grants"]]

    def _refusals(self, rng: random.Random, sent: list[tuple[int, float]]) -> list[Refusal]:
        if rng.random() > 0.02:
            return []
        self.refused += rng.choice([1, 1, 0])
        refusal = Refusal(index=self.refused, age=rng.choice([0.0, 0.3]), slot=0)
        if sent:
            refusal["slot"] = sent[0][0]
        if rng.random() < 0.5:
            refusal["sent_age"] = rng.choice([0.5, 3.0])
        if rng.random() < 0.3:
            refusal["retry_after"] = rng.choice([0.0, 5.0])
        return [refusal]

    def _measure(self, rng: random.Random) -> None:
        for kind in ("round_trips", "set_ups"):
            if rng.random() < 0.5:
                low, more, most = rng.uniform(0, 0.2), rng.uniform(0, 0.3), rng.uniform(0, 1)
                self.delays[kind] = Delays(
                    lowest=low,
                    highest=low + more + rng.choice([0.0, most]),
                    together=low + more,
                    dense=rng.choice([0, 1, DENSE - 1, DENSE, 2 * DENSE]),
                )


def compare(server: Redis, seed: int, steps: int, key: str = "exchanges") -> int:
    """Hold `steps` random exchanges with both.

    Raises:
        AssertionError: Two answers differ.
    """
    rng = random.Random(seed)
    window = rng.choice([10.0, 10.0, 2.0])
    terms = Terms(
        requests=rng.choice([1, 2, 3, 7, 20, 150, 256, 400]),
        window=window,
        penalty=60.0,
        jitter=rng.choice([0.0, 0.3, 1.0]),
        adaptive=rng.random() < 0.5,
        lease=LEASE,
    )
    assert CLOCK in script()
    run = server.register_script(script().replace(CLOCK, "{ARGV[2], ARGV[3]}"))
    processes = [Process(f"p{i}", terms) for i in range(rng.choice([1, 2, 5, 8]))]
    server.delete(key)
    now = START + 0.25
    twin: CentralState | None = None
    for step in range(steps):
        if step and rng.random() < 0.8:
            now = round(now + rng.choice(PAUSES) * rng.random(), 6)
        if step and rng.random() < 0.01:
            now += rng.choice([-30.0, 30.0, 5.0])  # the clock is set
        process = rng.choice(processes)
        message = process.speak(rng, now)
        if step == 0:
            message["epoch"], message["seq"] = "", 1
        seconds, micros = divmod(round(now * 1e6), 1_000_000)
        reply = run(keys=[key], args=[json.dumps(message), seconds, micros])
        answer = cast("Answer", json.loads(cast("bytes", reply)))
        if twin is None:
            twin = CentralState(terms, now - START, answer["epoch"])
        expected = twin.exchange(message, seconds - START + micros / 1e6)
        if terms["requests"] > BINS and "in_window" in expected:
            # `Rule` looks ahead by a bin where it merges departures; only this figure shows it.
            answer["in_window"] = expected["in_window"]
        difference = differences(answer, expected)
        assert not difference, f"seed {seed}, step {step}, {terms}: {difference}"
        process.hear(answer, now)
    return steps


def differences(answer: Answer, expected: Answer) -> list[str]:
    """Describe where two answers differ."""
    one, two = cast("dict[str, object]", answer), cast("dict[str, object]", expected)
    found = []
    for name in one.keys() | two.keys():
        left, right = one.get(name), two.get(name)
        if name in {"grants", "gone"}:
            # Lua has one kind of empty table.
            left, right = _numbers(left or []), _numbers(right or [])
        else:
            left, right = _numbers(left), _numbers(right)
        if len(left) != len(right) or any(map(_differ, left, right)):
            found.append(f"{name}: {one.get(name)!r}, expected {two.get(name)!r}")
    return found


def _numbers(value: object) -> list[object]:
    if isinstance(value, list | tuple):
        return sorted([number for item in value for number in _numbers(item)], key=str)
    return [value]


def _differ(left: object, right: object) -> bool:
    if isinstance(left, int | float) and isinstance(right, int | float):
        return abs(left - right) > PRECISION * max(1.0, abs(right))
    return left != right


def compare_exchanges(seed: int) -> Counter[str]:
    """Compare 2,000 exchanges in 10 random settings."""
    rng = random.Random(seed)
    with TemporaryDirectory() as folder, running(Path(folder)) as server, server.client() as client:
        count = sum(compare(client, rng.randrange(2**32), 200) for _ in range(10))
    return Counter(exchanges=count)
