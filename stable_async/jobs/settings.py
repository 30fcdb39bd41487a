"""Settings of a run of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stable_async.arguments import (
    at_least,
    checked_arguments,
    choice,
    flag,
    non_negative,
    or_none,
    path_like,
    seconds,
    text,
)
from stable_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["JobSettings"]


_RULES: dict[str, Callable[[object], object]] = {
    "folder": path_like,
    "images": or_none(text),
    "budget": or_none(non_negative),
    "same_budget": flag,
    "max_in_flight": at_least(1),
    "passes": at_least(1),
    "retry": or_none(choice("failed", "filtered")),
    "resend_doubtful": flag,
    "remake_missing": flag,
    "change": flag,
    "server": or_none(text),
    "replace_changed": flag,
    "check": flag,
    "outage_limit": seconds,
    "probe_after": seconds,
}


@checked_arguments(_RULES)
@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Settings of a run of a job.

    Attributes:
        folder: The job's folder; created if missing.
        images: URL of the images, such as `s3://bucket/prefix`; `None` means `images/` in `folder`.
        budget: Credits that all runs of the job together may spend; `None` means no limit.
        same_budget: Without `budget`, that of the last run holds.
        max_in_flight: Maximum rows in progress at a time.
        passes: How many times a run tries rows that failed without being billed, the first time
            included.
        retry: Rows of earlier runs to send again: `failed`, which were refused for good, or
            `filtered`, which are made again with other seeds.
        resend_doubtful: Send rows again that may have been billed.
        remake_missing: Make images again whose files are gone.
        change: Accept options other than those that the job was started with, and other ids.
        server: Name of the server in the ledger; `None` means its address.
        replace_changed: Make rows again whose content changed under the same id.
        check: Check the whole prompt file before anything is sent.
        outage_limit: Seconds after which an outage of the network ends the job.
        probe_after: Seconds from the beginning of an outage to the first probe. Each further one
            takes twice as long, up to a minute.
    """

    folder: Path
    images: str | None = None
    budget: float | None = None
    same_budget: bool = False
    max_in_flight: int = 256
    passes: int = 2
    retry: Literal["failed", "filtered"] | None = None
    resend_doubtful: bool = False
    remake_missing: bool = False
    change: bool = False
    server: str | None = None
    replace_changed: bool = False
    check: bool = True
    outage_limit: float = 120.0
    probe_after: float = 1.0

    def __post_init__(self) -> None:
        """Reject values that contradict each other."""
        given = {name: getattr(self, name) for name in ("replace_changed", "resend_doubtful")}
        given["retry"] = self.retry if self.retry == "filtered" else None
        for name, value in given.items():
            if value and not self.check:
                allowed = "only with the check of the prompt file"
                raise ConfigurationError(f"{name} is {value}; allowed: {allowed}")
