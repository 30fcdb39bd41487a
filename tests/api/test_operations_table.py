"""The table of operations in docs/operations.md is that of the models."""

from __future__ import annotations

from tests.conformance.facts import operations
from tests.operations_table import BEGIN, COROUTINES, PAGE, operations_of, with_table


def test_the_table_is_that_of_the_models() -> None:
    text = PAGE.read_text()
    assert BEGIN in text
    assert with_table(text) == text, "run `python -m tests.operations_table`"


def test_every_operation_of_the_facts_has_a_coroutine() -> None:
    listed = {operation.id for model in COROUTINES.values() for operation in operations_of(model)}
    assert listed == set(operations())
