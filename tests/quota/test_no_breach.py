"""Nobody ever refuses one of a million requests; and a rule that is wrong is found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from stable_async.quota import Rule
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
            scenario, Rule(scenario.requests, scenario.window, scenario.spread)
        )
        assert found == [], scenario
        sent += count


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rule_is_found_out(name: str) -> None:
    """Each mutant differs from the rule in one point, and some server refuses what it lets go."""
    make = MUTANTS[name]
    rng = np.random.default_rng(99)
    for _ in range(400):
        count, requests = (1500, None) if "bin" not in name else (4000, 2 * BINS)
        scenario = simulation.draw(rng, count, requests=requests)
        rule = make(scenario.requests, scenario.window, scenario.spread)
        if refusals_in(scenario, rule)[0]:
            return
    pytest.fail("nobody refused")
