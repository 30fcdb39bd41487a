"""Prices of requests, in credits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.sandbox.spec.facts import Operation
    from stable_async.sandbox.spec.fields import Parameters

__all__ = ["FORMULAS", "price"]

# The facts state one price as a formula; this is what it means.
FORMULAS: dict[str, Callable[[Parameters], float]] = {
    "17 + 0.06 * steps (20 at the default 50, 23 at 100)": (
        lambda parameters: round(17 + 0.06 * parameters.number("steps"), 2)
    ),
}


def price(operation: Operation, parameters: Parameters) -> float:
    """Return the list price. Operations without a known price (v1) are free here."""
    listed = operation.credits
    if listed is None:
        return 0.0
    if isinstance(listed, int | float):
        return listed
    # Only one operation is priced by something other than its model: an alias, by its mode.
    chosen = listed[parameters.text("model") or parameters.text("mode")]
    return FORMULAS[chosen](parameters) if isinstance(chosen, str) else chosen
