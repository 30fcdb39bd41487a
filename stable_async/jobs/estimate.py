"""What a file of prompts will cost, and how long the quota makes it take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.api.services import IMAGE_SERVICES
from stable_async.jobs.intake import Intake
from stable_async.jobs.ledger import Ledger

if TYPE_CHECKING:
    from stable_async.config import Quota
    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.rules import PromptRules

__all__ = ["Estimate", "Share", "estimate_prompts"]

# https://platform.stability.ai/pricing, read 2026-09-22: one credit is one US cent.
DOLLARS_PER_CREDIT = 0.01


@dataclass(frozen=True, slots=True)
class Share:
    """What one service, with one model, has in a job.

    Attributes:
        service: Its name.
        model: The model, where rows name one.
        images: How many.
        credits: What they cost; `None` where no source states it.
    """

    service: str
    model: str | None
    images: int
    credits: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a prompt file asks for.

    Attributes:
        shares: By service and model.
    """

    shares: tuple[Share, ...]

    @property
    def requests(self) -> int:
        """The fewest requests: one for each image, and one look at each asynchronous result."""
        asynchronous = _asynchronous()
        return sum(
            share.images * (2 if share.service in asynchronous else 1) for share in self.shares
        )

    @property
    def credits(self) -> float:
        """The price, as far as it is known."""
        return sum(share.credits or 0.0 for share in self.shares)

    @property
    def dollars(self) -> float:
        """The price in US dollars."""
        return round(self.credits * DOLLARS_PER_CREDIT, 4)

    def least_seconds(self, quota: Quota) -> float:
        """Give the time between the first and the last request at the very ceiling of the quota."""
        waiting = self.requests - quota.requests
        if waiting <= 0:
            return 0.0
        return quota.window + waiting * quota.window / quota.requests


def estimate_prompts(prompts: PromptFile, rules: PromptRules) -> Estimate:
    """Read and check a whole file, and give what it asks for.

    Raises:
        PromptFileError: The prompts cannot be used as they are.
    """
    ledger = Ledger.temporary()
    try:
        with ledger.transaction():
            Intake(ledger, prompts, rules).run()
        return Estimate(tuple(Share(*row) for row in ledger.shares()))
    finally:
        ledger.close()


def _asynchronous() -> frozenset[str]:
    return frozenset(name for name, service in IMAGE_SERVICES.items() if service.asynchronous)
