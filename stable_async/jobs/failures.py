"""What an error means for a prompt, and for the job. Pure."""

from __future__ import annotations

from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    InvalidResponseError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    StabilityError,
    WrongEventLoopError,
)
from stable_async.jobs.ledger import Failure

__all__ = ["classify", "ends_the_job"]


def ends_the_job(error: StabilityError) -> bool:
    """Tell whether every other prompt would meet the same error: of key, account or client."""
    return isinstance(
        error,
        (
            AuthenticationError,
            ConfigurationError,
            PaymentRequiredError,
            PermissionDeniedError,
            WrongEventLoopError,
        ),
    )


def classify(error: StabilityError) -> Failure:
    """Give what to note about a prompt: refusals are final, what broke on the way is not."""
    final = maybe_billed = False
    match error:
        case APIStatusError():
            reason = f"{error.status} {error.name}".strip()
            final = not isinstance(error, (RateLimitError, ServerError))
            maybe_billed = error.maybe_billed
        case APIConnectionError():
            reason = "time-out" if isinstance(error, APITimeoutError) else "connection broke"
            maybe_billed = error.maybe_billed
        case InvalidResponseError():
            reason = "unreadable answer"
            maybe_billed = True
        case InvalidRequestError():
            reason = "invalid request"
            final = True
        case _:
            reason = type(error).__name__
    return Failure(reason, str(error), final, maybe_billed)
