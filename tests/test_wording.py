"""Numbers for people: no digit of an amount of money is rounded away."""

from __future__ import annotations

import pytest

from stable_async.wording import amount, count


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3_000_000.0, "3,000,000"),
        (1_234_567.5, "1,234,567.5"),
        (0.1 + 0.2, "0.3"),
        (100, "100"),
        (100.0, "100"),
        (0.0, "0"),
        (18.8, "18.8"),
    ],
)
def test_every_digit_of_an_amount_is_shown(number: float, text: str) -> None:
    assert amount(number) == text


def test_one_of_a_thing_is_singular() -> None:
    assert [count(1, "credit"), count(1.0, "credit"), count(2.5, "credit")] == [
        "1 credit",
        "1 credit",
        "2.5 credits",
    ]
