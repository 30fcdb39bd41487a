"""What an error means for its row and for the job."""

from __future__ import annotations

import pytest

from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    InvalidRequestError,
    InvalidResponseError,
    StabilityError,
    Verdict,
    WrongEventLoopError,
)
from stable_async.jobs.outcomes import is_outage, meaning, result_of
from stable_async.jobs.row import Result

JOBS = ("final", "again", "stop", "pause", "doubt", "look", "keep")


def verdict(job: str, *, billed: str = "no") -> Verdict:
    return Verdict(from_api=False, billed=billed, concerns="network", job=job)  # type: ignore[arg-type]


def judged(job: str) -> list[StabilityError]:
    said = verdict(job)
    return [
        APIStatusError(verdict=said, status=418, name="teapot"),
        APIConnectionError("broke", verdict=said),
        APITimeoutError("late", verdict=said),
        InvalidResponseError("what", verdict=said),
    ]


REASONS = ["418 teapot", "connection broke", "time-out", "unreadable answer"]
UNJUDGED: list[tuple[StabilityError, str, str]] = [
    (ConfigurationError("x"), "stop", "ConfigurationError"),
    (WrongEventLoopError("x"), "stop", "WrongEventLoopError"),
    (InvalidRequestError("x", []), "final", "invalid request"),
    (StabilityError("x"), "again", "StabilityError"),
]


@pytest.mark.parametrize("job", JOBS)
def test_a_verdict_says_what_a_job_does(job: str) -> None:
    for error in judged(job):
        assert meaning(error) == ("again" if job in {"look", "keep"} else job)
        assert is_outage(error) == (job in {"pause", "doubt"})


def test_what_was_not_judged_was_not_sent() -> None:
    for error, means, _ in UNJUDGED:
        assert meaning(error) == means
        assert not is_outage(error)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("job", JOBS)
def test_the_result_of_a_row_follows_from_verdict_and_generation(
    job: str, accepted: bool, blocked: bool
) -> None:
    """A generation is paid for and is fetched later; a row that alone is refused waits."""
    for error, reason in zip(judged(job), REASONS, strict=True):
        result = result_of(error, accepted=accepted, blocked=blocked)
        if not blocked:
            assert result_of(error, accepted=accepted) == result
        if job == "stop" or (job == "pause" and not blocked):
            assert result == Result("waiting", "spent" if accepted else "returned")
            continue
        assert (result.reason, result.error) == (reason, str(error))
        if job == "final":
            assert (result.state, result.charge) == ("failed", "spent" if accepted else "returned")
        elif job == "doubt" and not accepted:
            assert (result.state, result.charge) == ("in doubt", "in doubt")
        else:
            assert (result.state, result.charge) == ("again", "spent" if accepted else "returned")


def test_errors_are_counted_by_a_word_or_two() -> None:
    for error, means, reason in UNJUDGED:
        result = result_of(error, accepted=False)
        assert result.reason == (None if means == "stop" else reason)
    unnamed = APIStatusError(verdict=verdict("again"), status=500)
    assert result_of(unnamed, accepted=False).reason == "500"
