"""The table of operations on each page is that of the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.facts import operations
from tests.operations_table import BEGIN, COROUTINES, PAGES, operations_of, with_table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_table_is_that_of_the_models(page: Path) -> None:
    text = page.read_text()
    if BEGIN in text or page.name == "operations.md":
        assert with_table(text) == text, "run `python -m tests.operations_table`"
        assert BEGIN in text


def test_every_operation_of_the_facts_has_a_coroutine() -> None:
    listed = {operation.id for model in COROUTINES.values() for operation in operations_of(model)}
    assert listed == set(operations())
