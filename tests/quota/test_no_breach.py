"""Nobody ever refuses one of a million requests; and a rule that is wrong is found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import quota_counting as counting
from stable_async.quota import ProcessHome, Quota, Rule, Slot
from stable_async.quota.rule import BINS
from tests.quota import simulation
from tests.quota.mutants import MUTANTS

if TYPE_CHECKING:
    from tests.quota.simulation import Scenario

REQUESTS_IN_ALL = 1_000_000
PARTS = 8


def refusals_in(scenario: Scenario, rule: Rule) -> tuple[list[str], int]:
    rng = np.random.default_rng(scenario.seed)
    left = simulation.leave(rule, scenario, rng)
    arrivals = simulation.travel(left, scenario, rng)
    return simulation.breaches(arrivals, scenario, rng), len(left)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_way_of_counting_refuses_one_of_a_million_requests(part: int) -> None:
    rng = np.random.default_rng(part)
    sent = 0
    while sent < REQUESTS_IN_ALL // PARTS:
        scenario = simulation.draw(rng, 4000)
        found, count = refusals_in(
            scenario, Rule(scenario.requests, scenario.window, scenario.jitter)
        )
        assert found == [], scenario
        sent += count


def test_on_a_bad_network_the_measured_jitter_keeps_all_ways_of_counting_at_any_phase() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        home = ProcessHome(Quota())
        home.open_now()
        for delay in simulation.delays_of_a_bad_network(rng, 300).tolist():
            home.observe(0.0, delay)
        now = 0.0
        left: list[float] = []
        while len(left) < 1000:
            answer = home.reserve(now)
            if isinstance(answer, Slot):
                home.mark_sent(answer, now)
                left.append(now)
            else:
                now = answer + float(rng.exponential(0.0005))
        arrivals = np.sort(left + simulation.delays_of_a_bad_network(rng, len(left)))
        assert counting.log(arrivals, 10.0) <= 150
        assert counting.worst_counter(arrivals, 10.0) <= 150
        assert counting.bucket(arrivals, 150, 10.0) <= 150
        assert (10 + 850 / 15) / now > 0.9


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rule_is_found_out(name: str) -> None:
    """Each mutant differs from the rule in one point, and some server refuses what it lets go."""
    make = MUTANTS[name]
    rng = np.random.default_rng(99)
    for _ in range(400):
        count, requests = (1500, None) if "bin" not in name else (4000, 2 * BINS)
        scenario = simulation.draw(rng, count, requests=requests)
        rule = make(scenario.requests, scenario.window, scenario.jitter)
        if refusals_in(scenario, rule)[0]:
            return
    pytest.fail("nobody refused")
