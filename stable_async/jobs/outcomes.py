"""The outcome of a row, and of the job, after an error. Pure; `api.verdict` decides the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    InvalidRequestError,
    InvalidResponseError,
    StabilityError,
    WrongEventLoopError,
)
from stable_async.jobs.row import Result

if TYPE_CHECKING:
    from typing import Literal

    from stable_async.jobs.row import ChargeState, State

__all__ = ["is_outage", "meaning", "result_of"]


def meaning(error: StabilityError) -> Literal["final", "again", "stop", "pause", "doubt"]:
    """Return what a job does about an error; see `Verdict.job`."""
    match error:
        case APIStatusError() | APIConnectionError() | InvalidResponseError():
            job = error.verdict.job
            return "again" if job == "look" or job == "keep" else job
        case ConfigurationError() | WrongEventLoopError():
            return "stop"
        case InvalidRequestError():
            return "final"
        case _:
            return "again"


def is_outage(error: StabilityError) -> bool:
    """Return whether an error is one of those that make an outage if several come in a row.

    The network failed to deliver a request to the API, or its answer; or the API itself leaves it
    open whether it was billed: then each further row might be billed for nothing.
    """
    return isinstance(
        error, (APIStatusError, APIConnectionError, InvalidResponseError)
    ) and error.verdict.job in {"pause", "doubt"}


def result_of(error: StabilityError, *, accepted: bool, blocked: bool = False) -> Result:
    """Return the result of a row after an error.

    Args:
        error: The error that ended its attempt.
        accepted: Its generation has an id: it is paid for and can be fetched. The id stays in the
            ledger: only the user can decide to pay for it again.
        blocked: The network refuses this row and lets others pass.
    """
    means = meaning(error)
    if means == "pause" and blocked:
        means = "again"
    if means in {"stop", "pause"}:
        return Result("waiting", "spent" if accepted else "returned")
    state: State
    charge: ChargeState
    if accepted:
        state, charge = "failed" if means == "final" else "again", "spent"
    elif means == "doubt":
        state, charge = "in doubt", "in doubt"
    else:
        state, charge = "failed" if means == "final" else "again", "returned"
    return Result(state, charge, reason=_reason(error), error=str(error))


def _reason(error: StabilityError) -> str:
    """Return a word or two by which errors are counted."""
    match error:
        case APIStatusError():
            return f"{error.status} {error.name}".strip()
        case APITimeoutError():
            return "time-out"
        case APIConnectionError():
            return "connection broke"
        case InvalidResponseError():
            return "unreadable answer"
        case InvalidRequestError():
            return "invalid request"
        case _:
            return type(error).__name__
