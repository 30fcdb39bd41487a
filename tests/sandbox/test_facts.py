"""The copy of the facts, and that nothing in it is left unfollowed."""

from __future__ import annotations

from pathlib import Path

import pytest

import stable_async.sandbox as package
from stable_async.sandbox.spec.facts import load_facts
from stable_async.sandbox.spec.prices import FORMULAS
from stable_async.sandbox.spec.rules import RULES

COPY = Path(package.__file__).parent / "spec" / "facts.yaml"
ORIGINAL = Path(__file__).parents[3] / "shared" / "api" / "stability.yaml"


@pytest.mark.skipif(not ORIGINAL.exists(), reason="the original is only at hand beside the project")
def test_the_copy_of_the_facts_is_exact() -> None:
    assert COPY.read_bytes() == ORIGINAL.read_bytes()


def test_every_rule_of_the_facts_is_followed_and_no_other() -> None:
    stated = {sentence for operation in load_facts().operations for sentence in operation.rules}
    assert stated == RULES.keys()


def test_every_price_is_a_figure_or_a_known_formula() -> None:
    for operation in load_facts().operations:
        prices = operation.credits
        for price in prices.values() if isinstance(prices, dict) else [prices]:
            assert not isinstance(price, str) or price in FORMULAS


def test_every_model_has_a_price_and_every_price_a_model() -> None:
    for operation in load_facts().operations:
        if isinstance(operation.credits, dict):
            name = "mode" if operation.id == "v2alpha_inpaint" else "model"
            field = operation.field(name)
            assert {*field.values, *field.accepted_by_mirrors} == operation.credits.keys()


def test_the_facts_have_as_many_operations_as_they_say() -> None:
    operations = load_facts().operations
    assert sum(operation.path.startswith("/v2beta/") for operation in operations) == 28
    assert sum(operation.path.startswith("/v2alpha/") for operation in operations) == 3
    assert sum(operation.api == "v1" for operation in operations) == 7
