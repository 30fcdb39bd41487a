"""Every rule of the facts, both ways, against the client's models and the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.facts import operations
from tests.conformance.rules import RULES

if TYPE_CHECKING:
    from tests.conformance.harness import Harness

SENTENCES = [
    (operation, sentence) for operation, fact in operations().items() for sentence in fact["rules"]
]


def test_every_sentence_has_a_check_and_every_check_a_sentence() -> None:
    assert {sentence for _, sentence in SENTENCES} == set(RULES)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("operation", "sentence"), SENTENCES)
async def test_both_sides_keep_the_rule(harness: Harness, operation: str, sentence: str) -> None:
    if rule := RULES.get(sentence):
        await rule(harness, operation)
