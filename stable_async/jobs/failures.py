"""What an error means for a row, and for the job. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    StabilityError,
    WrongEventLoopError,
)
from stable_async.jobs.row import Result

if TYPE_CHECKING:
    from stable_async.jobs.row import State

__all__ = ["Meaning", "meaning", "of_network", "reason", "result_of"]

Meaning = Literal["final", "again", "stop", "pause", "doubt"]
"""What a job makes of an error. `final`: the row is refused for good. `again`: a later pass or run
sends it. `stop`: every other row would meet the same. `pause`: the request did not reach the API,
and nothing was billed. `doubt`: it may have been billed."""

# https://developers.cloudflare.com/support/troubleshooting/http-status-codes/, read 2026-09-22: the
# other 5xx come from an edge in front of the API.
FAILED_GENERATION = 500


def meaning(error: StabilityError) -> Meaning:
    """Return what an error means for a row that is not paid for yet."""
    match error:
        case (
            AuthenticationError()
            | ConfigurationError()
            | PaymentRequiredError()
            | PermissionDeniedError()
            | WrongEventLoopError()
        ):
            return "stop"
        case APIConnectionError() | APIStatusError() | InvalidResponseError() if error.maybe_billed:
            return "doubt"
        case APIConnectionError():
            return "pause"
        case InvalidRequestError():
            return "final"
        case APIStatusError() if not isinstance(error, (RateLimitError, ServerError)):
            return "final"
        case _:
            return "again"


def of_network(error: StabilityError) -> bool:
    """Return whether an error came from the network, and not from the API."""
    if isinstance(error, APIStatusError):
        return error.status > FAILED_GENERATION
    return isinstance(error, APIConnectionError)


def result_of(error: StabilityError, *, accepted: bool) -> Result:
    """Return what a row is after an error.

    Args:
        error: What its attempt ended with.
        accepted: Its generation has an id: it is paid for, and can be fetched.
    """
    state: State
    if accepted:
        # Its id stays in the ledger: only the user can say that it is to be paid for again.
        state = "failed" if isinstance(error, NotFoundError) else "again"
        return Result(state, "spent", reason=reason(error), error=str(error))
    match meaning(error):
        case "final":
            return Result("failed", "returned", reason=reason(error), error=str(error))
        case "doubt":
            return Result("in doubt", "in doubt", reason=reason(error), error=str(error))
        case "again":
            return Result("again", "returned", reason=reason(error), error=str(error))
        case "stop" | "pause":
            return Result("waiting", "returned")


def reason(error: StabilityError) -> str:
    """Return an error in a word or two, to count by."""
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
