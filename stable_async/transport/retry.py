"""Which requests are retried and when: only after 429 and 500, in this layer and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from stable_async.errors import APIStatusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenacity import RetryCallState

    from stable_async.config import RetryPolicy

__all__ = ["is_retryable", "make_retrying", "try_again"]

T = TypeVar("T")


def is_retryable(error: BaseException) -> bool:
    """Return whether the verdict on an answer is to try again."""
    return isinstance(error, APIStatusError) and error.verdict.retry


def make_retrying(
    policy: RetryPolicy, wait_after_penalty: Callable[[APIStatusError], float]
) -> AsyncRetrying:
    """Build the loop of attempts, once for all requests of a client.

    Args:
        policy: How many attempts, and how long to wait after a 500.
        wait_after_penalty: Seconds to wait after a 429, before a new permit is asked for.
    """
    backoff = wait_random_exponential(multiplier=policy.initial_backoff, max=policy.max_backoff)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, APIStatusError) and error.verdict.penalty:
            return wait_after_penalty(error)
        return backoff(state)

    return AsyncRetrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_attempt(policy.attempts),
        wait=wait,
        reraise=True,
    )


async def try_again(
    retrying: AsyncRetrying,
    attempt: Callable[[], Awaitable[T]],
    error: APIStatusError,
    attempts: int | None = None,
) -> T:
    """Return the result of a further attempt, or raise the error of the last one.

    Nearly all requests need one attempt, to which tenacity would add a fifth of the time of
    sending: it gets those that fail.

    Args:
        retrying: Says how many attempts there are, and when.
        attempt: Makes one.
        error: What the first attempt ended with.
        attempts: Maximum attempts, the first included; `None` leaves it to `retrying`.
    """
    failed = [error]

    async def next_attempt() -> T:
        if failed:
            raise failed.pop()
        return await attempt()

    if attempts is not None:
        retrying = retrying.copy(stop=stop_after_attempt(attempts))
    return await retrying(next_attempt)
