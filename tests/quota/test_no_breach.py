"""No server refuses any of a million requests; and a wrong rule is detected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import quota_simulation as virtual
from stable_async.quota import Quota, Rule
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


@pytest.mark.parametrize("kind", ["hostile", "quiet"])
def test_with_stalls_the_adapted_allowance_is_as_safe_as_the_fixed_one(kind: str) -> None:
    """`python -m benchmarks.quota_simulation` does it a hundred times."""
    network = virtual.Network(kind, stall=0.1)
    for seed in (2, 5, 11):
        fixed, adapted = (
            virtual.stalled(network, adaptive=adaptive, seed=seed, count=900)
            for adaptive in (False, True)
        )
        assert adapted.exceeded <= fixed.exceeded
        assert adapted.use >= 0.965


@pytest.mark.parametrize("traffic", virtual.TRAFFIC)
@pytest.mark.parametrize("loop", virtual.LOOPS[1:], ids=lambda loop: f"{loop.busy}/{loop.free}")
def test_whatever_a_busy_loop_makes_up_no_way_of_counting_refuses_it(
    loop: virtual.Loop, traffic: str
) -> None:
    # What the rule leaves for good; it is exceeded only in the beginning.
    bound = virtual.WINDOW / (virtual.WINDOW + Quota().jitter + loop.busy)
    least = {0.2: 0.95, 0.5: 0.93, 1.5: 0.85}[loop.busy]
    for seed in (3, 4):
        outcome = virtual.busy(virtual.Network("uniform"), loop.begun(seed), traffic, seed)
        assert outcome.exceeded == 0
        assert outcome.use >= (least if traffic in {"backlog", "bursts"} else 0.985 * bound)


def test_three_processes_with_busy_loops_make_up_what_they_lose_together() -> None:
    outcome = virtual.processes(virtual.Network("uniform"), virtual.Loop(0.5, 0.5), 3, count=360)
    assert outcome.exceeded == 0
    assert outcome.use >= 0.93


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
